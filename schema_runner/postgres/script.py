"""The structure script: SQL that makes all that is in a schema, but no rows."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

# Above each object in what pg_dump writes. A comment in SQL may look like it: then the pieces
# are no SQL, which shows as soon as a copy is made.
_HEADER = re.compile(
    r"^--\n-- (?:Data for )?Name: (?P<name>.*); Type: (?P<type>[A-Z ]+); Schema: .*; Owner: .*\n"
    r"--\n",
    re.MULTILINE,
)
_NAME = "-- "
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
        for kind, name, text in entries(dump):
            # The schema itself, and the comment that proves whose it is, each has already.
            if kind == "SCHEMA" or (kind == "COMMENT" and name == f"SCHEMA {schema}"):
                continue
            statements, settings = _SET.sub("", text), "".join(_SET.findall(text))
            ending = _OWNER.search(statements)
            if ending is not None and ending["owner"] == owner:
                statements = statements[: ending.start()]
            is_after = bool(after) or kind in _AFTER_ROWS
            statement = f"{_NAME}{kind.lower()} {name}\n{statements.strip()}{settings}"
            (after if is_after else before).append(statement)
        more = (f"{_NAME}cast\n{cast}" for cast in more)
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
            Counter(map(_essence, (*script.before, *script.after)))
            for script in (self, other.for_schema(self.schema))
        )
        names = {text.partition("\n")[0].removeprefix(_NAME) for text in (one - two) | (two - one)}
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


def _essence(statement: str) -> str:
    """Return what is the same for statements that say the same.

    Privileges are in the order in which they were given, which is no difference.
    """
    name, _, text = _SET.sub("", statement).partition("\n")
    if name.startswith(f"{_NAME}acl"):
        text = "\n".join(sorted(text.splitlines()))
    return f"{name}\n{_REWRITTEN.sub(lambda found: found['kept'] or '', text)}"


def entries(dump: str) -> Iterator[tuple[str, str, str]]:
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
