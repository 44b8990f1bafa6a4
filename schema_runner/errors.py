"""Exceptions, and functions that format parts of messages."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class SchemaRunnerError(Exception):
    """An error that ends the run; the message says what failed and what to do.

    `exit_code`: the exit code of the command.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class LockTimeoutError(SchemaRunnerError):
    """Other sessions held a lock for longer than the run waits."""


class LeaseLostError(SchemaRunnerError):
    """The run lost its lease, and another run removed, or may have removed, its objects."""


class WorkerError(Exception):
    """A test or a run that failed because of its worker: a crash, a failed set-up, a debugger."""


class TestTimeoutError(AssertionError):
    """A test took longer than its timeout."""

    # Keeps pytest from collecting the class.
    __test__ = False


class Advice(NamedTuple):
    """What messages tell users to type. The defaults are the options of `manage.py test`."""

    keep: str = "--keepdb"
    workers: str = "--parallel"
    clear_pools: str = "--clear-pools"
    isolation_database: str = "--isolation database"
    host_test: str = "--host-database test"
    host_current: str = "--host-database current"


MANAGE_PY = Advice()
_advice = MANAGE_PY


def advice() -> Advice:
    """Return the advice of the front end that this process runs."""
    return _advice


def set_advice(new: Advice) -> Advice:
    """Set what `advice` returns; return its former value."""
    global _advice
    before, _advice = _advice, new
    return before


def listing(names: Sequence[str], maximum: int = 3) -> str:
    """Join the first names with commas, and add the number of the others."""
    more = len(names) - maximum
    return ", ".join(names[:maximum]) + (f" and {more} more" if more > 0 else "")


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return the number with the noun, in the plural (by default with "s") unless it is 1."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return the question "Did you mean …?" with the most similar word, or "" if none is similar.

    A dotted word is similar if it differs in one part only, or ends earlier.
    """
    # Imported only after a mistake.
    from difflib import get_close_matches

    known, parts = {one.casefold(): one for one in words}, word.casefold().split(".")
    for number in reversed(range(len(parts))):
        prefix = "".join(f"{part}." for part in parts[:number])
        names = {one[len(prefix) :].partition(".")[0] for one in known if one.startswith(prefix)}
        if names:
            break
    else:
        return ""
    longer = [name for name in names if parts[number] and name.startswith(parts[number])]
    for name in get_close_matches(parts[number], names, 1) or longer[:1]:
        whole = ".".join([*parts[:number], name, *parts[number + 1 :]])
        if similar := known.get(whole) or (known.get(prefix + name) if number else None):
            return f"Did you mean {similar!r}?"
    return ""


def ago(seconds: int) -> str:
    """Return a text such as "2 hours ago", in the largest unit that fits."""
    for size, unit in ((24 * 60 * 60, "day"), (60 * 60, "hour"), (60, "minute")):
        if seconds >= size:
            return f"{count(seconds // size, unit)} ago"
    return "a moment ago"


# Windows has neither fork nor flock.
WINDOWS = (
    "django-schema-runner does not run on Windows. Use WSL, or set "
    'TEST_RUNNER = "django.test.runner.DiscoverRunner" there.'
)
NO_LIBPQ = (
    "psycopg 3 cannot find libpq, PostgreSQL's client library. Run pip install 'psycopg[binary]', "
    "or install libpq (on Debian libpq5)."
)


def lacks_libpq(error: BaseException) -> bool:
    """Whether an error or one of its causes is psycopg's, for a missing libpq.

    Django then tries psycopg2, and if that is missing too, raises its own error.
    """
    cause: BaseException | None = error
    while cause and "no pq wrapper" not in str(cause):
        cause = cause.__cause__ or cause.__context__
    return cause is not None
