"""Record the files that a build opens and the folders that it lists."""

import os
import sys
import time
from types import FrameType
from typing import Any, Self

from ..project import Project
from ..settings import Settings
from .dependencies import SETTING, hash_dependency
from .hashing import hash_file
from .imports import follow_build
from .modules import source_of

# The fingerprint covers the relevant values of this setting.
_IN_FINGERPRINT = {"DATABASES"}


class Recording:
    """A context manager that records what a build depends on.

    It records the files that any thread opens, and the folders that it lists. After the `with`
    block, `dependencies` returns those of the project.
    """

    def __init__(self, runner_settings: Settings) -> None:
        self._settings = runner_settings
        self._started = 0
        # Absolute paths of files that were opened for reading, whether or not they exist; and of
        # files that were opened for writing, or renamed to.
        self.read: set[str] = set()
        self.written: set[str] = set()
        # Folders, each with the prefix of the names that the caller was looking for.
        self.listed: set[tuple[str, str]] = set()

    def __enter__(self) -> Self:
        self._started = time.time_ns()
        _HOOK.start(self)
        return self

    def __exit__(self, *error: object) -> None:
        _HOOK.stop(self)

    def dependencies(self) -> dict[str, str]:
        """Return the hashes of what the build depended on, by name. Call it after the recording.

        These are the recorded files and folders of the project; its modules that migrations,
        seeders, routers and signal receivers import, directly or not; and the settings that these
        modules, and migrations of installed packages, use. Migrations are left out, because the
        fingerprint covers them, and so are files that the build has written.
        """
        project = Project.find()
        written = {os.path.realpath(path) for path in self.written}
        opened = {source_of(path) for path in self.read}
        imports = follow_build(project, self._settings, opened)
        dependencies = {
            project.relative_name(path): (
                "changed during the build" if self._has_changed(path) else hash_file(path)
            )
            for path in sorted((opened | imports.files) - imports.migrations)
            if project.owns(path) and os.path.realpath(path) not in written
        }
        names = [f"{SETTING}{name}" for name in sorted(imports.settings - _IN_FINGERPRINT)]
        names += [
            f"{project.relative_name(folder)}/{f'{prefix}*' if prefix else ''}"
            for folder, prefix in sorted(self.listed)
            if project.owns(folder)
        ]
        return dependencies | {name: hash_dependency(name, project) for name in names}

    def _has_changed(self, path: str) -> bool:
        """Whether a file changed during the build, which may have read the old contents."""
        return os.path.isfile(path) and os.stat(path).st_mtime_ns > self._started


_IMPORT_SYSTEM = "<frozen importlib._bootstrap_external>"
# The method of loaddata that looks for fixtures. Most projects do not import it.
_FIXTURE_SEARCH = ("django.core.management.commands.loaddata", "find_fixture_files_in_dir")


class _AuditHook:
    """The only audit hook: Python cannot remove one, so this does nothing between recordings."""

    def __init__(self) -> None:
        self._recordings: tuple[Recording, ...] = ()
        self._is_added = False

    def start(self, recording: Recording) -> None:
        if not self._is_added:
            self._is_added = True
            sys.addaudithook(self)
        self._recordings = (*self._recordings, recording)

    def stop(self, recording: Recording) -> None:
        self._recordings = tuple(item for item in self._recordings if item is not recording)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._recordings:
            return
        try:
            if event == "open":
                self._record_open(*args)
            elif event in {"os.listdir", "os.scandir"}:
                self._record_listing(args[0], sys._getframe(1))
            elif event == "os.rename":
                for recording in self._recordings:
                    recording.written.add(_absolute(args[1]))
        except Exception:  # noqa: S110 - it would be raised by the caller's open() or listdir().
            pass

    def _record_open(self, path: Any, _mode: str | None, flags: int) -> None:
        if isinstance(path, int):
            return
        file = _absolute(path)
        is_read = flags & os.O_ACCMODE == os.O_RDONLY and not flags & os.O_CREAT
        for recording in self._recordings:
            (recording.read if is_read else recording.written).add(file)

    def _record_listing(self, path: Any, caller: FrameType | None) -> None:
        # Python lists folders to find modules, which `follow_build` covers.
        if caller and caller.f_code.co_filename == _IMPORT_SYSTEM:
            return
        folder = folder_of(path) if isinstance(path, int) else path or "."
        listing = _absolute(folder), _fixture_prefix(caller)
        for recording in self._recordings:
            recording.listed.add(listing)


def folder_of(descriptor: int) -> Any:
    """Return the path of an open folder."""
    if sys.platform == "darwin":
        import fcntl

        return fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")
    return os.readlink(f"/proc/self/fd/{descriptor}")


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
