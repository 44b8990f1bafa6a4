"""What a generated project writes down: when it has come how far.

Each event of a process is a file of its own:

- `begun`: `setup_databases` is called; with pytest-django, by the first of its workers. Starting
  and discovery come before, as with the other runners: xdist waits until all workers have found
  the tests.
- `built`: Django begins to clone: migrations are over and, with our runner, the template is kept.
- `checking` and `checked`: Django's checks begin, and are over.
- `started` and `ready`, in each worker: its set-up begins, and is over: at the end of stock's
  `init_worker`, where it is not yet connected; with ours when WORKER_SETUP is called, connected;
  with pytest-django in a session fixture after `django_db_setup`.
"""

from ..project import Project

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


def write_timing(project: Project) -> None:
    project.write("marks.py", _MARKS)
    project.write("runners.py", _RUNNERS)
    project.write("conftest.py", _CONFTEST)
    project.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = settings\n")
    project.configure(_SETTINGS)
