"""The snapshots of one alias in SNAPSHOT_DIR."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import listing
from ..postgres.host_request import Log
from .kept_builds import EDITED, BuildFacts, UnusedBuild, is_unchanged

if TYPE_CHECKING:
    from ..postgres.snapshot import Snapshot


class SnapshotFolder:
    """The snapshots of one alias in SNAPSHOT_DIR.

    `report_unusable`: called with the arguments of `UnusedBuild` for each snapshot that matches
    the fingerprint and cannot be used.
    """

    def __init__(
        self, folder: Path, facts: BuildFacts, log: Log, report_unusable: Callable[..., None]
    ) -> None:
        self._folder = folder
        self._facts = facts
        self._log = log
        self._report_unusable = report_unusable
        # Damaged snapshots, which a new one replaces.
        self._rejected: list[Path] = []

    def usable(self) -> "Iterator[tuple[Path, Snapshot]]":
        """Yield usable snapshots with their paths; log a warning for damaged ones."""
        from ..postgres.snapshot import Snapshot, list_snapshots
        from ..postgres.structure_script import CopyError

        facts = self._facts
        for path in list_snapshots(self._folder, facts.fingerprint):
            try:
                snapshot = Snapshot.read(path)
                if snapshot.fingerprint != facts.fingerprint:
                    raise CopyError("its fingerprint does not match its name")
            except CopyError as error:
                self.reject(path, error)
                continue
            if snapshot.made >= facts.oldest and is_unchanged(snapshot.extra):
                yield path, snapshot
            else:
                self._report_unusable(snapshot.fingerprint, snapshot.made, snapshot.extra)

    def newest(self) -> UnusedBuild | None:
        """Return the newest snapshot of this alias, with whatever fingerprint."""
        from ..postgres.snapshot import Snapshot, list_snapshots
        from ..postgres.structure_script import CopyError

        alias, found = self._facts.comparable_parts.get("alias"), []
        for path in list_snapshots(self._folder):
            with suppress(CopyError):
                snapshot = Snapshot.read(path)
                if dict(snapshot.extra.get("parts") or {}).get("alias") == alias:
                    found.append(UnusedBuild(snapshot.fingerprint, snapshot.made, snapshot.extra))
        return max(found, key=lambda build: build.made, default=None)

    def reject(self, path: Path, reason: object) -> None:
        self._rejected.append(path)
        self._log(f"Warning: ignoring snapshot {path}: {reason}.")

    def is_missing(self) -> bool:
        from ..postgres.snapshot import list_snapshots

        return not list_snapshots(self._folder, self._facts.fingerprint)

    def write(self, alias: str, make: "Callable[[], Snapshot | None]") -> None:
        """Write the snapshot that `make` returns, if any; log a warning if that fails."""
        from ..fingerprint import digest
        from ..postgres.snapshot import remove_older, snapshot_path
        from ..postgres.structure_script import CopyError

        try:
            snapshot = make()
            if snapshot is None:
                return
            dependencies = snapshot.extra["dependencies"]
            if EDITED in dependencies:
                return
            variant = digest(repr(sorted(dependencies.items())))
            path = snapshot_path(self._folder, self._facts.fingerprint, variant[:16])
            snapshot.write(path)
            self._log(f"Wrote the snapshot {path}.")
            for rejected in self._rejected:
                if rejected != path:
                    rejected.unlink(missing_ok=True)
            remove_older(self._folder, self._facts.oldest)
        except (CopyError, OSError) as error:
            reason = listing(error.reasons) if isinstance(error, CopyError) else error.strerror
            self._log(
                f"Warning: cannot write a snapshot of alias '{alias}' to {self._folder}: "
                f"{reason or error}."
            )
