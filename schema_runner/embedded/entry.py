"""An entry for Django's DATABASES that starts the server when Django connects."""

import os
from collections import UserDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import psycopg

from ..errors import SchemaRunnerError
from .postmaster import django_entry
from .shared_server import start


class _NotStarted(NamedTuple):
    """The value of HOST and PORT until the server starts; `options` are those of `start`."""

    database: str
    options: Mapping[str, Any]


def database(name: str, **options: Any) -> "DatabaseEntry":
    """Return an entry for Django's DATABASES; `options` are those of `start`.

    The first read of HOST or PORT, as when Django connects, starts the server and creates the
    database if it is missing. `manage.py check` reads neither.
    If that fails, the read raises a CommandError that is also an OperationalError.
    """
    value = _NotStarted(name, options)
    return DatabaseEntry(django_entry(name, value, value))


class DatabaseEntry(UserDict[str, Any]):
    """A dict that starts the server when HOST or PORT is read, but not when it is copied."""

    copy = UserDict.__copy__  # UserDict.copy() reads all keys

    def __getitem__(self, key: str) -> Any:
        if isinstance(value := self.data[key], _NotStarted):
            self._start_server(value)
        return self.data[key]

    def __eq__(self, other: object) -> bool:
        return self.data == other

    __hash__ = None  # type: ignore[assignment]

    def setdefault(self, key: str, default: Any = None) -> Any:
        return self.data.setdefault(key, default)

    def _start_server(self, value: _NotStarted) -> None:
        try:
            server = start(**value.options)
            address = server.database(value.database)
        except (SchemaRunnerError, psycopg.Error) as error:
            raise _server_error(str(error)) from error
        self.data.update(HOST=address["HOST"], PORT=address["PORT"])
        _append_to_path(str(server.bin_dir))


def _server_error(message: str) -> Exception:
    """Return an error that commands print as one line; to Django, the server is unreachable."""
    from django.core.management.base import CommandError
    from django.db import OperationalError

    class EmbeddedServerError(CommandError, OperationalError):
        pass

    return EmbeddedServerError(message)


def _append_to_path(folder: str) -> None:
    """Append the folder to PATH, for programs such as the psql of `manage.py dbshell`."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if folder not in folders:
        os.environ["PATH"] = os.pathsep.join([*folders, folder])
