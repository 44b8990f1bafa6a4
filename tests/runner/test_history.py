"""The folder in which runs of a project keep what they have seen of its tests."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ..project import Project
from .recording import PARALLEL, TOGETHER, Run, read, run

MODES = [pytest.param((), id="serial"), pytest.param(PARALLEL, id="parallel")]
FOLDER = ".schema_runner"
TESTS = """
    class A(Recording, TestCase):
        def test_failing(self):
            self.assertNotIn("BROKEN", os.environ)

        def test_passing(self):
            pass


    class B(Recording, TransactionTestCase):
        def test_passing(self):
            pass
"""
BROKEN = {"BROKEN": "1"}


def history_dir(project: Project, folder: str | None) -> None:
    project.configure(f'SCHEMA_RUNNER = {{"HISTORY_DIR": {folder!r}}}')


@pytest.fixture
def remembering(project: Project) -> Project:
    """A project with three tests, of which one may fail."""
    project.tests(TESTS)
    return project


def names(project: Project) -> set[str]:
    """Return what is in the project's folder, but for what tests leave there."""
    found = {path.name for path in project.folder.iterdir()}
    return {name for name in found if not name.startswith("met-")}


def knows_a_failure(project: Project) -> bool:
    """Whether a run that is to begin knows that a test has failed."""
    found = run(project, "--last-failed").passed()
    return found.tests == ["A.test_failing"]


@pytest.mark.parametrize("mode", MODES)
def test_a_run_leaves_a_history(remembering: Project, mode: tuple[str, ...]) -> None:
    """In the project's folder, and nothing else; version control is told to leave it alone."""
    history_dir(remembering, None)
    assert run(remembering, *mode, env=BROKEN).result.code == 1
    without = names(remembering)
    history_dir(remembering, FOLDER)
    assert run(remembering, *mode, env=BROKEN).result.code == 1
    assert names(remembering) - without == {FOLDER}
    folder = remembering.folder / FOLDER
    assert {path.name for path in folder.iterdir()} == {".gitignore", "history.json", "lock"}
    assert (folder / ".gitignore").read_text() == "*\n"
    assert knows_a_failure(remembering)


def test_no_folder(remembering: Project) -> None:
    """Nothing is left, and nothing known: not even where an earlier run has left something."""
    assert run(remembering, env=BROKEN).result.code == 1
    history_dir(remembering, None)
    before = (remembering.folder / FOLDER / "history.json").read_bytes()
    assert not knows_a_failure(remembering)
    assert (remembering.folder / FOLDER / "history.json").read_bytes() == before


@pytest.mark.parametrize("is_absolute", [False, True])
def test_another_folder(remembering: Project, is_absolute: bool) -> None:
    """Below the project's, unless its path is an absolute one; made where it is missing."""
    folder = remembering.folder / "kept" / "here"
    history_dir(remembering, str(folder) if is_absolute else "kept/here")
    assert run(remembering, env=BROKEN).result.code == 1
    assert (folder / ".gitignore").is_file()
    assert (folder / "history.json").is_file()
    assert FOLDER not in names(remembering)
    assert knows_a_failure(remembering)


def test_a_folder_that_is_there_is_its_owners(remembering: Project) -> None:
    """Whether version control is to have it, nobody else says."""
    (remembering.folder / FOLDER).mkdir()
    assert run(remembering, env=BROKEN).result.code == 1
    kept = {path.name for path in (remembering.folder / FOLDER).iterdir()}
    assert kept == {"history.json", "lock"}
    assert knows_a_failure(remembering)


def test_the_working_directory_does_not_matter(remembering: Project, tmp_path: Path) -> None:
    """Runs from anywhere have the same folder, and leave nothing elsewhere."""
    assert run(remembering, env=BROKEN).result.code == 1
    elsewhere = remembering.folder / "elsewhere"
    elsewhere.mkdir()
    remembering.forget()
    done = subprocess.run(
        [sys.executable, "../manage.py", "test", "library", "--last-failed"],
        check=False,
        cwd=elsewhere,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [line.name for line in read(remembering) if line.what == "begins"] == ["A.test_failing"]
    assert list(elsewhere.iterdir()) == []
    assert not knows_a_failure(remembering)


def be_a_file(folder: Path) -> None:
    folder.write_text("")


def cannot_be_made(folder: Path) -> None:
    """It is where nobody can make one."""
    folder.symlink_to("/proc/nothing")


def is_read_only(folder: Path) -> None:
    """Even for root."""
    folder.symlink_to("/sys/kernel")


def has_a_folder_as(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).mkdir(parents=True)


def has(text: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "history.json").write_bytes(text)

    return write


DAMAGES = {
    "file": be_a_file,
    "unmakable": cannot_be_made,
    "read-only": is_read_only,
    "history": has_a_folder_as("history.json"),
    "new": has_a_folder_as("history.new"),
    "lock": has_a_folder_as("lock"),
    "empty": has(b""),
    "bytes": has(b"\xff\x00"),
    "half": has(b'{"format":1,"tests":{"library.test_generated.A.test_fai'),
    "list": has(b"[]"),
    "null": has(b'{"format":1,"tests":null,"classes":null,"runs":null}'),
    "other format": has(b'{"format":2,"tests":{},"classes":{},"runs":[]}'),
    "values": has(b'{"format":1,"tests":{"a":["x","P",1]},"classes":{},"runs":[]}'),
}


def said(found: Run) -> tuple[int, set[str], str]:
    """Return what a run has come to, and what it has said but for numbers."""
    return found.result.code, {*found.tests}, re.sub("[0-9.]+", "#", found.result.output)


def test_damage_changes_nothing(remembering: Project) -> None:
    """Whatever is in the folder's place, or in it: no outcome, no exit code and no output."""
    history_dir(remembering, None)
    serial = said(run(remembering, env=BROKEN))
    parallel = said(run(remembering, *PARALLEL, env=TOGETHER))
    assert (serial[0], parallel[0]) == (1, 0)
    for name, damage in DAMAGES.items():
        folder = remembering.folder / f"kept-{name}"
        damage(folder)
        history_dir(remembering, folder.name)
        assert said(run(remembering, env=BROKEN)) == serial, name
        assert said(run(remembering, *PARALLEL, env=TOGETHER)) == parallel, name


def test_runs_at_the_same_time_all_remember(project: Project) -> None:
    """None of them loses what another has written since it began."""
    modules = [f"test_{number}" for number in range(3)]
    for module in modules:
        project.tests(TESTS, module=module)
    # A test of each waits for the others, so that all of them have begun before one ends.
    env = {**BROKEN, "MEET": str(len(modules))}
    runs = [project.start(f"library.{module}", env=env) for module in modules]
    for one in runs:
        output = one.communicate(timeout=120)
        assert one.returncode == 1, output
        assert "failures=1" in output[1]
    found = run(project, "--last-failed").passed()
    assert found.tests == ["A.test_failing"] * len(modules)
