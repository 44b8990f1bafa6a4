"""Databases in place of schemas: how often they are made, and for how long they are waited for."""

import re
import shlex

import pytest

from schema_runner.postgres.pg_dump import PgDump

from ..project import PARALLEL, Project
from .test_keepdb import TEST_ONLY, count
from .test_template import use_script

FAILING = """
    class Once(TestCase):
        def test_it(self):
            meet()
            self.assertEqual(Author.objects.count(), 2)
            Author.objects.create(name="here")
            self.assertGreater(times("once"), 1)
    class Always(TransactionTestCase):
        def test_it(self):
            meet()
            # Where it is run again, what it has committed is gone.
            where = query("SELECT current_database()")
            record("found", authors=Author.objects.count(), where=where)
            Author.objects.create(name="committed")
            self.fail()
    class Passing(TestCase):
        def test_it(self): meet()
"""


@pytest.fixture
def unlike(counted: Project) -> Project:
    """A project whose copies differ from the original."""
    with counted.maintenance() as connection:
        real = PgDump.find(connection.info.server_version).path
    use_script(counted, f'{shlex.quote(str(real))} "$@" | sed "s/^CREATE INDEX .*//"')
    return counted


@TEST_ONLY
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_databases_are_migrated_once(unlike: Project, method: str) -> None:
    """Whatever the number of workers, and of those that run what has failed again."""
    unlike.tests(FAILING)
    result = unlike.run(
        *("--parallel", "3", "--retries", "1", "--diagnose", "--timing"),
        env={"MEET": "3", "START_METHOD": method},
    ).failed("FAILED (failures=1)")
    assert "test_it is BROKEN: " in result.stdout.replace("library.test_generated.Always.", "")
    assert count(unlike) == 2
    assert result.stdout.count("use databases of their own") == 1
    assert "already exists" not in result.output
    # What workers make is part of the set-up.
    (set_up,) = re.findall(r"Total database setup took ([0-9.]+)s", result.stderr)
    workers = re.findall(r"(?m)^  Setting up worker [123] took ([0-9.]+)s$", result.stderr)
    assert len(workers) == 3
    (told,) = re.findall(r"Set-up ([0-9.]+) s,", result.stdout)
    assert abs(float(set_up) + max(map(float, workers)) - float(told)) < 0.2
    _, *again = unlike.records("found")
    assert len(again) == 1 + 5
    assert {one["authors"] for one in unlike.records("found")} == {2}
    assert [one["where"] for one in again] == [[[f"{unlike.test_name}_1"]]] * 6


@TEST_ONLY
def test_a_database_that_nobody_needs_is_not_waited_for(unlike: Project) -> None:
    """The run ends with its tests, and leaves nothing of what a worker was filling."""
    building = """
        from helpers import query, record, times
        def migrate(apps, editor):
            if times("built") > 1:
                record("building")
                query("SELECT pg_sleep(20)")
                record("built")
    """
    unlike.write("building.py", building)
    operation = "migrations.RunPython(__import__('building').migrate)"
    unlike.migration("0003_slow", "0002_counting", operation)
    tests = """
        class First(TestCase):
            def test_it(self):
                wait_until(lambda: "building" in (FOLDER / "recorded").read_text())
        class Second(First): pass
    """
    unlike.write("recorded", "")
    unlike.tests("from helpers import FOLDER, wait_until\n" + tests.replace("\n        ", "\n"))
    unlike.run(*PARALLEL).passed("Ran 2 tests")
    assert [one["what"] for one in unlike.records()] == ["building"]
