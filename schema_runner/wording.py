"""How messages name several things."""

from collections.abc import Sequence


def listing(things: Sequence[str], most: int = 3) -> str:
    """Name the first few of many things."""
    more = len(things) - most
    return ", ".join(things[:most]) + (f" and {more} more" if more > 0 else "")


def count(number: int, what: str, several: str | None = None) -> str:
    """Return a number of things, with an "s" for `several` unless that is something else."""
    return f"{number} {what if number == 1 else several or f'{what}s'}"


def ago(seconds: int) -> str:
    """Return how long ago something was, in the largest unit that it fills."""
    for size, unit in ((24 * 60 * 60, "day"), (60 * 60, "hour"), (60, "minute")):
        if seconds >= size:
            return f"{count(seconds // size, unit)} ago"
    return "a moment ago"
