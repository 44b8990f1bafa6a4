"""The process's one audit hook, which tells recordings of opened files and listed folders."""

import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

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


def begin(watched: Watched) -> None:
    """Begin to tell it what is opened and listed, in every thread."""
    if not _HOOK.is_added:
        _HOOK.is_added = True
        sys.addaudithook(_HOOK)
    _HOOK.told = (*_HOOK.told, watched)


def end(watched: Watched) -> None:
    _HOOK.told = tuple(one for one in _HOOK.told if one is not watched)
