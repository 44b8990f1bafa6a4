"""The structure script: DDL that makes all of a schema, without rows."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import psycopg

from . import rows, structure
from .rows import Column, SequenceValue, Table
from .server import Connection

if TYPE_CHECKING:
    from .pg_dump import Dump


# Above each object in what pg_dump writes. A comment in SQL may look like it: then the pieces
# are no SQL, which shows as soon as a copy is made.
_HEADER = re.compile(
    r"^--\n-- (?:Data for )?Name: (?P<name>.*); Type: (?P<type>[A-Z ]+); Schema: .*; Owner: .*\n"
    r"--\n",
    re.MULTILINE,
)
_COMMENT = "-- "
_END = "\n--\n-- PostgreSQL database dump complete\n--\n"
# What comes once the rows are there: https://www.postgresql.org/docs/current/app-pgdump.html,
# --section=post-data. It is in that order already.
_AFTER_ROWS = {
    *("CHECK CONSTRAINT", "CONSTRAINT", "FK CONSTRAINT", "INDEX", "INDEX ATTACH", "POLICY"),
    *("ROW SECURITY", "RULE", "STATISTICS", "TRIGGER", "ACL", "DEFAULT ACL"),
}
# After an object stands what those to come are made with, in which dumps of one schema differ.
_SET = re.compile(r"\n+SET default_\w+ = .*;")
# At the end of what makes an object.
_OWNER = re.compile(r"\n\n\nALTER [A-Z ]+ .* OWNER TO (?P<owner>.*);\n*\Z")
# What dumps differ in between versions, and what a session of ours needs: a body is not to be
# checked before what it uses is there.
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
    """Statements that make what is in `schema`: `before` there are rows, and `after` that.

    Each is of one object, which a comment ahead of it names. They name the schema in full: its
    name is nowhere else, so that another can be put in its place.
    """

    schema: str
    before: tuple[str, ...]
    after: tuple[str, ...]

    @classmethod
    def parse(cls, dump: str, schema: str, *, owner: str, more: Iterable[str] = ()) -> Self:
        """Take to pieces what pg_dump has written about one schema.

        `owner` is the quoted name of the role that is going to make others of it, and so needs
        no statement to own them. `more` is what pg_dump leaves out, before there are rows.
        Raises DumpError for what pg_dump has not written.
        """
        before: list[str] = []
        after: list[str] = []
        for kind, name, text in parse_entries(dump):
            # The schema itself, and the comment that proves whose it is, each has already.
            if kind == "SCHEMA" or (kind == "COMMENT" and name == f"SCHEMA {schema}"):
                continue
            statements, settings = _SET.sub("", text), "".join(_SET.findall(text))
            ending = _OWNER.search(statements)
            if ending is not None and ending["owner"] == owner:
                statements = statements[: ending.start()]
            is_after = bool(after) or kind in _AFTER_ROWS
            statement = f"{_COMMENT}{kind.lower()} {name}\n{statements.strip()}{settings}"
            (after if is_after else before).append(statement)
        more = (f"{_COMMENT}cast\n{cast}" for cast in more)
        return cls(schema, (*before, *more), tuple(after))

    def for_schema(self, schema: str) -> Self:
        """Return the same script for another schema."""
        return type(self)(
            schema,
            tuple(text.replace(self.schema, schema) for text in self.before),
            tuple(text.replace(self.schema, schema) for text in self.after),
        )

    def differences(self, other: Self) -> list[str]:
        """Name the objects, such as "table book", of which the other says something else."""
        one, two = (
            Counter(map(_normalize, (*script.before, *script.after)))
            for script in (self, other.for_schema(self.schema))
        )
        names = {
            text.partition("\n")[0].removeprefix(_COMMENT) for text in (one - two) | (two - one)
        }
        return sorted(name.replace(f"{self.schema}.", "") for name in names)


# The server writes some expressions otherwise once it has read what it had written: it casts each
# element of an array rather than the array, as in `status IN ('a', 'b')` of varchar, and takes
# parentheses out of `a AND b AND c`. What is left without casts and parentheses is the same.
_REWRITTEN = re.compile(
    r"""
    (?P<kept> '(?:[^']|'')*' | "[^"]*" | \$[^$]*\$.* )  # A function's body is as it was made.
    | ::(?:"[^"]*"|[\w.])+ (?:\ varying|\ precision)? (?:\([\d,]+\))?
      (?:\ with(?:out)?\ time\ zone)? (?:\[\])*
    | [\s()]+
    """,
    re.DOTALL | re.VERBOSE,
)


def _normalize(statement: str) -> str:
    """Return what is the same for statements that say the same.

    Privileges are in the order in which they were given, which is no difference.
    """
    name, _, text = _SET.sub("", statement).partition("\n")
    if name.startswith(f"{_COMMENT}acl"):
        text = "\n".join(sorted(text.splitlines()))
    return f"{name}\n{_REWRITTEN.sub(lambda found: found['kept'] or '', text)}"


def parse_entries(dump: str) -> Iterator[tuple[str, str, str]]:
    """Yield the type, the name and the statements of each object."""
    end = dump.rfind(_END)
    if end < 0:
        from .pg_dump import DumpError

        raise DumpError("what pg_dump has written has no end")
    dump = dump[:end]
    headers = list(_HEADER.finditer(dump))
    ends = [*(header.start() for header in headers[1:]), len(dump)]
    for header, end in zip(headers, ends, strict=True):
        yield header["type"], header["name"], dump[header.end() : end]


# What pg_dump leaves out where it is to dump one schema. The casts that are meant are those from
# and to types of the schema, but not those that come with a range type.
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
    """A schema cannot be copied, or the copy is unlike it; `reasons` are parts of a sentence."""

    def __init__(self, *reasons: str) -> None:
        super().__init__(", ".join(reasons))
        self.reasons = reasons


class TemplateContents(NamedTuple):
    """What a template has beside the rows themselves.

    What the `script`, by the version `pg_dump` of that program, makes has that `inventory`.
    `tables` have rows, `sequences` are not where they start, and `views` are materialized and
    populated, each after those that it is made of. In those of the tables that `marked` names,
    some rows are marked: those of FIXTURES and SEEDERS, and what they refer to. `extra` is what
    else those who make it want to know later; it can be written as JSON.
    """

    script: Script
    pg_dump: int = 0
    inventory: frozenset[str] = frozenset()
    tables: tuple[Table, ...] = ()
    sequences: tuple[SequenceValue, ...] = ()
    views: tuple[str, ...] = ()
    marked: tuple[str, ...] = ()
    extra: Mapping[str, Any] = {}

    @classmethod
    def read(cls, connection: Connection, schema: str, dump: "Dump", path: Sequence[str]) -> Self:
        """Read what a template of a schema is to have; `path` follows the schema on search_path.

        The `dump` is of that schema. Raises CopyError.
        """
        from .pg_dump import DumpError

        try:
            inventory = structure.inventory(connection, schema)
            contents, stale = cls._read_rows(connection, schema, path)
            script = read_script(connection, schema, dump)
        except (DumpError, psycopg.Error) as error:
            raise CopyError(first_line(error)) from error
        if stale:
            raise CopyError(*(f"materialized view {name}, which is out of date" for name in stale))
        return contents._replace(script=script, pg_dump=dump.version, inventory=inventory)

    @classmethod
    def read_rows_only(cls, connection: Connection, schema: str, path: Sequence[str]) -> Self:
        """Read what one is to have of which no copies are made, but that of rows."""
        contents, _ = cls._read_rows(connection, schema, path)
        return contents

    @classmethod
    def _read_rows(
        cls, connection: Connection, schema: str, path: Sequence[str]
    ) -> tuple[Self, list[str]]:
        """Return with the contents which materialized views are out of date."""
        # Rather an error than rows that are not seen.
        connection.execute("SET row_security = off")
        sequences = rows.read_sequences(connection, schema)
        tables = rows.read_tables(connection, schema, path)
        views, stale = rows.read_materialized_views(connection, schema, path)
        contents = cls(
            script=Script(schema, (), ()),
            tables=tuple(tables),
            sequences=tuple(sequences),
            views=tuple(views),
        )
        return contents, stale

    @property
    def metadata(self) -> str:
        """All but the statements and the inventory, as JSON."""
        return json.dumps(
            {
                "schema": self.script.schema,
                "pg_dump": self.pg_dump,
                "tables": self.tables,
                "sequences": self.sequences,
                "views": self.views,
                "marked": self.marked,
                "extra": self.extra,
            }
        )

    @classmethod
    def load(
        cls,
        facts: str,
        before: Iterable[str] = (),
        after: Iterable[str] = (),
        inventory: Iterable[str] = (),
    ) -> Self:
        """Return what has such `facts`; raise KeyError, TypeError or ValueError for others."""
        found = json.loads(facts)
        return cls(
            script=Script(found["schema"], tuple(before), tuple(after)),
            pg_dump=found["pg_dump"],
            inventory=frozenset(inventory),
            tables=tuple(
                Table(name, tuple(Column(*column) for column in columns))
                for name, columns in found["tables"]
            ),
            sequences=tuple(SequenceValue(*value) for value in found["sequences"]),
            views=tuple(found["views"]),
            marked=tuple(found["marked"]),
            extra=found["extra"],
        )


def read_script(connection: Connection, schema: str, dump: "Dump") -> Script:
    """Return the statements of a dump of a schema; raise DumpError where it has failed."""
    row = connection.execute("SELECT pg_catalog.quote_ident(current_user)").fetchone()
    assert row is not None
    with connection.transaction(force_rollback=True):
        # The server qualifies every name that is not on the path.
        connection.execute("SET LOCAL search_path = ''")
        casts = [cast for (cast,) in connection.execute(_CASTS, [schema])]
    return Script.parse(dump.result(), schema, owner=row[0], more=casts)


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
