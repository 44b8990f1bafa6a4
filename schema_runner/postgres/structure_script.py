"""The structure script: DDL from pg_dump that creates the objects of a schema, without rows."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Self

from .server import Connection

if TYPE_CHECKING:
    from .pg_dump import Dump


# The header that pg_dump writes above each object. A comment in SQL may look like one: then the
# statements are cut in the wrong place, and the first copy fails.
_HEADER = re.compile(
    r"^--\n-- (?:Data for )?Name: (?P<name>.*); Type: (?P<type>[A-Z ]+); Schema: .*; Owner: .*\n"
    r"--\n",
    re.MULTILINE,
)
_COMMENT = "-- "
_END = "\n--\n-- PostgreSQL database dump complete\n--\n"
# Objects to create after the rows, which pg_dump writes last:
# https://www.postgresql.org/docs/current/app-pgdump.html, --section=post-data.
_AFTER_ROWS = {
    *("CHECK CONSTRAINT", "CONSTRAINT", "FK CONSTRAINT", "INDEX", "INDEX ATTACH", "POLICY"),
    *("ROW SECURITY", "RULE", "STATISTICS", "TRIGGER", "ACL", "DEFAULT ACL"),
}
# Defaults for the next objects, which pg_dump writes after an object; dumps of equal schemas
# differ in them.
_SET = re.compile(r"\n+SET default_\w+ = .*;")
# The last statement of an object.
_OWNER = re.compile(r"\n\n\nALTER [A-Z ]+ .* OWNER TO (?P<owner>.*);\n*\Z")
# Settings that vary between versions of pg_dump, and those for our session: PostgreSQL must not
# check function bodies before the objects that they use exist.
SETTINGS = """
    SET client_encoding = 'UTF8';
    SET standard_conforming_strings = on;
    SET check_function_bodies = off;
    SET xmloption = content;
    SET client_min_messages = warning;
    SET row_security = off;
    SET synchronous_commit = off
"""


class Script(NamedTuple):
    """Statements that create the objects of `schema`, one string per object, with a comment first.

    The statements qualify all names with the schema, whose name is unique, so that it can be
    replaced with another.
    """

    schema: str
    # Statements to execute before and after the rows are inserted.
    before: tuple[str, ...]
    after: tuple[str, ...]

    @classmethod
    def parse(cls, dump: str, schema: str, *, owner: str, casts: Iterable[str] = ()) -> Self:
        """Parse the output of pg_dump for one schema.

        `owner`: the quoted name of the role that will execute the script. ALTER … OWNER TO this
        role is left out.
        `casts`: CREATE CAST statements to add, which pg_dump omits.

        Raises DumpError if the output is incomplete.
        """
        before: list[str] = []
        after: list[str] = []
        first_settings = ""
        for kind, name, text in parse_entries(dump):
            statements, settings = _SET.sub("", text), "".join(_SET.findall(text))
            # The runner creates the schema itself, and its comment, which proves ownership.
            if kind == "SCHEMA" or (kind == "COMMENT" and name == f"SCHEMA {schema}"):
                first_settings += settings
                continue
            ending = _OWNER.search(statements)
            if ending is not None and ending["owner"] == owner:
                statements = statements[: ending.start()]
            is_after = bool(after) or kind in _AFTER_ROWS
            head, first_settings = f"{_COMMENT}{kind.lower()} {name}{first_settings}\n", ""
            statement = f"{head}{statements.strip()}{settings}"
            (after if is_after else before).append(statement)
        commented = (f"{_COMMENT}cast\n{cast}" for cast in casts)
        return cls(schema, (*before, *commented), tuple(after))

    def for_schema(self, schema: str) -> Self:
        """Return the same script for another schema."""
        return type(self)(
            schema,
            tuple(text.replace(self.schema, schema) for text in self.before),
            tuple(text.replace(self.schema, schema) for text in self.after),
        )

    def differences(self, other: Self) -> list[str]:
        """List the objects that the other script creates differently, such as "table book"."""
        ours, theirs = (
            Counter(map(_normalize, (*script.before, *script.after)))
            for script in (self, other.for_schema(self.schema))
        )
        names = {
            text.partition("\n")[0].removeprefix(_COMMENT)
            for text in (ours - theirs) | (theirs - ours)
        }
        return sorted(name.replace(f"{self.schema}.", "") for name in names)


# PostgreSQL writes some expressions differently after it has parsed its own output: for a varchar,
# `status IN ('a', 'b')` then casts each element instead of the array, and `a AND b AND c` loses
# parentheses. Without casts and parentheses, both are the same.
_REWRITTEN = re.compile(
    r"""
    (?P<kept> '(?:[^']|'')*' | "[^"]*" | \$[^$]*\$.* )  # Function bodies stay as they are.
    | ::(?:"[^"]*"|[\w.])+ (?:\ varying|\ precision)? (?:\([\d,]+\))?
      (?:\ with(?:out)?\ time\ zone)? (?:\[\])*
    | [\s()]+
    """,
    re.DOTALL | re.VERBOSE,
)


def _normalize(statement: str) -> str:
    """Return a text that is the same for equivalent statements of one object.

    The order of GRANT statements does not count: it is the order in which privileges were granted.
    """
    name, _, text = _SET.sub("", statement).partition("\n")
    if name.startswith(f"{_COMMENT}acl"):
        text = "\n".join(sorted(text.splitlines()))
    return f"{name}\n{_REWRITTEN.sub(lambda match: match['kept'] or '', text)}"


def parse_entries(dump: str) -> Iterator[tuple[str, str, str]]:
    """Yield the type, the name and the statements of each object in a dump.

    Raises DumpError if the dump is incomplete.
    """
    end = dump.rfind(_END)
    if end < 0:
        from .pg_dump import DumpError

        raise DumpError("the output of pg_dump is incomplete")
    dump = dump[:end]
    headers = list(_HEADER.finditer(dump))
    ends = [*(header.start() for header in headers[1:]), len(dump)]
    for header, end in zip(headers, ends, strict=True):
        yield header["type"], header["name"], dump[header.end() : end]


# Casts from and to types of the schema, which pg_dump --schema leaves out. Casts that PostgreSQL
# creates with a range type are not listed.
_CASTS = """
    SELECT pg_catalog.format('CREATE CAST (%%s AS %%s) %%s%%s', castsource::regtype,
               casttarget::regtype,
               CASE castmethod WHEN 'f' THEN 'WITH FUNCTION ' || castfunc::regprocedure
                               WHEN 'b' THEN 'WITHOUT FUNCTION' ELSE 'WITH INOUT' END,
               CASE castcontext WHEN 'a' THEN ' AS ASSIGNMENT' WHEN 'i' THEN ' AS IMPLICIT'
                                ELSE '' END)
           || coalesce('; ' || pg_catalog.format('COMMENT ON CAST (%%s AS %%s) IS ',
                   castsource::regtype, casttarget::regtype)
               || pg_catalog.quote_literal(pg_catalog.obj_description(c.oid, 'pg_cast')), '')
    FROM pg_catalog.pg_cast c
    WHERE EXISTS (SELECT FROM pg_catalog.pg_type t
                  JOIN pg_catalog.pg_namespace n ON n.oid = typnamespace
                  WHERE t.oid IN (castsource, casttarget) AND nspname = %s)
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = 'pg_catalog.pg_cast'::regclass AND d.objid = c.oid
                        AND d.deptype IN ('i', 'e'))
    ORDER BY c.oid
"""


class CopyError(Exception):
    """A schema cannot be copied, or a copy differs; `reasons` name objects or causes."""

    def __init__(self, *reasons: str) -> None:
        super().__init__(", ".join(reasons))
        self.reasons = reasons


def read_script(connection: Connection, schema: str, dump: "Dump") -> Script:
    """Wait for a dump of a schema, and parse it. Raises DumpError."""
    row = connection.execute("SELECT pg_catalog.quote_ident(current_user)").fetchone()
    assert row is not None
    with connection.transaction(force_rollback=True):
        # PostgreSQL qualifies each name that is not on the path.
        connection.execute("SET LOCAL search_path = ''")
        casts = [cast for (cast,) in connection.execute(_CASTS, [schema])]
    return Script.parse(dump.result(), schema, owner=row[0], casts=casts)


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
