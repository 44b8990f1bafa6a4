"""Many tables and many workers, on a server with a small lock table."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from schema_runner import embedded

from ..builds import BUILD
from ..project import Project, address

# The lock table holds about 560 locks: the product of both, and more for other processes. By
# default it is ten times as large, and so would be the project for which it suffices.
FEW_LOCKS = {"max_locks_per_transaction": 10, "max_connections": 30}
TABLES = 70
WORKERS = 6

TABLE = """
    CREATE TABLE many_{n} (id bigserial PRIMARY KEY, name varchar(100) NOT NULL UNIQUE,
        author_id bigint REFERENCES library_author DEFERRABLE INITIALLY DEFERRED);
    CREATE INDEX ON many_{n} (author_id);
    INSERT INTO many_{n} (name) VALUES ('{n}');
"""
TESTS = f"""
    class Meeting:
        def test_all_tables(self):
            meet(number={WORKERS})
            tables = connection.introspection.table_names()
            self.assertEqual(len([one for one in tables if one.startswith("many_")]), {TABLES})
            self.assertEqual(query("SELECT name FROM many_7"), [("7",)])

    for number in range({WORKERS}):
        globals()[f"Test{{number}}"] = type(f"Test{{number}}", (Meeting, TestCase), {{}})
"""


@pytest.fixture
def small_project(postgresql: embedded.EmbeddedServer, tmp_path: Path) -> Iterator[Project]:
    """A project on a server of its own."""
    settings, cache = {**embedded.DEFAULT_SETTINGS, **FEW_LOCKS}, postgresql.data_dir.parent
    running = embedded.start(bin_dir=BUILD.bin_dir, settings=settings, cache_dir=cache)
    project = Project(tmp_path / "project", address(running), "small")
    try:
        yield project
    finally:
        project.end()
        embedded.stop(running)


def test_many_tables_and_workers(small_project: Project) -> None:
    """All schemas exist at the same time, are created and dropped concurrently, and are reused."""
    before = "0001_initial"
    for first in range(0, TABLES, 10):
        statements = "".join(TABLE.format(n=n) for n in range(first, first + 10))
        name = f"1{first:03}_many"
        small_project.migration(name, before, f"migrations.RunSQL({statements!r})")
        before = name
    small_project.tests(TESTS)
    for option in ("--keepdb", "--keepdb", "--clear-pools"):
        small_project.forget()
        result = small_project.run("--parallel", str(WORKERS), option)
        result.passed(f"Ran {WORKERS} tests")
        assert "of its own" not in result.output
        assert "of their own" not in result.output
    assert small_project.databases() == []
