"""A PostgreSQL server for development and tests, from binaries that pip can install.

    DATABASES = {"default": database("shop")}

Processes share the server: the first one that needs it starts it, and the last one to exit stops
it.
"""

import sys

from ..errors import NO_LIBPQ, WINDOWS, SchemaRunnerError, lacks_libpq

if sys.platform == "win32":
    raise SchemaRunnerError(WINDOWS)

try:
    from .cluster import DEFAULT_SETTINGS
    from .entry import database
    from .postmaster import EmbeddedServer
    from .shared_server import start, stop
except ImportError as error:
    if not lacks_libpq(error):
        raise
    raise SchemaRunnerError(NO_LIBPQ) from error

__all__ = ["DEFAULT_SETTINGS", "EmbeddedServer", "database", "start", "stop"]
