"""PGOPTIONS: what programs that this process starts tell the server as they connect."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLE = "PGOPTIONS"
# What of the variable's value is ours: its end.
_exported: list[str] = []


def export(options: str) -> None:
    """Add options behind those that are there, in place of any added before; "" for none."""
    _put(f"{original()} {options}".strip())
    _exported[:] = [options] if options else []


def original() -> str:
    """Return PGOPTIONS as others have set it."""
    value = os.environ.get(_VARIABLE, "")
    return value.removesuffix(_exported[0]).rstrip() if is_exported() else value


def is_exported() -> bool:
    """Whether something of ours is there, which others may have taken away."""
    return os.environ.get(_VARIABLE, "").endswith(tuple(_exported))


@contextmanager
def hidden() -> Iterator[None]:
    """Take away what is ours, for the length of the `with`."""
    if not is_exported():
        yield
        return
    value = os.environ[_VARIABLE]
    _put(original())
    try:
        yield
    finally:
        _put(value)


def _put(value: str) -> None:
    if value:
        os.environ[_VARIABLE] = value
    else:
        os.environ.pop(_VARIABLE, None)
