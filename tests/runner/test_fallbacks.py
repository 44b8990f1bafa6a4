"""Fallbacks to clone databases: how often they are built, kept in pools and in snapshots."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from schema_runner.postgres.databases import for_request
from schema_runner.postgres.pg_dump import PgDump
from schema_runner.postgres.snapshot import Snapshot

from ..project import PARALLEL, SERIAL, Project, Result, wait_for
from .test_keepdb import TEST_ONLY, count, drop_databases, kill
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
            # The retry does not see the rows that the first attempt committed.
            where = query("SELECT current_database()")
            record("found", authors=Author.objects.count(), where=where)
            Author.objects.create(name="committed")
            self.fail()
    class Passing(TestCase):
        def test_it(self): meet()
"""


@pytest.fixture
def unlike(counted: Project) -> Project:
    """A project whose copies of the first schema differ from it."""
    with counted.maintenance() as connection:
        real = PgDump.find(connection.info.server_version).path
    use_script(counted, f'{shlex.quote(str(real))} "$@" | sed "s/^CREATE INDEX .*//"')
    return counted


@TEST_ONLY
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_databases_are_migrated_once(unlike: Project, method: str) -> None:
    """The number of workers, retries and probes does not matter."""
    unlike.tests(FAILING)
    result = unlike.run(
        *("--parallel", "3", "--retries", "1", "--diagnose", "--timing"),
        env={"MEET": "3", "START_METHOD": method},
    ).failed("FAILED (failures=1)")
    assert "test_it is BROKEN: " in result.stdout.replace("library.test_generated.Always.", "")
    assert count(unlike) == 2
    assert result.stdout.count("use clone databases") == 1
    assert "already exists" not in result.output
    # The set-up time includes what workers create.
    workers = re.findall(r"(?m)^  Cloning 'default' took ([0-9.]+)s$", result.stderr)
    assert len(workers) == 3
    (total,) = re.findall(r"Total database setup took ([0-9.]+)s", result.stderr)
    (set_up,) = re.findall(r"Set-up ([0-9.]+) s,", result.stdout)
    for whole in (set_up, total):
        assert float(whole) > max(map(float, workers)) - 0.1
    _, *again = unlike.records("found")
    # Once for the retry, five times in a worker and once in the main process.
    assert len(again) == 1 + 5 + 1
    assert {one["authors"] for one in unlike.records("found")} == {2}
    assert [one["where"] for one in again] == [[[f"{unlike.test_name}_1"]]] * 7


@TEST_ONLY
def test_the_run_does_not_wait_for_an_unneeded_database(unlike: Project) -> None:
    """The run ends with its tests, and drops the database that a worker was building."""
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


KEPT = """
    class Reads(TestCase):
        def test_it(self):
            meet()
            self.assertEqual(sorted(a.name for a in Author.objects.all()), NAMES)
            record("found", where=query("SELECT current_database()")[0][0])
            # Sequences start anew in each run, also in other schemas.
            TESTS.append(self)
            self.assertEqual(Author.objects.create(name="rolled back").pk, 2 + len(TESTS))
            if "MINE" in os.environ:
                self.assertEqual(query("SELECT nextval('mine.rows_n_seq')"), [(len(TESTS),)])
            if os.environ.get("COMMIT") == str(len(TESTS)):
                from library.committing import commit
                commit()
            if "WAIT" in os.environ:
                wait_for("go")
    class Alike(Reads): pass
    if "COMMIT" in os.environ:
        class Commits(TransactionTestCase):
            # A reset restores the seeder's row, also in a clone of an earlier run.
            def test_it(self):
                Author.objects.all().delete()
            def test_later(self):
                self.assertEqual([author.name for author in Author.objects.all()], NAMES[1:])
    TESTS = []
    NAMES = ["of a migration", "of a seeder"]
"""
COMMITTING = """
    from helpers.elsewhere import in_a_thread
    from helpers import query
    def commit():
        in_a_thread(lambda: query("INSERT INTO library_author (name) VALUES ('left')"))
"""


@pytest.fixture
def cloned(counted: Project) -> Iterator[Project]:
    """A project whose migrations create an object that a schema cannot hold."""
    makes = "migrations.RunSQL('CREATE SCHEMA mine CREATE TABLE rows (n serial)')"
    counted.migration("0003_schema", "0002_counting", makes)
    counted.tests(KEPT)
    counted.write("library/committing.py", COMMITTING)
    yield counted
    counted.end()
    drop_databases(counted)


def found(project: Project) -> list[str]:
    return sorted(one["where"] for one in project.records("found"))


def keep(project: Project, *arguments: str, **env: str) -> Result:
    project.forget()
    env = {"MEET": "2" if PARALLEL[0] in arguments else "1", **env}
    return project.run(*arguments, "--keepdb", env=env).passed()


@TEST_ONLY
def test_clones_are_kept_and_leased(cloned: Project) -> None:
    """Runs lease kept clones without migrating, and replace those that tests committed to."""
    host, one, two = (cloned.test_name + suffix for suffix in ("", "_1", "_2"))
    why = "uses clone databases, because schemas cannot isolate schema mine"
    first = keep(cloned, *PARALLEL, MINE="1")
    assert "\n2 databases created, 2 kept.\n" in first.stdout
    for mode in (PARALLEL, SERIAL):
        again = keep(cloned, *mode, MINE="1")
        assert found(cloned) == ([one, two] if mode else [one, one])
        assert f"reused, {len(mode) or 1} kept.\n" in again.stdout
        assert "Using the database from a moment ago for alias 'default'..." in again.stderr
        assert "Cloning" not in again.stderr
        assert again.stdout.count(why) == first.stdout.count(why) == 1
    # The last run finds no clone, and creates one without rows of the project's own database.
    for _ in range(3):
        keep(cloned, *SERIAL, COMMIT="2")
    assert cloned.databases() == [cloned.name, host]
    keep(cloned, *PARALLEL)
    assert cloned.databases() == [cloned.name, host, one, two]
    assert count(cloned) == count(cloned, "seeded") == 1
    # Another fingerprint has another database. --clear-pools removes all.
    cloned.migration("0004_more", "0003_schema", "migrations.RunSQL('SELECT 1')")
    assert "Building anew: migrations of library changed." in keep(cloned).stderr
    assert count(cloned) == 2
    assert len(cloned.databases()) == 4 + 2
    result = cloned.run("--clear-pools").passed()
    assert "Removed 2 pools (5 databases)." in result.stdout
    assert cloned.databases() == [cloned.name]


@TEST_ONLY
def test_concurrent_runs_share_no_clone(cloned: Project) -> None:
    """What a killed run leased is removed, and the rest of the pool stays."""
    host, one, two = (cloned.test_name + suffix for suffix in ("", "_1", "_2"))
    keep(cloned, *PARALLEL)
    cloned.forget()
    env = {"MEET": "2", "WAIT": "1"}
    waiting = cloned.start(*PARALLEL, "--keepdb", env=env)
    wait_for(lambda: len(found(cloned)) == 2, "two workers in a test")
    assert found(cloned) == [one, two]
    # A run without --keepdb leaves the clones in use alone, too.
    for more in (["--keepdb"], []):
        other = cloned.run(*PARALLEL, *more, env={"RECORDED": "others"}).passed()
        assert "Waiting" not in other.output
        used = {record["where"] for record in cloned.records("found", name="others")}
        assert len(used) >= 2
        assert not used & {one, two}
    assert {host, one, two} <= set(cloned.databases())
    kill(waiting)
    keep(cloned, *PARALLEL)
    assert "already exists" not in keep(cloned, *PARALLEL).output
    assert set(found(cloned)) <= set(cloned.databases())
    assert count(cloned) == 2
    result = cloned.run("--clear-pools").passed()
    assert "Removed 1 pool (3 databases)." in result.stdout
    assert cloned.databases() == [cloned.name]


@TEST_ONLY
def test_separately_built_databases_are_kept(unlike: Project) -> None:
    """From the second run on, all workers have clones of the database that one worker built."""
    spare = f"{unlike.test_name}_0"
    unlike.tests(KEPT)
    keep(unlike, *PARALLEL)
    assert unlike.databases() == [unlike.name, spare, f"{unlike.test_name}_2"]
    for mode in (PARALLEL, SERIAL):
        again = keep(unlike, *mode)
        assert again.stdout.count("an earlier run found") == 1
        assert again.stdout.count("because") == 1
        assert set(found(unlike)) <= set(unlike.databases()) - {spare}
    assert count(unlike) == 2
    unlike.run("--clear-pools").passed()
    assert unlike.databases() == [unlike.name]


FOLDER = "snapshots"


def from_snapshot(project: Project, *arguments: str, **env: str) -> Result:
    """Run with --snapshot-dir. Without --keepdb, check that the run left no database."""
    project.forget()
    env = {"MEET": "2" if PARALLEL[0] in arguments else "1", **env}
    result = project.run(*arguments, "--snapshot-dir", FOLDER, env=env).passed()
    if "--keepdb" not in arguments:
        assert project.databases() == [project.name]
    return result


def warnings(result: Result) -> list[str]:
    assert "Traceback" not in result.output
    return [line for line in result.output.splitlines() if "Warning" in line]


def file(project: Project) -> Path:
    """Return the path of the only snapshot."""
    (path,) = (project.folder / FOLDER).glob("*.snapshot")
    return path


@TEST_ONLY
def test_a_snapshot_of_the_database(cloned: Project) -> None:
    """A snapshot replaces migrations and seeders in any mode, until it is damaged."""
    why = "Alias 'default' uses clone databases, because schemas cannot isolate schema mine"
    for more, told in (
        ({"MINE": "1"}, "Creating test database for alias 'default'..."),
        ({"COMMIT": "2"}, "Using the snapshot "),
    ):
        result = from_snapshot(cloned, *PARALLEL, **more)
        assert warnings(result) == []
        assert result.stdout.count(why) == 1
        assert result.output.count(told) == 1
    from_snapshot(cloned, *SERIAL, "--keepdb", MINE="1")
    kept = cloned.databases()
    with cloned.maintenance() as connection:
        (marker, *_) = (one.marker for one in for_request(connection, cloned.test_name))
    snapshot = Snapshot.read(file(cloned))
    assert (marker.made, marker.extra) == (snapshot.made, snapshot.extra)
    # The pool that was made from the file is preferred to it.
    file(cloned).write_bytes(b"damaged")
    assert warnings(from_snapshot(cloned, *PARALLEL, "--keepdb", MINE="1")) == []
    assert set(kept) < set(cloned.databases())
    assert count(cloned) == count(cloned, "seeded") == 1


@TEST_ONLY
def test_snapshots_that_cannot_be_used(cloned: Project) -> None:
    """A warning says why, the run migrates, and writes a new file."""
    from_snapshot(cloned)
    path = file(cloned)
    # This file is tried first. The database it fails in is replaced.
    fails = path.with_name(path.name.replace("-", "-0", 1))
    snapshot = Snapshot.read(path)
    text = snapshot.sql.replace("\n--\n-- Postgre", "SELECT 1/0;\n--\n-- Postgre")
    snapshot._replace(sql=text).write(fails)
    path.write_bytes(path.read_bytes()[:-200])
    by_zero, damaged = warnings(from_snapshot(cloned, *PARALLEL, MINE="1"))
    assert by_zero == f"Warning: ignoring snapshot {FOLDER}/{fails.name}: division by zero."
    assert damaged.startswith(f"Warning: ignoring snapshot {FOLDER}/{path.name}: it is damaged")
    assert count(cloned) == count(cloned, "seeded") == 2
    assert file(cloned) == path
    # pg_dump is needed to write a snapshot, but not to use one.
    use_script(cloned, "echo 'pg_dump (PostgreSQL) 9.6.1'")
    assert warnings(from_snapshot(cloned, MINE="1")) == []
    assert count(cloned) == 2
    path.unlink()
    (line,) = warnings(from_snapshot(cloned))
    assert line.startswith(
        f"Warning: cannot write a snapshot of alias 'default' to {FOLDER}: pg_dump"
    )
    assert count(cloned) == 3


@TEST_ONLY
def test_extensions_of_clones_are_not_shared(unlike: Project) -> None:
    """Neither in the worker that has built the clones' source nor in others."""
    unlike.tests(
        """
        from django.db import connection
        from schema_runner.search_path import Locations
        class One(TestCase):
            def test_it(self):
                meet()
                record("shares", extensions=Locations.of(connection.settings_dict).extensions)
        class Two(One): pass
        class Three(One): pass
        """
    )
    unlike.run("--parallel", "3", env={"MEET": "3"}).passed()
    found = {one["worker"]: one["extensions"] for one in unlike.records("shares")}
    assert found == {1: "public", 2: None, 3: None}
