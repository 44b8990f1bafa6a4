"""Connections to a server, opened outside Django and past its pools."""

import os
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import Any, NamedTuple, Self, TypeAlias

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from .. import forks
from ..errors import SchemaRunnerError
from . import names, pgoptions

Connection: TypeAlias = psycopg.Connection[TupleRow]

# A role or a database can have time limits as its default; waiting for a lock, or holding
# one while the tests run, must not meet them. The search_path comes before all else: theirs
# could put operators of others ahead.
_SESSION = """
    SET search_path = pg_catalog, pg_temp;
    SET statement_timeout = 0; SET lock_timeout = 0; SET idle_session_timeout = 0;
    SET idle_in_transaction_session_timeout = 0
"""
# Has the server end a session whose client has gone in the middle of a statement, which may go on
# for long, and be committed. Refused where the server's system cannot tell.
NOTICE_DEATH = "SET client_connection_check_interval = '1s'"
# Sets a session of others back in which `connect` has set all this.
UNDO_SESSION = """
    RESET ROLE; RESET search_path; RESET statement_timeout; RESET lock_timeout;
    RESET idle_session_timeout; RESET idle_in_transaction_session_timeout;
    RESET client_connection_check_interval
"""
# How long to wait, in seconds, for a connection that was closed to be counted no more.
SECONDS_FOR_CLOSING = 2.0
SOON = 0.05
# How the server says that one of its limits is reached; libpq gives no code for it.
_TOO_MANY = ("too many connections", "connection slots")
# Notice a dead network within about a minute, so that neither side keeps a lease for nobody.
_KEEPALIVES = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10}
_APPLICATION = "django-schema-runner"
_DEFAULTS = {**_KEEPALIVES, "fallback_application_name": _APPLICATION}


class Server(NamedTuple):
    """How to reach one server.

    `params` are libpq's connection parameters, `dbname` among them: the database to fall
    back on for maintenance. `role`, if any, is taken on with SET ROLE. `application` is the
    application_name of connections, in place of the project's.
    """

    params: Mapping[str, Any]
    role: str | None = None
    application: str | None = None

    def __repr__(self) -> str:
        # There may be a password in `params`.
        return f"Server(role={self.role!r})"

    def connect(self, dbname: str, application: str | None = None) -> Connection:
        """Open a connection in autocommit mode, without time limits, on a safe search_path.

        `application` is its application_name, in place of the server's. Raises
        SchemaRunnerError where the server cannot be reached or refuses.
        """
        params = {**_DEFAULTS, **self.params, "dbname": dbname}
        application = application or self.application
        if application is not None:
            params["application_name"] = application
        try:
            with ExitStack() as opened:
                connection = _open(params)
                opened.enter_context(closing(connection))
                forks.close_in_child(connection, _leave_to_parent)
                try:
                    connection.execute(f"{_SESSION}; {NOTICE_DEATH}")
                except psycopg.errors.InvalidParameterValue:
                    connection.execute(_SESSION)
                if self.role is not None:
                    connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(self.role)))
                if application is None and _has_name_of_a_run(connection):
                    connection.execute(f"SET application_name = '{_APPLICATION}'")
                opened.pop_all()
        except psycopg.Error as error:
            raise SchemaRunnerError(
                f"Cannot connect to the database {dbname!r}; check DATABASES and that the "
                f"server runs. {error}"
            ) from error
        return connection

    @contextmanager
    def maintenance(self) -> Iterator[Connection]:
        """Open a connection from which databases are created and dropped."""
        with self.connect_for_maintenance() as connection:
            yield connection

    def connect_for_maintenance(self) -> Connection:
        """Do so for as long as the caller wants.

        As Django does, use the database `postgres`, or the project's own where the role may
        not connect to that one.
        """
        try:
            return self.connect("postgres")
        except SchemaRunnerError as error:
            try:
                return self.connect(self.params.get("dbname", ""))
            except SchemaRunnerError as other:
                if str(other.__cause__) == str(error.__cause__):
                    raise
                # That it does not exist, for example, and may not need to.
                raise SchemaRunnerError(f"{error}\n{other}") from error


def _has_name_of_a_run(connection: Connection) -> bool:
    """Whether a connection is called as a run's, which OPTIONS, PGAPPNAME or a service has said.

    A run that is started by a test of another one would be taken for part of that one.
    """
    name = connection.pgconn.parameter_status(b"application_name") or b""
    return names.run_of_any(name.decode(errors="replace")) is not None


def _leave_to_parent(connection: Connection) -> None:
    """Give up the socket of a connection in a forked process, without a word to the server.

    Closing the connection would end the parent's session, and its lease; keeping the socket would
    keep the lease of a dead parent. The descriptor's number stays taken, because libpq would write
    to the next file of that number.
    """
    if not connection.closed:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, connection.fileno(), inheritable=False)
        os.close(null)


def _open(params: Mapping[str, Any]) -> Connection:
    """Connect; wait a little where a limit is reached.

    A backend goes on for a moment when its connection is closed, and counts until it has gone.
    """
    deadline = time.monotonic() + SECONDS_FOR_CLOSING
    while True:
        try:
            with pgoptions.hidden():
                return psycopg.connect(**params, autocommit=True)
        except psycopg.OperationalError as error:
            is_full = any(text in str(error) for text in _TOO_MANY)
            if not is_full or time.monotonic() > deadline:
                raise
        except KeyboardInterrupt as error:
            # What is half open stays open as long as its frames, and keeps the database in use.
            traceback.clear_frames(error.__traceback__)
            raise
        time.sleep(SOON)


# Every role may call them, unless an administrator has taken that away.
_SYSTEM = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()"
_START = "SELECT pg_catalog.pg_postmaster_start_time()::text"


class Identity(NamedTuple):
    """What a server says of itself; None where it does not say that to our role.

    Standbys have their primary's system identifier, and its databases.
    """

    system: str | None
    start: str | None

    @classmethod
    def of(cls, server: Server) -> Self:
        """Raises SchemaRunnerError where the server cannot be reached."""
        with server.maintenance() as maintenance:
            return cls(_answer(maintenance, _SYSTEM), _answer(maintenance, _START))

    def may_be(self, other: "Identity") -> bool:
        """Whether both may be of one server: they are not if they differ in what both say."""
        pairs = [(one, two) for one, two in zip(self, other, strict=True) if one and two]
        return not pairs or any(one == two for one, two in pairs)


def _answer(maintenance: Connection, query: str) -> str | None:
    try:
        row = maintenance.execute(query).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return None
    return str(row[0]) if row else None
