"""What is said where the package cannot run."""

import subprocess
import sys

import pytest

# As on Windows, for what is imported from here on.
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
# As where neither a package of psycopg's brings libpq along nor the system has it.
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
# What a run does first, in a project without psycopg2.
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


@pytest.mark.parametrize(("code", "said"), CASES)
def test_one_line_says_what_to_do(code: str, said: str) -> None:
    """As the last one of a traceback, or of the command."""
    *_, last = run(code)
    assert last.partition("Error: ")[2].startswith(said)


def test_on_windows_tests_can_be_run_by_django() -> None:
    """They may have decorators of this package, and the app may be installed."""
    assert run(f"{WINDOWS}\n{EVERYTHING_ELSE}") == []
