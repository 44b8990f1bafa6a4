"""Hash files and the values of settings."""

import json
import os
import re
import stat
from hashlib import blake2b
from types import FunctionType
from typing import Any

from django.utils.functional import Promise

_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")


def digest(data: bytes | str) -> str:
    """Return the 128-bit hash of bytes or a text, in hex."""
    content = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    return blake2b(content, digest_size=16).hexdigest()


def hash_file(path: str | None) -> str:
    """Return the hash of a file's content, or the name of the error if it cannot be read."""
    try:
        mode = os.stat(path or "").st_mode
        if not stat.S_ISREG(mode):
            return f"no file but {stat.S_IFMT(mode):o}"  # Do not read: a pipe may block forever.
        with open(path or "", "rb", buffering=0) as file:
            return digest(file.read())
    except (OSError, ValueError) as error:
        return type(error).__name__


def dotted_path(named: Any) -> str:
    """Return the module and the qualified name of a class or function."""
    return f"{named.__module__}.{named.__qualname__}"


def render(value: Any) -> str:
    """Return the text of a setting's value or a model's option, the same in every process."""
    try:
        # In a list, because `dumps` evaluates a lazy object, unlike a list's items.
        return json.dumps([value], ensure_ascii=False, default=_simplify)
    except (TypeError, ValueError, RecursionError):
        # JSON has no cycles, and only simple keys.
        return _ADDRESS.sub("", repr(value))


def _simplify(value: Any) -> Any:
    """Return what takes the place of a value that JSON does not have."""
    kind = type(value)  # Not isinstance, which evaluates lazy objects.
    if issubclass(kind, set | frozenset):
        return sorted(map(render, value))
    if issubclass(kind, Promise):
        # The function and its arguments, because the result depends on the active language.
        function, *arguments = value.__reduce__()[1]
        return dotted_path(function), arguments
    if issubclass(kind, FunctionType):
        return dotted_path(value), hash_file(value.__code__.co_filename)
    text = repr(value)
    stable = _ADDRESS.sub("", text)
    return stable if stable == text else (stable, getattr(value, "__dict__", None))
