"""Reset sequences past the rows that remain, for classes with `reset_sequences`."""

from typing import TYPE_CHECKING, Any

from psycopg import sql

from ..flush.registry import resets_of

if TYPE_CHECKING:
    from django.db.backends.postgresql.operations import DatabaseOperations as Base
else:
    Base = object


class SchemaOperations(Base):
    """Mixin for a backend's operations class."""

    def sequence_reset_by_name_sql(self, style: Any, sequences: Any) -> list[str]:
        """Reset sequences as stock Django does, but to the next value after rows that remain.

        Django calls this before each test of a class with `reset_sequences`.
        """
        resets = resets_of(self.connection.alias)
        kept = resets.prepare_sequence_reset() if resets else set()
        sequences = list(sequences)
        empty = [sequence for sequence in sequences if sequence["table"] not in kept]
        filled = [sequence for sequence in sequences if sequence["table"] in kept]
        return [
            *super().sequence_reset_by_name_sql(style, empty),
            *(self._set_after_rows(each["table"], each["column"] or "id") for each in filled),
        ]

    def _set_after_rows(self, table: str, column: str) -> str:
        quoted = self.quote_name(table)
        return (
            sql.SQL(
                "SELECT setval(pg_get_serial_sequence({name}, {column}),"
                " greatest(coalesce(max({key}), 0), 0) + 1, false) FROM {table};"
            )
            .format(
                name=sql.Literal(quoted),
                column=sql.Literal(column),
                key=sql.Identifier(column),
                table=sql.SQL(quoted),
            )
            .as_string()
        )
