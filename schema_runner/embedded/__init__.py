"""A PostgreSQL server for development and tests, from binaries that pip can install.

    DATABASES = {"default": database("shop")}

Processes share the server: the first one that needs it starts it, and the last one to exit stops
it.

- `binaries` finds PostgreSQL's programs.
- `account` chooses the system user to run them as.
- `cache` holds the data folders, the copied programs and the file locks.
- `cluster` creates a data folder, and `postmaster` starts and stops the server on it.
- `shared_server` counts the processes that use the server.
- `watcher` stops the server if the last of them is killed.
- `entry` is the dict for DATABASES, which starts the server when Django connects.
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
