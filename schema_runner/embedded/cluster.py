"""A cluster: a data folder, and what it is made and run with."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

from ..errors import SchemaRunnerError
from .account import Account
from .cache import build_then_rename

SUPERUSER = "postgres"

# A lost cluster is built again in a second: nothing in it is worth waiting for a disk.
DEFAULT_SETTINGS: dict[str, str | int | float | bool] = {
    "fsync": False,
    "synchronous_commit": False,
    "full_page_writes": False,
    "max_wal_size": "256MB",
    "shared_buffers": "128MB",
    # Schemas full of tables are dropped whole, and every table takes its locks.
    "max_locks_per_transaction": 256,
    # Compiling costs more than any query of a test.
    "jit": False,
}

_INITDB = (
    f"--username={SUPERUSER}",
    "--auth=trust",  # the folder of the socket is private
    "--encoding=UTF8",
    "--no-instructions",
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """`settings` are lines of postgresql.conf; `version` is the server's own word of itself."""

    data_dir: Path
    bin_dir: Path
    version: str
    account: Account
    settings: tuple[tuple[str, str], ...]

    @property
    def number(self) -> str:
        """The server's version, such as "18.3"."""
        return _number(self.version)

    def beside(self, suffix: str) -> Path:
        return self.data_dir.with_name(f"{self.data_dir.name}.{suffix}")


def plan_cluster(
    *,
    cache: Path,
    bin_dir: Path,
    version: str,
    account: Account,
    settings: Mapping[str, str | int | float | bool],
) -> Cluster:
    """Return the cluster of these facts; whoever has the same facts gets the same data folder."""
    texts = tuple(sorted((name, _text(value)) for name, value in settings.items()))
    facts = repr((version, account.name, _INITDB, texts))
    digest = hashlib.sha256(facts.encode()).hexdigest()[:10]
    data_dir = cache / f"{_number(version)}-{digest}"
    return Cluster(data_dir, bin_dir, version, account, texts)


def build_cluster(cluster: Cluster) -> None:
    """Make the data folder; the caller holds the cluster's lock."""
    build_then_rename(cluster.data_dir, lambda building: _fill(cluster, building))


def _fill(cluster: Cluster, building: Path) -> None:
    cluster.account.own(building)
    result = _initdb(cluster, building, locale="C.UTF-8")
    if "invalid locale name" in result.stdout:  # an older macOS
        result = _initdb(cluster, building, locale="C")
    if result.returncode != 0:
        raise SchemaRunnerError(
            f"initdb could not make {cluster.data_dir}: {_complaint(result.stdout)}."
        )
    with (building / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.writelines(f"{name} = {_quoted(value)}\n" for name, value in cluster.settings)


def _initdb(cluster: Cluster, folder: Path, *, locale: str) -> CompletedProcess[str]:
    options = [*_INITDB, f"--locale={locale}"]
    if dict(cluster.settings).get("fsync") == "off":
        options.append("--no-sync")
    return cluster.account.run(cluster.bin_dir / "initdb", *options, "--pgdata", folder)


def _complaint(output: str) -> str:
    """Return what a program says of its failure, in one line without its progress."""
    found = re.findall(r"\b(?:error|hint|FATAL|HINT): +(.+)", output)
    return ". ".join(line.rstrip(". ") for line in found or output.splitlines()[-3:])


def _number(version: str) -> str:
    return version.split()[2]


def _text(value: str | float | bool) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
