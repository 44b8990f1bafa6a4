"""The errors if the package cannot run: on Windows, or without libpq."""

import subprocess
import sys

import pytest

# Simulates Windows for all later imports.
WINDOWS = """
import os, signal, sys
import asyncio, multiprocessing.connection, psycopg, subprocess
import django.core.management, django.test.runner

ABSENT = {"fcntl", "grp", "pwd", "resource", "termios"}
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Finder())
for name in ABSENT: sys.modules.pop(name, None)
del os.fork, os.register_at_fork, signal.SIGALRM, signal.SIGHUP, signal.pthread_sigmask
sys.platform = "win32"
"""
# Simulates psycopg without its binary package, on a system without libpq.
WITHOUT_LIBPQ = """
import ctypes.util, sys
sys.modules |= {"psycopg_binary": None, "psycopg_c": None}
ctypes.util.find_library = lambda name: None
"""
EVERYTHING_ELSE = """
import schema_runner
from django.conf import settings
of_runs = {"SchemaDiscoverRunner", "SchemaParallelTestSuite", "SchemaRunnerMixin"}
for name in schema_runner.__all__:
    name in of_runs or getattr(schema_runner, name)
settings.configure(INSTALLED_APPS=["schema_runner"])
django.setup()
django.core.management.call_command("check")
assert schema_runner.current_worker() is None
"""
NO_WINDOWS = "django-schema-runner does not run on Windows. Use WSL, or set TEST_RUNNER"
NO_LIBPQ = (
    "psycopg 3 cannot find libpq, PostgreSQL's client library. Run pip install 'psycopg[binary]'"
)
# The first step of a run, in a project without psycopg2.
SET_UP = """
import django
from django.conf import settings
from schema_runner import SchemaDiscoverRunner
engine = "django.db.backends.postgresql"
settings.configure(DATABASES={"default": {"ENGINE": engine, "NAME": "any"}})
django.setup()
SchemaDiscoverRunner().setup_databases(aliases={"default"})
"""
CASES = [
    *(
        (f"{WINDOWS}\nfrom schema_runner import {name}", NO_WINDOWS)
        for name in ("SchemaDiscoverRunner", "SchemaRunnerMixin", "embedded")
    ),
    (f"{WITHOUT_LIBPQ}\nfrom schema_runner import embedded", NO_LIBPQ),
    (f"{WITHOUT_LIBPQ}\n{SET_UP}", NO_LIBPQ),
]


def run(code: str) -> list[str]:
    """Return the lines of stderr."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(
        command, check=False, text=True, stderr=subprocess.PIPE
    ).stderr.splitlines()


@pytest.mark.parametrize(("code", "message"), CASES)
def test_the_error_is_one_line(code: str, message: str) -> None:
    """The last line of the traceback, or the only one of the command."""
    *_, last = run(code)
    assert last.partition("Error: ")[2].startswith(message)


def test_on_windows_tests_can_be_run_by_django() -> None:
    """Django's runner runs tests that have decorators of this package, with the app installed."""
    assert run(f"{WINDOWS}\n{EVERYTHING_ELSE}") == []
