"""Passing a connection's secrets to programs that use libpq, such as pg_dump.

All users of a machine can list the arguments of programs, and tests can read the environments of
processes. So secrets are passed in files without a name, in memory if the system supports that.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from psycopg import pq

from . import pgoptions

_SERVICE = "schema_runner"


@contextmanager
def hide_secrets(
    params: Mapping[str, Any], environment: dict[str, str]
) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """Yield libpq's parameters without secrets, and descriptors of files with the secrets.

    The program must inherit the descriptors. Its `environment` is changed to name the files.
    """
    # The parameters that libpq marks as not for display: passwords and debug options.
    secret = {item.keyword.decode() for item in pq.Conninfo.get_defaults() if item.dispchar}
    shown = {key: value for key, value in params.items() if key not in secret}
    rest = {key: str(params[key]) for key in params.keys() & secret if params[key]}
    files: list[int] = []
    with ExitStack() as opened:
        # Without memfd_create, libpq may not accept the file as a passfile.
        if "password" in rest and hasattr(os, "memfd_create"):
            password = rest.pop("password").replace("\\", r"\\").replace(":", r"\:")
            file = opened.enter_context(_secret_file(f"*:*:*:*:{password}\n"))
            files.append(file)
            environment.pop("PGPASSWORD", None)
            shown.pop("passfile", None)
            environment["PGPASSFILE"] = _path(file)
        elif "password" in rest:
            environment["PGPASSWORD"] = rest.pop("password")
        if rest:
            service = shown.pop("service", None) or os.environ.get("PGSERVICE")
            entries = {**(_service_parameters(service) if service else {}), **rest}
            if params.get("password"):
                entries = {k: v for k, v in entries.items() if k not in {"password", "passfile"}}
            lines = [f"[{_SERVICE}]", *(f"{key}={value}" for key, value in entries.items())]
            file = opened.enter_context(_secret_file("\n".join(lines) + "\n"))
            files.append(file)
            environment["PGSERVICEFILE"] = _path(file)
            shown["service"] = _SERVICE
        yield shown, files


def _service_parameters(name: str) -> dict[str, str]:
    """Return the parameters of one of the user's services."""
    with pgoptions.without_exported():
        # A service cannot contain the parameter `service`.
        found = libpq_defaults(name).items() - libpq_defaults(None).items() - {("service", name)}
    return dict(found)


def libpq_defaults(service: str | None) -> dict[str, str]:
    """Return the parameters that libpq takes from the environment and this service."""
    before = os.environ.pop("PGSERVICE", None)
    try:
        if service is not None:
            os.environ["PGSERVICE"] = service
        found = pq.Conninfo.get_defaults()
    finally:
        os.environ.pop("PGSERVICE", None)
        if before is not None:
            os.environ["PGSERVICE"] = before
    return {item.keyword.decode(): item.val.decode() for item in found if item.val is not None}


@contextmanager
def _secret_file(content: str) -> Iterator[int]:
    """Yield the descriptor of a nameless file that only its owner may read."""
    with (
        open(os.memfd_create(_SERVICE), "w+b", buffering=0)
        if hasattr(os, "memfd_create")
        else tempfile.TemporaryFile(buffering=0)
    ) as file:
        # libpq requires this: https://www.postgresql.org/docs/current/libpq-pgpass.html
        os.fchmod(file.fileno(), 0o600)
        file.write(content.encode())
        file.seek(0)
        yield file.fileno()


def _path(descriptor: int) -> str:
    return f"/dev/fd/{descriptor}"
