"""Record the files that a build opens and the folders that it lists."""

import os
import stat
import sys
import time
from types import FrameType, TracebackType
from typing import Any, Self

from ..project import Project
from ..settings import Settings
from .dependencies import PACKAGE, SETTING, DependencyHashes
from .imports import follow_build
from .modules import source_of

# The fingerprint covers the relevant values of this setting.
_IN_FINGERPRINT = {"DATABASES"}


class Recording:
    """A context manager that records what a build depends on.

    It records the files that any thread opens, and the folders that it lists. After the `with`
    block, `dependencies` returns those of the project.
    """

    def __init__(self, runner_settings: Settings | None = None) -> None:
        self._settings = runner_settings or Settings.read()
        self._accesses = FileAccesses()
        self._started = 0

    def __enter__(self) -> Self:
        self._started = time.time_ns()
        start_recording(self._accesses)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stop_recording(self._accesses)

    def dependencies(self) -> dict[str, str]:
        """Return the hashes of what the build depended on, by name. Call it after the recording.

        These are the recorded files and folders of the project; its modules that migrations,
        seeders, routers and signal receivers import, directly or not; and the installed packages
        and the settings that these modules use. Files that the build has written are left out.
        """
        project = Project.find()
        written = {os.path.realpath(path) for path in self._accesses.written.copy()}
        opened = {source_of(path) for path in self._accesses.read.copy()}
        imports = follow_build(project, self._settings, opened)
        hashes = DependencyHashes(project)
        dependencies = {
            project.relative_name(path): self._hash(path, project.relative_name(path), hashes)
            for path in sorted(opened | imports.files)
            if project.owns(path) and os.path.realpath(path) not in written
        }
        names = [f"{SETTING}{name}" for name in sorted(imports.settings - _IN_FINGERPRINT)]
        names += [
            f"{project.relative_name(folder)}/{f'{prefix}*' if prefix else ''}"
            for folder, prefix in sorted(self._accesses.listed.copy())
            if project.owns(folder)
        ]
        dependencies |= {name: hashes.hash_of(name) for name in names}
        return dependencies | hashes.hash_packages(
            [f"{PACKAGE}{name}" for name in imports.packages]
        )

    def _hash(self, path: str, name: str, hashes: DependencyHashes) -> str:
        try:
            # The build may have read the old contents or the new ones.
            status = os.stat(path)
            if stat.S_ISREG(status.st_mode) and status.st_mtime_ns > self._started:
                return "changed during the build"
        except OSError:
            pass
        return hashes.hash_of(name)


_LISTING_EVENTS = {"os.listdir", "os.scandir"}
_IMPORT_SYSTEM = "<frozen importlib._bootstrap_external>"
# The method of loaddata that looks for fixtures. Most projects do not import it.
_FIXTURE_SEARCH = ("django.core.management.commands.loaddata", "find_fixture_files_in_dir")


class FileAccesses:
    """Absolute paths of files, whether or not they exist.

    `read`: files opened for reading.
    `written`: files opened for writing, or renamed to.
    `listed`: folders, each with the prefix of the names that the caller was looking for.
    """

    def __init__(self) -> None:
        self.read: set[str] = set()
        self.written: set[str] = set()
        self.listed: set[tuple[str, str]] = set()


class _AuditHook:
    """The only audit hook: Python cannot remove one, so this does nothing between recordings."""

    def __init__(self) -> None:
        self.recordings: tuple[FileAccesses, ...] = ()
        self.is_added = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.recordings:
            return
        try:
            if event == "open":
                self._record_open(*args)
            elif event in _LISTING_EVENTS:
                self._record_listing(args[0], sys._getframe(1))
            elif event == "os.rename":
                for recording in self.recordings:
                    recording.written.add(_absolute(args[1]))
        except Exception:  # noqa: S110 - it would be raised by the caller's open() or listdir().
            pass

    def _record_open(self, path: Any, _mode: str | None, flags: int) -> None:
        if isinstance(path, int):
            return
        file = _absolute(path)
        is_read = flags & os.O_ACCMODE == os.O_RDONLY and not flags & os.O_CREAT
        for recording in self.recordings:
            (recording.read if is_read else recording.written).add(file)

    def _record_listing(self, path: Any, caller: FrameType | None) -> None:
        # Python lists folders to find modules, which `follow_build` covers.
        if caller and caller.f_code.co_filename == _IMPORT_SYSTEM:
            return
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        listing = _absolute(path or "."), _fixture_prefix(caller)
        for recording in self.recordings:
            recording.listed.add(listing)


def _absolute(path: Any) -> str:
    return os.path.abspath(os.fsdecode(path))


def _fixture_prefix(frame: FrameType | None) -> str:
    """Return the prefix of the names that loaddata looks for; "" for other callers.

    loaddata lists whole folders, such as the working directory.
    """
    for _ in range(10):
        if frame is None:
            break
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) == _FIXTURE_SEARCH:
            return os.path.basename(str(frame.f_locals.get("fixture_name", "")))
        frame = frame.f_back
    return ""


_HOOK = _AuditHook()


def start_recording(accesses: FileAccesses) -> None:
    """Record the file accesses of all threads, until `stop_recording`."""
    if not _HOOK.is_added:
        _HOOK.is_added = True
        sys.addaudithook(_HOOK)
    _HOOK.recordings = (*_HOOK.recordings, accesses)


def stop_recording(accesses: FileAccesses) -> None:
    _HOOK.recordings = tuple(item for item in _HOOK.recordings if item is not accesses)
