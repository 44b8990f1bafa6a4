"""PGOPTIONS, the environment variable with server options for programs that tests start."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLE = "PGOPTIONS"
# The options at the end of the variable that this module added, if any.
_exported: list[str] = []


def export(options: str) -> None:
    """Append options to the user's, replacing those of an earlier call; "" only removes these."""
    _set_variable(f"{user_options()} {options}".strip())
    _exported[:] = [options] if options else []


def user_options() -> str:
    """Return PGOPTIONS without the exported options."""
    value = os.environ.get(_VARIABLE, "")
    return value.removesuffix(_exported[0]).rstrip() if is_exported() else value


def is_exported() -> bool:
    """Whether PGOPTIONS contains the exported options, which tests may have removed."""
    return os.environ.get(_VARIABLE, "").endswith(tuple(_exported))


@contextmanager
def without_exported() -> Iterator[None]:
    """Remove the exported options within the `with` block."""
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
