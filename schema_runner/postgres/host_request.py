"""The request of a run for a host database."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

from . import locks, names
from .server import Connection, Server

if TYPE_CHECKING:
    from .pool import PoolCriteria

Log: TypeAlias = Callable[[str], None]


class Sharing(NamedTuple):
    """How a run shares its schemas with the other runs of the same fingerprint.

    `stays`: whether they stay as a pool, as with --keepdb, or go with the last run that uses them.
    `not_before`: what was built earlier is not used; in milliseconds since the Unix epoch.
    """

    stays: bool
    not_before: int = 0


class HostRequest(NamedTuple):
    """The request of a run for a host database.

    `server`: the server of the database.
    `name`: the preferred name of the database.
    `is_projects_own`: whether `name` is the NAME of an entry in DATABASES.
    `workers`: the number of workers, which may drop their schemas at the same time.
    `oldest_version`: the minimum server version, as libpq counts (150004 is 15.4).
    `log`: prints a line of the run's output.
    `wanted`: the pools that the run can use, or None if it shares nothing.
    `wanted_for`: returns `wanted`, for which it needs a connection.
    `worker`: the number of the worker whose schema this process builds or leases.
    `pg_dump`: the path of the program, or None to search for it.
    `keeps_existing`: whether databases without a marker stay, as with --keepdb.
    """

    server: Server
    name: str
    is_projects_own: bool
    workers: int
    oldest_version: int
    log: Log
    wanted: "PoolCriteria | None" = None
    wanted_for: "Callable[[Connection], PoolCriteria | None] | None" = None
    worker: int = 1
    pg_dump: str | None = None
    keeps_existing: bool = False

    @property
    def keeps_pool(self) -> bool:
        """Whether what the run builds stays for later runs."""
        return self.wanted is not None and self.wanted.sharing.stays

    def for_run(self, run: int) -> Self:
        """Return the request with the run's application_name on all connections."""
        application = names.main_application_name(run)
        return self._replace(server=self.server._replace(application=application))

    def with_wanted(self, connection: Connection) -> Self:
        """Return the request with the result of `wanted_for` as `wanted`."""
        return self._replace(wanted=self.wanted_for(connection)) if self.wanted_for else self

    def hold_name(self, maintenance: Connection) -> locks.LockContext:
        """Lock the name: no other run creates or drops databases for a request of this name."""
        return locks.hold(maintenance, locks.key(f"host database {self.name}"))
