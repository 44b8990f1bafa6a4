"""The template: a small schema from which worker schemas are created."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import psycopg
from psycopg import sql

from . import locks, rows, safe_search_path, schemas, sequences, structure
from .move import sql_undo_default_privileges
from .names import Marker
from .row_copies import Copies
from .rows import Column, Table
from .sequences import SequenceValue
from .server import Connection
from .structure_script import SETTINGS, CopyError, Script, first_line, read_script

if TYPE_CHECKING:
    from .pg_dump import Dump

# This table has one row, with everything in a template except the copies of rows.
_TABLE = "contents"
_CREATE_CONTENTS = """
    CREATE TABLE {} (facts text, before text[], after text[], inventory text[], is_proved boolean)
"""
# Measured: this many statements of a script hold fewer locks than one table with its indexes.
_STATEMENTS_PER_TABLE = 5
# In the order of their dependencies.
_EXTENSIONS = """
    SELECT extname, extversion, extnamespace::regnamespace::text
    FROM pg_catalog.pg_extension ORDER BY oid
"""


class Extension(NamedTuple):
    name: str
    version: str
    schema: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} in schema {self.schema}"


def list_extensions(connection: Connection) -> tuple[Extension, ...]:
    """List the installed extensions, in an order in which they can be created."""
    return tuple(Extension(*row) for row in connection.execute(_EXTENSIONS))


class TemplateContents(NamedTuple):
    """Everything in a template except the rows."""

    script: Script
    # The major version of the pg_dump that wrote the script.
    pg_dump: int = 0
    inventory: frozenset[str] = frozenset()
    # The tables that have rows.
    tables: tuple[Table, ...] = ()
    # The sequences that are not at their start.
    sequences: tuple[SequenceValue, ...] = ()
    # The populated materialized views, each after those that it depends on.
    views: tuple[str, ...] = ()
    # The tables with marked rows: those of FIXTURES and SEEDERS, and the rows that these refer to.
    marked: tuple[str, ...] = ()
    # Those of the database. Copies need them, and the template itself does not.
    extensions: tuple[Extension, ...] = ()
    # The caller's metadata, which must be serializable as JSON.
    extra: Mapping[str, Any] = {}

    @classmethod
    def read(cls, connection: Connection, schema: str, dump: "Dump", path: Sequence[str]) -> Self:
        """Read the contents for a template of a schema from its `dump` and the catalog.

        `path` follows the schema on the search_path. Raises CopyError.
        """
        from .pg_dump import DumpError

        try:
            inventory = structure.inventory(connection, schema)
            contents = cls.read_rows_only(connection, schema, path)
            stale = rows.list_stale_views(connection, schema, path)
            script = read_script(connection, schema, dump)
        except (DumpError, psycopg.Error) as error:
            raise CopyError(first_line(error)) from error
        if stale:
            raise CopyError(*stale)
        return contents._replace(script=script, pg_dump=dump.version, inventory=inventory)

    @classmethod
    def read_rows_only(cls, connection: Connection, schema: str, path: Sequence[str]) -> Self:
        """Read the contents for a template of rows only: see `Template.create_rows_only`."""
        # Raise an error if row security would hide rows.
        connection.execute("SET row_security = off")
        return cls(
            script=Script(schema, (), ()),
            tables=tuple(rows.read_tables(connection, schema, path)),
            sequences=tuple(sequences.read_sequences(connection, schema)),
            views=tuple(rows.list_populated_views(connection, schema)),
            extensions=list_extensions(connection),
        )

    @property
    def facts(self) -> str:
        """Everything except the statements and the inventory, as JSON."""
        facts = {**self._asdict(), "script": self.script.schema}
        del facts["inventory"]
        return json.dumps(facts)

    @classmethod
    def load(
        cls,
        facts: str,
        before: Iterable[str] = (),
        after: Iterable[str] = (),
        inventory: Iterable[str] = (),
    ) -> Self:
        """Build the contents from `facts` and the rest.

        Raises KeyError, TypeError or ValueError if the facts are not valid.
        """
        loaded = json.loads(facts)
        loaded.update(
            script=Script(loaded["script"], tuple(before), tuple(after)),
            inventory=frozenset(inventory),
            tables=tuple(
                Table(name, tuple(Column(*column) for column in columns))
                for name, columns in loaded["tables"]
            ),
            sequences=tuple(SequenceValue(*value) for value in loaded["sequences"]),
            views=tuple(loaded["views"]),
            marked=tuple(loaded["marked"]),
            extensions=tuple(Extension(*extension) for extension in loaded["extensions"]),
        )
        return cls(**loaded)


class Template(NamedTuple):
    """A template schema and its contents."""

    name: str
    contents: TemplateContents
    # What follows a copy on the search_path.
    path: tuple[str, ...]
    # Whether the first copy matched the original; None until it was compared.
    is_verified: bool | None = None

    @classmethod
    def create(
        cls,
        connection: Connection,
        contents: TemplateContents,
        marker: Marker,
        path: Sequence[str],
        since: int | None = None,
    ) -> Self:
        """Create a template with these contents, and copy the rows of their schema.

        Mark the rows written by the transaction `since` or later ones. The template gets `marker`
        when it is complete.
        """
        name = schemas.create_template(connection, marker.run)
        source_schema = contents.script.schema
        copies = Copies(name, contents.tables).create(connection, source_schema, path, since)
        contents = contents._replace(marked=tuple(copies.marked))
        template, script = cls(name, contents, tuple(path)), contents.script
        insert = sql.SQL("INSERT INTO {} VALUES (%s, %s, %s, %s)").format(template._table)
        values = [list(script.before), list(script.after), sorted(contents.inventory)]
        with connection.transaction():
            connection.execute(sql.SQL(_CREATE_CONTENTS).format(template._table))
            connection.execute(insert, [contents.facts, *values])
            schemas.mark(connection, name, marker)
        return template

    @classmethod
    def create_rows_only(
        cls,
        connection: Connection,
        source_schema: str,
        marker: Marker,
        path: Sequence[str],
        since: int | None = None,
    ) -> Self:
        """Create a template with rows only, for resets: no schema can be created from it."""
        from .reset.triggers import row_security_disabled

        with row_security_disabled(connection, source_schema):
            contents = TemplateContents.read_rows_only(connection, source_schema, path)
            return cls.create(connection, contents, marker, path, since)

    @classmethod
    def read(cls, connection: Connection, name: str, path: Sequence[str]) -> Self:
        """Read a template without its statements and inventory: see `read_contents`."""
        table = sql.Identifier(name, _TABLE)
        query = sql.SQL("SELECT is_proved, facts FROM {}").format(table)
        row = connection.execute(query).fetchone()
        if row is None:
            raise LookupError(f"template {name} has no contents")
        return cls(name, TemplateContents.load(row[1]), tuple(path), is_verified=row[0])

    def read_contents(self, connection: Connection) -> TemplateContents:
        """Read the contents, including the statements and the inventory."""
        query = sql.SQL("SELECT facts, before, after, inventory FROM {}").format(self._table)
        row = connection.execute(query).fetchone()
        assert row is not None
        return TemplateContents.load(*row)

    def copy(self, connection: Connection, schema: str, *, batch: int) -> None:
        """Fill an empty schema, with at most the locks of `batch` tables in a transaction.

        Raises CopyError.
        """
        try:
            connection.execute(SETTINGS)
            for step in filter(None, self._steps(connection, schema)):
                with safe_search_path.users_search_path(connection, schema, self.path):
                    for start in range(0, len(step), batch * _STATEMENTS_PER_TABLE):
                        chunk = step[start : start + batch * _STATEMENTS_PER_TABLE]
                        # Sent as one string, they are one transaction. Each semicolon is on a
                        # separate line, so that no comment contains it.
                        connection.execute("\n;\n".join(chunk).encode())
        except psycopg.Error as error:
            raise CopyError(first_line(error)) from error

    def _steps(self, connection: Connection, schema: str) -> Iterator[Sequence[str]]:
        contents = self.read_contents(connection)
        script = contents.script.for_schema(schema)
        yield script.before
        yield sql_undo_default_privileges(connection, schema)
        filling = [table.copy_from(copy, schema) for table, copy in self.copies.rows.values()]
        filling += sequences.sql_set_sequences(contents.sequences, schema)
        yield [statement.as_string(connection) for statement in filling]
        yield script.after
        views = [sql.Identifier(schema, view).as_string() for view in contents.views]
        yield [f"REFRESH MATERIALIZED VIEW {view}" for view in views]

    def verify(
        self, connection: Connection, schema: str, start_dump: "Callable[[], Dump | None]"
    ) -> None:
        """Compare the first copy, in `schema`, with the original. Raises CopyError if they differ.

        Other workers wait for the result. Their copies need no comparison, because the same
        statements create them.
        `start_dump` starts a dump of the copy; it returns None if there is no pg_dump.
        """
        if self.is_verified:
            return
        with locks.hold(connection, locks.key(f"verification of {self.name}")):
            row = connection.execute(
                sql.SQL("SELECT is_proved FROM {}").format(self._table)
            ).fetchone()
            if row and row[0]:
                return
            differing = self._differences(connection, schema, start_dump)
            self._set_verified(connection, not differing)
        if differing:
            raise CopyError(*differing)

    def as_unverified(self, connection: Connection) -> Self:
        """Forget the result of `verify`, because this template is new in its database."""
        self._set_verified(connection, None)
        return self._replace(is_verified=None)

    def reject(self, connection: Connection) -> None:
        """Keep runs from using this template, because it cannot be copied."""
        self._set_verified(connection, False)

    def _set_verified(self, connection: Connection, is_verified: bool | None) -> None:
        connection.execute(
            sql.SQL("UPDATE {} SET is_proved = %s").format(self._table), [is_verified]
        )

    def _differences(
        self, connection: Connection, schema: str, start_dump: "Callable[[], Dump | None]"
    ) -> list[str]:
        """List the objects of a copy that differ from the original."""
        contents = self.read_contents(connection)
        differing = structure.differences(
            contents.inventory, structure.inventory(connection, schema)
        )
        if differing or (dump := start_dump()) is None:
            return differing
        with closing(dump):
            # Versions of pg_dump may write the same object differently.
            if dump.version != contents.pg_dump:
                return []
            return contents.script.differences(read_script(connection, schema, dump))

    @property
    def copies(self) -> Copies:
        return Copies(self.name, self.contents.tables, self.contents.marked)

    @property
    def _table(self) -> sql.Identifier:
        return sql.Identifier(self.name, _TABLE)
