"""A project that survives what soak tests do to its runs, and what has to be true afterwards."""

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

# How often; SOAK_SEED repeats one round.
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
# Somebody's databases: beside the one of the tests, and one of a run that was given a new name.
_BESIDE = "CREATE TABLE precious (n int); INSERT INTO precious VALUES (1)"


def seeded() -> random.Random:
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(2**32))
    print(f"SOAK_SEED={seed}")
    return random.Random(seed)


def write(project: Project) -> None:
    observe(project)
    project.tests(SUITE)


def prepare(project: Project, also: str) -> list[str]:
    """Give it tests, a database that is in use, and databases beside it; return their names.

    In its own database, `also` is executed.
    """
    write(project)
    beside = [f"{project.test_name}_x", f"{project.name}_renamed"]
    for name in [project.name, *beside]:
        project.create_database(name)
        project.query(DECOYS if name == project.name else _BESIDE, database=name)
    for name in beside[1:]:
        marker = Marker(1, MarkerState.READY, project.test_name, name=project.test_name)
        project.query(f"COMMENT ON DATABASE {name} IS '{marker}'", database=name)
    if also:
        project.query(also, database=project.name)
    # After a crash, sequences that were used since the last one go on further ahead.
    project.query("CHECKPOINT", database=project.name)
    return beside


@contextmanager
def unchanged(project: Project, also: str = "") -> Iterator[Callable[[], list[object]]]:
    """Expect everything to be in the end as it was found: databases, processes, files.

    Yield what lists the changes that there are so far.
    """
    beside = prepare(project, also)
    try:
        before = _state(project, beside)

        def changes() -> list[object]:
            return _changes(before, _state(project, beside))

        yield changes
        assert not (found := changes()), found
    finally:
        project.end()
        _drop_all(project)


def prepare_for(project: Project, kill: Kill) -> None:
    """Have its runs, and what was before them, be of that kind."""
    if kill.mode == "clones":
        extra = 'migrations.RunSQL("CREATE SCHEMA extra")'
        project.migration("0002_extra", "0001_initial", extra)
    if kill.mode == "pool":
        run(project, *kill.flags, env=kill.env)


def recover(project: Project, kill: Kill) -> None:
    """Let the next run pass, and have another remove what it has kept."""
    run(project, *kill.flags, env=kill.env)
    if "--keepdb" in kill.flags:
        run(project, "--clear-pools", env={})


def start(project: Project, *flags: str, env: dict[str, str]) -> Process:
    """Start a run whose temporary files are in a folder of their own."""
    project.forget()
    # A short name: that of a socket is in it.
    folder = project.folder / "t"
    folder.mkdir(exist_ok=True)
    return project.start("--noinput", *flags, env={"TMPDIR": str(folder), **env})


def run(project: Project, *flags: str, env: dict[str, str]) -> Reported:
    """Run the suite, which has to pass."""
    reported = finish(project, start(project, *flags, env=env))
    assert reported.result.code == 0, reported.result.output
    assert reported.outcomes == OUTCOMES, reported.result.output
    return reported


def check_fragment(reported: Reported) -> None:
    """What a run has told that was killed in the middle of it."""
    for test, events in reported.events.items():
        finished = [event["outcome"] for event in events if event["what"] == "Finished"]
        assert finished in ([], [OUTCOMES[test]]), (test, finished)


def _drop_all(project: Project) -> None:
    """Drop what a failure has left, too, so that it does not fail other tests."""
    with project.maintenance() as maintenance:
        for name in project.databases():
            maintenance.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _state(project: Project, beside: list[str]) -> list[object]:
    """List all that a run could have changed or left, once it has no sessions any more."""
    with project.maintenance() as maintenance:
        wait_for(lambda: not sessions(maintenance), "the sessions of the run to end")
    digests = []
    for name in beside:
        with project.host(name) as connection:
            digests.append(digest(connection))
    listed, *schemas = state(project)
    return [*listed, *schemas, *digests, *_files(project.folder)]


def _changes(before: list[object], after: list[object]) -> list[object]:
    gone = [("is gone", one) for one in before if one not in after]
    return gone + [("is left", one) for one in after if one not in before]


def _files(folder: Path) -> list[str]:
    """List what is left in the folder for temporary files, and beside the history."""
    folders = [folder / "t", folder / ".schema_runner"]
    # The folder of multiprocessing's forkserver stays where that is killed, with any runner.
    known = re.compile(r"\.gitignore|history\.json|lock|pymp-.*")
    found = [path for one in folders if one.exists() for path in one.iterdir()]
    return sorted(str(path) for path in found if not known.fullmatch(path.name))
