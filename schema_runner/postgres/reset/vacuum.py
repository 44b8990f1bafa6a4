"""VACUUM tables and catalogs when they have many dead rows."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from psycopg import sql

from ..server import Connection
from .changes import TableWithPages

_PAGES = """
    SELECT relname, pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::int
    FROM pg_catalog.pg_class c
    WHERE relname = ANY(%s)
      AND relnamespace = pg_catalog.to_regnamespace(%s)
"""
# Measured: VACUUM takes as long as reading a table and this many pages.
_PAGES_PER_VACUUM = 50
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
    """Vacuums tables of one schema when reading their dead rows has taken as long as VACUUM would.

    So a run with few resets, which follow many rolled-back tests, does not vacuum.
    """

    schema: str
    # The pages of tables after VACUUM, which keeps rows that other sessions may still see.
    _remaining: dict[str, int] = field(default_factory=dict)
    # The other pages that resets have read since then.
    _read: Counter[str] = field(default_factory=Counter)

    def run_if_needed(self, connection: Connection, tables: Iterable[TableWithPages]) -> None:
        """Count the pages that a reset has read, and vacuum tables that are worth it."""
        due = []
        for table in tables:
            dead = max(table.pages - self._remaining.get(table.name, 0), 0)
            self._read[table.name] += dead
            if self._read[table.name] >= dead + _PAGES_PER_VACUUM:
                due.append(table.name)
        if due:
            listed = sql.SQL(", ").join(sql.Identifier(self.schema, name) for name in due)
            connection.execute(sql.SQL("VACUUM (SKIP_LOCKED) {}").format(listed))
            self._remaining.update(connection.execute(_PAGES, [due, self.schema]).fetchall())
            for name in due:
                del self._read[name]
