"""PGOPTIONS: what programs that this process starts tell the server as they connect."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLE = "PGOPTIONS"
# What of the variable's value is ours: its end.
_exported: list[str] = []


def export(options: str) -> None:
    """Add options behind those that are there, in place of any added before; "" for none."""
    _set_variable(f"{user_options()} {options}".strip())
    _exported[:] = [options] if options else []


def user_options() -> str:
    """Return PGOPTIONS as others have set it."""
    value = os.environ.get(_VARIABLE, "")
    return value.removesuffix(_exported[0]).rstrip() if is_exported() else value


def is_exported() -> bool:
    """Whether something of ours is there, which others may have taken away."""
    return os.environ.get(_VARIABLE, "").endswith(tuple(_exported))


@contextmanager
def without_exported() -> Iterator[None]:
    """Take away what is ours, for the length of the `with`."""
    if not is_exported():
        yield
        return
    value = os.environ[_VARIABLE]
    _set_variable(user_options())
    try:
        yield
    finally:
        _set_variable(value)


def _set_variable(value: str) -> None:
    if value:
        os.environ[_VARIABLE] = value
    else:
        os.environ.pop(_VARIABLE, None)
