"""Decide whether an earlier run's schemas can be used without `migrate`.

The fingerprint is a hash of what is known before a build. A `Recording` returns the dependencies
that are known only after it, such as the files that migrations read.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dependencies import changed as changed
    from .dependencies import is_unchanged as is_unchanged
    from .fingerprint import combine_parts as combine_parts
    from .fingerprint import compute_parts as compute_parts
    from .hashing import digest as digest
    from .recording import Recording as Recording

_MODULES = {
    "Recording": "recording",
    "changed": "dependencies",
    "combine_parts": "fingerprint",
    "compute_parts": "fingerprint",
    "digest": "hashing",
    "is_unchanged": "dependencies",
}


def __getattr__(name: str) -> Any:
    # Lazy, because a run that reuses schemas does not record a build.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
