"""An entry of Django's DATABASES that starts its server when something connects."""

import os
from collections import UserDict
from collections.abc import Mapping
from copy import copy
from typing import Any

import psycopg

from ..errors import SchemaRunnerError
from .cluster import SUPERUSER
from .shared_server import start

_ADDRESS = ("HOST", "PORT")


def database(name: str, **options: Any) -> "Entry":
    """Return an entry for Django's DATABASES; `options` are those of `start`.

    The server is started, and the database made if it is missing, when HOST or PORT is read for
    the first time, as Django does to connect: `manage.py check` starts none.
    """
    return Entry(name, options)


class Entry(UserDict[str, Any]):
    """Behaves as a dict; what reads only some of its keys, or sets defaults, starts no server."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        super().__init__(dict.fromkeys(_ADDRESS))
        self.update(ENGINE="django.db.backends.postgresql", NAME=name, USER=SUPERUSER, PASSWORD="")
        self._database, self._options = name, options

    def __getitem__(self, key: str) -> Any:
        if key in _ADDRESS and self.data[key] is None:
            self._reach()
        return self.data[key]

    def __eq__(self, other: object) -> bool:
        return self.data == other

    __hash__ = None  # type: ignore[assignment]

    def __or__(self, other: Mapping[str, Any]) -> "Entry":  # type: ignore[override]
        result = copy(self)
        result.update(other)
        return result

    def __ror__(self, other: Mapping[str, Any]) -> "Entry":  # type: ignore[override]
        result = copy(self)
        result.data = {**other, **self.data}
        return result

    copy = UserDict.__copy__  # UserDict's own reads all keys

    def setdefault(self, key: str, default: Any = None) -> Any:
        return self.data.setdefault(key, default)

    def _reach(self) -> None:
        try:
            server = start(**self._options)
            address = server.database(self._database)
        except (SchemaRunnerError, psycopg.Error) as error:
            raise _unreachable(str(error)) from error
        for key in _ADDRESS:
            self.data[key] = address[key]
        _put_on_path(str(server.bin_dir))


def _unreachable(message: str) -> Exception:
    """Return what a command shows as one line, and what else counts as a server that is away."""
    from django.core.management.base import CommandError
    from django.db import OperationalError

    class EmbeddedServerError(CommandError, OperationalError):
        pass

    return EmbeddedServerError(message)


def _put_on_path(folder: str) -> None:
    """Let programs be found, such as the psql of `manage.py dbshell`; others' come first."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if folder not in folders:
        os.environ["PATH"] = os.pathsep.join([*folders, folder])
