"""The hint after tests that failed on something that workers share."""

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


class _Symptom(NamedTuple):
    """A failure of a test that needs its own database."""

    # A pattern of the traceback, whose first group is the reason to print.
    error: str
    # A pattern of the test module's source, needed if the error can have other causes. The last
    # group of `error` replaces {}.
    source: str = ""
    # Whether the cause is another worker in the same database. Otherwise it is the schema.
    needs_others: bool = True


_OF_DATABASE = "extension|publication|event trigger|server|foreign-data wrapper|language"
_INDEX = "(?:namespace|extension|publication|event_trigger|foreign_server|language)_[a-z]+_index"
# Creates the schema that another worker dropped: its name, or a placeholder for a name.
_CREATION = r'CREATE SCHEMA (?:IF NOT EXISTS )?(?:"?{}\b|[^\w"])'
_SYMPTOMS = (
    _Symptom(r'DuplicateSchema: (schema "[^"\n]+" already exists)'),
    _Symptom(rf'DuplicateObject: ((?:{_OF_DATABASE}) "[^"\n]+" already exists)'),
    _Symptom(rf'UniqueViolation: (duplicate key value violates unique constraint "pg_{_INDEX}")'),
    _Symptom(r'InvalidSchemaName: (schema "([^"\n]+)" does not exist)', _CREATION),
    _Symptom(r'UndefinedTable: (relation "([^".\n]+)\.[^"\n]+" does not exist)', _CREATION),
    _Symptom(
        r"(?:LockNotAvailable|DeadlockDetected|QueryCanceled|TestTimeoutError): ([^\n]+)",
        "CONCURRENTLY",
    ),
    _Symptom(
        r"SchemaRunnerError: (Cannot drop an extension that other workers use)",
        needs_others=False,
    ),
    _Symptom(r"DependentObjectsStillExist: (cannot drop extension \S+)"),
    _Symptom(r'UndefinedTable: (relation "public\.[^"\n]+" does not exist)', needs_others=False),
)
# A test finds more catalog rows than it expects, or none.
_UNEQUAL = r"^(?:AssertionError|.*\.CardinalityViolation|.*MultipleObjectsReturned)\b"
_RELATIONS = "class|constraint|indexes|matviews|proc|tables|trigger|type|views"
_CATALOG = rf"\b(?:pg_(?:{_RELATIONS})\b|information_schema\.\w+)"
_BY_SCHEMA = r"current_schema|nspname|table_schema|schemaname|namespace\b|regclass|is_visible"
_IN_PUBLIC = r"(?:nspname|table_schema|schemaname)\W+public\b|'public'::regnamespace"
_MAX_CLASSES = 5
# Packages whose base classes of tests have no SQL of the project.
_NOT_OWN = {"builtins", "django", "unittest"}


def hint_lines(result: Any, usage: Usage, settings: Settings) -> Iterator[str]:
    """Yield a line if tests failed on something that workers share, or because of the schema."""
    # The reason of each class.
    reasons: dict[str, str] = {}
    if not usage.has_schemas:
        return
    for test, traceback, *_ in [*getattr(result, "errors", ()), *getattr(result, "failures", ())]:
        case = getattr(test, "test_case", test)
        if decorators.needs_own_database(type(case), settings.own_database):
            continue
        if reason := _reason(case, str(traceback), is_shared=usage.is_shared):
            reasons.setdefault(_class_of(case), reason)
    if not reasons:
        return
    advice = (
        "Run these classes alone with @schema_runner.serial, or give each its own database with "
        "--host-database test and @schema_runner.own_database."
        if settings.host_database == "current"
        else "Give each of these classes its own database: put @schema_runner.own_database on it, "
        'or list it in SCHEMA_RUNNER["OWN_DATABASE"].'
    )
    unique = listing([*dict.fromkeys(reasons.values())])
    classes = listing([*reasons], _MAX_CLASSES)
    yield f"Failed on something that belongs to the whole database ({unique}): {classes}. {advice}"


def _reason(case: Any, text: str, *, is_shared: bool) -> str | None:
    for symptom in _SYMPTOMS:
        if symptom.needs_others and not is_shared:
            continue
        if (error := re.search(symptom.error, text)) is None:
            continue
        source = symptom.source.replace("{}", re.escape(error.groups()[-1]))
        if not source or re.search(source, _module_source(case), re.IGNORECASE):
            return error[1]
    return _reason_in_query(case, is_shared) if re.search(_UNEQUAL, text, re.MULTILINE) else None


def _reason_in_query(case: Any, is_shared: bool) -> str | None:
    method = getattr(type(case), getattr(case, "_testMethodName", ""), None)
    source = _source_of(method)
    catalog = re.search(_CATALOG, source)
    if catalog and re.search(_IN_PUBLIC, source):
        return f"a query of {catalog[0]} for schema public"
    if catalog and is_shared and not re.search(_BY_SCHEMA, source, re.IGNORECASE):
        return f"a query of {catalog[0]} without a schema"
    return None


def _class_of(case: Any) -> str:
    """Return the name of the class of a test, or of the class or module of a fixture."""
    name = str(case.id())
    fixture = re.fullmatch(r"\w+ \((.+)\)", name)
    return fixture[1] if fixture else name.rpartition(".")[0]


def _module_source(case: Any) -> str:
    """Return the source of the modules of a test's class and its base classes."""
    modules = {one.__module__ for one in type(case).__mro__}
    own = [name for name in sorted(modules) if name.partition(".")[0] not in _NOT_OWN]
    return "\n".join(_source_of(sys.modules.get(name)) for name in own)


def _source_of(obj: Any) -> str:
    with suppress(OSError, TypeError):
        return inspect.getsource(inspect.unwrap(obj))
    return ""
