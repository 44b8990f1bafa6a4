"""--keepdb: runs keep their schemas in a pool, and runs with the same fingerprint lease them."""

import json
import os
import re
import signal
from collections.abc import Iterator

import pytest
from psycopg import sql

from schema_runner.postgres import databases, schemas
from schema_runner.postgres.names import Marker, worker_of_schema
from schema_runner.postgres.server import Connection

from ..apps import catalog
from ..project import Process, Project, Result, wait_for
from .test_aliases import SEVERAL, use_several

DAY = 24 * 60 * 60
KEEP = "--keepdb"

# Source that the fingerprint depends on, in addition to that of `helpers.counting`.
BUILDING = """
    from helpers import os
    from helpers.counting import seed as count

    def seed(using): count(using, "of a seeder")
    def value(): return os.environ.get("VALUE")
"""
# One class for each worker of the largest run. Each process records the contents of its schema
# once, then executes its SQL from DIRT.
SUITE = """
    from helpers.telling import tell

    class Telling:
        databases = {"default"}
        def test_it(self):
            if hasattr(Telling, "told"):
                return
            Telling.told = True
            names = sorted(Author.objects.values_list("name", flat=True))
            with transaction.atomic():
                identity = Author.objects.create(name="rolled back").id
                transaction.set_rollback(True)
            meet()
            # Advisory locks of workers are separate, also in schemas of a pool.
            self.assertEqual(query("SELECT pg_try_advisory_lock(42)"), [(True,)])
            meet("locked")
            tell(names=names, identity=identity)
            worker = schema_runner.current_worker()
            if dirt := json.loads(os.environ["DIRT"]).get(str(worker.number)):
                query(dirt)
            if "WAIT" in os.environ:
                wait_for("go")

    for number in range(8):
        globals()[f"Test{number}"] = type(f"Test{number}", (Telling, SimpleTestCase), {})
"""
TEST_ONLY = pytest.mark.parametrize("place", ["test"], indirect=True)


@pytest.fixture
def kept(counted: Project) -> Iterator[Project]:
    """A project that counts its migrations, and whose pools are removed afterwards."""
    counted.write("data.txt", "of a migration")
    counted.write("building.py", BUILDING)
    settings = {"SEEDERS": ["building.seed"], "FINGERPRINT": ["building.value"]}
    counted.configure(f"SCHEMA_RUNNER |= {settings}")
    counted.tests(SUITE)
    yield counted
    counted.end()
    drop_databases(counted)


def drop_databases(project: Project) -> None:
    """Drop all databases of the project except its own."""
    for name in project.databases():
        if name != project.name:
            project.drop_database(name)


def assert_nothing_is_kept(project: Project) -> None:
    """Check that only the project's own database is left, with its own schemas and extensions."""
    assert project.databases() == [project.name]
    found = project.query(
        "SELECT nspname FROM pg_namespace WHERE nspname ~ '^test_'"
        " UNION ALL SELECT extname FROM pg_extension ORDER BY 1",
        database=project.name,
    )
    assert [name for (name,) in found] == ["plpgsql", "test_shims_1", "test_w1_1"]


def flags(workers: int) -> tuple[str, ...]:
    return ("--parallel", str(workers)) if workers > 1 else ()


def start(project: Project, workers: int, *more: str, **env: str) -> Process:
    """Start a run whose workers all meet, unless MEET is another number."""
    env = {"MEET": str(workers), "DIRT": "{}", **env}
    return project.start(*flags(workers), *more, env=env)


def finish(process: Process) -> Result:
    stdout, stderr = process.communicate(timeout=60)
    return Result(process.returncode or 0, stdout, stderr).passed()


def recorded_schemas(project: Project) -> dict[int, str]:
    """Map each worker number to the schema that it recorded."""
    return {one["worker"]: one["schema"] for one in project.records("told")}


def run(
    project: Project, workers: int = 1, *more: str, **env: str
) -> tuple[Result, dict[int, str]]:
    """Run with --keepdb; check the rows of each worker, and return the schemas by worker."""
    project.forget()
    result = finish(start(project, workers, KEEP, *more, **env))
    for one in project.records("told"):
        assert one["names"] == [(project.folder / "data.txt").read_text(), "of a seeder"]
        assert one["identity"] == 3
    assert set(recorded_schemas(project)) == set(range(1, workers + 1))
    return result, recorded_schemas(project)


def start_waiting(project: Project, dirt: str = "") -> tuple[Process, dict[int, str]]:
    """Start a run whose two workers block in a test; return it and their schemas."""
    project.forget()
    process = start(project, 2, KEEP, WAIT="1", DIRT=json.dumps({1: dirt, 2: dirt}))
    wait_for(lambda: len(recorded_schemas(project)) == 2, "two workers in a test")
    return process, recorded_schemas(project)


def wait_for_lock(project: Project, kind: str) -> None:
    """Wait until a session waits for a lock of this type."""
    waits = f"SELECT FROM pg_locks WHERE NOT granted AND locktype = '{kind}'"
    wait_for(lambda: project.query(waits, database="postgres"), f"a lock ({kind})")


def kill(process: Process) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def count(project: Project, what: str = "migrated") -> int:
    """Return how often migrations ran, or seeders."""
    return (project.folder / what).stat().st_size


def own(project: Project, database: str) -> dict[str, Marker]:
    """Map the schemas that runs created to their markers."""
    with project.host(database) as connection:
        return {one.name: one.marker for one in schemas.list_own(connection)}


State = tuple[frozenset[str], dict[str, list[str]]]
_RELATIONS = """
    SELECT relname, relkind FROM pg_class
    WHERE relnamespace = %s::regnamespace
      AND (relkind IN ('r', 'S') OR relkind = 'm' AND relispopulated)
"""


def state(connection: Connection, schema: str) -> State:
    """Return the structure, the rows and the sequence values of a schema."""
    path = sql.SQL("SET search_path = {}, public, test_extensions")
    connection.execute(path.format(sql.Identifier(schema)))
    rows = {}
    for name, kind in connection.execute(_RELATIONS, [schema]).fetchall():
        read = "last_value, is_called" if kind == "S" else "t::text"
        query = sql.SQL(f"SELECT {read} FROM {{}} t").format(sql.Identifier(schema, name))
        found = connection.execute(query)
        rows[name] = sorted(map(str, found))
    # Each build has its own timestamps.
    rows["django_migrations"] = [str(len(rows["django_migrations"]))]
    return catalog.describe(connection, schema), rows


def pool(project: Project, database: str) -> dict[str, State]:
    """Check that the database holds one pool and nothing else; map its schemas to their states."""
    markers = own(project, database)
    (template,) = (name for name in markers if name.startswith("test_template_"))
    assert markers.pop(template).state == "kept"
    for marker in markers.values():
        assert (marker.state, marker.template) == ("kept", template)
    (shims,) = (name for name in markers if name.startswith("test_shims_"))
    del markers[shims]
    with project.host(database) as connection:
        return {name: state(connection, name) for name in markers}


def test_schemas_are_leased_again(kept: Project, host: str) -> None:
    """Runs lease kept schemas, copy the template for more workers, and keep unused schemas."""
    _, serial = run(kept)
    ((_, clean),) = pool(kept, host).items()
    _, three = run(kept, 3)
    assert three == {**three, **serial}
    assert all(name.startswith(f"test_w{number}_") for number, name in three.items())
    assert pool(kept, host) == dict.fromkeys(three.values(), clean)

    result, two = run(kept, 2, "-v", "2", START_METHOD="spawn")
    assert two == {number: three[number] for number in (1, 2)}
    shown = f"'{host}'" if host == kept.test_name else f"schemas in '{host}'"
    using = f"Using the schemas from a moment ago for alias 'default' ({shown})..."
    assert using in result.stderr
    assert "Cloning" not in result.stderr
    assert "Removed" not in result.stdout
    for name in two.values():
        assert f"Kept schema {name} in database {host!r}." in result.stderr
    assert {one["database"] for one in kept.records("told")} == {host}
    result, again = run(kept, 1, "-v", "2")
    assert again == serial
    assert f"Kept schema {serial[1]} in database {host!r}." in result.stderr
    assert pool(kept, host) == dict.fromkeys(three.values(), clean)
    assert count(kept) == 1
    assert set(kept.databases()) == {kept.name, host}


# Changes that are undone in a returned schema, and changes for which it is replaced.
CLEANED = {
    "moved sequences": "SELECT setval('library_author_id_seq', 900)",
    "rows that are as they were": "UPDATE library_author SET name = name",
    "rows": "INSERT INTO library_author (name) VALUES ('left')",
    "rows in an empty table": "INSERT INTO library_book (title, author_id)"
    " SELECT 'left', min(id) FROM library_author",
    "changed rows": "UPDATE library_author SET name = name || '!'",
    "no rows": "TRUNCATE library_author RESTART IDENTITY CASCADE",
}
DIRT = CLEANED | {
    "a table": "CREATE TABLE left_behind (n serial)",
    "a column": "ALTER TABLE library_book ADD COLUMN left_behind int",
    "a function": "CREATE FUNCTION left_behind() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "a type": "CREATE TYPE left_behind AS ENUM ('good')",
    "a comment": "COMMENT ON TABLE library_book IS 'left behind'",
    "grants": "GRANT SELECT ON library_book TO PUBLIC",
    "less": "DROP TABLE library_book",
    "other names": "ALTER TABLE library_author RENAME name TO title",
    "row security": "ALTER TABLE library_author ENABLE ROW LEVEL SECURITY,"
    " FORCE ROW LEVEL SECURITY",
}


@TEST_ONLY
def test_committed_changes_of_tests_are_undone(kept: Project, host: str) -> None:
    """Each worker commits another change, and the next run finds none of them."""
    _, names = run(kept, 8)
    clean = pool(kept, host)[names[1]]
    for half in (list(DIRT)[:8], list(DIRT)[8:]):
        by_worker = dict(enumerate(half, start=1))
        dirt = {number: DIRT[what] for number, what in by_worker.items()}
        _, leased = run(kept, 8, DIRT=json.dumps(dirt))
        assert leased == names
        states = pool(kept, host)
        names = {worker_of_schema(name) or 0: name for name in states}
        for number, what in by_worker.items():
            assert (names[number] == leased[number]) == (what in CLEANED), what
            assert states[names[number]] == clean, what
    assert run(kept, 8)[1] == names
    assert count(kept) == 1


@pytest.mark.parametrize(
    ("place", "method"), [("test", "spawn"), ("current", "fork")], indirect=["place"]
)
def test_committed_changes_of_several_workers_are_undone(
    kept: Project, host: str, method: str
) -> None:
    """Each worker returns its own schema, and the run returns that of a worker that died."""
    everything = "; ".join(DIRT[what] for what in ("rows", "a table", "moved sequences"))
    run(kept, 2, DIRT=json.dumps({2: everything}), START_METHOD=method)
    (clean, cleaned) = pool(kept, host).values()
    assert cleaned == clean
    tests = """
        class Dying(SimpleTestCase):
            databases = {"default"}
            def test_it(self):
                Author.objects.create(name="left")
                os.kill(os.getpid(), signal.SIGKILL)
        class Alike(Dying): pass
    """
    kept.tests(tests, "test_dying")
    kept.run(*flags(2), KEEP, "library.test_dying").failed()
    assert all(state == clean for state in pool(kept, host).values())
    run(kept, 2, "library.test_generated")
    assert count(kept) == 1


@pytest.mark.parametrize("commits", ["between", "after"])
def test_changes_of_other_sessions_are_undone_by_the_next_run(
    kept: Project, host: str, commits: str
) -> None:
    """A later run undoes what a transaction commits that was open during a whole run."""
    run(kept)
    _, leased = run(kept)
    clean = pool(kept, host)
    with kept.host(host) as connection:
        connection.execute(f"SET search_path = {leased[1]}")
        with connection.transaction():
            connection.execute(DIRT["rows in an empty table"])
            if commits == "after":
                run(kept)
        run(kept)
    assert pool(kept, host) == clean
    assert count(kept) == 1


@TEST_ONLY
def test_serialized_rollback_in_a_second_run(kept: Project) -> None:
    """Django's serialized contents are there, although nothing was built."""
    tests = """
        class First(TransactionTestCase):
            serialized_rollback = True
            def test_rows_are_there(self):
                self.assertEqual(Author.objects.count(), 2)
                Author.objects.all().delete()
            test_they_come_back = test_rows_are_there
        class Second(First): pass
    """
    kept.tests(tests)
    for workers in (2, 2, 1):
        kept.run(*flags(workers), KEEP).passed()
    assert count(kept) == 1


# Edits that change the fingerprint or a recorded dependency, by the cause that is reported.
CHANGES = {
    "migrations of library": (
        "library/migrations/0002_counting.py",
        "[migr",
        "[migrations.RunSQL('SELECT 1'), migr",
    ),
    "SEEDERS": ("building.py", '"of a seeder"', '"of a " + "seeder"'),
    "data.txt": ("data.txt", "of a migration", "by another"),
}


def edit(project: Project, name: str, old: str, new: str) -> None:
    path = project.folder / name
    path.write_text(path.read_text().replace(old, new))


def test_each_fingerprint_has_its_own_pool(kept: Project, place: str) -> None:
    """The old pool stays, even if the new build fails, and is used again on the old branch."""
    kept.configure('SCHEMA_RUNNER["KEEP_POOLS"] = 9')

    def run_again(why: str = "", **env: str) -> str:
        result, schemas = run(kept, **env)
        assert "Removed" not in result.stdout
        # Pools of the same second may be compared in either order.
        said = (
            rf"Building anew: (.*, )?{why}(, .*)?( changed)?\."
            if why
            else "Using the schemas from"
        )
        assert re.search(said, result.stderr)
        assert "Using existing" not in result.stderr
        return schemas[1]

    found = [run_again("nothing is kept yet")]
    for name, change in CHANGES.items():
        edit(kept, *change)
        found.append(run_again(re.escape(name)))
    other = run_again("FINGERPRINT", VALUE="another")
    assert len({*found, other}) == count(kept) == 5
    kept.migration("0003_broken", "0002_counting", "migrations.RunSQL('SELECT 1/0')")
    kept.run(*flags(2), KEEP).failed("division by zero")
    (kept.folder / "library/migrations/0003_broken.py").unlink()
    assert len(kept.databases()) == (6 if place == "test" else 1)
    for (name, old, new), schema in zip(reversed(CHANGES.values()), reversed(found), strict=False):
        assert run_again() == schema
        edit(kept, name, new, old)
    assert run_again() == found[0]
    assert count(kept) == 6
    finish(start(kept, 1, "--clear-pools"))
    assert_nothing_is_kept(kept)


@TEST_ONLY
def test_a_damaged_pool(kept: Project, host: str) -> None:
    """A damaged pool is not used, and does not fail the run."""
    run(kept)
    (template,) = (name for name in own(kept, host) if "template" in name)
    kept.query(f"DROP TABLE {template}.contents", database=host)
    run(kept)
    run(kept)
    assert count(kept) == 2


def test_a_pool_that_cannot_be_copied(kept: Project, host: str) -> None:
    """A run that needs a copy builds a new pool."""
    run(kept)
    schemas_ = own(kept, host)
    (template,) = (name for name in schemas_ if "template" in name)
    (leased,) = (name for name in schemas_ if name.startswith("test_w1_"))
    with kept.host(host) as connection:
        connection.execute(f"DROP SCHEMA {leased} CASCADE")
        connection.execute(f"UPDATE {template}.contents SET after = '{{SELECT 1/0}}'")
    result, _ = run(kept)
    assert "The pool of alias 'default' cannot be copied: division by zero\n" in result.stdout
    assert "Building anew: the last build can no longer be used.\n" in result.output
    assert len(pool(kept, host)) == 1
    result, _ = run(kept)
    assert "Using the schemas from " in result.output
    assert count(kept) == 2


def age(project: Project, seconds: int) -> None:
    """Set the times in the markers of all pools back."""

    def older(marker: Marker) -> Marker:
        return marker._replace(made=marker.made - seconds, used=marker.used - seconds)

    for name in project.databases():
        with project.host(name) as connection:
            for schema in schemas.list_own(connection):
                if schema.marker.fingerprint:
                    schemas.mark(connection, schema.name, older(schema.marker))
    with project.maintenance() as connection:
        for database in databases.for_request(connection, project.test_name):
            databases.mark(connection, database.name, older(database.marker))


def test_the_least_recently_used_pools_are_removed(kept: Project) -> None:
    """Pools beyond SCHEMA_RUNNER["KEEP_POOLS"] are removed."""
    kept.configure('SCHEMA_RUNNER["KEEP_POOLS"] = 2')
    run(kept, VALUE="a")
    run(kept, VALUE="b")
    age(kept, 100)
    # Created first, used last.
    run(kept, VALUE="a")
    assert count(kept) == 2
    run(kept, VALUE="c")
    run(kept, VALUE="a")
    assert count(kept) == 3
    run(kept, VALUE="b")
    assert count(kept) == 4


def test_pools_expire(kept: Project, host: str) -> None:
    """A pool older than SCHEMA_RUNNER["KEEP_DAYS"] is rebuilt, however recently it was used."""
    _, first = run(kept)
    age(kept, 6 * DAY)
    run(kept)
    assert count(kept) == 1
    age(kept, 2 * DAY)
    result, again = run(kept)
    assert count(kept) == 2
    beside = "leftovers of an earlier run in"
    removed = beside if host == kept.name else "pools beyond KEEP_POOLS or KEEP_DAYS: database"
    assert f"Removed {removed} {host}" in result.stdout.replace("'", "")
    why = "the last build is more than 7 days old (KEEP_DAYS)"
    assert f"Building anew: {why}." in result.stderr
    assert again != first
    kept.configure('SCHEMA_RUNNER["KEEP_DAYS"] = 0.5')
    age(kept, DAY * 3 // 4)
    run(kept)
    assert count(kept) == 3
    assert len(pool(kept, host)) == 1
    assert set(kept.databases()) == {kept.name, host}


def test_two_concurrent_runs(kept: Project, host: str) -> None:
    """Two runs share the pool but no schema. One builds it while the other waits."""
    (kept.folder / "waits").touch()
    # All four workers of both runs meet.
    one = start(kept, 2, KEEP, MEET="4")
    wait_for((kept.folder / "building").exists, "a run to build")
    other = start(kept, 2, KEEP, MEET="4")
    wait_for_lock(kept, "advisory")
    (kept.folder / "go").touch()
    line = "Waiting for another run that builds the same schemas."
    assert [line in finish(process).output for process in (one, other)] == [False, True]
    lines = kept.records("told")
    names = {one["schema"] for one in lines}
    assert len(names) == len(lines) == 4
    assert {one["database"] for one in lines} == {host}

    kept.forget()
    for process in [start(kept, 2, KEEP, MEET="4") for _ in range(2)]:
        finish(process)
    again = kept.records("told")
    assert {one["schema"] for one in again} == names == set(pool(kept, host))
    assert {one["identity"] for one in again} == {3}
    assert count(kept) == 1


def test_pools_stay_until_they_are_cleared(kept: Project, place: str, host: str) -> None:
    """Runs without --keepdb leave pools alone. --clear-pools removes all that no live run uses."""
    run(kept, 3)
    run(kept, VALUE="of another branch")
    before = {name: own(kept, name) for name in kept.databases()}
    live, leased = start_waiting(kept)
    result = finish(start(kept, 1))
    assert "Removed" not in result.stdout
    left = "Kept 1 pool that other runs use."
    cleared = "1 schema, 1 database" if place == "test" else "1 schema"
    result = finish(start(kept, 1, "--clear-pools"))
    assert f"\nRemoved 1 pool ({cleared}). {left}\n" in result.stdout
    assert set(leased.values()) <= set(own(kept, host))
    (kept.folder / "go").touch()
    finish(live)
    assert pool(kept, host).keys() <= before[host].keys()
    assert len(pool(kept, host)) == 3
    # Includes the builds of the runs without --keepdb.
    assert count(kept) == 4

    result = finish(start(kept, 2, "--clear-pools"))
    cleared = "3 schemas, 1 database" if place == "test" else "3 schemas"
    assert f"\nRemoved 1 pool ({cleared}).\n" in result.stdout
    assert_nothing_is_kept(kept)
    assert count(kept) == 5


def test_keep_and_its_flags(kept: Project, host: str) -> None:
    """KEEP = True has the effect of --keepdb with any start method, and --no-keepdb cancels it."""
    kept.configure('SCHEMA_RUNNER["KEEP"] = True')
    finish(start(kept, 2, START_METHOD="spawn"))
    first = recorded_schemas(kept)
    assert set(pool(kept, host)) == set(first.values())
    kept.forget()
    finish(start(kept, 2, "--no-keepdb"))
    assert not set(recorded_schemas(kept).values()) & set(first.values())
    assert count(kept) == 2
    kept.forget()
    finish(start(kept, 2))
    assert recorded_schemas(kept) == first
    assert count(kept) == 2


def test_a_run_that_was_killed_during_its_tests(kept: Project, host: str) -> None:
    """Schemas that a killed run had leased are dropped, and made again from the template."""
    before: dict[int, str] = {}
    for _ in ("builds", "finds a pool"):
        process, leased = start_waiting(kept, DIRT["rows"])
        kill(process)
        assert before in ({}, leased)
        _, before = run(kept, 2)
        assert not set(before.values()) & set(leased.values())
        assert count(kept) == 1
        assert set(pool(kept, host)) == set(before.values())


def test_a_run_that_was_killed_during_its_build(kept: Project, host: str) -> None:
    """A half-built pool is not used, and the next run builds another."""
    (kept.folder / "waits").touch()
    process = start(kept, 2, KEEP)
    wait_for((kept.folder / "building").exists, "the build")
    kill(process)
    (kept.folder / "waits").unlink()
    result, found = run(kept, 2)
    assert "Removed leftovers of an earlier run" in result.stdout
    assert count(kept) == 2
    assert set(pool(kept, host)) == set(found.values())
    assert set(kept.databases()) == {kept.name, host}


@pytest.mark.parametrize(
    ("place", "worker", "step"),
    [("test", 1, "looks"), ("current", 2, "copies")],
    indirect=["place"],
)
def test_a_run_that_was_killed_during_tear_down(
    kept: Project, host: str, worker: int, step: str
) -> None:
    """A schema is in the pool only after it was proved clean."""
    run(kept, 2)
    process, leased = start_waiting(kept, DIRT["rows"])
    (template,) = (name for name in own(kept, host) if name.startswith("test_template_"))
    table = (leased[worker], "library_author") if step == "looks" else (template, "rows_1")
    with kept.host(host) as connection, connection.transaction():
        connection.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier(*table)))
        (kept.folder / "go").touch()
        wait_for_lock(kept, "relation")
        kill(process)
    _, found = run(kept, 2)
    assert leased[worker] not in found.values()
    assert count(kept) == 1
    assert set(pool(kept, host)) == set(found.values())


ADD = "CREATE EXTENSION hstore; ALTER TABLE library_book ADD COLUMN tags hstore DEFAULT 'a=>1'"
EXTENSION = f"migrations.RunSQL({ADD!r})"


def test_extensions_of_migrations(kept: Project) -> None:
    """Extensions are kept with the schemas that need them, and dropped with them."""
    kept.migration("0003_extension", "0002_counting", EXTENSION)
    tests = """
        class Needing(TestCase):
            def test_it(self):
                Book.objects.create(title="t", author=Author.objects.first())
                found = query("SELECT tags -> 'a', tags ? 'b' FROM library_book")
                self.assertEqual(found, [("1", False)])
        class Alike(Needing): pass
        class Same(Needing): pass
    """
    kept.tests(tests, "test_extension")
    for workers in (2, 3, 1):
        run(kept, workers)
    assert count(kept) == 1
    kept.run("library.test_extension", "--clear-pools").passed()
    assert count(kept) == 2
    assert_nothing_is_kept(kept)


@TEST_ONLY
def test_a_schema_that_cannot_be_replaced(kept: Project) -> None:
    """Its failure is reported, and does not hide the results of the tests."""
    kept.migration("0003_extension", "0002_counting", EXTENSION)
    hidden = "DO $$BEGIN EXECUTE 'DROP ' || 'EXTENSION hstore CASCADE'; END$$"
    result, leased = run(kept, DIRT=json.dumps({1: hidden}))
    why = 'The template of the pool can no longer be copied: type "public.hstore" does not exist'
    assert f"Schema {leased[1]} is left for the next run to remove: {why}" in result.output


ALIASES_COUNT = """
    from helpers import *

    def migrate(apps, editor):
        alias = editor.connection.alias
        record("migrates", alias=alias)
        if alias == "third" and Path("fails").exists():
            raise ValueError("no third")
        if alias == "default":
            apps.get_model("library", "Author").objects.create(name="migrated")
"""


def test_several_aliases(project: Project) -> None:
    """Each alias has a pool, which stays if another alias cannot be built."""
    use_several(project)
    project.write("building.py", ALIASES_COUNT)
    migrate = 'migrations.RunPython(__import__("building").migrate)'
    project.migration("0002_rows", "0001_initial", migrate)
    project.tests(SEVERAL)

    def migrated() -> list[str]:
        # Stock Django creates that of SQLite in memory, and keeps nothing.
        aliases = [one["alias"] for one in project.records("migrates")]
        return sorted(alias for alias in aliases if alias != "small")

    for mode in (flags(2), ()):
        project.run(*mode, KEEP).passed()
        assert migrated() == ["default", "third"]
    names = [f"{project.test_name}{suffix}" for suffix in ("", "_other", "_third")]
    assert project.databases() == names
    for name in names:
        assert len(pool(project, name)) == 2

    project.drop_database(names[2])
    project.forget()
    (project.folder / "fails").touch()
    project.run(*flags(2), KEEP).failed("ValueError: no third")
    (project.folder / "fails").unlink()
    project.run(*flags(2), KEEP).passed()
    assert migrated() == ["third", "third"]
    assert len(pool(project, names[0])) == 2
    result = project.run(*flags(2), "--clear-pools").passed()
    assert "Removed 3 pools (6 schemas, 3 databases)." in result.stdout
    assert project.databases() == []


@TEST_ONLY
@pytest.mark.parametrize("more", [("--isolation", "database"), ()], ids=["isolation", "obstacle"])
def test_clone_databases(counted: Project, more: tuple[str, ...]) -> None:
    """--isolation database keeps stock Django's clones.

    A fallback to clones keeps the runner's.
    """
    tests = """
        class Any(TestCase):
            def test_it(self):
                self.assertEqual(Author.objects.count(), 2)
                self.assertEqual(schema_runner.current_worker().schema, "public")
        class Alike(Any): pass
    """
    counted.tests(tests)
    if more:
        counted.configure('SCHEMA_RUNNER["SEEDERS"] = ["helpers.counting.seed_again"]')
    else:
        creates = "migrations.RunSQL('CREATE SCHEMA mine')"
        counted.migration("0003_schema", "0002_counting", creates)
    for _ in range(2):
        counted.run(*flags(2), KEEP, *more).passed()
        clones = [f"{counted.test_name}{suffix}" for suffix in ("", "_1", "_2")]
        assert counted.databases() == [counted.name, *clones]
    assert count(counted) == 1
    counted.run(*flags(2), "--noinput", "--clear-pools", *more).passed()
    assert counted.databases() == [counted.name]


@TEST_ONLY
@pytest.mark.parametrize("keeps", ["schemas", "database"])
def test_clone_databases_next_to_kept_ones(counted: Project, keeps: str) -> None:
    """A kept database is renamed if stock Django needs its name, and used again later."""
    counted.tests("class Any(TestCase):\n    def test_it(self): pass\nclass Alike(Any): pass")
    if keeps == "database":
        creates = "migrations.RunSQL('CREATE SCHEMA mine')"
        counted.migration("0003_schema", "0002_counting", creates)
    counted.run(*flags(2), KEEP).passed()
    isolated = (*flags(2), "--isolation", "database")
    with counted.host():
        counted.run(*isolated, "--noinput").refused("is in use")
    renamed = counted.run(*isolated).passed()
    (kept,) = [name for name in counted.databases() if name != counted.name]
    assert f"Renamed database '{counted.test_name}'" in renamed.output
    assert repr(kept) in renamed.output
    assert count(counted) == 2
    counted.run(*isolated, KEEP).passed()
    counted.run(*flags(2), KEEP).passed(f"Using the {keeps} from a moment ago")
    assert count(counted) == 3
    counted.run(*isolated, "--clear-pools", "--noinput").passed()
    assert counted.databases() == [counted.name]
