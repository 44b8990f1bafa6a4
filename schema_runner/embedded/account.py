"""The system account that a server runs as."""

import os
import pwd
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import SchemaRunnerError

# Everything else stays out: PGPORT or PGDATA would bend initdb and pg_ctl, a locale would
# translate the messages we read, and another account has no business with our secrets.
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class Account:
    name: str
    uid: int
    gid: int

    @property
    def is_foreign(self) -> bool:
        return self.uid != os.geteuid()

    def run(self, program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program as this account; `stdout` of the result has its errors too."""
        try:
            return subprocess.run(  # noqa: S603 - our own programs, and no shell
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
                cwd="/",  # ours may be closed to the account
                env=_environment(),
                umask=0o077,
                start_new_session=True,  # a Ctrl-C in our terminal is not for the server
                user=self.uid if self.is_foreign else None,
                group=self.gid if self.is_foreign else None,
                extra_groups=[] if self.is_foreign else None,
            )
        except OSError as error:
            raise SchemaRunnerError(
                f"{program} cannot be run as the user {self.name!r}: {error.strerror}. "
                "Name other PostgreSQL binaries with SCHEMA_RUNNER_PG_BIN, or run as another user."
            ) from error

    def can_enter(self, path: Path) -> bool:
        """Whether the account may enter the folder, or run the program, and all above it."""
        if not self.is_foreign:
            return os.access(path, os.X_OK)
        # The kernel knows of access lists and mounts, which mode bits do not tell.
        return self.run(Path("/bin/sh"), "-c", 'test -x "$1"', "sh", path).returncode == 0

    def own(self, path: Path) -> None:
        """Hand over a file or folder that we have just made."""
        if self.is_foreign:
            os.chown(path, self.uid, self.gid)


def server_account() -> Account:
    """Return ourselves, or an unprivileged account for root, as whom PostgreSQL refuses to run."""
    if os.geteuid() != 0:
        return Account(_own_name(), os.geteuid(), os.getegid())
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise SchemaRunnerError(
        "PostgreSQL does not run as root, and this system has neither of the users 'postgres' and "
        "'nobody' to run it as. Run as another user."
    )


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError as error:  # a container may give us a bare number
        raise SchemaRunnerError(
            f"PostgreSQL's initdb does not run as user {os.geteuid()}, who has no name on this "
            "system. Add one (in a Dockerfile, "
            f"RUN useradd --create-home --uid {os.geteuid()} app), or use another server in "
            "DATABASES."
        ) from error


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {**kept, "LC_ALL": "C", "LANG": "C"}
