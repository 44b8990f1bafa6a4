"""Helpers for tests of generated projects: record what happens, meet other processes, wait.

`Project.tests` imports all of them. Files are in the project's folder, for `Project.records`.
"""

import json
import os
import signal
import sys
import threading
import time
import unittest
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from django.db import connection, connections, transaction
from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings, tag

import schema_runner

__all__ = [
    "Path", "Recording", "SimpleTestCase", "TestCase", "TransactionTestCase", "connection",
    "connections", "json", "meet", "os", "override_settings", "query", "record", "schema_runner",
    "signal", "sys", "tag", "threading", "time", "times", "transaction", "unittest", "wait_for",
    "wait_until",
]  # fmt: skip

# The folder of the settings, regardless of the current directory.
FOLDER = Path(str(import_module("settings").__file__)).parent
# Seconds until a waiting test fails.
TIMEOUT = 60


def record(what: str, **values: Any) -> None:
    """Append a line about this process to the file named by RECORDED, or to `recorded`."""
    worker = schema_runner.current_worker()
    line = {
        "what": what,
        "process": os.getpid(),
        "worker": worker and worker.number,
        "schema": worker and worker.schema,
        **values,
    }
    with (FOLDER / os.environ.get("RECORDED", "recorded")).open("a") as lines:
        # A single write, because processes append concurrently.
        lines.write(json.dumps(line) + "\n")


class Recording:
    """Records set-ups, and the start and end of each test. If MEET is set, tests call `meet`."""

    @classmethod
    def setUpClass(cls) -> None:
        record("sets up", case=cls.__name__, test="")
        super().setUpClass()  # type: ignore[misc]

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        about = {"case": type(self).__name__, "test": self._testMethodName}  # type: ignore[attr-defined]
        record("begins", **about)
        self.addCleanup(record, "ends", **about)  # type: ignore[attr-defined]
        meet()


def meet(name: str = "any", number: int | None = None) -> None:
    """Wait until `number` processes, by default MEET or 0, have called this with the same name."""
    number = int(os.environ.get("MEET", "0")) if number is None else number
    (FOLDER / f"met-{name}-{os.getpid()}").touch()
    wait_until(lambda: len(list(FOLDER.glob(f"met-{name}-*"))) >= number)


def times(name: str) -> int:
    """Return how often this has been called with this name, by all processes."""
    with (FOLDER / name).open("a") as counted:
        counted.write(".")
    return (FOLDER / name).stat().st_size


def wait_for(name: str) -> None:
    """Wait until a file of this name exists."""
    wait_until((FOLDER / name).exists)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def query(statement: str, *parameters: Any, using: str = "default") -> list[tuple[Any, ...]]:
    """Execute a statement, and return its rows, if any."""
    with connections[using].cursor() as cursor:
        cursor.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []
