"""The folder in which runs of a project keep what they have seen of its tests."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..project import PARALLEL, Mode, Project, each_mode, outcome
from .recording import TOGETHER, Run, read, run

FOLDER = ".schema_runner"
TESTS = """
    class A(Recording, TestCase):
        def test_failing(self): self.assertNotIn("BROKEN", os.environ)
        def test_passing(self): pass

    class B(Recording, TransactionTestCase):
        def test_passing(self): pass
"""
BROKEN = {"BROKEN": "1"}


def history_dir(project: Project, folder: str | None) -> None:
    project.configure(f'SCHEMA_RUNNER = {{"HISTORY_DIR": {folder!r}}}')


@pytest.fixture
def remembering(project: Project) -> Project:
    """A project with three tests, of which one may fail."""
    project.tests(TESTS)
    return project


def names(folder: Path) -> set[str]:
    """Return what is in a folder, but for what tests leave there."""
    return {path.name for path in folder.iterdir() if not path.name.startswith("met-")}


def fail(project: Project, *mode: str) -> None:
    """Run the tests, of which one fails."""
    run(project, *mode, env=BROKEN).failed()


def knows_a_failure(project: Project) -> bool:
    """Whether a run that is to begin knows that a test has failed."""
    return run(project, "--last-failed").passed().tests == ["A.test_failing"]


@each_mode
def test_a_run_leaves_a_history(remembering: Project, mode: Mode) -> None:
    """In the project's folder, and nothing else; version control is told to leave it alone."""
    history_dir(remembering, None)
    fail(remembering, *mode)
    without = names(remembering.folder)
    history_dir(remembering, FOLDER)
    fail(remembering, *mode)
    assert names(remembering.folder) - without == {FOLDER}
    folder = remembering.folder / FOLDER
    assert names(folder) == {".gitignore", "history.json", "lock"}
    before = (folder / "history.json").read_bytes()
    # Without the setting it is neither read nor written.
    history_dir(remembering, None)
    assert not knows_a_failure(remembering)
    assert (folder / "history.json").read_bytes() == before
    history_dir(remembering, FOLDER)
    assert knows_a_failure(remembering)


@pytest.mark.parametrize("is_absolute", [False, True])
def test_another_folder(remembering: Project, is_absolute: bool) -> None:
    """Below the project's, unless its path is an absolute one; made where it is missing."""
    folder = remembering.folder / "kept" / "here"
    history_dir(remembering, str(folder) if is_absolute else "kept/here")
    fail(remembering)
    assert names(folder) == {".gitignore", "history.json", "lock"}
    assert FOLDER not in names(remembering.folder)
    assert knows_a_failure(remembering)


def test_a_folder_of_the_project_from_anywhere(remembering: Project) -> None:
    """One that is there is its owner's; runs elsewhere have the same, and leave nothing there."""
    (remembering.folder / FOLDER).mkdir()
    fail(remembering)
    # Whether version control is to have it is not for us to say.
    assert names(remembering.folder / FOLDER) == {"history.json", "lock"}
    elsewhere = remembering.folder / "elsewhere"
    elsewhere.mkdir()
    remembering.forget()
    command = [sys.executable, "../manage.py", "test", "library", "--last-failed"]
    subprocess.run(command, cwd=elsewhere, check=True)
    assert [line.name for line in read(remembering) if line.what == "begins"] == ["A.test_failing"]
    assert list(elsewhere.iterdir()) == []
    assert not knows_a_failure(remembering)


# What is in the folder's place, beside a file: what cannot be a folder, and one that is read-only
# even for root.
PLACES = {"unmakable": "/proc/nothing", "read-only": "/sys/kernel"}
# What is a folder itself instead of a file of it.
FILES = ["history.json", "history.new", "lock"]
# tests/unit/test_history.py has more of what is no history.
CONTENTS = {
    "bytes": b"\xff\x00",
    "half": b'{"format":1,"tests":{"library.test_generated.A.test_fai',
    "values": b'{"format":1,"tests":{"a":["x","P",1]},"classes":{},"runs":[]}',
}


def said(found: Run) -> tuple[int, set[str], str]:
    """Return what a run has come to, and what it has said but for numbers."""
    return found.result.code, {*found.tests}, re.sub("[0-9.]+( m?s)?", "#", found.result.output)


def test_a_folder_that_cannot_be_used_changes_nothing(remembering: Project) -> None:
    """Whatever is in its place, or in that of its files: no outcome, exit code or output.

    That nothing can be written there is said where an option needs it.
    """
    folder = remembering.folder
    history_dir(remembering, None)
    expected = said(run(remembering, env=BROKEN))
    assert expected[0] == 1
    (folder / "file").touch()
    for name, target in PLACES.items():
        (folder / name).symlink_to(target)
    for name in FILES:
        (folder / f"with-{name}" / name).mkdir(parents=True)
    remembering.configure("del SCHEMA_RUNNER")
    for name in ("file", *PLACES, *(f"with-{name}" for name in FILES)):
        (folder / FOLDER).unlink(missing_ok=True)
        (folder / FOLDER).symlink_to(name)
        assert said(run(remembering, env=BROKEN)) == expected, name
        warning = "--failed-first needs the history, which is stored there."
        said_why = warning in run(remembering, "--failed-first", env=BROKEN).result.stderr
        assert said_why == (name not in ("with-history.json", "with-history.new")), name


ASKED_FOR = [
    ('{"HISTORY_DIR": "manage.py"}', (), "Cannot write to "),
    ('{"HISTORY_DIR": None}', ("--last-failed",), "--last-failed needs a history."),
    ('{"HISTORY_DIR": None}', (), None),
]


def test_a_history_that_is_asked_for(remembering: Project) -> None:
    """Where none can be kept, a system check says so."""
    for settings, arguments, hint in ASKED_FOR:
        remembering.configure(f"SCHEMA_RUNNER = {settings}")
        stderr = run(remembering, *arguments).passed().result.stderr
        assert (hint or "") in stderr
        assert ("(schema_runner.W006)" in stderr) == (hint is not None)


def test_a_history_that_cannot_be_read_changes_nothing(remembering: Project) -> None:
    """Whatever it is: no outcome, no exit code and no output."""
    history_dir(remembering, None)
    expected = said(run(remembering, *PARALLEL, env=TOGETHER))
    assert expected[0] == 0
    for name, content in CONTENTS.items():
        remembering.write(f"{name}/history.json", "")
        (remembering.folder / name / "history.json").write_bytes(content)
        history_dir(remembering, name)
        assert said(run(remembering, *PARALLEL, env=TOGETHER)) == expected, name


def test_runs_at_the_same_time_all_remember(project: Project) -> None:
    """None of them loses what another has written since it began."""
    modules = ["test_1", "test_2", "test_3"]
    for module in modules:
        project.tests(TESTS, module=module)
    # A test of each waits for the others, so that all of them have begun before one ends.
    env = {**BROKEN, "MEET": "3"}
    for one in [project.start(f"library.{module}", env=env) for module in modules]:
        assert "failures=1" in outcome(one).stderr
    found = run(project, "--last-failed").passed()
    assert found.tests == ["A.test_failing"] * 3
