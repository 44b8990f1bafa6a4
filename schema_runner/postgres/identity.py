"""Whether two ways lead to the same server."""

from typing import NamedTuple, Self

import psycopg

from .server import Connection, Server

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
