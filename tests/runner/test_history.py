"""The folder with the history of a project's runs."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from schema_runner.scheduling.history import HistoryFolder

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
def with_history(project: Project) -> Project:
    """A project with three tests, one of which may fail."""
    project.tests(TESTS)
    return project


def names(folder: Path) -> set[str]:
    """Return the files in a folder, except those that tests create."""
    return {path.name for path in folder.iterdir() if not path.name.startswith("met-")}


def fail(project: Project, *mode: str) -> None:
    """Run the tests; one of them fails."""
    run(project, *mode, env=BROKEN).failed()


def knows_a_failure(project: Project) -> bool:
    """Whether the next run knows that a test has failed."""
    return run(project, "--last-failed").passed().tests == ["A.test_failing"]


@each_mode
def test_a_run_leaves_a_history(with_history: Project, mode: Mode) -> None:
    """It is in the project's folder, with a .gitignore that excludes it."""
    history_dir(with_history, None)
    fail(with_history, *mode)
    without = names(with_history.folder)
    history_dir(with_history, FOLDER)
    fail(with_history, *mode)
    assert names(with_history.folder) - without == {FOLDER}
    folder = with_history.folder / FOLDER
    assert names(folder) == {".gitignore", "history.json", "lock"}
    before = (folder / "history.json").read_bytes()
    # With HISTORY_DIR = None, it is neither read nor written.
    history_dir(with_history, None)
    assert not knows_a_failure(with_history)
    assert (folder / "history.json").read_bytes() == before
    history_dir(with_history, FOLDER)
    assert knows_a_failure(with_history)


@pytest.mark.parametrize("is_absolute", [False, True])
def test_another_folder(with_history: Project, is_absolute: bool) -> None:
    """Relative to the project's folder, or absolute; created if it is missing."""
    folder = with_history.folder / "kept" / "here"
    history_dir(with_history, str(folder) if is_absolute else "kept/here")
    fail(with_history)
    assert names(folder) == {".gitignore", "history.json", "lock"}
    assert FOLDER not in names(with_history.folder)
    assert knows_a_failure(with_history)


def test_the_folder_is_the_same_from_anywhere(with_history: Project) -> None:
    """It may exist already, and runs from other folders use the same one."""
    (with_history.folder / FOLDER).mkdir()
    fail(with_history)
    # The runner adds no .gitignore to a folder that it did not create.
    assert names(with_history.folder / FOLDER) == {"history.json", "lock"}
    elsewhere = with_history.folder / "elsewhere"
    elsewhere.mkdir()
    with_history.forget()
    command = [sys.executable, "../manage.py", "test", "library", "--last-failed"]
    subprocess.run(command, cwd=elsewhere, check=True)
    assert [line.name for line in read(with_history) if line.what == "begins"] == [
        "A.test_failing"
    ]
    assert list(elsewhere.iterdir()) == []
    assert not knows_a_failure(with_history)


# A folder that cannot be created, and one that even root cannot write to.
PLACES = {"unmakable": "/proc/nothing", "read-only": "/sys/kernel"}
# Names of files of the history that are folders instead.
FILES = ["history.json", "history.new", "lock"]
# tests/unit/test_history.py has more invalid contents.
CONTENTS = {
    "bytes": b"\xff\x00",
    "half": b'{"format":1,"tests":{"library.test_generated.A.test_fai',
    "values": b'{"format":1,"tests":{"a":["x","P",1]},"classes":{},"runs":[]}',
}


def outcome_of(found: Run) -> tuple[int, set[str], str]:
    """Return the exit code, the tests that ran, and the output without numbers."""
    return found.result.code, {*found.tests}, re.sub("[0-9.]+( m?s)?", "#", found.result.output)


def test_a_folder_that_cannot_be_used_changes_nothing(with_history: Project) -> None:
    """Outcomes, exit code and output are the same.

    Options that need the history say that it cannot be written.
    """
    folder = with_history.folder
    history_dir(with_history, None)
    expected = outcome_of(run(with_history, env=BROKEN))
    assert expected[0] == 1
    (folder / "file").touch()
    for name, target in PLACES.items():
        (folder / name).symlink_to(target)
    for name in FILES:
        (folder / f"with-{name}" / name).mkdir(parents=True)
    with_history.configure("del SCHEMA_RUNNER")
    for name in ("file", *PLACES, *(f"with-{name}" for name in FILES)):
        (folder / FOLDER).unlink(missing_ok=True)
        (folder / FOLDER).symlink_to(name)
        assert outcome_of(run(with_history, env=BROKEN)) == expected, name
        warning = "--failed-first needs the history, which is stored there."
        has_warning = warning in run(with_history, "--failed-first", env=BROKEN).result.stderr
        assert has_warning == (name not in ("with-history.json", "with-history.new")), name


EXPLICIT_SETTINGS = [
    ('{"HISTORY_DIR": "manage.py"}', (), "Cannot write to "),
    ('{"HISTORY_DIR": None}', ("--last-failed",), "--last-failed needs a history."),
    ('{"HISTORY_DIR": None}', (), None),
]


def test_a_history_that_options_need(with_history: Project) -> None:
    """A system check says so if no history can be kept."""
    for settings, arguments, hint in EXPLICIT_SETTINGS:
        with_history.configure(f"SCHEMA_RUNNER = {settings}")
        stderr = run(with_history, *arguments).passed().result.stderr
        assert (hint or "") in stderr
        assert ("(schema_runner.W006)" in stderr) == (hint is not None)


def test_a_history_that_cannot_be_read_changes_nothing(with_history: Project) -> None:
    """Outcomes, exit code and output do not change."""
    history_dir(with_history, None)
    expected = outcome_of(run(with_history, *PARALLEL, env=TOGETHER))
    assert expected[0] == 0
    for name, content in CONTENTS.items():
        with_history.write(f"{name}/history.json", "")
        (with_history.folder / name / "history.json").write_bytes(content)
        history_dir(with_history, name)
        assert outcome_of(run(with_history, *PARALLEL, env=TOGETHER)) == expected, name


def test_concurrent_runs_all_add_to_the_history(project: Project) -> None:
    """Concurrent runs add to each other's history."""
    modules = ["test_1", "test_2", "test_3"]
    for module in modules:
        project.tests(TESTS, module=module)
    # The runs meet in a test, so that all have started before one ends.
    env = {**BROKEN, "MEET": "3"}
    for one in [project.start(f"library.{module}", env=env) for module in modules]:
        assert "failures=1" in outcome(one).stderr
    found = run(project, "--last-failed").passed()
    assert found.tests == ["A.test_failing"] * 3


MOCKED = """
    from unittest import mock

    class Mocked(TestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            cls.enterClassContext(mock.patch("time.time"))
            cls.enterClassContext(mock.patch("time.monotonic", return_value=1e12))
            cls.enterClassContext(mock.patch("os.getpid", return_value=1))
        @schema_runner.timeout(30)
        def test_that_forks(self):
            if (child := os.fork()) == 0: os._exit(0)
            os.waitpid(child, 0)
            threading.Event().wait(0.5)
        def test_that_mocks(self):
            type(self).enterClassContext(mock.patch("time.perf_counter", return_value=-1e12))

    class Other(TestCase):
        def test_it(self): pass
"""


@each_mode
def test_tests_can_mock_the_time_and_the_process(project: Project, mode: Mode) -> None:
    """Durations, days and timeouts are real, and the worker knows that it is the same process."""
    project.tests(MOCKED)
    project.run(*mode).passed("Ran 3 tests")
    history = HistoryFolder(project.folder / FOLDER).read()
    assert len(history.tests) == 3
    for test in history.tests.values():
        assert 0 < (test.seconds or 0) < 30
        assert abs(time.time() / 86400 - test.day) < 2
