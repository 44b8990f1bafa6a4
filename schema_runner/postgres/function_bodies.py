"""Remove a schema from names in the bodies of SQL and PL/pgSQL routines."""

import re
from collections.abc import Collection
from itertools import pairwise
from typing import NamedTuple

from psycopg import sql

from .server import Connection

# Names qualified with the schema, and the tokens in which they do not count. Unlike PostgreSQL,
# this pattern does not nest comments: the rest of an outer comment counts as code.
_TOKENS = r"""
      --[^\n]* | /\* .*? \*/
    | (?P<literal> (?<![\w$])E'(?: [^'\\] | '' | \\. )*' | '(?: [^'] | '' )*'
                 | (?<![\w$])(?P<tag> \$(?:[^\W\d]\w*)?\$ ) (?P<body> .*? ) (?P=tag) )
    | (?<![\w$".]) (?: "{source}" | (?i:{source})(?![\w$"]) ) \s*\.\s*
      (?P<name> "(?: [^"] | "" )+" | [^\W\d][\w$]* )
    | "(?: [^"] | "" )*"
    | (?P<end> ; )
"""
_ROUTINE = re.compile(r"\s*CREATE\s+(?:OR\s+REPLACE\s+)?(?:FUNCTION|PROCEDURE)\b", re.IGNORECASE)
_ROUTINES = """
    SELECT p.oid, prosrc, substring(setting, '^search_path=(.*)')
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = prolang
    LEFT JOIN pg_catalog.unnest(proconfig) AS setting ON setting LIKE 'search_path=%%'
    WHERE pronamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
      AND lanname IN ('plpgsql', 'sql')
      AND pg_catalog.strpos(pg_catalog.lower(prosrc), pg_catalog.lower(%s)) > 0
"""
_DEFINITION = "SELECT pg_catalog.pg_get_functiondef(%s), %s::oid::regprocedure::text"
_EXTENSION_MEMBERS = """
    SELECT identity.identity
    FROM pg_catalog.pg_depend d, pg_catalog.pg_identify_object(classid, objid, 0) AS identity
    WHERE deptype = 'e' AND identity.schema = %s
"""


class FunctionBody(NamedTuple):
    """A body without the schema.

    `unqualified` is the new body, or None if the schema cannot be removed, and `names` are the
    names from which it was removed.
    """

    unqualified: str | None
    names: frozenset[str]


def parse(text: str, source: str, kept: Collection[str] = ()) -> FunctionBody:
    """Remove the schema `source` from the names in a body, except those in `kept`.

    It cannot be removed if literals contain it too, because they may be part of dynamic SQL.
    """
    mention = re.compile(rf"(?<!\w){re.escape(source)}(?!\w)", re.IGNORECASE)
    is_possible, names = True, set()

    def replace(match: re.Match[str]) -> str:
        nonlocal is_possible
        if match["literal"] and mention.search(match["literal"]):
            is_possible = False
        if not match["name"] or unquote(match["name"]) in kept:
            return match.group()
        names.add(unquote(match["name"]))
        return _unqualified(match)

    replaced = _tokens(source).sub(replace, text)
    return FunctionBody(replaced if is_possible else None, frozenset(names))


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
            body = parse(match["body"], source).unqualified
            is_possible = is_possible and body is not None
            return f"{match['tag']}{body}{match['tag']}"
        return match.group()

    replaced = _tokens(source).sub(replace, statement)
    return replaced if is_possible else statement


def _unqualified(match: re.Match[str]) -> str:
    # Padded to keep offsets, and quoted, because the name may be a keyword.
    return sql.Identifier(unquote(match["name"])).as_string().rjust(len(match.group()))


def rewrite_functions(connection: Connection, source: str, target: str) -> None:
    """Remove the schema `source` from names in the bodies of routines in `target`."""
    kept = extension_members(connection, source)
    for oid, text, path in connection.execute(_ROUTINES, [target, source]).fetchall():
        body = parse(text, source, kept)
        if body.unqualified is None or not body.names:
            continue
        (definition, name) = connection.execute(_DEFINITION, [oid, oid]).fetchone() or ("", "")
        head, _, tail = definition.rpartition(text)
        with connection.transaction():
            connection.execute("SET LOCAL check_function_bodies = off")
            connection.execute(f"{head}{body.unqualified}{tail}".encode())
            if path is not None and target not in path:
                # The path was sufficient while the body qualified its names.
                alter = sql.SQL("ALTER ROUTINE {} SET search_path = {}{}")
                rest = sql.SQL("" if path == '""' else f", {path}")
                connection.execute(alter.format(sql.SQL(name), sql.Identifier(target), rest))


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
