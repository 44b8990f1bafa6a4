"""PostgreSQL's own pg_dump: found, and run to get a schema or a database as SQL."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from psycopg.conninfo import make_conninfo

from .. import installations
from ..errors import SchemaRunnerError
from . import pgoptions, service_file
from .server import Server

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_OPTIONS = ("--encoding=UTF8", "--no-password", "--lock-wait-timeout=60s")
_OF_SCHEMA = ("--schema-only", "--strict-names", "--no-publications", "--no-subscriptions")
# Rows as SQL, which any connection can execute.
_OF_DATABASE = ("--rows-per-insert=1000",)


class DumpError(Exception):
    """What is wanted cannot be had from pg_dump; the message says why."""


class PgDump(NamedTuple):
    """The program at `path`, of PostgreSQL's major version `version`."""

    path: Path
    version: int

    @classmethod
    def find(cls, server_version: int, named: str | None = None) -> Self:
        """Return the one that fits a server best: of its own major version, else of a later one.

        `server_version` is as libpq counts (150004 is 15.4). Raises DumpError where there is none,
        and SchemaRunnerError where the `named` one is something else.
        """
        major, found = server_version // 10000, []
        for path in [Path(named)] if named else _candidates(major):
            version = _version(path)
            if version == major:
                return cls(path, version)
            if version is not None:
                found.append(cls(path, version))
            elif named:
                raise SchemaRunnerError(
                    f'SCHEMA_RUNNER["PG_DUMP"] names {named!r}, which cannot be run as pg_dump. '
                    f"Name the program itself, or leave it out."
                )
        if later := [one for one in found if one.version > major]:
            return min(later, key=lambda one: one.version)
        newest = max((one.version for one in found), default=None)
        what = "pg_dump is missing" if newest is None else f"pg_dump {newest} is too old"
        raise DumpError(
            f"{what} for PostgreSQL {major} (install postgresql-client-{major}, or name a newer "
            f'one with SCHEMA_RUNNER["PG_DUMP"])'
        )

    def start(self, server: Server, database: str, schema: str | None = None) -> "Dump":
        """Begin to write the SQL that makes what is in a schema, or in all of a database."""
        params = {**server.params, "dbname": database}
        with pgoptions.hidden():
            environment = dict(os.environ)
        role = [f"--role={server.role}"] if server.role else []
        with service_file.hidden(params, environment) as (shown, files):
            command = [
                str(self.path),
                *_OPTIONS,
                *role,
                *(_OF_DATABASE if schema is None else (*_OF_SCHEMA, f"--schema={schema}")),
                f"--dbname={make_conninfo(**shown)}",
            ]
            return Dump(command, environment, self.version, files)


class Dump:
    """A pg_dump of that major version at work, while this process does something else."""

    def __init__(
        self, command: list[str], environment: dict[str, str], version: int, files: Sequence[int]
    ) -> None:
        self.version = version
        self._command = command
        # Pipes would hold it up until somebody reads.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(  # noqa: S603
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._errors,
            pass_fds=files,
            # Ctrl-C would end it, though the run goes on: tests under way finish.
            start_new_session=True,
        )

    def result(self) -> str:
        """Wait for the SQL. Raises DumpError."""
        code = self._process.wait()
        self._output.seek(0)
        self._errors.seek(0)
        if code != 0:
            said = " ".join(self._errors.read().decode(errors="replace").split())
            raise DumpError(f"{self._command[0]} failed: {said}")
        try:
            return self._output.read().decode()
        except UnicodeError as error:
            raise DumpError(f"{self._command[0]} writes something else than SQL") from error

    def close(self) -> None:
        """End it if it is at work still, and forget what it has written."""
        self._process.kill()
        self._process.wait()
        self._output.close()
        self._errors.close()


def _candidates(major: int) -> Iterator[Path]:
    """Yield programs, those that are likely to be of a major version first."""
    packaged = [
        path
        for folder in installations.package_folders()
        if (path := folder / "pg_dump").is_file()
    ]
    likely = re.compile(rf"(?<!\d){major}(?!\d)")
    yield from (path for path in packaged if likely.search(str(path)))
    if wheel := installations.wheel_folder():
        yield wheel / "pg_dump"
    if on_path := shutil.which("pg_dump"):
        yield Path(on_path)
    yield from (path for path in packaged if not likely.search(str(path)))


def _version(program: Path) -> int | None:
    """Return the major version of a pg_dump; None for what is none."""
    try:
        done = subprocess.run(  # noqa: S603
            [program, "--version"], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = _VERSION.search(done.stdout)
    return int(said[1]) if said and done.returncode == 0 else None
