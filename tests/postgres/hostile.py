"""A schema that another role can fill with functions and operators that our SQL might call."""

import re
from collections.abc import Iterator
from itertools import chain, product
from pathlib import Path

import schema_runner
from schema_runner.postgres.server import Connection

SCHEMA = "hostile"
_TYPES = (
    *("text", "varchar", "name", '"char"', "int2", "int4", "int8", "oid", "bool"),
    *("regclass", "xid", "jsonb", "text[]", "name[]"),
)
_COMMON = ("text", "varchar", "name", "int4", "oid")
_OPERATORS = (
    "=",
    "<>",
    "<",
    "<=",
    ">",
    ">=",
    "||",
    "~",
    "!~",
    "~~",
    "+",
    "-",
    "/",
    "%",
    "<<",
    "->>",
)
# It raises an error and counts the call with a sequence, which a rollback does not undo.
_BODY = """
    LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_catalog.nextval('hostile.calls');
        RAISE EXCEPTION 'hostile {name} of {types}';
    END $$
"""


def fill(connection: Connection) -> None:
    """Create the schema, with operators and functions for types other than PostgreSQL's own.

    They match exactly where PostgreSQL's own would need a conversion.
    """
    statements = chain(
        [f"CREATE SCHEMA {SCHEMA}; CREATE SEQUENCE {SCHEMA}.calls"],
        _operators(),
        _functions(connection),
    )
    connection.execute(";\n".join(statements).encode())


def calls(connection: Connection) -> bool:
    """Return whether anything in the schema has been called."""
    row = connection.execute(f"SELECT is_called FROM {SCHEMA}.calls").fetchone()
    assert row is not None
    return bool(row[0])


def _operators() -> Iterator[str]:
    for number, (left, right) in enumerate(product(_TYPES, repeat=2)):
        function = f"{SCHEMA}.operator_{number}"
        body = _BODY.format(name="operator", types=f"{left}, {right}".replace('"', ""))
        yield f"CREATE FUNCTION {function}({left}, {right}) RETURNS bool {body}"
        for operator in _OPERATORS:
            yield (
                f"CREATE OPERATOR {SCHEMA}.{operator}"
                f" (FUNCTION = {function}, LEFTARG = {left}, RIGHTARG = {right})"
            )


def _functions(connection: Connection) -> Iterator[str]:
    """Yield functions with the names that the package calls, with and without arguments."""
    source = "".join(path.read_text() for path in _modules())
    called = sorted(set(re.findall(r"\b[a-z_0-9]+(?=\()", source)))
    query = (
        "SELECT proname, bool_or(provariadic <> 0), array_agg(DISTINCT pronargs::int)"
        " FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY(%s)"
        " GROUP BY proname"
    )
    for name, is_variadic, numbers in connection.execute(query, [called]).fetchall():
        for number in {*numbers, 1, 2} if is_variadic else numbers:
            for types in product(_TYPES if number == 1 else _COMMON, repeat=min(number, 2)):
                listed = ", ".join([*types, *["text"] * (number - 2)])
                body = _BODY.format(name=name, types=listed.replace('"', ""))
                yield f'CREATE FUNCTION {SCHEMA}."{name}"({listed}) RETURNS bool {body}'


def _modules() -> Iterator[Path]:
    return Path(schema_runner.__file__).parent.glob("**/*.py")
