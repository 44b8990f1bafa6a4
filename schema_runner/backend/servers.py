"""How to reach the server of a database alias past Django."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from ..postgres.server import Server

if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper

# What Django adds to the connection parameters for its own cursors, not for libpq.
_DJANGO_PARAMETERS = {"cursor_factory", "context", "prepare_threshold"}


def server_of(connection: "DatabaseWrapper", left_out: Collection[str] = ()) -> Server:
    """Return the server of a connection, without some of the connection parameters."""
    parameters = connection.get_connection_params()
    return Server(
        {
            key: value
            for key, value in parameters.items()
            if key not in _DJANGO_PARAMETERS and key not in left_out
        },
        connection.settings_dict["OPTIONS"].get("assume_role"),
    )
