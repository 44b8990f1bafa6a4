"""Operations on a database whose tables have rows before each test."""

from typing import TYPE_CHECKING, Any

from psycopg import sql

from ..flush.registry import ResettingCreation

if TYPE_CHECKING:
    from django.db.backends.postgresql.operations import DatabaseOperations as Base
else:
    Base = object


class SchemaOperations(Base):
    """Mixed into a backend's operations class."""

    def sequence_reset_by_name_sql(self, style: Any, sequences: Any) -> list[str]:
        """Set sequences as stock Django does, but no one below rows that are there to stay.

        Django calls it before each test of a class with `reset_sequences`.
        """
        creation: Any = self.connection.creation
        is_ours = isinstance(creation, ResettingCreation)
        kept = creation.prepare_sequence_reset() if is_ours else set()
        sequences = list(sequences)
        others = [sequence for sequence in sequences if sequence["table"] not in kept]
        ours = [sequence for sequence in sequences if sequence["table"] in kept]
        return [
            *super().sequence_reset_by_name_sql(style, others),
            *(self._past_rows(one["table"], one["column"] or "id") for one in ours),
        ]

    def _past_rows(self, table: str, column: str) -> str:
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
