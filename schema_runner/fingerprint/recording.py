"""What a build depended on that could not be known before it."""

import os
import stat
import time
from types import TracebackType
from typing import Self

from ..settings import Settings
from . import hook, roots
from .dependencies import PACKAGE, SETTING, Contents
from .modules import source_of
from .project import Project

# The database's own entry; all that counts of it is in the fingerprint.
_COUNTED_ELSEWHERE = {"DATABASES"}


class Recording:
    """Watches a build: `with Recording() as recording:` around all that makes a ready schema.

    It records, for every thread, the files of the project that are opened for reading and the
    folders that are listed.
    """

    def __init__(self, runner_settings: Settings | None = None) -> None:
        self._settings = runner_settings or Settings.read()
        self._watched = hook.Watched()
        self._since = 0

    def __enter__(self) -> Self:
        self._since = time.time_ns()
        hook.begin(self._watched)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        hook.end(self._watched)

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
        imports = roots.follow(project, self._settings, opened)
        contents = Contents(project)
        found = {
            project.name(path): self._hash(path, project.name(path), contents)
            for path in sorted(opened | imports.files)
            if project.owns(path) and os.path.realpath(path) not in written
        }
        names = [f"{SETTING}{name}" for name in sorted(imports.settings - _COUNTED_ELSEWHERE)]
        names += [
            f"{project.name(folder)}/{f'{beginning}*' if beginning else ''}"
            for folder, beginning in sorted(self._watched.listed.copy())
            if project.owns(folder)
        ]
        found |= {name: contents.of(name) for name in names}
        return found | contents.of_packages([f"{PACKAGE}{name}" for name in imports.packages])

    def _hash(self, path: str, name: str, contents: Contents) -> str:
        try:
            # What the build has read may be neither what was there before nor what is now.
            status = os.stat(path)
            if stat.S_ISREG(status.st_mode) and status.st_mtime_ns > self._since:
                return "changed during the build"
        except OSError:
            pass
        return contents.of(name)
