"""A command that tests a generated project: how long it takes, and its parts.

The project writes a file for each event of a process:

- `begun`: `setup_databases` is called, after discovery; with pytest-django, by its first worker.
- `built`: Django begins to clone: migrations are over and, with our runner, the template is kept.
- `checking` and `checked`: Django's checks begin, and are over.
- `started` and `ready`, in each worker: its set-up begins, and is over: at the end of stock's
  `init_worker`, where it is not yet connected; with ours when WORKER_SETUP is called, connected;
  with pytest-django in a session fixture after `django_db_setup`.

Set-up is from the first `begun` to the last `ready`; making the copies is from `built` on. Both
are without Django's checks in between, which pytest-django does not run; both are with the start
of worker processes, which comes before pytest-django's set-up.
"""

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import NamedTuple

from ..project import Project
from .command import run, settle
from .generated import CLASSES

_MANAGE = ["manage.py", "test", "suite", "--noinput", "--testrunner"]
# Only these plugins: what else is installed would take part too.
_PLUGINS = ["-p", "xdist.plugin", "-p", "pytest_django.plugin"]
_COMMANDS = {
    "ours": [*_MANAGE, "runners.OurRunner", "--parallel"],
    "stock": [*_MANAGE, "runners.StockRunner", "--parallel"],
    "pytest": ["-m", "pytest", *_PLUGINS, "suite/tests.py", "-n"],
}
_MARKS = """
    import os
    import time
    from pathlib import Path

    FOLDER = Path(os.environ["BENCH_MARKS"])

    def mark(event):
        \"\"\"Note when an event comes first in this process.\"\"\"
        file = FOLDER / f"{event}-{os.getpid()}"
        if not file.exists():
            file.write_text(repr(time.time()))

    def mark_ready(worker):
        mark("ready")

    def are_workers_ready():
        return len(list(FOLDER.glob("ready-*"))) >= int(os.environ["BENCH_WORKERS"])
"""
_RUNNERS = """
    from unittest import mock

    from django.db.backends.base.creation import BaseDatabaseCreation
    from django.test.runner import DiscoverRunner, ParallelTestSuite

    from marks import mark
    from schema_runner import SchemaDiscoverRunner, SchemaParallelTestSuite

    class Timed:
        def setup_databases(self, **kwargs):
            clone = BaseDatabaseCreation.clone_test_db
            def marked(*args, **kwargs):
                mark("built")
                return clone(*args, **kwargs)

            mark("begun")
            with mock.patch.object(BaseDatabaseCreation, "clone_test_db", marked):
                return super().setup_databases(**kwargs)
        def run_checks(self, databases):
            mark("checking")
            super().run_checks(databases)
            mark("checked")

    class OurSuite(SchemaParallelTestSuite):
        def init_worker(*args):
            mark("started")
            SchemaParallelTestSuite.init_worker(*args)

    class OurRunner(Timed, SchemaDiscoverRunner):
        parallel_test_suite = OurSuite

    class StockSuite(ParallelTestSuite):
        def init_worker(*args):
            mark("started")
            ParallelTestSuite.init_worker(*args)
            mark("ready")

    class StockRunner(Timed, DiscoverRunner):
        parallel_test_suite = StockSuite
"""
_CONFTEST = """
    import pytest

    from marks import mark

    @pytest.fixture(scope="session")
    def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix):
        mark("begun")

    @pytest.fixture(scope="session", autouse=True)
    def marked(django_db_setup):
        mark("ready")
"""
# A name for each runner: none meets what another has left.
_SETTINGS = """
    import os

    DATABASES["default"]["NAME"] += "_" + os.environ.get("BENCH_RUNNER", "")
    SCHEMA_RUNNER = {"WORKER_SETUP": ["marks.mark_ready"]}
"""


class Way(NamedTuple):
    """How a project is tested: by "ours", "stock" or "pytest", with options of its own."""

    runner: str
    workers: int
    options: tuple[str, ...] = ()


class Taken(NamedTuple):
    """Seconds. pytest-django makes no copies, and starts no workers for them."""

    whole: float
    set_up: float
    copies: float = nan
    # From the start of the set-up of each worker to its end.
    readiness: Sequence[float] = ()


def take(project: Project, way: Way, *, is_kept: bool = False) -> Taken:
    """Run the tests, on kept databases or none; return what it takes, or fail unless all pass."""
    settle(project, is_kept=is_kept)
    with tempfile.TemporaryDirectory(prefix="marks-") as marks:
        env = {
            "BENCH_MARKS": marks,
            "BENCH_RUNNER": way.runner,
            "BENCH_WORKERS": str(way.workers),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        command = (*_COMMANDS[way.runner], str(way.workers), *way.options)
        ran = run(folder=project.folder, env=env, command=command)
        # The times by event and process.
        marked: dict[str, dict[str, float]] = defaultdict(dict)
        for file in Path(marks).iterdir():
            event, _, process = file.name.partition("-")
            marked[event][process] = float(file.read_text())
    ran.passed(CLASSES)
    assert len(marked["ready"]) == way.workers, ran.output
    ready = max(marked["ready"].values())
    set_up = ready - min(marked["begun"].values())
    if way.runner == "pytest":
        return Taken(ran.seconds, set_up)
    # Each of these comes once, in the main process.
    (built,), (checking,), (checked,) = (
        marked[event].values() for event in ("built", "checking", "checked")
    )
    checks = checked - checking
    readiness = [marked["ready"][process] - at for process, at in marked["started"].items()]
    return Taken(ran.seconds, set_up - checks, ready - built - checks, readiness)


def write_timing(project: Project) -> None:
    project.write("marks.py", _MARKS)
    project.write("runners.py", _RUNNERS)
    project.write("conftest.py", _CONFTEST)
    project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\n")
    project.configure(_SETTINGS)
