"""The exceptions of this package, and the wording of its messages."""

from collections.abc import Iterable, Sequence


class SchemaRunnerError(Exception):
    """A run cannot go on; the message says what failed, on which object, and what to do.

    `exit_code` is what the command ends with, where stock Django has its own for such a case.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class LockTimeoutError(SchemaRunnerError):
    """A lock that the run needs is held by others for longer than it waits."""


class LeaseLostError(SchemaRunnerError):
    """A run was taken for dead, or may have been, and something of it is gone."""


class WorkerError(Exception):
    """What a test is told to have raised whose worker has died, or could not be set up."""


class TestTimeoutError(AssertionError):
    """A test has taken longer than it may."""

    # Not one of pytest's, whatever its name says.
    __test__ = False


def listing(things: Sequence[str], most: int = 3) -> str:
    """Name the first few of many things."""
    more = len(things) - most
    return ", ".join(things[:most]) + (f" and {more} more" if more > 0 else "")


def count(number: int, what: str, several: str | None = None) -> str:
    """Return a number of things, with an "s" for `several` unless that is something else."""
    return f"{number} {what if number == 1 else several or f'{what}s'}"


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Ask about the word that is most alike; return an empty text if none is.

    Of dotted words only those are alike that differ in one part, or end earlier.
    """
    # Only for what is wrong anyway.
    from difflib import get_close_matches

    known, parts = {one.casefold(): one for one in words}, word.casefold().split(".")
    for number in reversed(range(len(parts))):
        begin = "".join(f"{part}." for part in parts[:number])
        names = {one[len(begin) :].partition(".")[0] for one in known if one.startswith(begin)}
        if names:
            break
    else:
        return ""
    longer = [name for name in names if parts[number] and name.startswith(parts[number])]
    for name in get_close_matches(parts[number], names, 1) or longer[:1]:
        whole = ".".join([*parts[:number], name, *parts[number + 1 :]])
        if meant := known.get(whole) or (known.get(begin + name) if number else None):
            return f"Did you mean {meant!r}?"
    return ""


def ago(seconds: int) -> str:
    """Return how long ago something was, in the largest unit that it fills."""
    for size, unit in ((24 * 60 * 60, "day"), (60 * 60, "hour"), (60, "minute")):
        if seconds >= size:
            return f"{count(seconds // size, unit)} ago"
    return "a moment ago"


# There is neither fork nor flock.
WINDOWS = (
    "django-schema-runner does not run on Windows. Use WSL, or set "
    'TEST_RUNNER = "django.test.runner.DiscoverRunner" there.'
)
NO_LIBPQ = (
    "psycopg 3 finds no libpq, PostgreSQL's C library. Run pip install 'psycopg[binary]', or "
    "install libpq (on Debian libpq5)."
)


def lacks_libpq(error: BaseException) -> bool:
    """Whether psycopg, which something could not do without, was the first to miss its library.

    Django then tries psycopg2, and where that is missing too, says that it found neither.
    """
    found: BaseException | None = error
    while found and "no pq wrapper" not in str(found):
        found = found.__cause__ or found.__context__
    return found is not None
