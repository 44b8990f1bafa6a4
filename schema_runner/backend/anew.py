"""Why a run builds, although it may use what others have kept."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..wording import listing

# Stands for dependencies that cannot be as they were.
EDITED = "edited during the build"
_KINDS = {"setting": "setting", "package": "version of"}
# How much of a hash tells two apart.
_DIGITS = 8


class PassedOver(NamedTuple):
    """What comes nearest to what a run wants, and cannot be used.

    It was `made` at that time, in seconds since the Unix epoch, and has the `extra` facts.
    """

    fingerprint: str
    made: int
    extra: Mapping[str, Any]


def noted(parts: Mapping[str, str]) -> dict[str, str]:
    """Return what later runs compare their parts of the fingerprint with."""
    return {name: value[:_DIGITS] for name, value in parts.items()}


def why_anew(
    nearest: PassedOver | None,
    *,
    fingerprint: str,
    parts: Mapping[str, str],
    days: float,
    now: int,
) -> str:
    """Say what is different from what comes nearest, or what else keeps it from being used."""
    if nearest is None:
        return "nothing is kept yet"
    if nearest.fingerprint != fingerprint:
        names = _different(nearest.extra.get("parts"), noted(parts))
    elif nearest.made < now - days * 24 * 60 * 60:
        return f"what is kept is more than {days:g} days old (KEEP_DAYS)"
    elif EDITED in nearest.extra.get("dependencies", ()):
        return "files were edited during the last build"
    else:
        names = _changed(nearest.extra.get("dependencies"))
    return f"{listing(names)} changed" if names else "what is kept cannot be used any more"


def _different(before: object, now: Mapping[str, str]) -> list[str]:
    if not isinstance(before, dict):
        return ["version of django-schema-runner"]
    return [name for name in {**now, **before} if before.get(name) != now.get(name)]


def _changed(dependencies: object) -> list[str]:
    if not isinstance(dependencies, dict):
        return []
    from .. import fingerprint

    found = [name.partition(":") for name in fingerprint.changed(dependencies)]
    return [f"{_KINDS[kind]} {name}" if kind in _KINDS else kind for kind, _, name in found]
