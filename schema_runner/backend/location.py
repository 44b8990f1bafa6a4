"""Where the databases of aliases are."""

import socket
from collections.abc import Iterable
from typing import Any

from django.db import connections


def place(settings_dict: dict[str, Any]) -> tuple[str, ...]:
    """Return where the database of a connection is, in a form that can be compared."""
    return tuple(str(settings_dict[key]) for key in ("HOST", "PORT", "NAME"))


def are_here(aliases: Iterable[str]) -> bool:
    """Whether the server of any alias works on this machine, as far as its HOST tells."""
    return any(_is_here(str(connections[alias].settings_dict.get("HOST"))) for alias in aliases)


def _is_here(host: str) -> bool:
    # A path is that of a Unix socket, which is also what libpq takes where there is no host.
    is_path = not host or host.startswith(("/", "@"))
    is_loopback = host in {"localhost", "::1"} or host.startswith("127.")
    return is_path or is_loopback or host == socket.gethostname()
