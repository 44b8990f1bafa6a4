"""What is in a host database beside the schemas of runs: objects of others, or of tests."""

from collections.abc import Iterable

from . import relocation, schemas
from .hosts import PUBLIC
from .marker import Marker
from .server import Connection


def contents(connection: Connection) -> list[str]:
    """Name what is in `public`, and the schemas that are neither ours nor an extension's."""
    found = [str(one) for one in relocation.contents(connection, PUBLIC)]
    return found + [f"schema {name}" for name in schemas.others(connection)]


def foreign(marker: Marker, found: Iterable[str]) -> list[str]:
    """Return what of that no run accounts for, as far as the marker of the database tells."""
    return [] if marker.beside is None else sorted({*found} - {*marker.beside})


def with_more(marker: Marker, before: Iterable[str], after: Iterable[str]) -> Marker:
    """Return the marker with what has come while tests were run, by `contents` of both times."""
    if marker.beside is None:
        return marker
    return marker._replace(beside=tuple(sorted({*marker.beside} | ({*after} - {*before}))))
