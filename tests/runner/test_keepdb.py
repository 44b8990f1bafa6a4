"""--keepdb: ready schemas stay in a pool, and runs with the same fingerprint lease them."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from psycopg import sql

from schema_runner.postgres import catalog, schemas
from schema_runner.postgres.marker import Marker
from schema_runner.postgres.server import Connection

from ..digest import digest
from ..project import Project, Result, wait_for
from .test_aliases import DATABASES, ROUTER, SEVERAL, SHOP, SHOP_MIGRATION
from .test_current import DECOYS
from .test_template import TELLING, count

DAY = 24 * 60 * 60
KEEP = "--keepdb"

# A migration and a seeder that write down when they run, and wait where they are told to.
BUILDING = """
    import os
    import time
    from pathlib import Path


    def migrate(apps, editor):
        with Path("migrated").open("a") as lines:
            lines.write("migrated\\n")
        if Path("waits").exists():
            Path("building").touch()
            while not Path("go").exists():
                time.sleep(0.01)
        apps.get_model("library", "Author").objects.create(name=Path("data.txt").read_text())


    def seed(using):
        from library.models import Author

        Author.objects.using(using).create(name="of a seeder")


    def value():
        return os.environ.get("VALUE")
"""
# Tests that tell what they have found, once in each process, before they do what they are told.
SUITE = (
    TELLING
    + """
    class First(Telling, SimpleTestCase):
        databases = {"default"}

        def test_it(self):
            if Path(f"told-{os.getpid()}").exists():
                return
            names = sorted(Author.objects.values_list("name", flat=True))
            with transaction.atomic():
                identity = Author.objects.create(name="rolled back").id
                transaction.set_rollback(True)
            workers = int(os.environ["WORKERS"])
            self.meet(workers)
            # Each has locks of its own, in other schemas that are like this one.
            self.assertEqual(self.query("SELECT pg_try_advisory_lock(42)"), [(True,)])
            self.meet(workers, "locked")
            self.tell(names=names, identity=identity, number_of_run=os.environ.get("RUN"))
            if dirt := os.environ.get("DIRT"):
                with connection.cursor() as cursor:
                    cursor.execute(dirt)
            while os.environ.get("WAIT") and not Path("go").exists():
                time.sleep(0.01)


    class Second(First):
        pass


    class Third(First):
        pass
"""
)
Told = dict[int, dict[str, Any]]


TEST_ONLY = pytest.mark.parametrize("place", ["test"], indirect=True)


SERIALIZED = """
        class First(TransactionTestCase):
            serialized_rollback = True

            def test_rows_are_there(self):
                self.assertEqual(Author.objects.count(), 2)
                Author.objects.all().delete()

            def test_they_come_back(self):
                self.test_rows_are_there()


        class Second(First):
            pass
"""


@pytest.fixture(params=["test", "current"])
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def host(project: Project, place: str) -> str:
    """The database that schemas are made in, unless its name is taken."""
    return project.test_name if place == "test" else project.name


def prepare(project: Project) -> None:
    project.write("data.txt", "of a migration")
    project.write("building.py", BUILDING)
    project.configure(
        """
        INSTALLED_APPS = ["library"]
        SCHEMA_RUNNER = {
            "SEEDERS": ["building.seed"],
            "FINGERPRINT": ["building.value"],
        }
        """
    )
    project.migration(
        "0002_building", "0001_initial", 'migrations.RunPython(__import__("building").migrate)'
    )
    project.tests(SUITE)


@pytest.fixture
def kept(project: Project, place: str) -> Iterator[Project]:
    """A project that counts how often it migrates, in a database that is in use or not."""
    prepare(project)
    if place == "test":
        yield project
        project.end()
    else:
        project.configure('SCHEMA_RUNNER["HOST_DATABASE"] = "current"')
        project.create_database()
        with project.host(project.name) as connection:
            connection.execute(DECOYS)
            before = digest(connection)
        yield project
        project.end()
        with project.host(project.name) as connection:
            assert digest(connection) == before
    for name in project.databases():
        project.drop_database(name)


def told(project: Project) -> list[dict[str, Any]]:
    """Return what workers have told since the last time that tests were to begin anew."""
    return [json.loads(path.read_text()) for path in project.folder.glob("told-*")]


def begin_anew(project: Project) -> None:
    for path in [*project.folder.glob("told-*"), *project.folder.glob("met-*")]:
        path.unlink()


def flags(workers: int) -> tuple[str, ...]:
    return ("--parallel", str(workers)) if workers > 1 else ()


def run(
    project: Project, workers: int = 1, *more: str, env: dict[str, str] | None = None
) -> tuple[Result, Told]:
    """Run with --keepdb; see each worker find what is right, and return what they have told."""
    env = {"WORKERS": str(workers), **(env or {})}
    begin_anew(project)
    result = project.run(*flags(workers), KEEP, *more, env=env).passed()
    found = {one["number"]: one for one in told(project)}
    assert set(found) == set(range(1, workers + 1))
    for one in found.values():
        assert one["names"] == [(project.folder / "data.txt").read_text(), "of a seeder"]
        assert one["identity"] == 3
    return result, found


def by_worker(found: Told) -> dict[int, str]:
    return {number: one["schema"] for number, one in found.items()}


def own(project: Project, database: str) -> dict[str, Marker]:
    """Return the markers of the schemas that are ours."""
    with project.host(database) as connection:
        return {one.name: one.marker for one in schemas.found(connection)}


State = tuple[frozenset[str], dict[str, list[str]]]
_RELATIONS = """
    SELECT relname, relkind FROM pg_class
    WHERE relnamespace = %s::regnamespace
      AND (relkind IN ('r', 'S') OR relkind = 'm' AND relispopulated)
"""


def state(connection: Connection, schema: str) -> State:
    """Return the structure and the rows of a schema, and where its sequences are."""
    path = sql.SQL("SET search_path = {}, public, test_extensions")
    connection.execute(path.format(sql.Identifier(schema)))
    rows = {}
    for name, kind in connection.execute(_RELATIONS, [schema]).fetchall():
        query = (
            "SELECT last_value, is_called FROM {}" if kind == "S" else "SELECT t::text FROM {} t"
        )
        found = connection.execute(sql.SQL(query).format(sql.Identifier(schema, name)))
        rows[name] = sorted(map(str, found))
    # Each build has its own times.
    rows["django_migrations"] = [str(len(rows["django_migrations"]))]
    return catalog.describe(connection, schema), rows


def pool(project: Project, database: str) -> dict[str, State]:
    """Return the states of the schemas of the one pool that a database has, and nothing else."""
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
    """By as many workers as there are; others get copies, and what is not needed stays."""
    _, first = run(kept, 2)
    names = by_worker(first)
    assert {names[n][:8] for n in names} == {"test_w1_", "test_w2_"}
    before = pool(kept, host)
    assert set(before) == set(names.values())
    assert before[names[1]] == before[names[2]]

    result, again = run(kept, 2, env={"START_METHOD": "spawn"})
    assert by_worker(again) == names
    assert "Using existing test database for alias 'default'..." in result.stderr
    assert "Removed" not in result.stdout
    for name in names.values():
        assert f"Kept schema {name} in database {host!r}." in result.stderr

    _, three = run(kept, 3)
    assert by_worker(three) == {**names, 3: by_worker(three)[3]}
    assert by_worker(three)[3].startswith("test_w3_")
    _, serial = run(kept)
    assert by_worker(serial) == {1: names[1]}
    after = pool(kept, host)
    assert set(after) == set(by_worker(three).values())
    assert all(state == before[names[1]] for state in after.values())
    assert count(kept) == 1
    assert {one["database"] for one in three.values()} == {host}
    assert [name for name in kept.databases() if name != kept.name] == [kept.test_name][
        : host == kept.test_name
    ]


def test_a_serial_run_comes_first(kept: Project, host: str) -> None:
    """Its schema is the first worker's of a run with several."""
    _, serial = run(kept)
    _, parallel = run(kept, 2)
    assert by_worker(parallel)[1] == by_worker(serial)[1]
    assert count(kept) == 1
    assert set(pool(kept, host)) == set(by_worker(parallel).values())


# What tests leave behind, and whether their schema can be kept nevertheless.
DIRT = {
    "moved sequences": ("SELECT setval('library_author_id_seq', 900)", True),
    "rows that are as they were": ("UPDATE library_author SET name = name", True),
    "rows": ("INSERT INTO library_author (name) VALUES ('left')", True),
    "rows in an empty table": (
        "INSERT INTO library_book (title, author_id) SELECT 'left', min(id) FROM library_author",
        True,
    ),
    "changed rows": ("UPDATE library_author SET name = name || '!'", True),
    "no rows": ("TRUNCATE library_author RESTART IDENTITY CASCADE", True),
    "a table": ("CREATE TABLE left_behind (n serial)", False),
    "a column": ("ALTER TABLE library_book ADD COLUMN left_behind int", False),
    "a function": ("CREATE FUNCTION left_behind() RETURNS int LANGUAGE sql AS 'SELECT 1'", False),
    "a type": ("CREATE TYPE left_behind AS ENUM ('good')", False),
    "a comment": ("COMMENT ON TABLE library_book IS 'left behind'", False),
    "grants": ("GRANT SELECT ON library_book TO PUBLIC", False),
    "less": ("DROP TABLE library_book", False),
    "other names": ("ALTER TABLE library_author RENAME name TO title", False),
    "row security": (
        "ALTER TABLE library_author ENABLE ROW LEVEL SECURITY;"
        "ALTER TABLE library_author FORCE ROW LEVEL SECURITY",
        False,
    ),
}


@TEST_ONLY
def test_what_tests_leave_behind_is_gone(kept: Project, host: str) -> None:
    """Whatever they have committed, the next run finds what migrations have made."""
    _, found = run(kept)
    schema = by_worker(found)[1]
    ((_, clean),) = pool(kept, host).items()
    for what, (statements, is_same) in DIRT.items():
        _, found = run(kept, env={"DIRT": statements})
        assert by_worker(found) == {1: schema}, what
        ((returned, state),) = pool(kept, host).items()
        assert (returned == schema, state) == (is_same, clean), what
        schema = returned
    run(kept)
    assert count(kept) == 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_tests_of_several_workers_leave_behind_is_gone(
    kept: Project, host: str, method: str
) -> None:
    """Each worker returns its own schema; so does the run that of one that has died."""
    run(kept, 2)
    (clean, _) = pool(kept, host).values()
    everything = "; ".join(DIRT[what][0] for what in ("rows", "a table", "moved sequences"))
    run(kept, 2, env={"DIRT": everything, "START_METHOD": method})
    assert list(pool(kept, host).values()) == [clean, clean]
    kept.tests(
        """
        import os
        import signal
        from pathlib import Path


        class Dying(SimpleTestCase):
            databases = {"default"}

            def test_it(self):
                Author.objects.create(name="left")
                os.kill(os.getpid(), signal.SIGKILL)


        class Alike(Dying):
            pass
        """,
        "test_dying",
    )
    assert kept.run(*flags(2), KEEP, "library.test_dying").code == 1
    assert all(state == clean for state in pool(kept, host).values())
    run(kept, 2, "library.test_generated", env={"START_METHOD": method})
    assert count(kept) == 1


def test_serialized_rollback_in_a_second_run(kept: Project) -> None:
    """What Django serializes is there though it has not built anything."""
    kept.tests(SERIALIZED)
    for mode in (flags(2), flags(2), ()):
        kept.run(*mode, KEEP).passed()
    assert count(kept) == 1


def change_a_migration(project: Project) -> dict[str, str]:
    path = project.folder / "library/migrations/0002_building.py"
    path.write_text(
        path.read_text().replace("[migrations", "[migrations.RunSQL('SELECT 1'), migrations")
    )
    return {}


def change_a_seeder(project: Project) -> dict[str, str]:
    path = project.folder / "building.py"
    path.write_text(path.read_text().replace('"of a seeder"', '"of a " + "seeder"'))
    return {}


def change_an_opened_file(project: Project) -> dict[str, str]:
    project.write("data.txt", "by another")
    return {}


def change_a_callable_s_value(project: Project) -> dict[str, str]:
    return {"VALUE": "another"}


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("test", change_a_migration),
        ("current", change_a_migration),
        ("test", change_a_seeder),
        ("current", change_an_opened_file),
        ("test", change_an_opened_file),
        ("test", change_a_callable_s_value),
    ],
    indirect=["place"],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_another_fingerprint_has_a_pool_of_its_own(
    kept: Project, place: str, change: Callable[[Project], dict[str, str]]
) -> None:
    """The old one stays, so that going back to the old branch finds it."""
    before = {
        path: path.read_text()
        for path in [*kept.folder.rglob("*.py"), *kept.folder.rglob("*.txt")]
    }
    _, first = run(kept, 2)
    env = change(kept)
    result, other = run(kept, 2, env=env)
    assert count(kept) == 2
    assert "Removed" not in result.stdout
    assert not set(by_worker(first).values()) & set(by_worker(other).values())
    databases = {one["database"] for found in (first, other) for one in found.values()}
    assert len(databases) == (2 if place == "test" else 1)
    for path, text in before.items():
        path.write_text(text)
    _, again = run(kept, 2)
    assert by_worker(again) == by_worker(first)
    _, other_again = run(kept, 2, env=change(kept))
    assert by_worker(other_again) == by_worker(other)
    assert count(kept) == 2
    # Without --keepdb they go, as stock Django's does.
    begin_anew(kept)
    kept.run(env={"WORKERS": "1"}).passed()
    assert set(kept.databases()) == ({kept.name} if place == "current" else set())
    if place == "current":
        assert own(kept, kept.name) == {}


def test_a_pool_that_somebody_has_damaged(kept: Project, host: str) -> None:
    """It is of no use, and no reason to fail."""
    run(kept)
    with kept.host(host) as connection:
        (template,) = (one.name for one in schemas.found(connection) if "template" in one.name)
        connection.execute(f"DROP TABLE {template}.contents")
    run(kept)
    run(kept)
    assert count(kept) == 2


def age(project: Project, database: str, seconds: int, fingerprint: str | None = None) -> None:
    """Have pools be older than they are."""

    def older(marker: Marker) -> Marker:
        return marker._replace(made=marker.made - seconds, used=marker.used - seconds)

    with project.host(database) as connection:
        for schema in schemas.found(connection):
            if schema.marker.fingerprint and fingerprint in (None, schema.marker.fingerprint):
                schemas.mark(connection, schema.name, older(schema.marker))
    with project.maintenance() as connection:
        ((comment,),) = connection.execute(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s",
            [database],
        ).fetchall()
        if marker := Marker.parse(comment):
            connection.execute(
                sql.SQL("COMMENT ON DATABASE {} IS {}").format(
                    sql.Identifier(database), str(older(marker))
                )
            )


def fingerprints(project: Project, place: str) -> set[str]:
    """Return those of all pools that there are."""
    names = [name for name in project.databases() if place == "current" or name != project.name]
    markers = [marker for name in names for marker in own(project, name).values()]
    return {marker.fingerprint for marker in markers if marker.fingerprint}


def test_the_least_recently_used_pools_go(kept: Project, place: str, host: str) -> None:
    """Those that are beyond SCHEMA_RUNNER["KEEP_POOLS"]."""
    kept.configure('SCHEMA_RUNNER["KEEP_POOLS"] = 2')
    run(kept, env={"VALUE": "a"})
    (a,) = fingerprints(kept, place)
    run(kept, env={"VALUE": "b"})
    (b,) = fingerprints(kept, place) - {a}
    for name in kept.databases():
        if place == "current" or name != kept.name:
            age(kept, name, 100)
    # Made first, used last.
    run(kept, env={"VALUE": "a"})
    assert count(kept) == 2
    run(kept, env={"VALUE": "c"})
    (c,) = fingerprints(kept, place) - {a}
    assert c != b
    run(kept, env={"VALUE": "a"})
    assert count(kept) == 3


def test_pools_expire(kept: Project, host: str) -> None:
    """What is older than SCHEMA_RUNNER["KEEP_DAYS"] says is built again, however often used."""
    _, first = run(kept, 2)
    age(kept, host, 6 * DAY)
    run(kept, 2)
    assert count(kept) == 1
    age(kept, host, 2 * DAY)
    result, again = run(kept, 2)
    assert count(kept) == 2
    assert "Removed what an earlier run left" in result.stdout
    assert not set(by_worker(first).values()) & set(by_worker(again).values())
    kept.configure('SCHEMA_RUNNER["KEEP_DAYS"] = 0.5')
    age(kept, host, DAY * 3 // 4)
    run(kept, 2)
    assert count(kept) == 3
    assert len(pool(kept, host)) == 2
    assert len(kept.databases()) == 1


def start(project: Project, workers: int, *more: str, **env: str) -> "subprocess.Popen[str]":
    begin_anew(project)
    return project.start(*flags(workers), *more, env={"WORKERS": str(workers), **env})


def finish(process: "subprocess.Popen[str]") -> str:
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stdout + stderr
    return stdout + stderr


def is_waiting(project: Project, kind: str) -> Callable[[], bool]:
    """Tell whether a backend waits for a lock of that kind."""

    def ask() -> bool:
        with project.maintenance() as connection:
            found = connection.execute(
                "SELECT FROM pg_locks WHERE NOT granted AND locktype = %s", [kind]
            )
            return found.rowcount > 0

    return ask


def test_two_runs_at_once(kept: Project, host: str) -> None:
    """They share the pool, but no schema of it; only one of them builds, and one waits."""
    (kept.folder / "waits").touch()
    begin_anew(kept)
    # All four workers meet, of both runs.
    one = kept.start(*flags(2), KEEP, env={"WORKERS": "4", "RUN": "1"})
    wait_for((kept.folder / "building").exists, "a run to build")
    other = kept.start(*flags(2), KEEP, env={"WORKERS": "4", "RUN": "2"})
    wait_for(is_waiting(kept, "advisory"), "another to wait")
    (kept.folder / "go").touch()
    line = "Waiting for another run, which builds the same schemas."
    assert [line in finish(process) for process in (one, other)] == [False, True]
    files = told(kept)
    assert len({one["schema"] for one in files}) == len(files) == 4
    assert {one["number_of_run"] for one in files} == {"1", "2"}
    assert {one["database"] for one in files} == {host}
    assert count(kept) == 1
    assert set(pool(kept, host)) == {one["schema"] for one in files}

    begin_anew(kept)
    both = [kept.start(*flags(2), KEEP, env={"WORKERS": "4", "RUN": run}) for run in "12"]
    for process in both:
        finish(process)
    again = told(kept)
    assert {one["schema"] for one in again} == {one["schema"] for one in files}
    assert all(one["identity"] == 3 for one in again)
    assert count(kept) == 1
    assert set(pool(kept, host)) == {one["schema"] for one in files}


def waiting(project: Project, number: int) -> Told:
    """Wait for so many workers to be in a test, and return what they have told."""

    def all_files() -> list[Any]:
        files = [*project.folder.glob("told-*")]
        return files if len(files) == number and all(path.read_text() for path in files) else []

    wait_for(all_files, f"{number} workers in a test")
    return {one["number"]: one for one in told(project)}


def test_a_run_without_keepdb_removes_the_pool(kept: Project, place: str, host: str) -> None:
    """As under stock Django; but not what a live run uses."""
    run(kept, 3)
    live = start(kept, 2, KEEP, WAIT="1")
    found = waiting(kept, 2)
    result = kept.run(env={"WORKERS": "1"}).passed()
    assert "Removed" not in result.stdout
    assert set(by_worker(found).values()) <= set(own(kept, host))
    (kept.folder / "go").touch()
    finish(live)
    assert len(pool(kept, host)) == 3
    run(kept, 2)
    # Worker 1 of the run without --keepdb has built, too.
    assert count(kept) == 2

    begin_anew(kept)
    result = kept.run(*flags(2), env={"WORKERS": "2"}).passed()
    assert "Removed what an earlier run left" in result.stdout
    assert all(name in result.stdout for name in by_worker(found).values())
    assert kept.databases() == [kept.name][: place == "current"]
    if place == "current":
        with kept.host(kept.name) as connection:
            names = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '^test_'")
            assert sorted(name for (name,) in names) == ["test_shims_1", "test_w1_1"]
    assert count(kept) == 3


def kill(process: "subprocess.Popen[str]") -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "second"])
def test_a_run_that_was_killed_in_its_tests(kept: Project, host: str, is_first: bool) -> None:
    """What it had leased is dropped, for nobody knows what is in it; the template is used."""
    before = {} if is_first else by_worker(run(kept, 2)[1])
    process = start(kept, 2, KEEP, WAIT="1", DIRT=DIRT["rows"][0])
    leased = by_worker(waiting(kept, 2))
    kill(process)
    assert is_first or leased == before
    _, found = run(kept, 2)
    assert not set(by_worker(found).values()) & set(leased.values())
    assert count(kept) == 1
    assert set(pool(kept, host)) == set(by_worker(found).values())


def test_a_run_that_was_killed_in_its_build(kept: Project, place: str, host: str) -> None:
    """Half a build is of no use to anybody, and the next run makes another."""
    (kept.folder / "waits").touch()
    process = start(kept, 2, KEEP)
    wait_for((kept.folder / "building").exists, "the build")
    kill(process)
    (kept.folder / "waits").unlink()
    result, found = run(kept, 2)
    assert "Removed what an earlier run left" in result.stdout
    assert count(kept) == 2
    assert set(pool(kept, host)) == set(by_worker(found).values())
    assert kept.databases() == [host]


@pytest.mark.parametrize(("worker", "step"), [(1, "looks"), (2, "copies")])
def test_a_run_that_was_killed_while_it_returned_schemas(
    kept: Project, host: str, worker: int, step: str
) -> None:
    """A schema is in the pool only once it is known to be clean."""
    run(kept, 2)
    process = start(kept, 2, KEEP, WAIT="1", DIRT=DIRT["rows"][0])
    leased = by_worker(waiting(kept, 2))
    (template,) = (name for name in own(kept, host) if name.startswith("test_template_"))
    table = (leased[worker], "library_author") if step == "looks" else (template, "rows_1")
    with kept.host(host) as connection, connection.transaction():
        connection.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier(*table)))
        (kept.folder / "go").touch()
        wait_for(is_waiting(kept, "relation"), "a schema to be returned")
        kill(process)
    _, found = run(kept, 2)
    assert leased[worker] not in by_worker(found).values()
    assert count(kept) == 1
    assert set(pool(kept, host)) == set(by_worker(found).values())


def test_a_build_that_fails_leaves_other_pools_alone(kept: Project, place: str, host: str) -> None:
    """A branch whose migrations are broken costs nobody anything."""
    _, found = run(kept, 2)
    path = kept.folder / "library/migrations/0003_broken.py"
    kept.migration("0003_broken", "0002_building", "migrations.RunSQL('SELECT 1/0')")
    result = kept.run(*flags(2), KEEP, env={"WORKERS": "2"})
    assert result.code == 1
    assert "division by zero" in result.stderr
    assert kept.databases() == [host]
    path.unlink()
    _, again = run(kept, 2)
    assert by_worker(again) == by_worker(found)
    assert count(kept) == 2


EXTENSION = """
    migrations.RunSQL("CREATE EXTENSION hstore"),
    migrations.RunSQL("ALTER TABLE library_book ADD COLUMN tags hstore DEFAULT 'a=>1'"),
"""


def test_extensions_of_migrations(kept: Project, place: str, host: str) -> None:
    """They are kept with the schemas that need them, and go with them."""
    kept.migration("0003_extension", "0002_building", EXTENSION)
    kept.tests(
        """
        class Needing(TestCase):
            def test_it(self):
                Book.objects.create(title="t", author=Author.objects.first())
                with connection.cursor() as cursor:
                    cursor.execute("SELECT tags -> 'a', tags ? 'b' FROM library_book")
                    self.assertEqual(cursor.fetchall(), [("1", False)])


        class Alike(Needing):
            pass
        """,
        "test_extension",
    )
    for mode in (flags(2), flags(2), flags(3), ()):
        kept.run(*mode, KEEP, "library.test_extension").passed()
        assert len(pool(kept, host)) >= 1
    run(kept, 2, "library.test_generated")
    assert count(kept) == 1
    kept.run("library.test_extension").passed()
    assert count(kept) == 2
    assert kept.databases() == [kept.name][: place == "current"]
    if place == "current":
        with kept.host(kept.name) as connection:
            extensions = connection.execute("SELECT FROM pg_extension WHERE extname = 'hstore'")
            assert extensions.rowcount == 0


ALIASES_COUNT = """
    from pathlib import Path


    def migrate(apps, editor):
        with Path("migrated").open("a") as lines:
            lines.write(editor.connection.alias + "\\n")
        if editor.connection.alias == "third" and Path("fails").exists():
            raise ValueError("no third")
        if editor.connection.alias == "default":
            apps.get_model("library", "Author").objects.create(name="migrated")
"""


@pytest.fixture
def several(project: Project) -> Iterator[Project]:
    """Three databases, a second alias of one, a mirror of another, and SQLite beside them."""
    project.configure(DATABASES)
    project.write("routers.py", ROUTER)
    project.write("shop/__init__.py", "")
    project.write("shop/models.py", SHOP)
    project.write("shop/migrations/__init__.py", "")
    project.write("shop/migrations/0001_initial.py", SHOP_MIGRATION)
    project.write("building.py", ALIASES_COUNT)
    project.migration(
        "0002_rows", "0001_initial", 'migrations.RunPython(__import__("building").migrate)'
    )
    project.tests(SEVERAL)
    yield project
    project.end()
    for name in project.databases():
        project.drop_database(name)


def test_several_aliases(several: Project) -> None:
    """Each has a pool in its own database; a mirror and a second alias follow the first."""
    for mode in (flags(2), flags(2), ()):
        several.run(*mode, KEEP).passed()
        lines = (several.folder / "migrated").read_text().split()
        # SQLite's is made by stock Django, which keeps nothing in memory.
        assert sorted(line for line in lines if line != "small") == ["default", "third"]
    names = [f"{several.test_name}{suffix}" for suffix in ("", "_other", "_third")]
    assert several.databases() == names
    for name in names:
        assert len(pool(several, name)) == 2
    several.run(*flags(2)).passed()
    assert several.databases() == []


def test_an_alias_that_fails_leaves_the_pools_of_others(several: Project) -> None:
    """What has been leased goes back when another alias cannot be built."""
    several.run(*flags(2), KEEP).passed()
    # As if somebody had dropped it.
    several.drop_database(f"{several.test_name}_third")
    (several.folder / "migrated").unlink()
    (several.folder / "fails").touch()
    result = several.run(*flags(2), KEEP)
    assert result.code == 1
    assert "ValueError: no third" in result.stderr
    (several.folder / "fails").unlink()
    several.run(*flags(2), KEEP).passed()
    lines = (several.folder / "migrated").read_text().split()
    assert "default" not in lines
    assert len(pool(several, several.test_name)) == 2


@pytest.mark.parametrize("why", ["isolation", "an obstacle"])
def test_clone_databases(project: Project, why: str) -> None:
    """--isolation database keeps stock Django's; an alias that has turned to clones builds."""
    prepare(project)
    project.tests(
        """
        import schema_runner


        class Any(TestCase):
            def test_it(self):
                self.assertEqual(Author.objects.count(), 2)
                self.assertEqual(schema_runner.current_worker().schema, "public")


        class Alike(Any):
            pass
        """
    )
    more = ["--isolation", "database"]
    if why == "an obstacle":
        more = []
        project.migration(
            "0003_schema", "0002_building", "migrations.RunSQL('CREATE SCHEMA mine')"
        )
    else:
        project.write(
            "building.py",
            BUILDING.replace('.create(name="of a seeder")', '.get_or_create(name="of a seeder")'),
        )
    for _ in range(2):
        project.run(*flags(2), KEEP, *more).passed()
        clones = [f"{project.test_name}{suffix}" for suffix in ("", "_1", "_2")]
        assert project.databases() == clones
    assert count(project) == (1 if more else 2)
    project.run(*flags(2), "--noinput", *more).passed()
    assert project.databases() == []
