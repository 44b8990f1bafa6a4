"""The name of a host database: found, reserved and given under an advisory lock."""

from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from functools import partial
from typing import TYPE_CHECKING

from psycopg import sql

from ..errors import SchemaRunnerError
from . import databases, locks, move, names, removal, sessions
from .capacity import refuse_old_server
from .databases import MarkedDatabase
from .host import PUBLIC
from .host_request import HostRequest
from .lease import Lease
from .names import Marker, MarkerState
from .server import Connection
from .test_host import HostDatabase

if TYPE_CHECKING:
    from .pool import PoolCriteria


class Reservation:
    """The name of a host database that is going to be made, which nobody else can take.

    It is the one that was asked for, unless a live run has that, or it is kept. What dead runs
    have left is removed. There is nothing to make where a `kept` one can be used. Raises
    SchemaRunnerError where what would be replaced is not ours to remove, where the role may not
    create databases, and where the server is too old.
    """

    def __init__(self, request: HostRequest, build_lock: ExitStack) -> None:
        """Enter into `build_lock` what to leave once other runs can use what was built."""
        self._run = locks.new_run()
        request = request.of(self._run)
        with ExitStack() as entered:
            self._maintenance = entered.enter_context(request.server.maintenance())
            refuse_old_server(self._maintenance, request.oldest_version)
            sessions.refuse_transaction_pooler(self._maintenance, request.server)
            _refuse_without_right(self._maintenance)
            self._request = request = request.on(self._maintenance)
            self.kept = self._find_kept()
            if request.wanted and not self.kept:
                from . import pool

                opening = request.server.maintenance()
                build_lock.enter_context(pool.build_lock(opening, request.wanted, request.log))
                self.kept = self._find_kept()
                if not self.kept:
                    self._pass_over(request.wanted)
            if self.kept:
                self.name = self.kept.name
                self._entered = ExitStack()
            else:
                entered.enter_context(request.holding_name(self._maintenance))
                self.name = self._free_name()
                self._entered = entered.pop_all()

    def claim(self, create: Callable[[], object]) -> "HostDatabase":
        """Have the database created; others can ask for the name from then on."""
        request = self._request
        with (
            self._entered,
            databases.creation(self._maintenance, self.name),
            ExitStack() as opened,
        ):
            create()
            marker = self._marker
            databases.mark(self._maintenance, self.name, marker)
            connection = opened.enter_context(closing(request.server.connect(self.name)))
            lease = Lease(connection, self._run)
            inherited = [str(one) for one in move.list_objects(connection, PUBLIC)]
            self._drop_unmarked(partial(names.is_of_run, hosts=self._hosts), self.name)
            opened.pop_all()
        return HostDatabase(request, self.name, lease, marker, inherited)

    @property
    def _marker(self) -> Marker:
        """That of a database in which nothing is built yet."""
        run, request = self._run, self._request
        if request.wanted:
            return request.wanted.new_marker(run, request.name)._replace(
                state=MarkerState.BUILDING
            )
        return Marker(run, MarkerState.BUILDING, request.name)

    def close(self) -> None:
        self._entered.close()

    def _find_kept(self) -> "HostDatabase | None":
        """Return a database that runs have kept, if its pool can be used."""
        request, wanted = self._request, self._request.wanted
        if wanted is None:
            return None
        with request.holding_name(self._maintenance):
            found = databases.requested_as(self._maintenance, request.name)
            for database in found:
                if database.marker.fingerprint == wanted.fingerprint:
                    with suppress(SchemaRunnerError):
                        if host := self._adopt(database, wanted):
                            # What stays is the pool, and what live runs use.
                            for one in found:
                                if one.is_worker_s:
                                    self._remove(one)
                            return host
        return None

    def _pass_over(self, wanted: "PoolCriteria") -> None:
        """Tell which pool comes nearest to what is wanted, where none can be used."""
        from . import pool

        found = databases.requested_as(self._maintenance, self._request.name)
        pools = _pools(found)
        name = wanted.nearest(pools)
        if name is None:
            return
        marker = pools[name]
        if marker.template == name:
            wanted.report_nearest(str(marker.fingerprint), marker.made, marker.extra or {})
            return
        with suppress(SchemaRunnerError), self._request.server.connect(name) as connection:
            pool.report_nearest(connection, wanted)

    def _adopt(self, database: MarkedDatabase, wanted: "PoolCriteria") -> "HostDatabase | None":
        from . import pool

        request = self._request
        if database.marker.template == database.name:
            return self._adopt_with_clones(database, wanted)
        with ExitStack() as opened:
            connection = opened.enter_context(request.server.connect(database.name))
            template = pool.find_template(connection, wanted, HostDatabase.path)
            if template is None:
                return None
            lease = Lease(connection, self._run)
            host = HostDatabase(request, database.name, lease, database.marker)
            host.adopt(template)
            host.reap([template.name])
            opened.pop_all()
        return host

    def _adopt_with_clones(
        self, database: MarkedDatabase, wanted: "PoolCriteria"
    ) -> "HostDatabase | None":
        marker, request = database.marker, self._request
        is_usable = marker.state is MarkerState.KEPT and marker.made >= wanted.oldest
        if not is_usable or not wanted.is_unchanged(marker.extra or {}):
            return None
        for one in databases.requested_as(self._maintenance, request.name):
            is_clone = one.marker.template == database.name and one.name != database.name
            if is_clone and one.marker.state is not MarkerState.KEPT:
                self._remove(one)
        return HostDatabase.of_kept(request, database, self._run)

    def _free_name(self) -> str:
        request, maintenance = self._request, self._maintenance
        self._listing = databases.listed(maintenance)
        found = databases.proved(self._listing, request.name)
        self._hosts = {request.name, *(one.name for one in found)}
        self._sweep_clones(found)
        taken = self._pools_that_stay(found)
        taken |= {
            one.name
            for one in found
            if one.marker.template in taken and one.marker.state is MarkerState.KEPT
        }
        taken |= {one.name for one in found if one.name not in taken and not self._remove(one)}
        doubtful = self._tell_of_doubtful()
        if request.name not in taken and databases.exists(maintenance, request.name):
            if request.is_projects_own:
                raise removal.refusal(request, ["what is in it"])
            if request.keeps or request.name in doubtful:
                taken.add(request.name)
                if request.name not in doubtful:
                    why = "no run has made it, and one that keeps schemas replaces nothing"
                    removal.leave(request, request.name, why)
        return self._another_name() if request.name in taken else request.name

    def _sweep_clones(self, found: list[MarkedDatabase]) -> None:
        """Drop clones over which a run was killed, as long as what they are clones of is there."""
        for source in found:
            # Nothing is cloned once schemas have been made in it.
            is_cloned = source.marker.beside is None and not source.is_worker_s
            if is_cloned and not locks.is_held(self._maintenance, source.marker.run):
                self._drop_unmarked(partial(names.is_clone_of, host=source.name), source.name)

    def _drop_unmarked(self, is_named_so: Callable[[str], bool], source: str) -> None:
        candidates = [one for one in self._listing if is_named_so(one.name)]
        server = self._request.server
        self._tell(removal.drop_unmarked_copies(self._maintenance, server, candidates, source))

    def _another_name(self) -> str:
        request, wanted = self._request, self._request.wanted
        if wanted is not None:
            return databases.free_name(
                self._maintenance, request.name, wanted.fingerprint, self._run
            )
        return names.database_of_run(request.name, self._run)

    def _tell_of_doubtful(self) -> list[str]:
        """Return the names of databases that only look like those of runs.

        What another role keeps needs no word: that is its to use again, or to remove.
        """
        found = databases.doubtful(self._listing, self._request.name)
        for one, marker in found:
            is_kept = marker.state is MarkerState.KEPT and marker.name == one.name
            if not is_kept and not locks.is_held(self._maintenance, marker.run):
                removal.leave(self._request, one.name, f"its comment is a run's, but {one.doubt}")
        return [one.name for one, _ in found]

    def _pools_that_stay(self, found: list[MarkedDatabase]) -> set[str]:
        wanted = self._request.wanted
        pools = _pools(found)
        # A run that keeps nothing has no say in what others keep.
        return set(pools if wanted is None else wanted.select_kept(pools))

    def _remove(self, database: MarkedDatabase) -> bool:
        """Remove a database of ours unless it is needed; return whether that was done."""
        left = removal.remove(self._maintenance, self._request, database)
        if left is None:
            return False
        if _is_of_pool(database):
            self._request.log(
                f"Removed what is beyond KEEP_POOLS or KEEP_DAYS: database {database.name}."
            )
        else:
            self._tell([database.name], *left)
        return True

    def _tell(self, removed: list[str], *schemas: str) -> None:
        if removed:
            left = ", ".join([*(f"database {name}" for name in removed), *schemas])
            self._request.log(f"Removed what an earlier run left: {left}.")


def _pools(found: list[MarkedDatabase]) -> dict[str, Marker]:
    """Map the databases among these that are kept with a pool to their markers."""
    return {
        one.name: one.marker
        for one in found
        if one.marker.fingerprint and one.marker.state is MarkerState.KEPT
    }


def _is_of_pool(database: MarkedDatabase) -> bool:
    """Whether it is kept with a pool, or is a clone of one that is."""
    marker = database.marker
    return marker.state is MarkerState.KEPT and bool(marker.fingerprint or marker.template)


def _refuse_without_right(maintenance: Connection) -> None:
    row = maintenance.execute(
        "SELECT rolname, rolcreatedb OR rolsuper FROM pg_catalog.pg_roles"
        " WHERE rolname = current_user"
    ).fetchone()
    assert row is not None
    role, may_create = row
    if not may_create:
        grant = sql.SQL("ALTER ROLE {} CREATEDB").format(sql.Identifier(role)).as_string()
        raise SchemaRunnerError(
            f"permission denied to create database: the role {role!r} may not. Make the "
            f"schemas in the project's own database instead, with --host-database current, or "
            f"have an administrator say: {grant};",
            exit_code=2,
        )
