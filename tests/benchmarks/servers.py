"""The two servers on which things are compared."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schema_runner import embedded
from schema_runner.postgres.server import Server

# As initdb leaves it, and one that does not wait for the disk.
_SETTINGS = {"default": {}, "test": embedded.DEFAULT_SETTINGS}
KINDS = tuple(_SETTINGS)


@contextmanager
def serving(kind: str, folder: Path) -> Iterator[Server]:
    """Have a server run for a while, whose settings are of one of `KINDS`."""
    server = embedded.start(settings=_SETTINGS[kind], cache_dir=folder / "server")
    params = {"host": str(server.socket_dir), "port": server.port, "user": server.user}
    try:
        yield Server({**params, "dbname": "postgres"})
    finally:
        embedded.stop(server)
