"""VACUUM tables and catalogs when they have many dead rows."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from psycopg import sql

from ..server import Connection
from .changes import TableWithPages

_PAGES = """
    SELECT relname, pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::int
    FROM pg_catalog.pg_class c
    WHERE relname = ANY(%s)
      AND relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
"""
# Each reset reads dead rows again, and VACUUM takes milliseconds a table. It is worth its time if
# tables with more than _FEW_PAGES pages have _DEAD_PAGES in total, or if _MANY_TABLES have grown.
_DEAD_PAGES = 64
_FEW_PAGES = 4
_MANY_TABLES = 120
# Catalogs with 1,000 dead rows or more, if the role may vacuum them: otherwise there would be only
# warnings in the server's log. Measured in pg_attribute: two schemas leave 22,000 if they have 300
# tables, 7,000 if 100, and 700 in a small project; VACUUM of the former takes 0.1 s. Large objects
# are the project's data, of any size.
_CATALOGS = """
    SELECT relname
    FROM pg_catalog.pg_class c, pg_catalog.pg_database
    WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r' AND NOT relisshared
      AND relname NOT IN ('pg_largeobject', 'pg_largeobject_metadata')
      AND pg_catalog.pg_stat_get_dead_tuples(c.oid) >= 1000
      AND datname = pg_catalog.current_database()
      AND (pg_catalog.pg_has_role(datdba, 'USAGE')
           OR EXISTS (SELECT FROM pg_catalog.pg_roles m WHERE rolname = 'pg_maintain'
                      AND pg_catalog.pg_has_role(m.oid, 'USAGE')))
"""


def vacuum_catalogs(connection: Connection) -> None:
    """Vacuum catalogs in which dropped schemas have left many dead rows.

    Skip locked catalogs, and do not truncate files, which would make other sessions wait.
    """
    if connection.info.server_version >= 150000:
        # Statistics of this session would otherwise be up to a second late.
        connection.execute("SELECT pg_catalog.pg_stat_force_next_flush()")
    if catalogs := [name for (name,) in connection.execute(_CATALOGS)]:
        listed = sql.SQL(", ").join(sql.Identifier("pg_catalog", name) for name in catalogs)
        connection.execute(sql.SQL("VACUUM (SKIP_LOCKED, TRUNCATE false) {}").format(listed))


@dataclass(slots=True)
class Vacuum:
    """Vacuums the tables of one schema when they have grown."""

    schema: str
    # The pages of tables after VACUUM, which keeps rows that other sessions may still see.
    _remaining: dict[str, int] = field(default_factory=dict)

    def run_if_needed(self, connection: Connection, tables: Iterable[TableWithPages]) -> None:
        """Vacuum the tables that have more than doubled in size, if they are large or many."""
        grown = {
            table.name: table.pages
            for table in tables
            if table.pages > 2 * self._remaining.get(table.name, 0)
        }
        if len(grown) < _MANY_TABLES:
            grown = {name: pages for name, pages in grown.items() if pages > _FEW_PAGES}
            if sum(grown.values()) < _DEAD_PAGES:
                return
        listed = sql.SQL(", ").join(sql.Identifier(self.schema, name) for name in grown)
        connection.execute(sql.SQL("VACUUM (SKIP_LOCKED) {}").format(listed))
        self._remaining.update(connection.execute(_PAGES, [list(grown), self.schema]).fetchall())
