"""Which tables of a schema refer to which, and which are parts of which."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, Self

from .server import Connection

# Those of partitions have rows of their own. What a foreign key does to the rows that refer to a
# deleted one, if anything, is done at once even where its check is deferred.
_KEYS = """
    SELECT parent.relname, child.relname, NOT condeferrable OR confdeltype <> 'a'
    FROM pg_catalog.pg_constraint
    JOIN pg_catalog.pg_class child ON child.oid = conrelid
    JOIN pg_catalog.pg_class parent ON parent.oid = confrelid
    WHERE contype = 'f'
      AND connamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
"""
_PARTS = """
    SELECT parent.relname, child.relname
    FROM pg_catalog.pg_inherits
    JOIN pg_catalog.pg_class child ON child.oid = inhrelid AND child.relkind IN ('r', 'p')
    JOIN pg_catalog.pg_class parent ON parent.oid = inhparent
    WHERE parent.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
"""


class References(NamedTuple):
    """The foreign keys and the inheritance of a schema's tables, by name.

    `referring` maps a table to those that refer to it, `strictly` does so for the foreign keys
    that cannot wait for the end of a transaction, and `parts` maps it to its partitions and to
    those that inherit from it.
    """

    referring: Mapping[str, set[str]]
    strictly: Mapping[str, set[str]]
    parts: Mapping[str, set[str]]

    @classmethod
    def read(cls, connection: Connection, schema: str) -> Self:
        referring, strictly, parts = (defaultdict[str, set[str]](set) for _ in range(3))
        for parent, child, is_strict in connection.execute(_KEYS, [schema]):
            referring[parent].add(child)
            if is_strict:
                strictly[parent].add(child)
        for parent, child in connection.execute(_PARTS, [schema]):
            parts[parent].add(child)
        return cls(referring, strictly, parts)

    def emptied_with(self, tables: Iterable[str]) -> set[str]:
        """Return what TRUNCATE … CASCADE of these tables empties."""
        return _closure(tables, self.referring, self.parts)

    def removed_with(self, tables: Iterable[str]) -> set[str]:
        """Return those whose rows can be in the way of a DELETE of these, or be changed by it."""
        found = _closure(tables, self.strictly)
        return {child for table in found for child in self.strictly.get(table, ())}


def _closure(tables: Iterable[str], *relations: Mapping[str, Collection[str]]) -> set[str]:
    found, waiting = set[str](), list(tables)
    while waiting:
        table = waiting.pop()
        if table not in found:
            found.add(table)
            for relation in relations:
                waiting.extend(relation.get(table, ()))
    return found
