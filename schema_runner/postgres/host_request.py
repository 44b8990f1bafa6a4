"""What a run asks for: a host database of some name."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

from . import locks, names
from .server import Connection, Server

if TYPE_CHECKING:
    from .pool import PoolCriteria

Log: TypeAlias = Callable[[str], None]


class HostRequest(NamedTuple):
    """What a run asks for: a host database of this `name`.

    Where `is_projects_own`, a database of that name holds what users work with. `workers` is
    how many schemas are going to be dropped at once, `oldest_version` the least server version
    that will do, as libpq counts them (150004 is 15.4). With `wanted`, what the run makes is kept
    for others, and it uses what others have kept; `want` returns `wanted`
    once there is a connection. With `keeps`, nothing that was there is replaced. `pg_dump` names
    that program where it is not to be looked for.
    """

    server: Server
    name: str
    is_projects_own: bool
    workers: int
    oldest_version: int
    log: Log
    wanted: "PoolCriteria | None" = None
    want: "Callable[[Connection], PoolCriteria | None] | None" = None
    pg_dump: str | None = None
    keeps: bool = False

    def of(self, run: int) -> Self:
        """Return the same request with connections that are known to be a run's."""
        application = names.application_of_main(run)
        return self._replace(server=self.server._replace(application=application))

    def on(self, connection: Connection) -> Self:
        """Return the same request with `wanted` filled in."""
        return self._replace(wanted=self.want(connection)) if self.want else self

    def holding_name(self, maintenance: Connection) -> locks.Held:
        """Keep others from creating and dropping databases of this name, and named after it."""
        return locks.held(maintenance, locks.key(f"host database {self.name}"))
