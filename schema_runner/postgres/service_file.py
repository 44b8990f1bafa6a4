"""A connection's secrets on their way to a program, which libpq connects.

Every user of the machine can list arguments, and a test what is in the environments of processes,
so secrets are in files that have no name, and where there are such are in memory alone.
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
    """Yield those of libpq's parameters that others may see, and the files that have the rest.

    The program's `environment` is told of the files, which it has to inherit.
    """
    # What libpq itself would not show: passwords, and what is for its developers.
    secret = {one.keyword.decode() for one in pq.Conninfo.get_defaults() if one.dispchar}
    shown = {key: value for key, value in params.items() if key not in secret}
    rest = {key: str(params[key]) for key in params.keys() & secret if params[key]}
    files: list[int] = []
    with ExitStack() as opened:
        # Where files have names of their own, libpq may take none for a passfile.
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
    """Return the parameters that a service of the user's has."""
    before = os.environ.pop("PGSERVICE", None)
    try:
        with pgoptions.without_exported():
            without = _defaults()
            os.environ["PGSERVICE"] = name
            # Its own name is no parameter that a service can have.
            return dict(_defaults().items() - without.items() - {("service", name)})
    finally:
        os.environ.pop("PGSERVICE", None)
        if before is not None:
            os.environ["PGSERVICE"] = before


def _defaults() -> dict[str, str]:
    found = pq.Conninfo.get_defaults()
    return {one.keyword.decode(): one.val.decode() for one in found if one.val is not None}


@contextmanager
def _secret_file(content: str) -> Iterator[int]:
    """Yield the descriptor of a file for the owner's eyes, which is gone afterwards."""
    with (
        open(os.memfd_create(_SERVICE), "w+b", buffering=0)
        if hasattr(os, "memfd_create")
        else tempfile.TemporaryFile(buffering=0)
    ) as file:
        # Others are ignored: https://www.postgresql.org/docs/current/libpq-pgpass.html
        os.fchmod(file.fileno(), 0o600)
        file.write(content.encode())
        file.seek(0)
        yield file.fileno()


def _path(descriptor: int) -> str:
    return f"/dev/fd/{descriptor}"
