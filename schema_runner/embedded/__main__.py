"""Run a command that connects to the embedded server, such as `psql library`.

Without a command, show how to connect to the server, and keep the server running until Ctrl-C.
"""

import argparse
import os
import signal
import sys
from contextlib import suppress

from ..errors import SchemaRunnerError
from .postmaster import EmbeddedServer
from .shared_server import hand_over_server, start


def main() -> None:
    parser = argparse.ArgumentParser("python -m schema_runner.embedded", description=__doc__)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the command and its arguments")
    command = parser.parse_args().command
    try:
        server = start()
    except SchemaRunnerError as error:
        sys.exit(str(error))
    if command:
        _replace_process(command, server)
    sys.stdout.write(
        f"PostgreSQL {server.version} is running. Press Ctrl-C to stop using it.\n"
        f"URL       postgresql://{server.user}@:{server.port}/postgres?host={server.socket_dir}\n"
        f"Programs  {server.bin_dir}\n"
        f"Data      {server.data_dir}\n"
        f"Log       {server.data_dir / 'server.log'}\n"
    )
    sys.stdout.flush()
    with suppress(KeyboardInterrupt):
        signal.pause()


def _replace_process(command: list[str], server: EmbeddedServer) -> None:
    """Replace this process with the command, which then uses the server."""
    folders = os.pathsep.join([str(server.bin_dir), os.environ.get("PATH", os.defpath)])
    host, port = str(server.socket_dir), str(server.port)
    os.environ.update(PATH=folders, PGHOST=host, PGPORT=port, PGUSER=server.user)
    hand_over_server(server)
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        sys.exit(f"Cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
