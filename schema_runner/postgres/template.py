"""The template: a small schema from which worker schemas are created."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple, Self

import psycopg
from psycopg import sql

from . import locks, rows, safe_search_path, schemas, structure
from .move import sql_undo_default_privileges
from .names import Marker
from .row_copies import Copies
from .server import Connection
from .structure_script import (
    SETTINGS,
    CopyError,
    TemplateContents,
    first_line,
    read_script,
)

if TYPE_CHECKING:
    from .pg_dump import Dump

# This table has one row, with everything in a template except the copies of rows.
_TABLE = "contents"
_CREATE_CONTENTS = """
    CREATE TABLE {} (facts text, before text[], after text[], inventory text[], is_proved boolean)
"""
# Measured: this many statements of a script hold fewer locks than one table with its indexes.
_STATEMENTS_PER_TABLE = 5


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
        name, source_schema = (
            schemas.create_template(connection, marker.run),
            contents.script.schema,
        )
        copies = Copies(name, contents.tables).create(connection, source_schema, path, since)
        template = cls(name, contents._replace(marked=copies.marked), tuple(path))
        template.write_contents(connection, marker)
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

    def write_contents(self, connection: Connection, marker: Marker) -> None:
        """Store everything except the rows, and mark the template as ready."""
        script = self.contents.script
        with connection.transaction():
            connection.execute(sql.SQL(_CREATE_CONTENTS).format(self._table))
            connection.execute(
                sql.SQL("INSERT INTO {} VALUES (%s, %s, %s, %s)").format(self._table),
                [
                    self.contents.metadata,
                    *(list(script.before), list(script.after), sorted(self.contents.inventory)),
                ],
            )
            schemas.mark(connection, self.name, marker)

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
        filling = [table.copy_from(copy, schema) for copy, table in self.copies]
        filling += rows.sql_set_sequences(contents.sequences, schema)
        yield [statement.as_string(connection) for statement in filling]
        yield script.after
        refresh = sql.SQL("REFRESH MATERIALIZED VIEW {}")
        yield [
            refresh.format(sql.Identifier(schema, view)).as_string(connection)
            for view in contents.views
        ]

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
            connection.execute(
                sql.SQL("UPDATE {} SET is_proved = %s").format(self._table), [not differing]
            )
        if differing:
            raise CopyError(*differing)

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
