"""The servers on which things are compared."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schema_runner import embedded
from schema_runner.postgres.server import Server

# As initdb leaves it, and one that does not wait for the disk.
_SETTINGS = {"default": {}, "test": embedded.DEFAULT_SETTINGS}
KINDS = tuple(_SETTINGS)


@contextmanager
def serving(kind: str, folder: Path, bin_dir: Path | None = None) -> Iterator[Server]:
    """Run a server with the settings of one of `KINDS`."""
    cache = folder / "server"
    server = embedded.start(settings=_SETTINGS[kind], cache_dir=cache, bin_dir=bin_dir)
    try:
        yield address(server)
    finally:
        embedded.stop(server)


def address(server: embedded.Server) -> Server:
    params = {"host": str(server.socket_dir), "port": server.port, "user": server.user}
    return Server({**params, "dbname": "postgres"})
