"""The system account that a server runs as."""

import os
import pwd
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..errors import SchemaRunnerError

# No others: PGPORT or PGDATA would change what initdb and pg_ctl do, a locale would translate the
# messages that we parse, and another account must not see our secrets.
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class Account(NamedTuple):
    """A system user: its name and ids."""

    name: str
    uid: int
    gid: int

    @property
    def is_other_user(self) -> bool:
        return self.uid != os.geteuid()

    def run(self, program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program as this account; the result's `stdout` includes its stderr.

        Raises SchemaRunnerError if the program cannot be executed.
        """
        variables = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        try:
            return subprocess.run(  # noqa: S603 - our own programs, and no shell
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
                cwd="/",  # the account may not be able to enter ours
                env={**variables, "LC_ALL": "C", "LANG": "C"},
                umask=0o077,
                start_new_session=True,  # Ctrl-C in our terminal must not reach the server
                user=self.uid if self.is_other_user else None,
                group=self.gid if self.is_other_user else None,
                extra_groups=[] if self.is_other_user else None,
            )
        except OSError as error:
            raise SchemaRunnerError(
                f"Cannot run {program} as user {self.name!r}: {error.strerror}. "
                "Set SCHEMA_RUNNER_PG_BIN to another folder, or run as another user."
            ) from error

    def can_enter(self, path: Path) -> bool:
        """Whether another user's account can enter the folder, or execute the program."""
        if not self.is_other_user:
            return True
        # Mode bits are not enough: the kernel also checks ACLs, mounts and parent folders.
        return self.run(Path("/bin/sh"), "-c", 'test -x "$1"', "sh", path).returncode == 0

    def chown(self, path: Path) -> None:
        """Give the account a file or folder that this process has just created."""
        if self.is_other_user:
            os.chown(path, self.uid, self.gid)


def server_account() -> Account:
    """Return the current user, or, because PostgreSQL refuses to run as root, an unprivileged one.

    Raises SchemaRunnerError if there is no such account, or the current user has no name.
    """
    uid = os.geteuid()
    if uid == 0:
        for name in ("postgres", "nobody"):
            with suppress(KeyError):
                return Account(name, *pwd.getpwnam(name)[2:4])
        raise SchemaRunnerError(
            "PostgreSQL does not run as root, and this system has neither a user 'postgres' nor "
            "'nobody' to run it as. Run as another user."
        )
    try:
        return Account(pwd.getpwuid(uid).pw_name, uid, os.getegid())
    except KeyError as error:  # a container that runs with a bare uid
        raise SchemaRunnerError(
            f"PostgreSQL's initdb cannot run as uid {uid}, which has no user name. Add "
            f"one (in a Dockerfile: RUN useradd --create-home --uid {uid} app), or use "
            "another server in DATABASES."
        ) from error
