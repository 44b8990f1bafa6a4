"""Many tables and many workers, on a server with few locks."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from schema_runner import embedded
from schema_runner.postgres.server import Server

from ..builds import BUILD
from ..project import Project

# The lock table has room for about the product of the two, 600. A default server's is ten times
# as large, and so would be the project that this stands for.
FEW_LOCKS = {"max_locks_per_transaction": 10, "max_connections": 60}
TABLES = 120
WORKERS = 6

TABLE = """
    CREATE TABLE many_{n} (id bigserial PRIMARY KEY, name varchar(100) NOT NULL UNIQUE,
        author_id bigint REFERENCES library_author DEFERRABLE INITIALLY DEFERRED);
    CREATE INDEX ON many_{n} (author_id);
    INSERT INTO many_{n} (name) VALUES ('{n}');
"""
TESTS = """
        import os
        import time
        from pathlib import Path

        from django.db import connection


        class Meeting:
            def test_all_tables(self):
                Path(f"here-{os.getpid()}").touch()
                deadline = time.monotonic() + 100
                while len(list(Path().glob("here-*"))) < WORKERS:
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.01)
                tables = connection.introspection.table_names()
                many = [name for name in tables if name.startswith("many_")]
                self.assertEqual(len(many), TABLES)
                with connection.cursor() as cursor:
                    cursor.execute("SELECT name FROM many_7")
                    self.assertEqual(cursor.fetchall(), [("7",)])


        for number in range(WORKERS):
            globals()[f"Test{number}"] = type(f"Test{number}", (Meeting, TestCase), {})
"""


@pytest.fixture
def small_project(tmp_path: Path) -> Iterator[Project]:
    """A project on a server of its own."""
    cache = Path(tempfile.mkdtemp(prefix="schema-runner-tests-"))
    cache.chmod(0o755)
    settings = {**embedded.DEFAULT_SETTINGS, **FEW_LOCKS}
    running = embedded.start(bin_dir=BUILD.bin_dir, settings=settings, cache_dir=cache)
    where = {"host": str(running.socket_dir), "port": running.port, "user": running.user}
    project = Project(tmp_path / "project", Server({**where, "dbname": "postgres"}), "small")
    try:
        yield project
    finally:
        project.end()
        embedded.stop(running)
        shutil.rmtree(cache)


def test_many_tables_and_workers(small_project: Project) -> None:
    """All schemas are there at the same time, made and dropped side by side, and once more."""
    for number, first in enumerate(range(0, TABLES, 10)):
        statements = "".join(TABLE.format(n=n) for n in range(first, first + 10))
        before = f"{number + 1:04}_many" if number else "0001_initial"
        small_project.migration(
            f"{number + 2:04}_many", before, f"migrations.RunSQL({statements!r})"
        )
    tests = TESTS.replace("WORKERS", str(WORKERS)).replace("TABLES", str(TABLES))
    small_project.tests(tests)
    for option in ("--keepdb", "--keepdb", "--noinput"):
        result = small_project.run("--parallel", str(WORKERS), option).passed()
        assert f"Ran {WORKERS} tests" in result.stderr
        assert "database of its own" not in result.output
        assert "databases of their own" not in result.output
        for mark in small_project.folder.glob("here-*"):
            mark.unlink()
    assert small_project.databases() == []
