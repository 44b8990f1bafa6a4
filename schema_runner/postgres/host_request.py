"""The request of a run for a host database."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self, TypeAlias

from . import databases, locks, names
from .names import Marker, MarkerState
from .server import Connection, Server

Log: TypeAlias = Callable[[str], None]


class Sharing(NamedTuple):
    """How a run shares its schemas with the other runs of the same fingerprint.

    `stays`: whether they stay as a pool, as with --keepdb, or go with the last run that uses them.
    `not_before`: what was built earlier is not used; in milliseconds since the Unix epoch.
    """

    stays: bool
    not_before: int = 0


class PoolCriteria(NamedTuple):
    """Which pools a run can use, and which ones it shares or keeps. Times are in Unix seconds."""

    fingerprint: str
    # Whether the dependencies recorded in a template's `extra` metadata are unchanged.
    is_unchanged: Callable[[Mapping[str, Any]], bool]
    now: int
    # No pool made before this time is used.
    oldest: int
    # How many other pools to keep.
    max_others: int
    # If no pool can be used: called with the fingerprint, the time of creation and the `extra`
    # metadata of the one most like it.
    report_nearest: Callable[[str, int, Mapping[str, Any]], None]
    sharing: Sharing = Sharing(stays=True)

    @property
    def state(self) -> MarkerState:
        """The state of the pools that the run uses and builds."""
        return MarkerState.KEPT if self.sharing.stays else MarkerState.SHARED

    @property
    def lock(self) -> int:
        """The key of the lock that runs share until they hold a lease on the pool they use."""
        return locks.key(f"users of fingerprint {self.fingerprint}")

    def accepts(self, marker: Marker) -> bool:
        """Whether a pool with this marker can be used, unless its dependencies have changed."""
        return (
            marker.fingerprint == self.fingerprint
            and marker.state is self.state
            and marker.made >= self.oldest
            and marker.built >= self.sharing.not_before
        )

    def nearest(self, pools: Mapping[str, Marker]) -> str | None:
        """Return the name of a pool with this fingerprint, or of the most recently used one."""

        def rank(name: str) -> tuple[bool, int]:
            return pools[name].fingerprint == self.fingerprint, pools[name].used

        return max(pools, key=rank, default=None)

    def new_marker(self, run: int, request: str | None = None) -> Marker:
        """Return the marker of a new pool, for its template or its database."""
        return Marker(
            run,
            self.state,
            request=request,
            fingerprint=self.fingerprint,
            made=self.now,
            used=self.now,
            built=time.time_ns() // 1_000_000,
        )

    def select_kept(self, others: Mapping[str, Marker]) -> list[str]:
        """Return which of the other pools to keep: the most recently used, within the limits."""
        if not self.sharing.stays:
            return [*others]
        recent = [name for name, marker in others.items() if marker.made >= self.oldest]
        return sorted(recent, key=lambda name: others[name].used, reverse=True)[: self.max_others]


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
    wanted: PoolCriteria | None = None
    wanted_for: Callable[[Connection], PoolCriteria | None] | None = None
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
        return databases.hold_name(maintenance, self.name)
