"""--snapshot-dir: the result of migrations in a file, for machines without a pool."""

import gzip
import random
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from schema_runner.postgres import schemas
from schema_runner.postgres.pg_dump import PgDump
from schema_runner.postgres.snapshot import Snapshot
from schema_runner.postgres.structure_script import CopyError

from ..project import Project, Result
from .test_keepdb import (
    DAY,
    EXTENSION,
    TEST_ONLY,
    State,
    assert_nothing_is_kept,
    count,
    flags,
    pool,
    recorded_schemas,
)
from .test_template import RICH, use_script

pytestmark = pytest.mark.oldest

FOLDER = "cache/snapshots"
# Tests that need what Django serializes after a build.
RESTORED = """
    from helpers.telling import tell

    class First(TransactionTestCase):
        serialized_rollback = True
        def test_rows_are_there(self):
            self.assertEqual(Author.objects.count(), 2)
            meet()
            tell()
            Author.objects.all().delete()
        test_they_come_back = test_rows_are_there
    class Second(First): pass
"""


def run(
    project: Project, workers: int = 1, *more: str, folder: str | None = FOLDER, **env: str
) -> Result:
    """Run tests that must pass; check that nothing but files is left, except with --keepdb."""
    project.forget()
    wanted = ("--snapshot-dir", folder) if folder else ()
    result = project.run(*flags(workers), *wanted, *more, env={"MEET": str(workers), **env})
    result.passed()
    assert set(recorded_schemas(project)) == set(range(1, workers + 1))
    if "--keepdb" not in more:
        assert_nothing_is_kept(project)
    return result


def warnings(result: Result) -> list[str]:
    assert "Traceback" not in result.output
    return [line for line in result.output.splitlines() if "Warning" in line]


def files(project: Project) -> list[Path]:
    """List all files in the folder, except .gitignore."""
    return sorted(one for one in (project.folder / FOLDER).iterdir() if one.name != ".gitignore")


def file(project: Project) -> Path:
    """Return the only file in the folder."""
    (path,) = files(project)
    assert path.suffix == ".snapshot"
    return path


def remove(project: Project, host: str) -> None:
    """Remove pools, as on another machine."""
    if host == project.test_name:
        project.drop_database(host)
    else:
        with project.host(host) as connection:
            for schema in schemas.list_own(connection):
                schemas.drop(connection, schema.name, schema.marker.run, batch=100)
            connection.execute("DROP SCHEMA IF EXISTS test_extensions CASCADE")
    assert_nothing_is_kept(project)


def kept(project: Project, host: str, workers: int) -> State:
    """Run with --keepdb; return the state that all schemas of the pool share."""
    assert warnings(run(project, workers, "--keepdb")) == []
    first, *others = pool(project, host).values()
    assert others == [first] * (workers - 1)
    return first


def test_a_second_run_on_an_empty_server(counted: Project, host: str) -> None:
    """The second run does not migrate, and its schemas have the same contents."""
    counted.migration("0003_rich", "0002_counting", RICH)
    if host == counted.test_name:
        # In the project's own database, schemas that need extensions are not kept.
        counted.migration("0004_extension", "0003_rich", EXTENSION)
    first = kept(counted, host, 2)
    remove(counted, host)
    shown = f"snapshot {FOLDER}/{file(counted).name}"
    content = file(counted).read_bytes()
    # A cache may be restored by another user than the one who wrote it.
    assert file(counted).stat().st_mode & 0o777 == 0o644
    assert kept(counted, host, 2) == first
    # The pool that was made from the file is preferred to it.
    names = set(pool(counted, host))
    file(counted).write_bytes(b"damaged")
    assert kept(counted, host, 2) == first
    assert set(pool(counted, host)) == names
    remove(counted, host)
    file(counted).write_bytes(content)
    result = run(counted)
    assert f"Using the {shown} for alias 'default'..." in result.stderr
    assert "test database for alias 'default'" not in result.stderr.partition("\nDestroying")[0]
    assert "Wrote" not in result.stdout
    assert warnings(result) == []
    assert count(counted) == 1
    assert file(counted).read_bytes() == content
    # A file that does not fit is compared.
    counted.configure("SITE_ID = 7")
    result = run(counted)
    assert "Building anew: SITE_ID changed." in result.stderr
    (new,) = {path.name for path in files(counted)} - {shown.rpartition("/")[2]}
    assert f"Wrote the snapshot {FOLDER}/{new}." in result.stdout


def test_the_setting(counted: Project) -> None:
    """SCHEMA_RUNNER["SNAPSHOT_DIR"] is the default of the option, which overrides it."""
    # Settings and privileges that the project's database has anyway do not come from migrations.
    for own in (
        "ALTER DATABASE {} SET my.word = 'mine'",
        "GRANT TEMP ON DATABASE {} TO pg_monitor",
    ):
        counted.query(own.format(counted.name), database=counted.name)
    counted.tests(RESTORED)
    counted.configure('SCHEMA_RUNNER["SNAPSHOT_DIR"] = "elsewhere"')
    for workers, method in ((2, "fork"), (2, "spawn"), (1, "fork")):
        assert warnings(run(counted, workers, folder=None, START_METHOD=method)) == []
    assert len([*(counted.folder / "elsewhere").glob("*.snapshot")]) == 1
    assert count(counted) == 1
    run(counted)
    assert len(files(counted)) == 1
    assert count(counted) == 2


@TEST_ONLY
def test_each_fingerprint_has_its_own_file(counted: Project) -> None:
    """The old file stays for the old branch, but is not used under another fingerprint."""
    path = counted.folder / "library/migrations/0002_counting.py"
    old = path.read_text()
    new = old.replace("[migrations", "[migrations.RunSQL('SELECT 1'), migrations")
    run(counted)
    first = file(counted)
    path.write_text(new)
    run(counted)
    assert (len(files(counted)), count(counted)) == (2, 2)
    run(counted)
    path.write_text(old)
    assert warnings(run(counted)) == []
    assert (len(files(counted)), count(counted)) == (2, 2)

    (second,) = (name for name in files(counted) if name != first)
    fingerprint = second.name.partition("-")[0]
    first.rename(first.with_name(f"{fingerprint}-0000000000000000.snapshot"))
    second.unlink()
    path.write_text(new)
    assert len(warnings(run(counted))) == 1
    assert count(counted) == 3
    assert [one.name for one in files(counted)] == [second.name]


@TEST_ONLY
def test_a_file_that_a_migration_opens(counted: Project) -> None:
    """A build records the file as a dependency, and each content has its own snapshot."""
    opens = 'lambda *_: __import__("pathlib").Path("rows.txt").read_text()'
    counted.migration("0003_opening", "0002_counting", f"migrations.RunPython({opens})")
    for content, expected in (("a", 1), ("b", 2), ("a", 2)):
        counted.write("rows.txt", content)
        assert warnings(run(counted)) == []
        assert (len(files(counted)), count(counted)) == (expected, expected)


Damage = Callable[[Path], object]


def other(**changed: object) -> Damage:
    """Return a function that changes facts of a snapshot."""
    return lambda path: Snapshot.read(path)._replace(**changed).write(path)


def edited(pattern: str, replacement: str) -> Damage:
    """Return a function that edits the first match in the SQL."""

    def damage(path: Path) -> None:
        snapshot = Snapshot.read(path)
        text, count = re.subn(pattern, replacement, snapshot.sql, count=1)
        assert count == 1
        snapshot._replace(sql=text).write(path)

    return damage


def rewritten(content: str) -> Damage:
    return lambda path: path.write_bytes(gzip.compress(content.encode()))


DAMAGES: dict[str, Damage] = {
    # Not a snapshot.
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "another text": rewritten("hello"),
    "another format": rewritten('-- {"format": 999}\n'),
    "no format": rewritten("-- {}\n"),
    "another fingerprint": other(fingerprint="0" * 64),
    # Contents that fail, or whose result differs.
    "SQL that fails": edited("CREATE TABLE (.*);", r"CREATE TABLE \1; SELECT 1/0;"),
    "SQL that cannot be parsed": edited("CREATE TABLE", "CREATE TABEL"),
    "half a row": edited(r"\t[tf]\n(\\\.\n)\Z", r"\n\1"),
    "SQL that leaves something out": edited("CREATE INDEX [^;]*", "SELECT"),
    "tables that are none": edited(r'\[\["django_migrations"', '[["none"'),
    "sequences that are none": edited(r'\[\["django_migrations_id_seq"', '[["none"'),
    "another inventory": edited("index library_book_pkey: ", "index none: "),
    "an extension that is none": edited('"plpgsql", "1.0"', '"none such", "1.0"'),
    "another version of an extension": edited('"plpgsql", "1.0"', '"plpgsql", "0.1"'),
}


def test_files_that_cannot_be_used(counted: Project) -> None:
    """Each is ignored with a warning, nothing of it is left, and a new file is written."""
    # Migrations create it too, so it must be gone after each failed attempt.
    counted.migration("0003_extension", "0002_counting", EXTENSION)
    run(counted)
    path = file(counted)
    good, content = Snapshot.read(path), path.read_bytes()
    fingerprint = path.name.partition("-")[0]
    damaged = {how: path.with_name(f"{fingerprint}-{how}.snapshot") for how in DAMAGES}
    for how, damage in DAMAGES.items():
        damaged[how].write_bytes(content)
        damage(damaged[how])
    path.write_bytes(damaged["SQL that fails"].read_bytes())
    said = [line.split(": ", 2)[1] for line in warnings(run(counted, 2))]
    expected = [f"ignoring snapshot {FOLDER}/{one.name}" for one in (*damaged.values(), path)]
    assert sorted(said) == sorted(expected)
    assert count(counted) == 2
    new = Snapshot.read(file(counted))
    assert new.extra == good.extra
    # But for times and the numbers of transactions.
    texts = [re.sub(r"[0-9.]+", "0", snapshot.sql) for snapshot in (new, good)]
    assert texts[0] == texts[1]
    assert warnings(run(counted, 2)) == []
    assert count(counted) == 2


@TEST_ONLY
def test_a_changed_byte(counted: Project) -> None:
    """For any changed byte, the file is refused or its contents are the same."""
    run(counted)
    path = file(counted)
    good, content = Snapshot.read(path), path.read_bytes()
    draw = random.Random(0)
    # A checksum covers the contents, but not all of the header.
    seen = refused = 0
    for at in [*range(20), *range(20, len(content), 23)]:
        damaged = bytearray(content)
        damaged[at] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        seen += 1
        try:
            assert Snapshot.read(path) == good
        except CopyError:
            refused += 1
    assert 0 < refused < seen


def test_old_files_and_pools(counted: Project, host: str) -> None:
    """Files older than KEEP_DAYS are replaced. A pool has the age of its file."""
    run(counted)
    path = file(counted)
    new = Snapshot.read(path)
    new._replace(made=new.made - 6 * DAY).write(path)
    run(counted, 1, "--keepdb")
    assert count(counted) == 1
    # Now both are too old.
    counted.configure('SCHEMA_RUNNER["KEEP_DAYS"] = 3')
    assert warnings(run(counted, 1, "--keepdb")) == []
    assert count(counted) == 2
    assert len(pool(counted, host)) == 1
    assert Snapshot.read(file(counted)).made >= new.made
    remove(counted, host)


@TEST_ONLY
def test_files_that_cannot_be_written(counted: Project) -> None:
    """The tests run, and no other file is left."""
    no_file = "Warning: cannot write a snapshot of alias 'default' to "
    counted.write("taken", "a file")
    (line,) = warnings(run(counted, folder="taken/below"))
    assert line == f"{no_file}taken/below: Not a directory."
    assert (counted.folder / "taken").read_text() == "a file"
    run(counted)
    path = file(counted)
    path.unlink()
    path.mkdir()
    (path / "full").touch()
    assert no_file in run(counted).stdout
    assert files(counted) == [path]
    assert count(counted) == 3


@TEST_ONLY
def test_copies_that_differ(counted: Project) -> None:
    """No file is written that later runs would refuse, and a short warning says why."""
    with counted.maintenance() as connection:
        real = PgDump.find(connection.info.server_version).path
    edit = "sed 's/ADD CONSTRAINT.*/ALTER id SET STATISTICS 1;/'"
    use_script(counted, f'{shlex.quote(str(real))} "$@" | {edit}')
    for _ in range(2):
        (line,) = warnings(run(counted))
        assert line.startswith(
            f"Warning: cannot write a snapshot of alias 'default' to {FOLDER}: "
        )
        assert line.endswith(" more.")
        assert len(line) < 300
    assert not (counted.folder / FOLDER).exists()


@TEST_ONLY
def test_changes_that_a_snapshot_cannot_contain(counted: Project) -> None:
    """Migrations change settings of the database, which a snapshot cannot contain."""
    alter = "format('ALTER DATABASE %I SET my.word = 1', current_database())"
    sets = f"migrations.RunSQL({f'DO $$ BEGIN EXECUTE {alter}; END $$'!r})"
    counted.migration("0003_setting", "0002_counting", sets)
    tests = """
        from helpers.telling import tell

        class First(TestCase):
            def test_it(self):
                self.assertEqual(query("SELECT current_setting('my.word')"), [("1",)])
                tell()
    """
    counted.tests(tests)
    assert warnings(run(counted)) == [
        f"Warning: cannot write a snapshot of alias 'default' to {FOLDER}: migrations have "
        "changed the settings of the database."
    ]
    assert not (counted.folder / FOLDER).exists() or files(counted) == []


@TEST_ONLY
def test_aliases_that_differ_by_name_only(counted: Project) -> None:
    """Routers and migrations can distinguish aliases, so each has its own file."""
    settings = f"""
        class Router:
            def allow_migrate(self, db, app_label, model_name=None, **hints):
                return db == "default" or model_name != "book"

        DATABASE_ROUTERS = ["settings.Router"]
        DATABASES["other"] = {{**DATABASES["default"], "NAME": "{counted.name}_o"}}
    """
    counted.configure(settings)
    tests = """
        from helpers.telling import tell

        class First(TestCase):
            databases = {"default", "other"}
            def test_it(self):
                for alias, has_books in {"default": True, "other": False}.items():
                    tables = connections[alias].introspection.table_names()
                    self.assertEqual("library_book" in tables, has_books)
                    self.assertIn("library_author", tables)
                    self.assertEqual(Author.objects.using(alias).count(), 2)
                tell()
    """
    counted.tests(tests)
    run(counted)
    assert len(files(counted)) == 2
    run(counted)
    assert count(counted) == 2
