"""Find PostgreSQL's pg_dump, and run it to get a schema or a database as SQL."""

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
_COMMON_OPTIONS = ("--encoding=UTF8", "--no-password", "--lock-wait-timeout=60s")
_SCHEMA_OPTIONS = ("--schema-only", "--strict-names", "--no-publications", "--no-subscriptions")
# Rows as INSERT statements, which any connection can execute.
_DATABASE_OPTIONS = ("--rows-per-insert=1000",)


class DumpError(Exception):
    """pg_dump is missing, or has failed; the message is part of a sentence."""


class PgDump(NamedTuple):
    """A pg_dump program; `version` is PostgreSQL's major version."""

    path: Path
    version: int

    @classmethod
    def find(cls, server_version: int, named: str | None = None) -> Self:
        """Return a pg_dump of the server's major version, else of the next later one.

        `server_version` is in libpq's form (150004 is 15.4). `named` is the path from the setting
        PG_DUMP. Raises DumpError if there is none, and SchemaRunnerError if `named` is not one.
        """
        major, programs = server_version // 10000, []
        for path in [Path(named)] if named else _candidates(major):
            version = _read_version(path)
            if version == major:
                return cls(path, version)
            if version is not None:
                programs.append(cls(path, version))
            elif named:
                raise SchemaRunnerError(
                    f'SCHEMA_RUNNER["PG_DUMP"] is {named!r}, which is not a pg_dump program. '
                    f"Set it to the path of pg_dump, or remove it."
                )
        if later := [program for program in programs if program.version > major]:
            return min(later, key=lambda program: program.version)
        newest = max((program.version for program in programs), default=None)
        problem = "pg_dump is missing" if newest is None else f"pg_dump {newest} is too old"
        raise DumpError(
            f"{problem} for PostgreSQL {major} (install postgresql-client-{major}, or set "
            f'SCHEMA_RUNNER["PG_DUMP"] to the path of pg_dump {major} or later)'
        )

    def start(self, server: Server, database: str, schema: str | None = None) -> "Dump":
        """Start dumping a schema, or the whole database."""
        params = {**server.params, "dbname": database}
        with pgoptions.without_exported():
            environment = dict(os.environ)
        role = [f"--role={server.role}"] if server.role else []
        with service_file.hide_secrets(params, environment) as (shown, files):
            command = [
                str(self.path),
                *_COMMON_OPTIONS,
                *role,
                *(
                    _DATABASE_OPTIONS
                    if schema is None
                    else (*_SCHEMA_OPTIONS, f"--schema={schema}")
                ),
                f"--dbname={make_conninfo(**shown)}",
            ]
            return Dump(command, environment, self.version, files)


class Dump:
    """A running pg_dump process."""

    def __init__(
        self, command: list[str], environment: dict[str, str], version: int, files: Sequence[int]
    ) -> None:
        self.version = version
        self._command = command
        # Pipes would block the process until this one reads them.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(  # noqa: S603
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._errors,
            pass_fds=files,
            # Ctrl-C must not end it, because the run then finishes the tests that are running.
            start_new_session=True,
        )

    def result(self) -> str:
        """Wait for the process, and return the SQL. Raises DumpError."""
        code = self._process.wait()
        self._output.seek(0)
        self._errors.seek(0)
        if code != 0:
            message = " ".join(self._errors.read().decode(errors="replace").split())
            raise DumpError(f"{self._command[0]} failed: {message}")
        try:
            return self._output.read().decode()
        except UnicodeError as error:
            raise DumpError(f"the output of {self._command[0]} is not UTF-8") from error

    def close(self) -> None:
        """End the process if it is still running, and delete its output."""
        self._process.kill()
        self._process.wait()
        self._output.close()
        self._errors.close()


def _candidates(major: int) -> Iterator[Path]:
    """Yield paths of programs, beginning with those likely to be of a major version."""
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


def _read_version(program: Path) -> int | None:
    """Return the major version of a pg_dump, or None if the program is not one."""
    try:
        done = subprocess.run(  # noqa: S603
            [program, "--version"], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(done.stdout)
    return int(match[1]) if match and done.returncode == 0 else None
