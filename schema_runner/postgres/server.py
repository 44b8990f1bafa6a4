"""Connections to a PostgreSQL server that bypass Django and its connection pools."""

import os
import time
import traceback
from collections.abc import Mapping
from contextlib import ExitStack, closing
from typing import Any, NamedTuple, Self, TypeAlias

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from .. import forks
from ..errors import SchemaRunnerError
from . import names, pgoptions

Connection: TypeAlias = psycopg.Connection[TupleRow]

# Roles and databases can have default timeouts, which must not end a lock wait or a lease. The
# search_path is set first, because a default one may find other roles' operators. Copies and
# snapshots contain values as text, which must be exact, and mean the same on other servers.
# With the keepalives, the server ends the session, and releases its locks, a minute after the
# network or the client's machine has failed; with Linux's defaults, after two hours.
_SESSION = """
    SET search_path = pg_catalog, pg_temp;
    SET statement_timeout = 0; SET lock_timeout = 0; SET idle_session_timeout = 0;
    SET idle_in_transaction_session_timeout = 0;
    SET datestyle = ISO; SET intervalstyle = postgres; SET extra_float_digits = 1;
    SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3
"""
# Ends a statement whose client has disconnected; otherwise it would continue, and might commit.
# Servers on operating systems that cannot detect this reject the setting.
CHECK_CLIENT = "SET client_connection_check_interval = '1s'"
# Undoes what `connect` sets, for sessions that a pooler shares with other clients.
RESET_SESSION = """
    RESET ROLE; RESET search_path; RESET statement_timeout; RESET lock_timeout;
    RESET idle_session_timeout; RESET idle_in_transaction_session_timeout;
    RESET datestyle; RESET intervalstyle; RESET extra_float_digits;
    RESET tcp_keepalives_idle; RESET tcp_keepalives_interval; RESET tcp_keepalives_count;
    RESET client_connection_check_interval
"""
# Seconds to wait until the server no longer counts a closed connection.
CLOSE_TIMEOUT = 2.0
# Seconds between polls of the server.
POLL_SECONDS = 0.05
# Texts of the errors for connection limits, for which libpq reports no SQLSTATE.
_LIMIT_ERRORS = ("too many connections", "connection slots")
# With these, the run detects a lost network, and with it a lost lease.
_KEEPALIVES = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10}
_APPLICATION = "django-schema-runner"
_DEFAULTS = {**_KEEPALIVES, "fallback_application_name": _APPLICATION}


class Server(NamedTuple):
    """Connection parameters of a server.

    `params`: libpq's parameters; `dbname` is the maintenance database if `postgres` is not.
    `role`: the role for SET ROLE, if any.
    `application`: the application_name of connections, instead of the project's.
    """

    params: Mapping[str, Any]
    role: str | None = None
    application: str | None = None

    def __repr__(self) -> str:
        # There may be a password in `params`.
        return f"Server(role={self.role!r})"

    def connect(self, dbname: str, application: str | None = None) -> Connection:
        """Open a connection in autocommit mode, without timeouts, with a safe search_path.

        `application`: its application_name, instead of `self.application`.

        Raises SchemaRunnerError if the server cannot be reached or refuses the connection.
        """
        params = {**_DEFAULTS, **self.params, "dbname": dbname}
        application = application or self.application
        if application is not None:
            params["application_name"] = application
        try:
            connection = _open(params)
            with ExitStack() as on_error:
                on_error.enter_context(closing(connection))
                forks.close_in_child(connection, _detach_socket)
                try:
                    connection.execute(f"{_SESSION}; {CHECK_CLIENT}")
                except psycopg.errors.InvalidParameterValue:
                    connection.execute(_SESSION)
                if self.role is not None:
                    connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(self.role)))
                if application is None and _is_named_after_run(connection):
                    connection.execute(f"SET application_name = '{_APPLICATION}'")
                on_error.pop_all()
        except psycopg.Error as error:
            raise SchemaRunnerError(
                f"Cannot connect to the database {dbname!r}. Check DATABASES, and that the "
                f"server is running. {error}"
            ) from error
        return connection

    def maintenance(self) -> Connection:
        """Open a connection for creating and dropping databases.

        As in Django, this connects to the database `postgres`, or to the project's own if that
        fails.
        """
        try:
            return self.connect("postgres")
        except SchemaRunnerError as error:
            try:
                return self.connect(self.params.get("dbname", ""))
            except SchemaRunnerError as other:
                if str(other.__cause__) == str(error.__cause__):
                    raise
                # The project's own may not exist, for example, and need not.
                raise SchemaRunnerError(f"{error}\n{other}") from error


def _is_named_after_run(connection: Connection) -> bool:
    """Whether OPTIONS, PGAPPNAME or a service set the application_name of a run.

    If a test starts a run, that run would otherwise look like a part of the outer one.
    """
    name = connection.pgconn.parameter_status(b"application_name") or b""
    return names.run_of_any_connection(name.decode(errors="replace")) is not None


def _detach_socket(connection: Connection) -> None:
    """Close a connection's socket in a forked process, without sending anything to the server.

    Closing the connection would end the parent's session and lease. Leaving the socket open would
    keep the lease of a dead parent. The descriptor is replaced by /dev/null, because libpq would
    write to the next file with the same number.
    """
    if not connection.closed:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, connection.fileno(), inheritable=False)
        os.close(null)


def _open(params: Mapping[str, Any]) -> Connection:
    """Connect; if a limit of connections is reached, try again for a short time.

    The server counts a closed connection until its backend has ended.
    """
    deadline = time.monotonic() + CLOSE_TIMEOUT
    while True:
        try:
            with pgoptions.without_exported():
                return psycopg.connect(**params, autocommit=True)
        except psycopg.OperationalError as error:
            is_full = any(text in str(error) for text in _LIMIT_ERRORS)
            if not is_full or time.monotonic() > deadline:
                raise
        except KeyboardInterrupt as error:
            # The frames hold the half-open connection, which keeps the database in use.
            traceback.clear_frames(error.__traceback__)
            raise
        time.sleep(POLL_SECONDS)


# Every role may call these functions, unless an administrator revoked it.
_SYSTEM_IDENTIFIER = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()"
_START_TIME = "SELECT pg_catalog.pg_postmaster_start_time()::text"


class Identity(NamedTuple):
    """The identity of a server; fields are None if the role may not read them.

    `system`: the system identifier, which standbys share with their primary.
    `start`: the time at which the server started.
    """

    system: str | None
    start: str | None

    @classmethod
    def of(cls, server: Server) -> Self:
        """Read the identity of a server. Raises SchemaRunnerError if it cannot be reached."""
        with server.maintenance() as maintenance:
            return cls(
                _query_or_none(maintenance, _SYSTEM_IDENTIFIER),
                _query_or_none(maintenance, _START_TIME),
            )

    def may_be_same_server(self, other: "Identity") -> bool:
        """Whether any field that both have is equal, or they have none in common."""
        pairs = [(a, b) for a, b in zip(self, other, strict=True) if a and b]
        return not pairs or any(a == b for a, b in pairs)


def _query_or_none(maintenance: Connection, query: str) -> str | None:
    try:
        row = maintenance.execute(query).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return None
    return str(row[0]) if row else None
