"""Snapshot files, and why a run builds although earlier ones have kept something."""

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
    from ..postgres.database_snapshot import DatabaseSnapshot
    from ..postgres.snapshot import Snapshot

_DAY = 24 * 60 * 60


class UnusedPool(NamedTuple):
    """What comes nearest to what a run wants, and cannot be used.

    It was `made` at that time, in seconds since the Unix epoch, and has the `extra` facts.
    """

    fingerprint: str
    made: int
    extra: Mapping[str, Any]


def comparable_parts(parts: Mapping[str, str]) -> dict[str, str]:
    """Return what later runs compare their parts of the fingerprint with."""
    return {name: value[:_DIGITS] for name, value in parts.items()}


def rebuild_reason(
    nearest: UnusedPool | None,
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
        names = _changed_parts(nearest.extra.get("parts"), comparable_parts(parts))
    elif nearest.made < now - days * 24 * 60 * 60:
        return f"what is kept is more than {days:g} days old (KEEP_DAYS)"
    elif EDITED in nearest.extra.get("dependencies", ()):
        return "files were edited during the last build"
    else:
        names = _changed_dependencies(nearest.extra.get("dependencies"))
    return f"{listing(names)} changed" if names else "what is kept cannot be used any more"


def _changed_parts(before: object, now: Mapping[str, str]) -> list[str]:
    if not isinstance(before, dict):
        return ["version of django-schema-runner"]
    return [name for name in {**now, **before} if before.get(name) != now.get(name)]


def _changed_dependencies(dependencies: object) -> list[str]:
    if not isinstance(dependencies, dict):
        return []
    from .. import fingerprint

    found = [name.partition(":") for name in fingerprint.changed(dependencies)]
    return [f"{_KINDS[kind]} {name}" if kind in _KINDS else kind for kind, _, name in found]


class SnapshotsMixin(BuildMixin):
    """The part of `SchemaCreation` that reads and writes snapshots."""

    # The hash of what decides the contents of a schema; None if nothing is kept.
    _fingerprint: str | None = None
    # What that is made of.
    _parts: Mapping[str, str] = MappingProxyType({})
    # What comes nearest to that, where nothing can be used.
    _nearest: UnusedPool | None = None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # Snapshots that this run could not use, which another one takes the place of.
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

    def _snapshots(self) -> "Iterator[tuple[Path, Snapshot | DatabaseSnapshot]]":
        """Yield the snapshots that may be used, with their files."""
        if self._snapshot_dir is None or self._fingerprint is None:
            return
        from ..postgres.database_snapshot import DatabaseSnapshot
        from ..postgres.snapshot import Snapshot, SnapshotError, files

        for path in files(self._snapshot_dir, self._fingerprint):
            try:
                snapshot = DatabaseSnapshot.read(path) or Snapshot.read(path)
                if snapshot.fingerprint != self._fingerprint:
                    raise SnapshotError("it is that of something else")
                if _dependencies(snapshot.extra) is None:
                    raise SnapshotError("it does not say what it depends on")
            except SnapshotError as error:
                self._reject_snapshot(path, error)
                continue
            if snapshot.made >= self._oldest and is_unchanged(snapshot.extra):
                yield path, snapshot
            else:
                self._note_unusable(snapshot.fingerprint, snapshot.made, snapshot.extra)
        self._note_newest_snapshot(self._snapshot_dir)

    def _note_unusable(self, *nearest: Any) -> None:
        # What is on the server comes first.
        self._nearest = self._nearest or UnusedPool(*nearest)

    def _note_newest_snapshot(self, folder: Path) -> None:
        """Note the newest snapshot of this alias, as the one that cannot be used."""
        from ..postgres.snapshot import SnapshotError, facts_of, newest

        alias = comparable_parts(self._parts).get("alias")
        for path in [] if self._nearest else newest(folder):
            with suppress(SnapshotError):
                fingerprint, made, extra = facts_of(path)
                if dict(extra.get("parts") or {}).get("alias") == alias:
                    self._note_unusable(fingerprint, made, extra)
                    return

    def _reject_snapshot(self, path: Path, why: object) -> None:
        self._rejected.append(path)
        self._log(f"Warning: snapshot {path} is ignored: {why}.")

    def _keep_snapshot(
        self, *, only_first: bool = False, cloned: Mapping[str, Any] | None = None
    ) -> None:
        """Write a snapshot of the template for other machines, if SNAPSHOT_DIR is set.

        With `cloned`, facts about a database that workers clone, write a dump of that instead.
        """
        folder, wanted = self._snapshot_dir, self._fingerprint
        if folder is None or wanted is None:
            return
        from ..fingerprint import digest
        from ..postgres.snapshot import SnapshotError, files, path_of, remove_older
        from ..postgres.structure_script import CopyError

        if only_first and files(folder, wanted):
            return
        try:
            snapshot = self._snapshot(wanted, cloned)
            dependencies = snapshot.extra["dependencies"] if snapshot else {EDITED: ""}
            if snapshot and EDITED not in dependencies:
                variant = digest(repr(sorted(dependencies.items())))
                if cloned is None:
                    # Or every run that found it would refuse it.
                    self._databases.verify_template(self._alias)
                snapshot.write(path := path_of(folder, wanted, variant[:16]))
                self._log(f"Wrote the snapshot {path}.")
                for refused in self._rejected:
                    if refused != path:
                        refused.unlink(missing_ok=True)
                remove_older(folder, self._oldest)
        except (CopyError, SnapshotError, OSError) as error:
            why = listing(error.reasons) if isinstance(error, CopyError) else error
            self._log(f"Warning: no snapshot of alias '{self._alias}' is kept in {folder}: {why}.")

    def _snapshot(
        self, fingerprint: str, cloned: Mapping[str, Any] | None
    ) -> "Snapshot | DatabaseSnapshot | None":
        from ..postgres.snapshot import SnapshotError

        if cloned is None:
            return self._databases.snapshot(self._alias, fingerprint, self._now)
        pg_dump = self._pg_dump
        if isinstance(pg_dump, Exception | None):
            raise SnapshotError(str(pg_dump))
        host = self._databases.host_database(self._alias)
        return host.dump(pg_dump, fingerprint=fingerprint, made=self._now, extra=cloned)


def is_unchanged(extra: Mapping[str, Any]) -> bool:
    dependencies = _dependencies(extra)
    if dependencies is None or EDITED in dependencies:
        return False
    from .. import fingerprint

    return fingerprint.is_unchanged(dependencies)


def _dependencies(extra: object) -> dict[str, str] | None:
    """Return what a template says it depends on; None where it says nothing that makes sense."""
    found = extra.get("dependencies") if isinstance(extra, dict) else None
    return found if isinstance(found, dict) else None


# Stands for dependencies that cannot be as they were.
EDITED = "edited during the build"
_KINDS = {"setting": "setting", "package": "version of"}
# How much of a hash tells two apart.
_DIGITS = 8
