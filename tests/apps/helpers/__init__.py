"""What tests of generated projects use: they write down what happens, meet, count and wait.

`Project.tests` imports all of it; files are made in the project's folder, for `Project.records`.
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

# Where the settings are, wherever a run was started.
FOLDER = Path(str(import_module("settings").__file__)).parent
# Seconds after which a test fails that waits in vain.
PATIENCE = 60


def record(what: str, **values: Any) -> None:
    """Append a line about this process to the file that RECORDED names, or `recorded`."""
    worker = schema_runner.current_worker()
    line = {
        "what": what,
        "process": os.getpid(),
        "worker": worker and worker.number,
        "schema": worker and worker.schema,
        **values,
    }
    with (FOLDER / os.environ.get("RECORDED", "recorded")).open("a") as lines:
        # One write: processes append at the same time.
        lines.write(json.dumps(line) + "\n")


class Recording:
    """Records set-ups, and each test as it begins and ends; where MEET is set, it waits first."""

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
    """Wait until this many processes have called it with this name: by default MEET, or none."""
    number = int(os.environ.get("MEET", "0")) if number is None else number
    (FOLDER / f"met-{name}-{os.getpid()}").touch()
    wait_until(lambda: len(list(FOLDER.glob(f"met-{name}-*"))) >= number)


def times(name: str) -> int:
    """Return how often this has been called with a name, in all processes."""
    with (FOLDER / name).open("a") as counted:
        counted.write(".")
    return (FOLDER / name).stat().st_size


def wait_for(name: str) -> None:
    """Wait until there is a file of this name."""
    wait_until((FOLDER / name).exists)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def query(statement: str, *parameters: Any, using: str = "default") -> list[tuple[Any, ...]]:
    """Return the rows of a statement, or none where it has none."""
    with connections[using].cursor() as cursor:
        cursor.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []
