"""A project for soak tests, and the state that must hold after each of its runs."""

import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from schema_runner.postgres.names import Marker, MarkerState

from ..digest import digest
from ..observed import Reported, finish, observe
from ..project import Process, Project, wait_for
from ..runner.decoys import DECOYS, state
from .matrix import Kill, sessions

# Number of rounds. SOAK_SEED repeats one round.
ROUNDS = int(os.environ.get("SOAK_ROUNDS", "1"))
IS_SOAK = "SOAK_ROUNDS" in os.environ

_CLASSES, _BASES = 3, ("SimpleTestCase", "TestCase", "TransactionTestCase")
SUITE = f"""
    class Simple(Recording):
        databases = {{"default"}}
        def test_1_skips(self): self.skipTest("as planned")
        @unittest.expectedFailure
        def test_2_fails(self): self.fail("as planned")

    class Committing(Recording):
        def test_1_writes(self):
            Book.objects.create(title="t", author=Author.objects.create(name="a"))
        def test_2_finds_nothing(self): self.assertEqual(Author.objects.count(), 0)
        def test_3_writes(self): Author.objects.create(name="b")

    for number in range({_CLASSES}):
        for base in ({", ".join(_BASES)}):
            name = f"{{base.__name__}}{{number}}"
            kind = Simple if base is SimpleTestCase else Committing
            globals()[name] = type(name, (kind, base), {{"__module__": __name__}})
"""
_COMMITTING = dict.fromkeys(("1_writes", "2_finds_nothing", "3_writes"), "passed")
_SIMPLE = {"1_skips": "skipped", "2_fails": "expected failure"}
OUTCOMES = {
    f"{base}{number}.test_{name}": outcome
    for number in range(_CLASSES)
    for base in _BASES
    for name, outcome in (_SIMPLE if base == "SimpleTestCase" else _COMMITTING).items()
}
# Content of databases that runs must leave alone: one with a similar name, one that was renamed.
_OTHER_CONTENTS = "CREATE TABLE precious (n int); INSERT INTO precious VALUES (1)"


def seeded() -> random.Random:
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(2**32))
    print(f"SOAK_SEED={seed}")
    return random.Random(seed)


def write(project: Project) -> None:
    observe(project)
    project.tests(SUITE)


def prepare(project: Project, also: str) -> list[str]:
    """Write the project's tests, and create its own database and two others; return their names.

    `also` is SQL to execute in the project's own database.
    """
    write(project)
    other_databases = [f"{project.test_name}_x", f"{project.name}_renamed"]
    for name in [project.name, *other_databases]:
        project.create_database(name)
        project.query(DECOYS if name == project.name else _OTHER_CONTENTS, database=name)
    for name in other_databases[1:]:
        marker = Marker(1, MarkerState.READY, project.test_name, name=project.test_name)
        project.query(f"COMMENT ON DATABASE {name} IS '{marker}'", database=name)
    if also:
        project.query(also, database=project.name)
    # Without a checkpoint, sequences skip values after a server crash.
    project.query("CHECKPOINT", database=project.name)
    return other_databases


@contextmanager
def unchanged(project: Project, also: str = "") -> Iterator[Callable[[], list[object]]]:
    """Check that databases, processes and files are the same before and after the block.

    Yield a function that lists the differences so far.
    """
    other_databases = prepare(project, also)
    try:
        before = _state(project, other_databases)

        def changes() -> list[object]:
            return _changes(before, _state(project, other_databases))

        yield changes
        assert not (found := changes()), found
    finally:
        project.end()
        _drop_all(project)


def prepare_mode(project: Project, kill: Kill) -> None:
    """Add the migration, or run the earlier `--keepdb` run, that the mode needs."""
    if kill.mode == "clones":
        extra = 'migrations.RunSQL("CREATE SCHEMA extra")'
        project.migration("0002_extra", "0001_initial", extra)
    if kill.mode == "pool":
        run(project, *kill.flags, env=kill.env)


def recover(project: Project, kill: Kill) -> None:
    """Check that the next run passes, and remove the pools that it kept."""
    run(project, *kill.flags, env=kill.env)
    if "--keepdb" in kill.flags:
        run(project, "--clear-pools", env={})


def start(project: Project, *flags: str, env: dict[str, str]) -> Process:
    """Start a run with a temporary folder of its own."""
    project.forget()
    # The name is short because the path of a Unix socket is limited to about 100 bytes.
    folder = project.folder / "t"
    folder.mkdir(exist_ok=True)
    return project.start("--noinput", *flags, env={"TMPDIR": str(folder), **env})


def run(project: Project, *flags: str, env: dict[str, str]) -> Reported:
    """Run the suite, and check that it passes."""
    reported = finish(project, start(project, *flags, env=env))
    assert reported.result.code == 0, reported.result.output
    assert reported.outcomes == OUTCOMES, reported.result.output
    return reported


def check_fragment(reported: Reported) -> None:
    """Check that a killed run reported each test at most once, with its real outcome."""
    for test, events in reported.events.items():
        finished = [event["outcome"] for event in events if event["what"] == "Finished"]
        assert finished in ([], [OUTCOMES[test]]), (test, finished)


def _drop_all(project: Project) -> None:
    """Drop all databases of the project, so that a failure here does not fail other tests."""
    with project.maintenance() as maintenance:
        for name in project.databases():
            maintenance.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _state(project: Project, other_databases: list[str]) -> list[object]:
    """Wait for the run's sessions to end, then list databases, contents and leftover files."""
    with project.maintenance() as maintenance:
        wait_for(lambda: not sessions(maintenance), "the sessions of the run to end")
    digests = []
    for name in other_databases:
        with project.host(name) as connection:
            digests.append(digest(connection))
    listed, *schemas = state(project)
    return [*listed, *schemas, *digests, *_files(project.folder)]


def _changes(before: list[object], after: list[object]) -> list[object]:
    gone = [("is gone", one) for one in before if one not in after]
    return gone + [("is left", one) for one in after if one not in before]


def _files(folder: Path) -> list[str]:
    """List unexpected files in the temporary folder and in `.schema_runner`."""
    folders = [folder / "t", folder / ".schema_runner"]
    # A killed forkserver of multiprocessing leaves its folder behind, with any test runner.
    known = re.compile(r"\.gitignore|history\.json|lock|pymp-.*")
    found = [path for one in folders if one.exists() for path in one.iterdir()]
    return sorted(str(path) for path in found if not known.fullmatch(path.name))
