"""Replace or remove the schema of names in the bodies of SQL and PL/pgSQL routines."""

import re
from collections.abc import Collection
from itertools import pairwise

from psycopg import sql

from .server import Connection

# Names qualified with the schema, and the tokens in which they do not count. Unlike PostgreSQL,
# this pattern does not nest comments: the rest of an outer comment counts as code.
_TOKENS = r"""
      --[^\n]* | /\* .*? \*/
    | (?P<literal> (?<![\w$])E'(?: [^'\\] | '' | \\. )*' | '(?: [^'] | '' )*'
                 | (?<![\w$])(?P<tag> \$(?:[^\W\d]\w*)?\$ ) (?P<body> .*? ) (?P=tag) )
    | (?<![\w$".]) (?: "{source}" | (?i:{source})(?![\w$"]) ) \s*\.\s*
      (?P<name> "(?: [^"] | "" )+" | [^\W\d][\w$]* | (?P<operator> [-+*/<>=~!@#%^&|`?]+ ) )
    | "(?: [^"] | "" )*"
    | (?P<end> ; )
"""
_ROUTINE = re.compile(r"\s*CREATE\s+(?:OR\s+REPLACE\s+)?(?:FUNCTION|PROCEDURE)\b", re.IGNORECASE)
_ROUTINES = """
    SELECT prosrc, pg_catalog.pg_get_functiondef(p.oid)
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = prolang
    WHERE pronamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
      AND lanname IN ('plpgsql', 'sql')
      AND pg_catalog.strpos(pg_catalog.lower(prosrc), pg_catalog.lower(%s)) > 0
"""
_EXTENSION_MEMBERS = """
    SELECT identity.identity
    FROM pg_catalog.pg_depend d, pg_catalog.pg_identify_object(classid, objid, 0) AS identity
    WHERE deptype = 'e' AND identity.schema = %s
"""


def replace_schema(
    body: str, source: str, target: str | None, kept: Collection[str] = ()
) -> str | None:
    """Replace the schema `source` of the names in a body, except those in `kept`.

    Without `target`, remove the schema; characters keep their offsets. Return None if literals
    contain it too, because they may be part of dynamic SQL.
    """
    mention = re.compile(rf"(?<!\w){re.escape(source)}(?!\w)", re.IGNORECASE)
    is_possible = True

    def replace(match: re.Match[str]) -> str:
        nonlocal is_possible
        if match["literal"] and mention.search(match["literal"]):
            is_possible = False
        if not match["name"] or unquote(match["name"]) in kept:
            return match.group()
        if target is None:
            return _unqualified(match)
        return f"{sql.Identifier(target).as_string()}.{match['name']}"

    replaced = _tokens(source).sub(replace, body)
    return replaced if is_possible else None


def strip_schema(statements: str, source: str) -> str:
    """Remove a schema from names in CREATE FUNCTION and CREATE PROCEDURE statements.

    A statement stays as it is if it sets a search_path, or if the schema cannot be removed from
    the body. Characters keep their offsets.
    """
    ends = [match.end() for match in _tokens(source).finditer(statements) if match["end"]]
    borders = [0, *ends, len(statements)]
    parts = (statements[a:b] for a, b in pairwise(borders))
    return "".join(
        _strip_routine(part, source) if _ROUTINE.match(part) else part for part in parts
    )


def _strip_routine(statement: str, source: str) -> str:
    is_possible = "search_path" not in statement.lower()

    def replace(match: re.Match[str]) -> str:
        nonlocal is_possible
        if match["name"]:
            return _unqualified(match)
        if match["body"]:
            body = replace_schema(match["body"], source, None)
            is_possible = is_possible and body is not None
            return f"{match['tag']}{body}{match['tag']}"
        return match.group()

    replaced = _tokens(source).sub(replace, statement)
    return replaced if is_possible else statement


def _unqualified(match: re.Match[str]) -> str:
    # Padded to keep offsets, and quoted, because the name may be a keyword.
    name = match["operator"] or sql.Identifier(unquote(match["name"])).as_string()
    return name.rjust(len(match.group()))


def rewrite_functions(connection: Connection, source: str, target: str) -> None:
    """Replace the schema `source` of names in the bodies of routines in `target` by `target`.

    Names without a schema could find common table expressions. PostgreSQL 17 and later would not
    find them at all, with the search_path that it sets to maintain indexes and materialized views.
    """
    kept = extension_members(connection, source)
    for body, definition in connection.execute(_ROUTINES, [target, source]).fetchall():
        replaced = replace_schema(body, source, target, kept)
        if replaced is None or replaced == body:
            continue
        head, _, tail = definition.rpartition(body)
        with connection.transaction():
            connection.execute("SET LOCAL check_function_bodies = off")
            connection.execute(f"{head}{replaced}{tail}".encode())


def extension_members(connection: Connection, schema: str) -> frozenset[str]:
    """Return the names of the members of extensions in a schema."""
    named = _tokens(schema)
    return frozenset(
        unquote(match["name"])
        for (identity,) in connection.execute(_EXTENSION_MEMBERS, [schema])
        if (match := named.match(identity)) and match["name"]
    )


def unquote(name: str) -> str:
    """Return the name that an SQL identifier, quoted or not, stands for."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _tokens(source: str) -> re.Pattern[str]:
    pattern = _TOKENS.replace("{source}", re.escape(source))
    return re.compile(pattern, re.VERBOSE | re.DOTALL)
