"""Routines whose bodies name a schema, which they are told to leave out."""

import re
from collections.abc import Collection
from itertools import pairwise
from typing import NamedTuple

from psycopg import sql

from .server import Connection

# Names of what is in a schema, and what they are not sought in. A comment within a comment ends
# too early, which leaves names as they are.
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
    """A body `without` names of a schema; None where it cannot do without. `names` are those."""

    without: str | None
    names: frozenset[str]


def parse(text: str, source: str, kept: Collection[str] = ()) -> FunctionBody:
    """Read a body: names in `kept` stay qualified.

    It cannot do without others where literals have the schema's name too, for they may be parts
    of SQL.
    """
    mention = re.compile(rf"(?<!\w){re.escape(source)}(?!\w)", re.IGNORECASE)
    is_clear, names = True, set()

    def bare(found: re.Match[str]) -> str:
        nonlocal is_clear
        if found["literal"] and mention.search(found["literal"]):
            is_clear = False
        if not found["name"] or unquote(found["name"]) in kept:
            return found.group()
        names.add(unquote(found["name"]))
        return _unqualified(found)

    without = _tokens(source).sub(bare, text)
    return FunctionBody(without if is_clear else None, frozenset(names))


def strip_schema(statements: str, source: str) -> str:
    """Return statements whose CREATE FUNCTION and CREATE PROCEDURE do not name a schema.

    Those stay as they are whose bodies cannot do without, or which set a search_path. Characters
    keep their offsets.
    """
    ends = [found.end() for found in _tokens(source).finditer(statements) if found["end"]]
    borders = [0, *ends, len(statements)]
    parts = (statements[a:b] for a, b in pairwise(borders))
    return "".join(
        _strip_routine(part, source) if _ROUTINE.match(part) else part for part in parts
    )


def _strip_routine(statement: str, source: str) -> str:
    is_clear = "search_path" not in statement.lower()

    def bare(found: re.Match[str]) -> str:
        nonlocal is_clear
        if found["name"]:
            return _unqualified(found)
        if found["body"]:
            body = parse(found["body"], source).without
            is_clear = is_clear and body is not None
            return f"{found['tag']}{body}{found['tag']}"
        return found.group()

    without = _tokens(source).sub(bare, statement)
    return without if is_clear else statement


def _unqualified(found: re.Match[str]) -> str:
    # As long as before, so that offsets stay. Quoted, for it may be a keyword.
    return sql.Identifier(unquote(found["name"])).as_string().rjust(len(found.group()))


def rewrite_functions(connection: Connection, source: str, target: str) -> None:
    """Rewrite the routines in `target` to use its objects where they name those of `source`."""
    kept = extension_members(connection, source)
    for oid, text, path in connection.execute(_ROUTINES, [target, source]).fetchall():
        body = parse(text, source, kept)
        if body.without is None or not body.names:
            continue
        (definition, name) = connection.execute(_DEFINITION, [oid, oid]).fetchone() or ("", "")
        head, _, tail = definition.rpartition(text)
        with connection.transaction():
            connection.execute("SET LOCAL check_function_bodies = off")
            connection.execute(f"{head}{body.without}{tail}".encode())
            if path is not None and target not in path:
                # It was for a body that names all in full.
                alter = sql.SQL("ALTER ROUTINE {} SET search_path = {}{}")
                rest = sql.SQL("" if path == '""' else f", {path}")
                connection.execute(alter.format(sql.SQL(name), sql.Identifier(target), rest))


def extension_members(connection: Connection, schema: str) -> frozenset[str]:
    """Return the names of what extensions have in a schema."""
    named = _tokens(schema)
    return frozenset(
        unquote(found["name"])
        for (identity,) in connection.execute(_EXTENSION_MEMBERS, [schema])
        if (found := named.match(identity)) and found["name"]
    )


def unquote(name: str) -> str:
    """Return the name that an identifier in SQL stands for."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _tokens(source: str) -> re.Pattern[str]:
    pattern = _TOKENS.replace("{source}", re.escape(source))
    return re.compile(pattern, re.VERBOSE | re.DOTALL)
