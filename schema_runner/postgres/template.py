"""The template: a schema from which others like the one that was built are made."""

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

# What is in a template beside the rows: this has one row.
_TABLE = "contents"
_CREATE_CONTENTS = """
    CREATE TABLE {} (facts text, before text[], after text[], inventory text[], is_proved boolean)
"""
# Measured: what makes a table with its parts holds fewer locks for each statement than this.
_STATEMENTS_PER_TABLE = 5


class Template(NamedTuple):
    """A schema called `name`; `path` follows the schemas that are made from it on search_path.

    Once it `is_proved` or disproved that copies are faithful, that is not looked at again.
    """

    name: str
    contents: TemplateContents
    path: tuple[str, ...]
    is_proved: bool | None = None

    @classmethod
    def create(
        cls,
        connection: Connection,
        contents: TemplateContents,
        marker: Marker,
        path: Sequence[str],
        since: int | None = None,
    ) -> Self:
        """Create a template of the schema that `contents` are of.

        Rows that the transaction `since`, or a later one, has written are marked. Only once all
        is there is the template marked as such, with `marker`.
        """
        name, source_schema = (
            schemas.create_template(connection, marker.run),
            contents.script.schema,
        )
        copies = Copies(name, contents.tables).make(connection, source_schema, path, since)
        template = cls(name, contents._replace(marked=copies.marked), tuple(path))
        template.complete(connection, marker)
        return template

    @classmethod
    def create_of_rows(
        cls,
        connection: Connection,
        source_schema: str,
        marker: Marker,
        path: Sequence[str],
        since: int | None = None,
    ) -> Self:
        """Create a template of a schema from which resets restore, and no copies are made."""
        from .reset.triggers import row_security_disabled

        with row_security_disabled(connection, source_schema):
            contents = TemplateContents.of_rows(connection, source_schema, path)
            return cls.create(connection, contents, marker, path, since)

    def complete(self, connection: Connection, marker: Marker) -> None:
        """Say what is in the template, and that it is ready."""
        script = self.contents.script
        with connection.transaction():
            connection.execute(sql.SQL(_CREATE_CONTENTS).format(self._table))
            connection.execute(
                sql.SQL("INSERT INTO {} VALUES (%s, %s, %s, %s)").format(self._table),
                [
                    self.contents.facts,
                    *(list(script.before), list(script.after), sorted(self.contents.inventory)),
                ],
            )
            schemas.mark(connection, self.name, marker)

    @classmethod
    def read(cls, connection: Connection, name: str, path: Sequence[str]) -> Self:
        """Read a template, but for most of it: see `whole`."""
        table = sql.Identifier(name, _TABLE)
        query = sql.SQL("SELECT is_proved, facts FROM {}").format(table)
        row = connection.execute(query).fetchone()
        assert row is not None
        return cls(name, TemplateContents.load(row[1]), tuple(path), is_proved=row[0])

    def whole(self, connection: Connection) -> TemplateContents:
        """Read the contents with the statements and the inventory."""
        query = sql.SQL("SELECT facts, before, after, inventory FROM {}").format(self._table)
        row = connection.execute(query).fetchone()
        assert row is not None
        return TemplateContents.load(*row)

    def copy(self, connection: Connection, schema: str, *, batch: int) -> None:
        """Fill a schema that is empty, with `batch` tables' worth of locks in a transaction.

        Raises CopyError.
        """
        try:
            connection.execute(SETTINGS)
            for step in filter(None, self._steps(connection, schema)):
                with safe_search_path.users_search_path(connection, schema, self.path):
                    for start in range(0, len(step), batch * _STATEMENTS_PER_TABLE):
                        chunk = step[start : start + batch * _STATEMENTS_PER_TABLE]
                        # Sent as one, they are one transaction. What separates them has a line
                        # of its own, where it is not within a comment.
                        connection.execute("\n;\n".join(chunk).encode())
        except psycopg.Error as error:
            raise CopyError(first_line(error)) from error

    def _steps(self, connection: Connection, schema: str) -> Iterator[Sequence[str]]:
        contents = self.whole(connection)
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

    def prove(
        self, connection: Connection, schema: str, start_dump: "Callable[[], Dump | None]"
    ) -> None:
        """Make sure that copies are what they should be, by this one or an earlier one.

        They come of the same statements, so that one is proof of all; others wait for it.
        `start_dump` begins with a dump of the copy, if there is a program for that. Raises
        CopyError.
        """
        if self.is_proved:
            return
        with locks.held(connection, locks.key(f"proof of {self.name}")):
            row = connection.execute(
                sql.SQL("SELECT is_proved FROM {}").format(self._table)
            ).fetchone()
            if row and row[0]:
                return
            different = self._differences(connection, schema, start_dump)
            connection.execute(
                sql.SQL("UPDATE {} SET is_proved = %s").format(self._table), [not different]
            )
        if different:
            raise CopyError(*different)

    def _differences(
        self, connection: Connection, schema: str, start_dump: "Callable[[], Dump | None]"
    ) -> list[str]:
        """Name what a copy does not have as it is in the template."""
        contents = self.whole(connection)
        different = structure.differences(
            contents.inventory, structure.inventory(connection, schema)
        )
        if different or (dump := start_dump()) is None:
            return different
        with closing(dump):
            # Two versions may write the same otherwise.
            if dump.version != contents.pg_dump:
                return []
            return contents.script.differences(read_script(connection, schema, dump))

    @property
    def copies(self) -> Copies:
        return Copies(self.name, self.contents.tables, self.contents.marked)

    @property
    def _table(self) -> sql.Identifier:
        return sql.Identifier(self.name, _TABLE)
