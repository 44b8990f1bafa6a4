"""The template: a schema from which others like the one that was built are made."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import psycopg
from psycopg import sql

from . import catalog, locks, rows, schemas
from .copies import Copies
from .marker import Marker
from .rows import Column, SequenceValue, Table
from .script import SETTINGS, Script
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
# What is in a template beside the rows: this has one row.
_TABLE = "contents"
_CREATE = "CREATE TABLE {} (facts text, before text[], after text[], is_proved boolean)"
# Measured: what makes a table with its parts holds fewer locks for each statement than this.
_STATEMENTS_PER_TABLE = 5


class CopyError(Exception):
    """A schema cannot be copied, or the copy is unlike it; `reasons` are parts of a sentence."""

    def __init__(self, *reasons: str) -> None:
        super().__init__(", ".join(reasons))
        self.reasons = reasons


class Contents(NamedTuple):
    """What a template has beside the rows themselves.

    What `script` makes has the `structure` that `catalog.digest` tells of. `tables` have rows,
    `sequences` are not where they start, and `views` are materialized and populated, each after
    those that it is made of. In those of the tables that `marked` names, some rows are marked:
    those of FIXTURES and SEEDERS, and what they refer to. `extra` is what else those who make it
    want to know later; it can be written as JSON.
    """

    script: Script
    structure: str
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
            structure = catalog.digest(connection, schema)
            casts = [cast for (cast,) in connection.execute(_CASTS, [schema])]
            contents, stale = cls._of_rows(connection, schema, path)
            owner = _current_role(connection)
            script = Script.parse(dump.result(), schema, owner=owner, more=casts)
        except (DumpError, psycopg.Error) as error:
            raise CopyError(_said(error)) from error
        if stale:
            raise CopyError(*(f"materialized view {name}, which is out of date" for name in stale))
        return contents._replace(script=script, structure=structure)

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
        set_path(connection, schema, path)
        tables = rows.tables_with_rows(connection, schema)
        sequences = rows.moved_sequences(connection, schema)
        views, stale = rows.materialized_views(connection, schema)
        script = Script(schema, (), ())
        return cls(script, "", tuple(tables), tuple(sequences), tuple(views)), stale

    @property
    def facts(self) -> str:
        """All but the statements, as JSON."""
        return json.dumps(
            {
                "schema": self.script.schema,
                "structure": self.structure,
                "tables": self.tables,
                "sequences": self.sequences,
                "views": self.views,
                "marked": self.marked,
                "extra": self.extra,
            }
        )

    @classmethod
    def load(cls, facts: str, before: Iterable[str] = (), after: Iterable[str] = ()) -> Self:
        """Return what has such `facts`; raise KeyError, TypeError or ValueError for others."""
        found = json.loads(facts)
        return cls(
            script=Script(found["schema"], tuple(before), tuple(after)),
            structure=found["structure"],
            tables=tuple(
                Table(name, tuple(Column(*column) for column in columns))
                for name, columns in found["tables"]
            ),
            sequences=tuple(SequenceValue(*value) for value in found["sequences"]),
            views=tuple(found["views"]),
            marked=tuple(found["marked"]),
            extra=found["extra"],
        )


class Template(NamedTuple):
    """A schema called `name`; `path` follows the schemas that are made from it on search_path.

    Once it `is_proved` or disproved that copies are faithful, that is not looked at again.
    """

    name: str
    contents: Contents
    path: tuple[str, ...]
    is_proved: bool | None = None

    @classmethod
    def create(
        cls,
        connection: Connection,
        contents: Contents,
        marker: Marker,
        path: Sequence[str],
        since: int | None = None,
    ) -> Self:
        """Create a template of the schema that `contents` are of.

        Rows that the transaction `since`, or a later one, has written are marked. Only once all
        is there is the template marked as such, with `marker`.
        """
        name, model = schemas.create_template(connection, marker.run), contents.script.schema
        set_path(connection, model, path)
        copies = Copies.make(connection, name, model, contents.tables, since)
        template = cls(name, contents._replace(marked=copies.marked), tuple(path))
        template.complete(connection, marker)
        return template

    @classmethod
    def create_of_rows(
        cls,
        connection: Connection,
        model: str,
        marker: Marker,
        path: Sequence[str],
        since: int | None = None,
    ) -> Self:
        """Create a template of a schema from which resets restore, and no copies are made."""
        from .silence import unhidden

        with unhidden(connection, model):
            contents = Contents.of_rows(connection, model, path)
            return cls.create(connection, contents, marker, path, since)

    def complete(self, connection: Connection, marker: Marker) -> None:
        """Say what is in the template, and that it is ready."""
        script = self.contents.script
        with connection.transaction():
            connection.execute(sql.SQL(_CREATE).format(self._table))
            connection.execute(
                sql.SQL("INSERT INTO {} VALUES (%s, %s, %s)").format(self._table),
                [self.contents.facts, list(script.before), list(script.after)],
            )
            schemas.mark(connection, self.name, marker)

    @classmethod
    def read(cls, connection: Connection, name: str, path: Sequence[str]) -> Self:
        """Read a template, but for the statements, which are most of it: see `script`."""
        table = sql.Identifier(name, _TABLE)
        query = sql.SQL("SELECT is_proved, facts FROM {}").format(table)
        row = connection.execute(query).fetchone()
        assert row is not None
        return cls(name, Contents.load(row[1]), tuple(path), is_proved=row[0])

    def script(self, connection: Connection) -> Script:
        """Read the statements that make what is in a copy."""
        query = sql.SQL("SELECT before, after FROM {}").format(self._table)
        row = connection.execute(query).fetchone()
        assert row is not None
        return Script(self.contents.script.schema, *map(tuple, row))

    def copy(self, connection: Connection, schema: str, *, batch: int) -> None:
        """Fill a schema that is empty, with `batch` tables' worth of locks in a transaction.

        Raises CopyError.
        """
        try:
            connection.execute(SETTINGS)
            set_path(connection, schema, self.path)
            for step in self._steps(connection, schema):
                for start in range(0, len(step), batch * _STATEMENTS_PER_TABLE):
                    chunk = step[start : start + batch * _STATEMENTS_PER_TABLE]
                    # Sent as one, they are one transaction. What separates them has a line of
                    # its own, where it is not within a comment.
                    connection.execute("\n;\n".join(chunk).encode())
        except psycopg.Error as error:
            raise CopyError(_said(error)) from error

    def _steps(self, connection: Connection, schema: str) -> Iterator[Sequence[str]]:
        contents, script = self.contents, self.script(connection).for_schema(schema)
        yield script.before
        filling = [table.copy_from(copy, schema) for copy, table in self.copies]
        filling += rows.set_sequences(contents.sequences, schema)
        yield [statement.as_string(connection) for statement in filling]
        yield script.after
        refresh = sql.SQL("REFRESH MATERIALIZED VIEW {}")
        yield [
            refresh.format(sql.Identifier(schema, view)).as_string(connection)
            for view in contents.views
        ]

    def prove(self, connection: Connection, schema: str) -> None:
        """Make sure that copies are what they should be, by this one or an earlier one.

        They come of the same statements, so that one is proof of all; others wait for it.
        Raises CopyError.
        """
        if self.is_proved:
            return
        with locks.held(connection, locks.key(f"proof of {self.name}")):
            row = connection.execute(
                sql.SQL("SELECT is_proved FROM {}").format(self._table)
            ).fetchone()
            is_proved = bool(row and row[0])
            if row == (None,):
                is_proved = self.describes(connection, schema)
                connection.execute(
                    sql.SQL("UPDATE {} SET is_proved = %s").format(self._table), [is_proved]
                )
        if not is_proved:
            model = self.contents.script.schema
            raise CopyError(*catalog.differences(connection, model, schema) or ["its structure"])

    def describes(self, connection: Connection, schema: str) -> bool:
        """Whether the structure of a schema is that of copies."""
        return catalog.digest(connection, schema) == self.contents.structure

    @property
    def copies(self) -> Copies:
        return Copies(self.name, self.contents.tables, self.contents.marked)

    @property
    def _table(self) -> sql.Identifier:
        return sql.Identifier(self.name, _TABLE)


def set_path(connection: Connection, schema: str, path: Sequence[str]) -> None:
    """Have names on this connection mean what they mean to those who use the schema."""
    listed = sql.SQL(", ").join(map(sql.Identifier, (schema, *path)))
    connection.execute(sql.SQL("SET search_path = {}").format(listed))


def _current_role(connection: Connection) -> str:
    row = connection.execute("SELECT pg_catalog.quote_ident(current_user)").fetchone()
    assert row is not None
    return str(row[0])


def _said(error: Exception) -> str:
    return str(error).partition("\n")[0]
