"""What helps tests that have failed on what workers share: a line at the end of a run."""

import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from .. import decorators
from ..database.usage import Usage
from ..errors import listing
from ..settings import Settings


class _Kind(NamedTuple):
    """How a test fails that needs a database of its own.

    What it `raised` has the reason as its first group. If that can be something else as well, the
    `source` of the test's module has this in it, with the second group in place of braces. One
    that `needs_others` comes of other workers; the others come of tables that are in a schema.
    """

    raised: str
    source: str = ""
    needs_others: bool = True


_OF_DATABASE = "extension|publication|event trigger|server|foreign-data wrapper|language"
_INDEX = "(?:namespace|extension|publication|event_trigger|foreign_server|language)_[a-z]+_index"
# Of the schema that another worker has dropped: by name, or by one that is put in.
_CREATION = r'CREATE SCHEMA (?:IF NOT EXISTS )?(?:"?{}\b|[^\w"])'
_KINDS = (
    _Kind(r'DuplicateSchema: (schema "[^"\n]+" already exists)'),
    _Kind(rf'DuplicateObject: ((?:{_OF_DATABASE}) "[^"\n]+" already exists)'),
    _Kind(rf'UniqueViolation: (duplicate key value violates unique constraint "pg_{_INDEX}")'),
    _Kind(r'InvalidSchemaName: (schema "([^"\n]+)" does not exist)', _CREATION),
    _Kind(r'UndefinedTable: (relation "([^".\n]+)\.[^"\n]+" does not exist)', _CREATION),
    _Kind(
        r"(?:LockNotAvailable|DeadlockDetected|QueryCanceled|TestTimeoutError): ([^\n]+)",
        "CONCURRENTLY",
    ),
    _Kind(
        r"SchemaRunnerError: (An extension would be dropped that other workers use)",
        needs_others=False,
    ),
    _Kind(r"DependentObjectsStillExist: (cannot drop extension \S+)"),
    _Kind(r'UndefinedTable: (relation "public\.[^"\n]+" does not exist)', needs_others=False),
)
# What a test finds more of than it should, or nothing: rows of the catalog.
_UNEQUAL = r"^(?:AssertionError|.*\.CardinalityViolation|.*MultipleObjectsReturned)\b"
_RELATIONS = "class|constraint|indexes|matviews|proc|tables|trigger|type|views"
_CATALOG = rf"\b(?:pg_(?:{_RELATIONS})\b|information_schema\.\w+)"
_BY_SCHEMA = r"current_schema|nspname|table_schema|schemaname|namespace\b|regclass|is_visible"
_IN_PUBLIC = r"(?:nspname|table_schema|schemaname)\W+public\b|'public'::regnamespace"
_NAMED = 5


def hint_lines(result: Any, usage: Usage, settings: Settings) -> Iterator[str]:
    """Yield one line if tests have failed on what workers share, or on being in a schema."""
    found: dict[str, str] = {}
    if not usage.has_schemas:
        return
    for test, told, *_ in [*getattr(result, "errors", ()), *getattr(result, "failures", ())]:
        case = getattr(test, "test_case", test)
        if decorators.needs_own_database(type(case), settings.own_database):
            continue
        if reason := _reason(case, str(told), is_shared=usage.is_shared):
            found.setdefault(_class_of(case), reason)
    if not found:
        return
    way_out = (
        "Run these classes alone, with @schema_runner.serial, or give them a database of their "
        "own, with --host-database test and @schema_runner.own_database."
        if settings.host_database == "current"
        else "Give these classes a database of their own: put @schema_runner.own_database on "
        'them, or list them in SCHEMA_RUNNER["OWN_DATABASE"].'
    )
    reasons = listing([*dict.fromkeys(found.values())])
    classes = listing([*found], _NAMED)
    yield f"Failed on what belongs to the whole database ({reasons}): {classes}. {way_out}"


def _reason(case: Any, text: str, *, is_shared: bool) -> str | None:
    for kind in _KINDS:
        raised = re.search(kind.raised, text) if is_shared or not kind.needs_others else None
        if raised is None:
            continue
        source = kind.source.replace("{}", re.escape(raised.groups()[-1]))
        if not source or re.search(source, _module_source(case), re.IGNORECASE):
            return raised[1]
    return _reason_in_query(case, is_shared) if re.search(_UNEQUAL, text, re.MULTILINE) else None


def _reason_in_query(case: Any, is_shared: bool) -> str | None:
    source = _test_source(case)
    looks = re.search(_CATALOG, source)
    if looks and re.search(_IN_PUBLIC, source):
        return f"a query of {looks[0]} for schema public"
    if looks and is_shared and not re.search(_BY_SCHEMA, source, re.IGNORECASE):
        return f"a query of {looks[0]} without a schema"
    return None


def _class_of(case: Any) -> str:
    """Return the name of a test's class, or of the one whose fixture has failed."""
    name = str(case.id())
    fixture = re.fullmatch(r"\w+ \((.+)\)", name)
    return fixture[1] if fixture else name.rpartition(".")[0]


def _module_source(case: Any) -> str:
    """Return the sources of the modules of a test's class and of those it inherits from."""
    modules = {one.__module__ for one in type(case).__mro__}
    return "\n".join(
        _source_of(sys.modules.get(name)) for name in sorted(modules) if _is_own(name)
    )


def _is_own(module: str) -> bool:
    return module.partition(".")[0] not in {"builtins", "django", "unittest"}


def _test_source(case: Any) -> str:
    name = getattr(case, "_testMethodName", "")
    return _source_of(getattr(type(case), name, None))


def _source_of(thing: Any) -> str:
    with suppress(OSError, TypeError):
        return inspect.getsource(inspect.unwrap(thing))
    return ""
