"""The project's own database as a host: schemas beside what users work with."""

from contextlib import ExitStack, closing

from psycopg import errors, sql

from .. import names
from ..errors import SchemaRunnerError
from . import backends, locks, pool, relocation, schemas, waiting
from .hosts import Host, Log, Request, refuse_old_server
from .marker import Marker, State
from .server import Connection

_EXTENSIONS = sql.Identifier(names.EXTENSIONS_SCHEMA)
# Of what is on the project's own path: where extensions are, whose types and functions the
# tests need. Elsewhere there is nothing but the project's tables, which they must not find.
_PATH = """
    SELECT schema
    FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS path (schema, nth)
    WHERE EXISTS (SELECT FROM pg_catalog.pg_extension
                  JOIN pg_catalog.pg_namespace n ON n.oid = extnamespace WHERE nspname = schema)
      AND schema <> %s
    ORDER BY nth
"""


class ProjectDatabase(Host):
    """A database that was there before the run and stays: nothing but schemas is made in it.

    A build creates its objects in the worker schema itself, ahead on the path. Extensions, of
    which a database has one each, go to a schema that the runs share and that the last of them
    removes.
    """

    extensions = names.EXTENSIONS_SCHEMA

    @classmethod
    def obtain(cls, request: Request, turn: ExitStack) -> "ProjectDatabase":
        """Take a lease in the database and remove what dead runs have left there.

        Enter into `turn` what has to be left once there is something for others to use. Raises
        SchemaRunnerError where the role may not create schemas in it.
        """
        with ExitStack() as taken:
            connection = taken.enter_context(closing(request.server.connect(request.name)))
            refuse_old_server(connection, request)
            backends.refuse_shared(connection, request.server)
            _refuse_without_right(connection)
            request = request.on(connection)
            host = cls(request, request.name, locks.Lease(connection, locks.new_run()))
            rows = connection.execute(_PATH, [names.EXTENSIONS_SCHEMA])
            host.path = (names.EXTENSIONS_SCHEMA, *(schema for (schema,) in rows))
            host._use_kept(turn)
            _share_extensions(connection)
            taken.pop_all()
        return host

    def _use_kept(self, turn: ExitStack) -> None:
        """Use what is kept, if it is wanted, and drop what is of no use to anybody."""
        connection = self.connection
        wanted, kept, spared = self._request.wanted, None, []
        if wanted is not None:
            kept = pool.find(connection, wanted, self.path)
            if not kept:
                opening = self.connect()
                turn.enter_context(pool.turn(opening, wanted, self.log))
                kept = pool.find(connection, wanted, self.path)
            others = {
                one.name: one.marker
                for one in pool.templates(connection)
                if not kept or one.name != kept.name
            }
            spared = wanted.that_stay(others)
        if kept:
            self.adopt(kept)
            if kept.name not in {one.name for one in pool.templates(connection)}:
                # Just before this run could hold it, one without --keepdb has taken it away.
                self.template, self.leased, self._structure = None, None, ""
                self.reference = None
        self.reap(spared)

    def begin(self, worker: int) -> str | None:
        schema = schemas.create(self.connection, worker, self.lease.run)
        relocation.copy_grants(self.connection, "public", schema)
        self._building = schema
        return schema

    def finish(self, worker: int) -> str:
        marker = Marker(self.lease.run, State.READY)
        schemas.mark(self.connection, self._building, marker)
        return self._building

    def release(self, *, keep: bool) -> None:
        self.stop_dump()
        if self.lease.lost:
            self.log(f"The connection to {self.name!r} was lost; the next run cleans up there.")
            return
        with closing(self.lease):
            connection, run = self.connection, self.lease.run
            backends.end(connection, self.name, run)
            wanted = self._request.wanted
            if wanted and self.template:
                with pool.noting_use(connection, self.template, run, wanted.now):
                    pass
            if wanted or not keep:
                schemas.drop_rest(connection, run, batch=self._batch)
            is_needed = keep or pool.templates(connection)
            if not is_needed and self.lease.leave_host():
                _drop_extensions(connection, self.log)


def _refuse_without_right(connection: Connection) -> None:
    row = connection.execute(
        "SELECT current_user, current_database(),"
        " pg_catalog.has_database_privilege(current_database(), 'CREATE')"
    ).fetchone()
    assert row is not None
    role, database, may_create = row
    if not may_create:
        grant = sql.SQL("GRANT CREATE ON DATABASE {} TO {};").format(
            sql.Identifier(database), sql.Identifier(role)
        )
        raise SchemaRunnerError(
            f"The role {role!r} may not create schemas in the database {database!r}. Have its "
            f"owner say: {grant.as_string()}"
        )


def _share_extensions(connection: Connection) -> None:
    """Make the schema for extensions unless a run has made it before."""
    with connection.transaction():
        locks.hold_until_commit(connection, locks.EXTENSIONS)
        row = connection.execute(
            "SELECT pg_catalog.obj_description(oid, 'pg_namespace')"
            " FROM pg_catalog.pg_namespace WHERE nspname = %s",
            [names.EXTENSIONS_SCHEMA],
        ).fetchone()
        if row is None:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(_EXTENSIONS))
            schemas.mark(connection, names.EXTENSIONS_SCHEMA, Marker(0, State.READY))
            connection.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO PUBLIC").format(_EXTENSIONS))
        elif Marker.parse(row[0]) is None:
            raise SchemaRunnerError(
                f"The database {connection.info.dbname!r} has a schema "
                f"{names.EXTENSIONS_SCHEMA} that is not ours, where runs put extensions. "
                f"Rename it."
            )


def _drop_extensions(connection: Connection, log: Log) -> None:
    """Drop the shared extensions and their schema, but nothing that others use by now."""
    with connection.transaction():
        locks.hold_until_commit(connection, locks.EXTENSIONS)
        waiting.limit(connection)
        rows = connection.execute(
            "SELECT extname FROM pg_catalog.pg_extension WHERE extnamespace ="
            " (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s) ORDER BY oid DESC",
            [names.EXTENSIONS_SCHEMA],
        ).fetchall()
        # Those that need others have come after them, and go before them.
        drops = {f"extension {name}": _drop("EXTENSION", name) for (name,) in rows}
        drops[f"schema {names.EXTENSIONS_SCHEMA}"] = _drop("SCHEMA", names.EXTENSIONS_SCHEMA)
        for what, drop in drops.items():
            try:
                with connection.transaction():
                    connection.execute(drop)
            except (
                errors.DependentObjectsStillExist,
                errors.InsufficientPrivilege,
                errors.LockNotAvailable,
            ) as error:
                why = error.diag.message_detail or error.diag.message_primary
                log(f"In {connection.info.dbname!r}, {what} stays: {why}")


def _drop(kind: str, name: str) -> sql.Composed:
    return sql.SQL("DROP {} IF EXISTS {}").format(sql.SQL(kind), sql.Identifier(name))
