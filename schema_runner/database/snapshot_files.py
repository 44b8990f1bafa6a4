"""Snapshot files, and the reason why a run builds anew."""

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import listing
from .build import BuildMixin

if TYPE_CHECKING:
    from ..postgres.snapshot import Snapshot

_DAY = 24 * 60 * 60


class UnusedPool(NamedTuple):
    """The pool or snapshot that comes closest to the run's fingerprint, but cannot be used."""

    fingerprint: str
    made: int  # Time of creation, in seconds since the Unix epoch.
    extra: Mapping[str, Any]  # Its dependencies and fingerprint parts.


def comparable_parts(parts: Mapping[str, str]) -> dict[str, str]:
    """Shorten the hashes of fingerprint parts, for later runs to compare."""
    return {name: value[:_DIGITS] for name, value in parts.items()}


def rebuild_reason(
    nearest: UnusedPool | None,
    *,
    fingerprint: str,
    parts: Mapping[str, str],
    days: float,
    now: int,
) -> str:
    """Return why the nearest pool or snapshot cannot be used, for the line `Building anew`."""
    if nearest is None:
        return "nothing is kept yet"
    if nearest.fingerprint != fingerprint:
        names = _changed_parts(nearest.extra.get("parts"), comparable_parts(parts))
    elif nearest.made < now - days * _DAY:
        return f"the last build is more than {days:g} days old (KEEP_DAYS)"
    elif EDITED in nearest.extra.get("dependencies", ()):
        return "files were edited during the last build"
    else:
        names = _changed_dependencies(nearest.extra.get("dependencies"))
    return f"{listing(names)} changed" if names else "the last build can no longer be used"


def _changed_parts(before: object, now: Mapping[str, str]) -> list[str]:
    if not isinstance(before, dict):
        return ["version of django-schema-runner"]
    return [name for name in {**now, **before} if before.get(name) != now.get(name)]


def _changed_dependencies(dependencies: object) -> list[str]:
    if not isinstance(dependencies, dict):
        return []
    from .. import fingerprint

    parts = [name.partition(":") for name in fingerprint.changed(dependencies)]
    return [f"{_KINDS[kind]} {name}" if kind in _KINDS else kind for kind, _, name in parts]


class SnapshotsMixin(BuildMixin):
    """The part of `SchemaCreation` that reads and writes snapshots."""

    # None if the run neither uses nor keeps pools or snapshots.
    _fingerprint: str | None = None
    # The hashed parts of the fingerprint.
    _parts: Mapping[str, str] = MappingProxyType({})
    # The first unusable pool or snapshot that the run found.
    _nearest: UnusedPool | None = None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # Damaged snapshots, which a new one replaces.
        self._rejected: list[Path] = []

    @cached_property
    def _now(self) -> int:
        return int(time.time())

    @property
    def _oldest(self) -> int:
        return self._now - int(self.runner_settings.keep_days * _DAY)

    @property
    def _snapshot_dir(self) -> Path | None:
        folder = self.runner_settings.snapshot_dir
        return Path(folder) if folder and self._fingerprint else None

    def _snapshots(self) -> "Iterator[tuple[Path, Snapshot]]":
        """Yield usable snapshots with their paths; log a warning for damaged ones."""
        if self._snapshot_dir is None or self._fingerprint is None:
            return
        from ..postgres.snapshot import Snapshot, list_snapshots
        from ..postgres.structure_script import CopyError

        for path in list_snapshots(self._snapshot_dir, self._fingerprint):
            try:
                snapshot = Snapshot.read(path)
                if snapshot.fingerprint != self._fingerprint:
                    raise CopyError("its fingerprint does not match its name")
            except CopyError as error:
                self._reject_snapshot(path, error)
                continue
            if snapshot.made >= self._oldest and is_unchanged(snapshot.extra):
                yield path, snapshot
            else:
                self._note_unusable(snapshot.fingerprint, snapshot.made, snapshot.extra)
        self._note_newest_snapshot(self._snapshot_dir)

    def _note_unusable(self, *nearest: Any) -> None:
        # Pools, which are checked first, take precedence.
        self._nearest = self._nearest or UnusedPool(*nearest)

    def _note_newest_snapshot(self, folder: Path) -> None:
        """Record the newest snapshot of this alias as unusable, if nothing else was found."""
        from ..postgres.snapshot import Snapshot, list_snapshots
        from ..postgres.structure_script import CopyError

        alias, found = comparable_parts(self._parts).get("alias"), []
        for path in [] if self._nearest else list_snapshots(folder):
            with suppress(CopyError):
                snapshot = Snapshot.read(path)
                if dict(snapshot.extra.get("parts") or {}).get("alias") == alias:
                    found.append(UnusedPool(*snapshot[:3]))
        if found:
            self._nearest = max(found, key=lambda snapshot: snapshot.made)

    def _reject_snapshot(self, path: Path, reason: object) -> None:
        self._rejected.append(path)
        self._log(f"Warning: ignoring snapshot {path}: {reason}.")

    def _keep_snapshot(
        self, *, only_if_missing: bool = False, cloned: Mapping[str, Any] | None = None
    ) -> None:
        """Write a snapshot of the template, if SNAPSHOT_DIR is set.

        If workers use clones, pass the extra facts as `cloned`: the snapshot then contains a
        dump of the host database. With `only_if_missing`, write nothing if a snapshot with this
        fingerprint exists.
        """
        folder, fingerprint = self._snapshot_dir, self._fingerprint
        if folder is None or fingerprint is None:
            return
        from ..fingerprint import digest
        from ..postgres.snapshot import list_snapshots, remove_older, snapshot_path
        from ..postgres.structure_script import CopyError

        if only_if_missing and list_snapshots(folder, fingerprint):
            return
        try:
            snapshot = self._snapshot(fingerprint, cloned)
            dependencies = snapshot.extra["dependencies"] if snapshot else {EDITED: ""}
            if snapshot and EDITED not in dependencies:
                variant = digest(repr(sorted(dependencies.items())))
                if cloned is None:
                    # A snapshot that cannot be copied would be rejected by every later run.
                    self._databases.verify_template(self._alias)
                snapshot.write(path := snapshot_path(folder, fingerprint, variant[:16]))
                self._log(f"Wrote the snapshot {path}.")
                for rejected in self._rejected:
                    if rejected != path:
                        rejected.unlink(missing_ok=True)
                remove_older(folder, self._oldest)
        except (CopyError, OSError) as error:
            reason = listing(error.reasons) if isinstance(error, CopyError) else error.strerror
            self._log(
                f"Warning: cannot write a snapshot of alias '{self._alias}' to {folder}: "
                f"{reason or error}."
            )

    def _snapshot(self, fingerprint: str, cloned: Mapping[str, Any] | None) -> "Snapshot | None":
        from ..postgres.structure_script import CopyError

        if cloned is None:
            host = self._databases.host(self._alias)
            return host.snapshot(fingerprint, self._now) if host.template else None
        pg_dump = self._pg_dump
        if isinstance(pg_dump, Exception | None):
            raise CopyError(str(pg_dump))
        facts = {"fingerprint": fingerprint, "made": self._now, "extra": cloned}
        return self._databases.host_database(self._alias).dump_database(pg_dump, **facts)


def is_unchanged(extra: Mapping[str, Any]) -> bool:
    """Whether the dependencies of a pool or snapshot have not changed since its build."""
    dependencies = extra.get("dependencies")
    if dependencies is None or EDITED in dependencies:
        return False
    from .. import fingerprint

    return fingerprint.is_unchanged(dependencies)


# In place of dependencies, if files changed during the build: it cannot be reused.
EDITED = "edited during the build"
_KINDS = {"setting": "setting", "package": "version of"}
# Hexadecimal digits kept of each part's hash.
_DIGITS = 8
