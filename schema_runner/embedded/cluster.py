"""A database cluster: its data folder, programs and settings."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import NamedTuple

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


class Cluster(NamedTuple):
    """A data folder, with what its server needs to run.

    `version`: the server's version number, such as "18.3".
    `settings`: lines for postgresql.conf.
    """

    data_dir: Path
    bin_dir: Path
    version: str
    account: Account
    settings: tuple[str, ...]

    @property
    def log(self) -> Path:
        return self.data_dir / "server.log"

    def sibling(self, suffix: str) -> Path:
        """Return the path of a file or folder next to the data folder, such as its lock."""
        return self.data_dir.with_name(f"{self.data_dir.name}.{suffix}")


def plan_cluster(
    *,
    cache: Path,
    bin_dir: Path,
    account: Account,
    settings: Mapping[str, str | int | float | bool],
) -> Cluster:
    """Return the cluster for these arguments; equal arguments give the same data folder."""
    result = account.run(bin_dir / "postgres", "--version")
    if result.returncode != 0:
        raise SchemaRunnerError(f"{bin_dir / 'postgres'} --version failed: {result.stdout}")
    build = result.stdout.strip()  # such as `postgres (PostgreSQL) 18.3`
    lines = tuple(f"{name} = {_setting_text(value)}" for name, value in sorted(settings.items()))
    key = repr((build, account.name, _INITDB, lines))
    digest = hashlib.sha256(key.encode()).hexdigest()[:10]
    version = build.split()[2]
    return Cluster(cache / f"{version}-{digest}", bin_dir, version, account, lines)


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
        # Its errors and hints, without its progress.
        messages = re.findall(r"\b(?:error|hint|FATAL|HINT): +(.+)", result.stdout)
        messages = messages or result.stdout.splitlines()[-3:]
        summary = ". ".join(line.rstrip(". ") for line in messages)
        raise SchemaRunnerError(f"initdb could not create {cluster.data_dir}: {summary}.")
    with (building / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in cluster.settings)


def _run_initdb(cluster: Cluster, folder: Path, *, locale: str) -> CompletedProcess[str]:
    options = [*_INITDB, f"--locale={locale}"]
    if "fsync = 'off'" in cluster.settings:
        options.append("--no-sync")
    return cluster.account.run(cluster.bin_dir / "initdb", *options, "--pgdata", folder)


def _setting_text(value: str | float | bool) -> str:
    if isinstance(value, bool):
        value = "on" if value else "off"
    escaped = str(value).replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
