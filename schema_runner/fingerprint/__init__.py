"""Whether ready schemas that an earlier run has kept may be used again without `migrate`.

What can be known before a build is in the `fingerprint`; what only a build shows, such as the
files that migrations read, is in the dependencies that a `Recording` of it gives.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .canonical import digest
    from .dependencies import changed, is_unchanged
    from .fingerprint import combined, parts
    from .recording import Recording

__all__ = [
    "Recording",
    "changed",
    "combined",
    "digest",
    "is_unchanged",
    "parts",
]

_MODULES = {
    "Recording": "recording",
    "changed": "dependencies",
    "combined": "fingerprint",
    "digest": "canonical",
    "is_unchanged": "dependencies",
    "parts": "fingerprint",
}


def __getattr__(name: str) -> Any:
    # Lazy: what records a build is of no use to a run that finds all it needs.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
