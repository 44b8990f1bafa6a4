"""Recording the files that a build opens and the folders that it lists."""

import os
import stat
import sys
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from ..project import Project
from ..settings import Settings
from .dependencies import PACKAGE, SETTING, DependencyHashes
from .imports import follow_build
from .modules import source_of

# The database's own entry; all that counts of it is in the fingerprint.
_COUNTED_ELSEWHERE = {"DATABASES"}


class Recording:
    """Watches a build: `with Recording() as recording:` around all that makes a ready schema.

    It records, for every thread, the files of the project that are opened for reading and the
    folders that are listed.
    """

    def __init__(self, runner_settings: Settings | None = None) -> None:
        self._settings = runner_settings or Settings.read()
        self._watched = Watched()
        self._since = 0

    def __enter__(self) -> Self:
        self._since = time.time_ns()
        begin_recording(self._watched)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        end_recording(self._watched)

    def dependencies(self) -> dict[str, str]:
        """Return the hash of each thing that the build depended on, by its name.

        Besides what was recorded, these are the modules of the project that migrations,
        seeders, routers and receivers of signals import, however far, with the installed
        packages and the settings they use. To be asked after the recording. Files that the
        build has written itself are left out.
        """
        project = Project.find()
        written = {os.path.realpath(path) for path in self._watched.written.copy()}
        opened = {source_of(path) for path in self._watched.read.copy()}
        found_imports = follow_build(project, self._settings, opened)
        contents = DependencyHashes(project)
        found = {
            project.relative_name(path): self._hash(path, project.relative_name(path), contents)
            for path in sorted(opened | found_imports.files)
            if project.owns(path) and os.path.realpath(path) not in written
        }
        names = [
            f"{SETTING}{name}" for name in sorted(found_imports.settings - _COUNTED_ELSEWHERE)
        ]
        names += [
            f"{project.relative_name(folder)}/{f'{beginning}*' if beginning else ''}"
            for folder, beginning in sorted(self._watched.listed.copy())
            if project.owns(folder)
        ]
        found |= {name: contents.of(name) for name in names}
        return found | contents.of_packages(
            [f"{PACKAGE}{name}" for name in found_imports.packages]
        )

    def _hash(self, path: str, name: str, contents: DependencyHashes) -> str:
        try:
            # What the build has read may be neither what was there before nor what is now.
            status = os.stat(path)
            if stat.S_ISREG(status.st_mode) and status.st_mtime_ns > self._since:
                return "changed during the build"
        except OSError:
            pass
        return contents.of(name)


_LISTINGS = {"os.listdir", "os.scandir"}
_IMPORTER = "<frozen importlib._bootstrap_external>"
# What looks for fixtures; not imported here, for most projects load none.
_FIXTURES = ("django.core.management.commands.loaddata", "find_fixture_files_in_dir")


class Watched:
    """What has happened to files: absolute paths as they were given, whether there or not.

    `listed` holds a folder with the beginning of the names that were looked for in it.
    """

    def __init__(self) -> None:
        self.read: set[str] = set()
        self.written: set[str] = set()
        self.listed: set[tuple[str, str]] = set()


class _Hook:
    """Python cannot remove an audit hook, so there is one, which sleeps most of the time."""

    def __init__(self) -> None:
        self.told: tuple[Watched, ...] = ()
        self.is_added = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.told:
            return
        try:
            if event == "open":
                self._opened(*args)
            elif event in _LISTINGS:
                self._listed(args[0], sys._getframe(1))
            elif event == "os.rename":
                self._tell(lambda one: one.written.add(_absolute(args[1])))
        except Exception:  # noqa: S110 - it would come out of an open() of anybody's.
            pass

    def _opened(self, path: Any, _mode: str | None, flags: int) -> None:
        if isinstance(path, int):
            return
        found = _absolute(path)
        is_read = flags & os.O_ACCMODE == os.O_RDONLY and not flags & os.O_CREAT
        self._tell(lambda one: (one.read if is_read else one.written).add(found))

    def _listed(self, path: Any, caller: FrameType | None) -> None:
        # Imports list folders to find modules, which are dependencies of their own.
        if caller and caller.f_code.co_filename == _IMPORTER:
            return
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        found = _absolute(path or "."), _beginning(caller)
        self._tell(lambda one: one.listed.add(found))

    def _tell(self, tell: Callable[[Watched], None]) -> None:
        for one in self.told:
            tell(one)


def _absolute(path: Any) -> str:
    return os.path.abspath(os.fsdecode(path))


def _beginning(frame: FrameType | None) -> str:
    """Return how the names begin that loaddata looks for, which lists the working directory."""
    for _ in range(10):
        if frame is None:
            break
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) == _FIXTURES:
            return os.path.basename(str(frame.f_locals.get("fixture_name", "")))
        frame = frame.f_back
    return ""


_HOOK = _Hook()


def begin_recording(watched: Watched) -> None:
    """Begin to tell it what is opened and listed, in every thread."""
    if not _HOOK.is_added:
        _HOOK.is_added = True
        sys.addaudithook(_HOOK)
    _HOOK.told = (*_HOOK.told, watched)


def end_recording(watched: Watched) -> None:
    _HOOK.told = tuple(one for one in _HOOK.told if one is not watched)
