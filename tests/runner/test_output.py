"""Log lines between the progress of tests."""

import os
import subprocess
import sys

import pytest

from ..project import PARALLEL, SERIAL, Mode, Project

RUNNER = """
    from schema_runner import ClassFinished, Finished, SchemaDiscoverRunner, Started

    class Runner(SchemaDiscoverRunner):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.observers.append(self.show)
        def show(self, event):
            if isinstance(event, Started | Finished | ClassFinished):
                self.log(f"Said of {type(event).__name__}.")
"""
TESTS = """
    class Outcomes(SimpleTestCase):
        def test_1_passed(self): pass
        def test_2_failed(self): self.fail()
        @unittest.skip("now")
        def test_3_skipped(self): pass
        def test_4_subtest(self):
            with self.subTest(number=1): self.fail()
    class Unset(SimpleTestCase):
        @classmethod
        def setUpClass(cls): raise unittest.SkipTest("all of it")
        def test_it(self): pass
    class Other(SimpleTestCase):
        def test_it(self): pass
"""


@pytest.mark.parametrize("verbosity", ["1", "2"])
@pytest.mark.parametrize(
    "mode", [SERIAL, (*PARALLEL, "--retries", "1")], ids=["serial", "parallel"]
)
def test_log_messages_have_their_own_lines(project: Project, mode: Mode, verbosity: str) -> None:
    """Each message is on its own line, whatever test output came before it."""
    project.write("runners.py", RUNNER)
    project.tests(TESTS)
    options = [*mode, "-v", verbosity, "--testrunner", "runners.Runner"]
    output = subprocess.run(
        [sys.executable, "-u", "manage.py", "test", *options],
        cwd=project.folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        text=True,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ).stdout
    said = [line for line in output.splitlines() if "Said of" in line or "Retrying" in line]
    assert len(said) > 12, output
    known = {f"Said of {name}." for name in ("Started", "Finished", "ClassFinished")}
    known |= {"Retrying 2 failures, each alone."} if mode else set()
    assert set(said) == known


PRINTING = """
    class Lasting(SimpleTestCase):
        def test_it(self):
            print("before a thread")
            threading.Thread(target=time.sleep, args=(60,)).start()
    class Dying(SimpleTestCase):
        def test_it(self):
            print("before a death")
            os._exit(7)
"""


def test_killed_workers_keep_what_they_printed(project: Project) -> None:
    """A worker with a leftover thread is killed, and a test may end its process."""
    project.tests(PRINTING)
    # If the variable is empty, Python buffers the output.
    stdout = project.run(*PARALLEL, env={"PYTHONUNBUFFERED": ""}).failed().stdout
    assert stdout.count("before a thread\n") == stdout.count("before a death\n") == 1
