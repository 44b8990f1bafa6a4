"""What a template has beside the rows themselves, and the dumps that it comes from."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import psycopg

from . import rows, structure
from .rows import Column, SequenceValue, Table
from .script import Script
from .server import Connection

if TYPE_CHECKING:
    from .pg_dump import Dump

# What pg_dump leaves out where it is to dump one schema. The casts that are meant are those from
# and to types of the schema, but not those that come with a range type.
_CASTS = """
    SELECT pg_catalog.format('CREATE CAST (%%s AS %%s) %%s%%s', castsource::regtype,
               casttarget::regtype,
               CASE castmethod WHEN 'f' THEN 'WITH FUNCTION ' || castfunc::regprocedure
                               WHEN 'b' THEN 'WITHOUT FUNCTION' ELSE 'WITH INOUT' END,
               CASE castcontext WHEN 'a' THEN ' AS ASSIGNMENT' WHEN 'i' THEN ' AS IMPLICIT'
                                ELSE '' END)
           || coalesce('; ' || pg_catalog.format('COMMENT ON CAST (%%s AS %%s) IS ',
                   castsource::regtype, casttarget::regtype)
               || pg_catalog.quote_literal(pg_catalog.obj_description(c.oid, 'pg_cast')), '')
    FROM pg_catalog.pg_cast c
    WHERE EXISTS (SELECT FROM pg_catalog.pg_type t
                  JOIN pg_catalog.pg_namespace n ON n.oid = typnamespace
                  WHERE t.oid IN (castsource, casttarget) AND nspname = %s)
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = 'pg_catalog.pg_cast'::regclass AND d.objid = c.oid
                        AND d.deptype IN ('i', 'e'))
    ORDER BY c.oid
"""


class CopyError(Exception):
    """A schema cannot be copied, or the copy is unlike it; `reasons` are parts of a sentence."""

    def __init__(self, *reasons: str) -> None:
        super().__init__(", ".join(reasons))
        self.reasons = reasons


class Contents(NamedTuple):
    """What a template has beside the rows themselves.

    What the `script`, by the version `pg_dump` of that program, makes has that `inventory`.
    `tables` have rows, `sequences` are not where they start, and `views` are materialized and
    populated, each after those that it is made of. In those of the tables that `marked` names,
    some rows are marked: those of FIXTURES and SEEDERS, and what they refer to. `extra` is what
    else those who make it want to know later; it can be written as JSON.
    """

    script: Script
    pg_dump: int = 0
    inventory: frozenset[str] = frozenset()
    tables: tuple[Table, ...] = ()
    sequences: tuple[SequenceValue, ...] = ()
    views: tuple[str, ...] = ()
    marked: tuple[str, ...] = ()
    extra: Mapping[str, Any] = {}

    @classmethod
    def of(cls, connection: Connection, schema: str, dump: "Dump", path: Sequence[str]) -> Self:
        """Read what a template of a schema is to have; `path` follows the schema on search_path.

        The `dump` is of that schema. Raises CopyError.
        """
        from .pg_dump import DumpError

        try:
            inventory = structure.inventory(connection, schema)
            contents, stale = cls._of_rows(connection, schema, path)
            script = script_of(connection, schema, dump)
        except (DumpError, psycopg.Error) as error:
            raise CopyError(first_line(error)) from error
        if stale:
            raise CopyError(*(f"materialized view {name}, which is out of date" for name in stale))
        return contents._replace(script=script, pg_dump=dump.version, inventory=inventory)

    @classmethod
    def of_rows(cls, connection: Connection, schema: str, path: Sequence[str]) -> Self:
        """Read what one is to have of which no copies are made, but that of rows."""
        contents, _ = cls._of_rows(connection, schema, path)
        return contents

    @classmethod
    def _of_rows(
        cls, connection: Connection, schema: str, path: Sequence[str]
    ) -> tuple[Self, list[str]]:
        """Return with the contents which materialized views are out of date."""
        # Rather an error than rows that are not seen.
        connection.execute("SET row_security = off")
        sequences = rows.moved_sequences(connection, schema)
        tables = rows.tables_with_rows(connection, schema, path)
        views, stale = rows.materialized_views(connection, schema, path)
        contents = cls(
            script=Script(schema, (), ()),
            tables=tuple(tables),
            sequences=tuple(sequences),
            views=tuple(views),
        )
        return contents, stale

    @property
    def facts(self) -> str:
        """All but the statements and the inventory, as JSON."""
        return json.dumps(
            {
                "schema": self.script.schema,
                "pg_dump": self.pg_dump,
                "tables": self.tables,
                "sequences": self.sequences,
                "views": self.views,
                "marked": self.marked,
                "extra": self.extra,
            }
        )

    @classmethod
    def load(
        cls,
        facts: str,
        before: Iterable[str] = (),
        after: Iterable[str] = (),
        inventory: Iterable[str] = (),
    ) -> Self:
        """Return what has such `facts`; raise KeyError, TypeError or ValueError for others."""
        found = json.loads(facts)
        return cls(
            script=Script(found["schema"], tuple(before), tuple(after)),
            pg_dump=found["pg_dump"],
            inventory=frozenset(inventory),
            tables=tuple(
                Table(name, tuple(Column(*column) for column in columns))
                for name, columns in found["tables"]
            ),
            sequences=tuple(SequenceValue(*value) for value in found["sequences"]),
            views=tuple(found["views"]),
            marked=tuple(found["marked"]),
            extra=found["extra"],
        )


def script_of(connection: Connection, schema: str, dump: "Dump") -> Script:
    """Return the statements of a dump of a schema; raise DumpError where it has failed."""
    row = connection.execute("SELECT pg_catalog.quote_ident(current_user)").fetchone()
    assert row is not None
    with connection.transaction(force_rollback=True):
        # The server qualifies every name that is not on the path.
        connection.execute("SET LOCAL search_path = ''")
        casts = [cast for (cast,) in connection.execute(_CASTS, [schema])]
    return Script.parse(dump.result(), schema, owner=row[0], more=casts)


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
