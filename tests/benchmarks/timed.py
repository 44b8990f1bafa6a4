"""Run the tests of a generated project, and measure the whole command and its parts.

The project writes a file for each event of a process:

- `begun`: `setup_databases` is called, after discovery; with pytest-django, by its first worker.
- `built`: Django starts to clone: migrations are complete and, with our runner, the template
  exists.
- `checking` and `checked`: Django's system checks start and end.
- `started` and `ready`, in each worker: its set-up starts and ends. With stock, it ends with
  `init_worker`, not yet connected; with our runner when WORKER_SETUP is called, connected; with
  pytest-django in a session fixture after `django_db_setup`.

Set-up is the time from the first `begun` to the last `ready`; making the copies is that from
`built` on. Django's checks in between, which pytest-django does not run, are subtracted. The start
of worker processes is included, except for pytest-django, which starts them earlier.
"""

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import NamedTuple

from ..project import Project
from .command import prepare, run
from .generated import CLASSES

_MANAGE = ["manage.py", "test", "suite", "--noinput", "--testrunner"]
# Without other installed plugins.
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
        \"\"\"Write the time of the first event of this name in this process.\"\"\"
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
# Each runner has its own name, so that none finds the databases of another.
_SETTINGS = """
    import os

    DATABASES["default"]["NAME"] += "_" + os.environ.get("BENCH_RUNNER", "")
    SCHEMA_RUNNER = {"WORKER_SETUP": ["marks.mark_ready"]}
"""


class Variant(NamedTuple):
    """How to test a project: with "ours", "stock" or "pytest", and with options."""

    runner: str
    workers: int
    options: tuple[str, ...] = ()


class Times(NamedTuple):
    """Seconds. pytest-django makes no copies, and starts no workers for them."""

    whole: float
    set_up: float
    copies: float = nan
    # From the start to the end of the set-up of each worker.
    readiness: Sequence[float] = ()


def measure(project: Project, variant: Variant, *, is_kept: bool = False) -> Times:
    """Run the tests, on kept databases or new ones; fail unless all pass."""
    prepare(project, is_kept=is_kept)
    with tempfile.TemporaryDirectory(prefix="marks-") as marks:
        env = {
            "BENCH_MARKS": marks,
            "BENCH_RUNNER": variant.runner,
            "BENCH_WORKERS": str(variant.workers),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        command = (*_COMMANDS[variant.runner], str(variant.workers), *variant.options)
        result = run(folder=project.folder, env=env, command=command)
        # The times by event and process.
        marked: dict[str, dict[str, float]] = defaultdict(dict)
        for file in Path(marks).iterdir():
            event, _, process = file.name.partition("-")
            marked[event][process] = float(file.read_text())
    result.check_passed(CLASSES)
    assert len(marked["ready"]) == variant.workers, result.output
    ready = max(marked["ready"].values())
    set_up = ready - min(marked["begun"].values())
    if variant.runner == "pytest":
        return Times(result.seconds, set_up)
    # Each of these occurs once, in the main process.
    (built,), (checking,), (checked,) = (
        marked[event].values() for event in ("built", "checking", "checked")
    )
    checks = checked - checking
    readiness = [marked["ready"][process] - at for process, at in marked["started"].items()]
    return Times(result.seconds, set_up - checks, ready - built - checks, readiness)


def write_timing(project: Project) -> None:
    project.write("marks.py", _MARKS)
    project.write("runners.py", _RUNNERS)
    project.write("conftest.py", _CONFTEST)
    project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\n")
    project.configure(_SETTINGS)
