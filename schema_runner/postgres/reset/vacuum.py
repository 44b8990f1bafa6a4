"""When dead rows are worth a VACUUM."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from psycopg import sql

from ..server import Connection
from .changes import NonEmptyTable

_PAGES = """
    SELECT relname, pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::int
    FROM pg_catalog.pg_class c
    WHERE relname = ANY(%s)
      AND relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
"""
# Dead rows are looked through each time. So many pages of them are worth a VACUUM, which takes
# milliseconds a table; where tables have a few pages, only if they are many.
_DEAD_PAGES = 64
_FEW_PAGES = 4
_MANY_TABLES = 120
# Catalogs with this many dead rows. Measured: two schemas of 300 tables leave 22,000 in
# pg_attribute, and VACUUM of all takes 0.1 s; of 100 tables 7,000, and of a small project 700. A
# role gets nothing but warnings in the server's log about what it may not vacuum. Large objects
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
    """Let the server use the room again that schemas had in its catalogs.

    Without waiting for anybody, nor have anybody wait, as shortening a file would.
    """
    if connection.info.server_version >= 150000:
        # What this session has dropped would be counted a second later.
        connection.execute("SELECT pg_catalog.pg_stat_force_next_flush()")
    if catalogs := [name for (name,) in connection.execute(_CATALOGS)]:
        listed = sql.SQL(", ").join(sql.Identifier("pg_catalog", name) for name in catalogs)
        connection.execute(sql.SQL("VACUUM (SKIP_LOCKED, TRUNCATE false) {}").format(listed))


@dataclass(slots=True)
class Vacuum:
    """Sees to the dead rows of a schema's tables."""

    schema: str
    # How many pages tables had afterwards: rows that others might still see stay.
    _left: dict[str, int] = field(default_factory=dict)

    def run_if_needed(self, connection: Connection, tables: Iterable[NonEmptyTable]) -> None:
        grown = {
            one.name: one.pages for one in tables if one.pages > 2 * self._left.get(one.name, 0)
        }
        if len(grown) < _MANY_TABLES:
            grown = {name: pages for name, pages in grown.items() if pages > _FEW_PAGES}
            if sum(grown.values()) < _DEAD_PAGES:
                return
        listed = sql.SQL(", ").join(sql.Identifier(self.schema, name) for name in grown)
        connection.execute(sql.SQL("VACUUM (SKIP_LOCKED) {}").format(listed))
        self._left.update(connection.execute(_PAGES, [list(grown), self.schema]).fetchall())
