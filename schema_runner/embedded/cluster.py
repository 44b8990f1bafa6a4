"""A database cluster: its data folder, programs and settings."""

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

# Durability is off: a lost cluster is created again in about a second.
DEFAULT_SETTINGS: dict[str, str | int | float | bool] = {
    "fsync": False,
    "synchronous_commit": False,
    "full_page_writes": False,
    "max_wal_size": "256MB",
    "shared_buffers": "128MB",
    # Dropping a schema locks each of its tables and indexes.
    "max_locks_per_transaction": 256,
    # JIT compilation takes longer than the queries of tests.
    "jit": False,
}

_INITDB = (
    f"--username={SUPERUSER}",
    "--auth=trust",  # the socket's folder is private
    "--encoding=UTF8",
    "--no-instructions",
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A data folder, with the programs, the account and the settings to run it with.

    `version`: the output of `postgres --version`.
    `settings`: names and values for postgresql.conf.
    """

    data_dir: Path
    bin_dir: Path
    version: str
    account: Account
    settings: tuple[tuple[str, str], ...]

    @property
    def version_number(self) -> str:
        """The server's version number, such as "18.3"."""
        return _version_number(self.version)

    def sibling(self, suffix: str) -> Path:
        """Return the path of a file or folder next to the data folder, such as its lock."""
        return self.data_dir.with_name(f"{self.data_dir.name}.{suffix}")


def plan_cluster(
    *,
    cache: Path,
    bin_dir: Path,
    version: str,
    account: Account,
    settings: Mapping[str, str | int | float | bool],
) -> Cluster:
    """Return the cluster for these arguments; equal arguments give the same data folder."""
    texts = tuple(sorted((name, _setting_text(value)) for name, value in settings.items()))
    key = repr((version, account.name, _INITDB, texts))
    digest = hashlib.sha256(key.encode()).hexdigest()[:10]
    data_dir = cache / f"{_version_number(version)}-{digest}"
    return Cluster(data_dir, bin_dir, version, account, texts)


def build_cluster(cluster: Cluster) -> None:
    """Create the data folder; the caller holds the cluster's lock.

    Raises SchemaRunnerError if initdb fails.
    """
    build_then_rename(cluster.data_dir, lambda building: _create_data_dir(cluster, building))


def _create_data_dir(cluster: Cluster, building: Path) -> None:
    cluster.account.chown(building)
    result = _run_initdb(cluster, building, locale="C.UTF-8")
    if "invalid locale name" in result.stdout:  # an older macOS
        result = _run_initdb(cluster, building, locale="C")
    if result.returncode != 0:
        raise SchemaRunnerError(
            f"initdb could not create {cluster.data_dir}: {_error_summary(result.stdout)}."
        )
    with (building / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.writelines(f"{name} = {_quoted(value)}\n" for name, value in cluster.settings)


def _run_initdb(cluster: Cluster, folder: Path, *, locale: str) -> CompletedProcess[str]:
    options = [*_INITDB, f"--locale={locale}"]
    if dict(cluster.settings).get("fsync") == "off":
        options.append("--no-sync")
    return cluster.account.run(cluster.bin_dir / "initdb", *options, "--pgdata", folder)


def _error_summary(output: str) -> str:
    """Return the errors and hints in a program's output as one line."""
    messages = re.findall(r"\b(?:error|hint|FATAL|HINT): +(.+)", output)
    return ". ".join(line.rstrip(". ") for line in messages or output.splitlines()[-3:])


def _version_number(version: str) -> str:
    return version.split()[2]


def _setting_text(value: str | float | bool) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
