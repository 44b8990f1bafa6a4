"""How messages name several things."""

from collections.abc import Iterable, Sequence


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
