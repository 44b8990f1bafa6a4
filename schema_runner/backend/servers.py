"""How to reach the server of a database alias past Django."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from ..postgres import names
from ..postgres.server import Server
from .assignment import Assignment

if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper

# What Django adds to the connection parameters for its own cursors, not for libpq.
_DJANGO_PARAMETERS = {"cursor_factory", "context", "prepare_threshold"}


def server_of(connection: "DatabaseWrapper", left_out: Collection[str] = ()) -> Server:
    """Return the server of a connection, without some of the connection parameters.

    Connections have the application_name that the run has assigned to this one.
    """
    parameters = connection.get_connection_params()
    assignment = Assignment.of(connection.settings_dict)
    run = assignment.run if assignment else None
    return Server(
        {
            key: value
            for key, value in parameters.items()
            if key not in _DJANGO_PARAMETERS and key not in left_out
        },
        connection.settings_dict["OPTIONS"].get("assume_role"),
        names.application(run, assignment.worker) if assignment and run is not None else None,
    )
