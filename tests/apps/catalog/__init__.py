"""The structure of a schema as text, to compare two schemas."""

import hashlib
import re

from schema_runner.postgres.server import Connection

from . import facts

# Replaces the schema's own name.
_PLACEHOLDER = "{schema}"

# A list of constants that is cast as a whole, as the server prints `status IN ('a', 'b')` for a
# varchar column. Parsed again, as from a dump, it becomes a list of cast elements.
_CONSTANT = r"'(?:[^']|'')*'::[a-z ]+"
_CAST_LIST = re.compile(rf"\(ARRAY\[({_CONSTANT}(?:, {_CONSTANT})*)\]\)::([a-z ]+)\[\]")


def describe(connection: Connection, schema: str) -> frozenset[str]:
    """Return everything that makes up a schema's structure, without rows.

    Each fact is "kind identity: properties", a row of a catalog as text. "{schema}" replaces the
    schema's name, so that schemas of the same structure have the same description. Members of
    extensions, values of sequences, and the schema's own owner and comment are left out.
    """
    (found,) = _read(connection, schema)
    return frozenset(f"{name}: {properties}" for name, properties in found)


def digest(connection: Connection, schema: str) -> str:
    """Return a digest that is equal for two schemas if, and only if, `differences` finds none."""
    found = "\n".join(sorted(describe(connection, schema)))
    return hashlib.blake2b(found.encode(), digest_size=32).hexdigest()


def differences(connection: Connection, schema: str, other: str) -> list[str]:
    """List the differences of two schemas, such as "table column library_book.title"."""
    one, two = _read(connection, schema, other)
    return sorted({name.replace(f"{_PLACEHOLDER}.", "") for name, _ in one ^ two})


def _read(connection: Connection, *schemas: str) -> list[set[tuple[str, str]]]:
    # Rolled back, because in a caller's transaction the settings would last until its end.
    with connection.transaction(force_rollback=True):
        # The server qualifies every name that is not on the path.
        connection.execute("SET LOCAL search_path = ''; SET LOCAL quote_all_identifiers = off")
        query = facts.query(connection)
        return [_read_one(connection, query, schema) for schema in schemas]


def _read_one(connection: Connection, query: bytes, schema: str) -> set[tuple[str, str]]:
    row = connection.execute("SELECT quote_ident(%s)", [schema]).fetchone()
    assert row is not None
    name = re.escape(row[0])
    # The check that no identifier ends here comes last, which takes a quarter of the time.
    own_name = re.compile(rf'{name}(?<![\w$"]{name})(?=\.)')
    return {
        (
            own_name.sub(_PLACEHOLDER, f"{kind} {identity}"),
            _with_cast_elements(own_name.sub(_PLACEHOLDER, properties)),
        )
        for kind, identity, properties in connection.execute(query, {"schema": schema})
    }


def _with_cast_elements(text: str) -> str:
    def cast(found: re.Match[str]) -> str:
        elements = re.findall(_CONSTANT, found[1])
        return f"ARRAY[{', '.join(f'({element})::{found[2]}' for element in elements)}]"

    return _CAST_LIST.sub(cast, text) if "(ARRAY[" in text else text
