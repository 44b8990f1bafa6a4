"""--snapshot-dir: what migrations have made as a file, for machines that have nothing else."""

import json
import random
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from schema_runner.postgres import schemas
from schema_runner.postgres.snapshot import Snapshot, SnapshotError

from ..digest import digest
from ..project import Project, Result
from .test_current import DECOYS
from .test_keepdb import DAY, EXTENSION, SERIALIZED, State, pool
from .test_template import RICH, TELLING, count, count_migrations, told

pytestmark = pytest.mark.oldest

TEST_ONLY = pytest.mark.parametrize("place", ["test"], indirect=True)
FOLDER = "cache/snapshots"
SAVE = ("--snapshot-dir", FOLDER)
SUITE = (
    TELLING
    + """
    class First(Telling, TestCase):
        def test_it(self):
            if Path(f"told-{os.getpid()}").exists():
                return
            self.assertEqual(
                sorted(Author.objects.values_list("name", flat=True)),
                ["of a migration", "of a seeder"],
            )
            self.assertEqual(Author.objects.create(name="new").id, 3)
            self.meet(int(os.environ.get("WORKERS", "1")))
            self.tell()


    class Second(First):
        pass
"""
)


@pytest.fixture(params=["test", "current"])
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def host(project: Project, place: str) -> str:
    """The database that schemas are made in."""
    return project.test_name if place == "test" else project.name


@pytest.fixture
def saved(project: Project, place: str) -> Iterator[Project]:
    """A project that counts how often it migrates, in a database that is in use or not."""
    count_migrations(project, place)
    project.tests(SUITE)
    if place == "test":
        yield project
        project.end()
        left = project.databases()
        for name in left:
            project.drop_database(name)
        assert left == []
    else:
        project.create_database()
        with project.host(project.name) as connection:
            connection.execute(DECOYS)
            before = digest(connection)
        yield project
        project.end()
        with project.host(project.name) as connection:
            assert digest(connection) == before
        project.drop_database()


def run(project: Project, workers: int = 1, *more: str, folder: str = FOLDER) -> Result:
    """Run all tests, which pass, and leave nothing but a file unless that is to be kept."""
    flags = ("--parallel", str(workers)) if workers > 1 else ()
    wanted = () if "--snapshot-dir" in more or not folder else ("--snapshot-dir", folder)
    result = project.run(*flags, *wanted, *more, env={"WORKERS": str(workers)}).passed()
    assert set(told(project)) == set(range(1, workers + 1))
    if "--keepdb" not in more:
        assert_empty(project)
    return result


def assert_empty(project: Project) -> None:
    """See that nothing is left on the server that a later run could use."""
    assert set(project.databases()) <= {project.name}
    if project.databases():
        with project.host(project.name) as connection:
            left = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '^test_'")
            assert {name for (name,) in left} == {"test_w1_1", "test_shims_1"}
            assert not connection.execute(
                "SELECT extname FROM pg_extension WHERE extname <> 'plpgsql'"
            ).fetchall()


def files(project: Project) -> list[Path]:
    """List all that is in the folder, with hidden files."""
    return sorted((project.folder / FOLDER).iterdir())


def file(project: Project) -> Path:
    """Return the only file that is in the folder."""
    (path,) = files(project)
    assert path.suffix == ".snapshot"
    return path


def kept(project: Project, host: str, workers: int) -> State:
    """Run with --keepdb, return what each schema has, and leave nothing."""
    run(project, workers, "--keepdb")
    states = list(pool(project, host).values())
    assert len(states) == workers
    assert all(state == states[0] for state in states)
    remove(project, host)
    return states[0]


def remove(project: Project, host: str) -> None:
    """Remove what runs have kept, as on a machine that has never had it."""
    if host == project.test_name:
        project.drop_database(host)
    else:
        with project.host(host) as connection:
            for schema in schemas.found(connection):
                schemas.drop(connection, schema.name, schema.marker.run, batch=100)
            connection.execute("DROP SCHEMA test_extensions CASCADE")
    assert_empty(project)


def test_a_second_run_on_an_empty_server(saved: Project, host: str) -> None:
    """It does not migrate, and its schemas have the same structure, rows and extensions."""
    saved.migration("0003_rich", "0002_counting", RICH)
    saved.migration("0004_extension", "0003_rich", EXTENSION)
    first = kept(saved, host, 2)
    saving = file(saved)
    content = saving.read_bytes()
    assert count(saved) == 1
    assert kept(saved, host, 2) == first
    assert kept(saved, host, 1) == first
    result = run(saved, 2)
    assert "Creating test database for alias 'default'..." in result.stderr
    assert "Warning" not in result.output
    assert count(saved) == 1
    assert file(saved).read_bytes() == content
    # Others may restore a cache than those who write it.
    assert saving.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("method", ["fork", "spawn"])
@TEST_ONLY
def test_the_setting(saved: Project, method: str) -> None:
    """SCHEMA_RUNNER["SNAPSHOT_DIR"] is the option's default, which wins over it."""
    saved.configure('SCHEMA_RUNNER["SNAPSHOT_DIR"] = "elsewhere"')
    for _ in range(2):
        saved.run("--parallel", "2", env={"START_METHOD": method, "WORKERS": "2"}).passed()
        told(saved)
    assert len([*(saved.folder / "elsewhere").iterdir()]) == 1
    assert count(saved) == 1
    run(saved)
    assert len(files(saved)) == 1
    assert count(saved) == 2


def test_with_keepdb(saved: Project, host: str) -> None:
    """A pool can be made of a snapshot, and is used rather than that."""
    run(saved)
    run(saved, 2, "--keepdb")
    names = set(pool(saved, host))
    file(saved).write_bytes(b"damaged")
    result = run(saved, 2, "--keepdb")
    assert "Warning" not in result.output
    assert set(pool(saved, host)) == names
    assert count(saved) == 1
    remove(saved, host)


def test_serialized_rollback(saved: Project) -> None:
    """What Django serializes is there though it has not built anything."""
    saved.tests(SERIALIZED)
    for mode in ((), ("--parallel", "2"), ()):
        saved.run(*mode, *SAVE).passed()
        assert_empty(saved)
    assert count(saved) == 1


@TEST_ONLY
def test_another_fingerprint_has_another_file(saved: Project) -> None:
    """The old file stays, and is used again on the old branch."""
    path = saved.folder / "library/migrations/0002_counting.py"
    text = path.read_text()
    run(saved)
    path.write_text(text.replace("[migrations", "[migrations.RunSQL('SELECT 1'), migrations"))
    run(saved)
    assert (len(files(saved)), count(saved)) == (2, 2)
    run(saved)
    path.write_text(text)
    result = run(saved)
    assert (len(files(saved)), count(saved)) == (2, 2)
    assert "Warning" not in result.output


@TEST_ONLY
def test_a_file_that_a_migration_opens(saved: Project) -> None:
    """Only a build shows which it is; each content has a snapshot of its own."""
    saved.migration(
        "0003_opening",
        "0002_counting",
        'migrations.RunPython(lambda *_: __import__("pathlib").Path("rows.txt").read_text()),',
    )
    saved.write("rows.txt", "a")
    run(saved)
    saved.write("rows.txt", "b")
    result = run(saved)
    assert (len(files(saved)), count(saved)) == (2, 2)
    assert "Warning" not in result.output
    saved.write("rows.txt", "a")
    run(saved)
    assert (len(files(saved)), count(saved)) == (2, 2)


def edited(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Write a file with another manifest, which is whole as a zip."""
    with zipfile.ZipFile(path) as source:
        contents = {name: source.read(name) for name in source.namelist()}
    manifest = json.loads(contents.pop("manifest.json"))
    edit(manifest)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("manifest.json", json.dumps(manifest))
        for name, content in contents.items():
            target.writestr(name, content)


def another_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("hello.txt", "hello")


def other_facts(**changed: object) -> Callable[[Path], None]:
    """Change what is said beside the statements."""

    def edit(manifest: dict[str, Any]) -> None:
        manifest["facts"] = json.dumps({**json.loads(manifest["facts"]), **changed})

    return lambda path: edited(path, edit)


def other(**changed: object) -> Callable[[Path], None]:
    return lambda path: edited(path, lambda manifest: manifest.update(changed))


def fewer_rows(path: Path) -> None:
    """Have what COPY has written end in the middle of a row."""
    with zipfile.ZipFile(path) as source:
        contents = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, content in contents.items():
            target.writestr(name, content[:-3] if name.startswith("rows/") else content)


DAMAGES: dict[str, dict[str, Callable[[Path], object]]] = {
    "what is no snapshot": {
        "empty": lambda path: path.write_bytes(b""),
        "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
        "another zip": another_zip,
        "another format": other(format=999),
        "no format": lambda path: edited(path, lambda manifest: manifest.pop("format")),
        "another fingerprint": other(fingerprint="0" * 64),
    },
    "what does not fit together": {
        "no extensions": other(extensions=None),
        "no dependencies": other_facts(extra={}),
        "lists for maps": other_facts(extra=[]),
        "types of other tables": other(types=[]),
        "types that are none": lambda path: edited(
            path,
            lambda manifest: manifest.update(
                types=[["none" for _ in t] for t in manifest["types"]]
            ),
        ),
        "tables that are none": other_facts(tables=[["none", [["id", None]], ""]]),
        "sequences that are none": other_facts(sequences=[["none", 1, True]]),
    },
    "what fails or comes out different": {
        "SQL that fails": lambda path: edited(
            path, lambda manifest: manifest["after"].append("SELECT 1/0")
        ),
        "SQL that cannot be parsed": lambda path: edited(
            path, lambda manifest: manifest["before"].append("CREATE TABEL t ()")
        ),
        "SQL that leaves something out": lambda path: edited(
            path, lambda manifest: manifest["after"].pop()
        ),
        "another structure": other_facts(structure="0" * 64),
        "half a row": fewer_rows,
        "an extension that is none": other(extensions={"plpgsql": "1.0", "none such": "1.0"}),
        "another version of an extension": other(extensions={"plpgsql": "0.1"}),
    },
}


@pytest.mark.parametrize("kind", DAMAGES)
@TEST_ONLY
def test_a_file_that_cannot_be_used(saved: Project, kind: str) -> None:
    """The run says so, migrates as if it were not there, and puts a good one in its place."""
    run(saved)
    path = file(saved)
    good = Snapshot.read(path)
    for number, (how, damage) in enumerate(DAMAGES[kind].items(), start=2):
        damage(path)
        result = run(saved, 1 + number % 2)
        assert "Traceback" not in result.output, how
        (line,) = [line for line in result.stdout.splitlines() if line.startswith("Warning: ")]
        assert line.startswith(f"Warning: snapshot {FOLDER}/{path.name} is ignored: "), how
        assert count(saved) == number, how
        new = Snapshot.read(file(saved))
        assert new.contents.structure == good.contents.structure, how
        assert (new.types, new.extensions) == (good.types, good.extensions), how
    result = run(saved)
    assert count(saved) == number
    assert "Warning" not in result.output


@pytest.mark.parametrize(
    ("place", "how"),
    [
        ("test", "another structure"),
        ("test", "half a row"),
        ("current", "SQL that fails"),
    ],
    indirect=["place"],
)
def test_a_file_that_fails_halfway(saved: Project, how: str) -> None:
    """Nothing of it stays, not even an extension, and all workers use what migrations make."""
    saved.migration("0003_extension", "0002_counting", EXTENSION)
    run(saved)
    DAMAGES["what fails or comes out different"][how](file(saved))
    result = run(saved, 2)
    assert result.stdout.count("Warning: snapshot ") == 1
    assert count(saved) == 2
    run(saved, 2)
    assert count(saved) == 2


@TEST_ONLY
def test_files_of_others_with_its_name(saved: Project) -> None:
    """Another fingerprint's is no more used than what is no file of ours; none is removed."""
    path = saved.folder / "library/migrations/0002_counting.py"
    text = path.read_text()
    run(saved)
    first = file(saved)
    path.write_text(text.replace("[migrations", "[migrations.RunSQL('SELECT 1'), migrations"))
    run(saved)
    (second,) = (name for name in files(saved) if name != first)
    content = first.read_bytes()
    fingerprint = second.name.partition("-")[0]
    first.rename(first.with_name(f"{fingerprint}-0000000000000000.snapshot"))
    second.unlink()
    result = run(saved)
    assert result.stdout.count("Warning: snapshot ") == 1
    assert count(saved) == 3
    assert len(files(saved)) == 2
    assert content in [path.read_bytes() for path in files(saved)]


@TEST_ONLY
def test_a_byte_that_has_changed(saved: Project) -> None:
    """Wherever it is, the file is refused, or has the same in it."""
    run(saved)
    path = file(saved)
    good, content = Snapshot.read(path), path.read_bytes()
    draw = random.Random(0)
    # What is compressed has a checksum: some bytes stand for all. The rest is of the zip.
    compressed = content.index(b"manifest.json") + len("manifest.json"), content.index(b"rows/0")
    seen = refused = 0
    for place in range(len(content)):
        if compressed[0] < place < compressed[1] and place % 23:
            continue
        damaged = bytearray(content)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        seen += 1
        try:
            assert Snapshot.read(path) == good
        except SnapshotError:
            refused += 1
    assert 0 < refused < seen


@TEST_ONLY
def test_an_old_file(saved: Project) -> None:
    """What is older than SCHEMA_RUNNER["KEEP_DAYS"] is made again."""
    run(saved)
    path = file(saved)
    made = Snapshot.read(path).made
    replace(Snapshot.read(path), made=made - 6 * DAY).write(path)
    run(saved)
    assert count(saved) == 1
    replace(Snapshot.read(path), made=made - 8 * DAY).write(path)
    result = run(saved)
    assert count(saved) == 2
    assert "Warning" not in result.output
    assert Snapshot.read(file(saved)).made >= made


def test_a_pool_is_as_old_as_the_snapshot_it_is_made_of(saved: Project, host: str) -> None:
    """Nothing is used longer because it has been on two machines."""
    run(saved)
    path = file(saved)
    made = Snapshot.read(path).made
    replace(Snapshot.read(path), made=made - 6 * DAY).write(path)
    run(saved, 1, "--keepdb")
    saved.configure('SCHEMA_RUNNER["KEEP_DAYS"] = 3')
    path.unlink()
    run(saved, 1, "--keepdb")
    assert count(saved) == 2
    assert len(pool(saved, host)) == 1
    remove(saved, host)


def test_a_folder_that_cannot_be_written_to(saved: Project) -> None:
    """It is a pity, but the tests can run."""
    (saved.folder / "taken").write_text("a file")
    for _ in range(2):
        result = run(saved, folder="taken/below")
        (line,) = [line for line in result.stdout.splitlines() if line.startswith("Warning: ")]
        assert line.startswith("Warning: no snapshot of alias 'default' is kept in taken/below: ")
    assert count(saved) == 2
    assert (saved.folder / "taken").read_text() == "a file"


def test_a_name_that_is_taken_leaves_no_other_file(saved: Project) -> None:
    """What cannot be put where it belongs is not left beside it."""
    run(saved)
    path = file(saved)
    path.unlink()
    path.mkdir()
    (path / "full").touch()
    result = run(saved)
    assert "Warning: no snapshot of alias 'default' is kept in " in result.stdout
    assert files(saved) == [path]


SETTING = """
    migrations.RunSQL(
        '''DO $$ BEGIN
             EXECUTE format('ALTER DATABASE %I SET my.word = %L', current_database(), 'it');
           END $$'''
    ),
"""


@TEST_ONLY
def test_what_a_snapshot_cannot_have(saved: Project) -> None:
    """Settings of the database that a migration has made: a file without them would not do."""
    saved.migration("0003_setting", "0002_counting", SETTING)
    saved.tests(
        TELLING
        + """
    class First(Telling, TestCase):
        def test_it(self):
            self.assertEqual(self.query("SELECT current_setting('my.word')"), [("it",)])
            self.tell()
"""
    )
    for _ in range(2):
        result = run(saved)
        assert (
            f"Warning: no snapshot of alias 'default' is kept in {FOLDER}: migrations have "
            "changed the settings of the database." in result.stdout
        )
    assert count(saved) == 2
    assert not (saved.folder / FOLDER).exists() or files(saved) == []


@pytest.mark.parametrize("place", ["current"], indirect=True)
def test_what_is_the_database_s_own(saved: Project) -> None:
    """Settings and grants that the project's database has anyway are none of migrations."""
    with saved.host(saved.name) as connection:
        connection.execute(f"ALTER DATABASE {saved.name} SET my.word = 'mine'")
        connection.execute(f"GRANT TEMP ON DATABASE {saved.name} TO pg_monitor")
    for _ in range(2):
        assert "Warning" not in run(saved, 2).output
    assert count(saved) == 1


ROUTER = """
    class Router:
        def allow_migrate(self, db, app_label, model_name=None, **hints):
            return db == "default" or model_name != "book"
"""


@TEST_ONLY
def test_aliases_that_differ_by_name_only(saved: Project) -> None:
    """Routers and migrations can tell them apart, so each has a file of its own."""
    saved.write("routers.py", ROUTER)
    saved.configure(
        """
        DATABASE_ROUTERS = ["routers.Router"]
        DATABASES["other"] = {**DATABASES["default"], "NAME": DATABASES["default"]["NAME"] + "_o"}
        """
    )
    saved.tests(
        TELLING
        + """
    class First(Telling, TestCase):
        databases = {"default", "other"}

        def test_it(self):
            tables = connection.introspection.table_names()
            self.assertIn("library_book", tables)
            self.assertIn("library_author", tables)
            tables = connections["other"].introspection.table_names()
            self.assertNotIn("library_book", tables)
            self.assertIn("library_author", tables)
            self.assertEqual(Author.objects.using("other").count(), 2)
            self.tell()
"""
    )
    run(saved)
    assert len(files(saved)) == 2
    run(saved)
    assert count(saved) == 2
