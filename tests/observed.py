"""What a run reports of every test, as its own process writes it down, and what it leaves."""

import json
import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .project import Project, Result, wait_for

# A runner whose result and observer write a line of JSON for all that they are told.
_RUNNER = """
    import json
    import os
    import traceback
    import unittest

    from schema_runner import Finished, SchemaDiscoverRunner, Started


    def write(kind, **values):
        with open("reported", "a") as lines:
            lines.write(json.dumps({"kind": kind, **values}) + "\\n")


    def observe(event):
        if not isinstance(event, Started | Finished):
            return
        write(
            type(event).__name__,
            test=event.test_id,
            worker=event.worker,
            attempt=event.attempt,
            outcome=getattr(event, "outcome", None),
        )


    class Writing(unittest.TextTestResult):
        def startTest(self, test):
            write("call", test=test.id(), method="startTest")
            super().startTest(test)

        def stopTest(self, test):
            write("call", test=test.id(), method="stopTest")
            super().stopTest(test)

        def addSuccess(self, test):
            write("call", test=test.id(), method="addSuccess")
            super().addSuccess(test)

        def addError(self, test, err):
            self.write_error("addError", test, err)
            super().addError(test, err)

        def addFailure(self, test, err):
            self.write_error("addFailure", test, err)
            super().addFailure(test, err)

        def addSubTest(self, test, subtest, err):
            self.write_error("addSubTest", test, err, subtest=subtest.id())
            super().addSubTest(test, subtest, err)

        def addSkip(self, test, reason):
            write("call", test=test.id(), method="addSkip", text=str(reason))
            super().addSkip(test, reason)

        def addExpectedFailure(self, test, err):
            self.write_error("addExpectedFailure", test, err)
            super().addExpectedFailure(test, err)

        def addUnexpectedSuccess(self, test):
            write("call", test=test.id(), method="addUnexpectedSuccess")
            super().addUnexpectedSuccess(test)

        def write_error(self, method, test, err, **values):
            text = "".join(traceback.format_exception(*err))
            write("call", test=test.id(), method=method, text=text, **values)


    class ObservedRunner(SchemaDiscoverRunner):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.observers.append(observe)

        def get_resultclass(self):
            return Writing
"""
# What tests of an observed project use to write down, in the process that runs them, that they
# were run.
RECORDING = """
    import ctypes
    import json
    import os
    import signal
    import sys
    import threading
    import time
    import unittest
    from pathlib import Path

    import schema_runner


    def record(what, **values):
        worker = schema_runner.current_worker()
        line = {
            "what": what,
            "process": os.getpid(),
            "worker": worker and worker.number,
            "schema": worker and worker.schema,
            **values,
        }
        with open("recorded", "a") as lines:
            lines.write(json.dumps(line) + "\\n")


    def wait_until(condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.01)


    class Recording:
        @classmethod
        def setUpClass(cls):
            record(f"setUpClass {cls.__name__}")
            super().setUpClass()

        def setUp(self):
            super().setUp()
            record(self.id().removeprefix("library."))


"""
OUTCOMES = {
    "addSuccess": "passed",
    "addFailure": "failed",
    "addError": "error",
    "addSkip": "skipped",
    "addExpectedFailure": "expected failure",
    "addUnexpectedSuccess": "unexpected success",
}
# A class that passes, for beside those that do not.
OTHER = """


    class Other(Recording, TestCase):
        def test_it(self):
            pass
"""


@dataclass(frozen=True, slots=True)
class Call:
    """What a result was told of a test, or of a fixture."""

    method: str
    text: str
    subtest: str = ""


@dataclass(frozen=True, slots=True)
class Reported:
    """All that a run has reported, by test: calls of its result, and events.

    Tests are named without the `library.` that all begin with.
    """

    result: Result
    calls: dict[str, list[Call]] = field(default_factory=dict)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def outcomes(self) -> dict[str, str]:
        """Map each test to what it has come to for observers; fail unless told exactly once."""
        tests = self.tests
        assert set(self.events) == tests, self.result.output
        return {test: self._outcome(test) for test in sorted(tests)}

    @property
    def tests(self) -> set[str]:
        return {test for test, calls in self.calls.items() if calls[0].method == "startTest"}

    @property
    def fixtures(self) -> dict[str, list[Call]]:
        """Map what is not a test, as `setUpClass (test_generated.A)`, to what was told of it."""
        return {name: calls for name, calls in self.calls.items() if name not in self.tests}

    def text(self, test: str) -> str:
        """Return all the texts that were told of a test, or a fixture."""
        return "\n".join(call.text for call in self.calls[test] if call.text)

    def _outcome(self, test: str) -> str:
        methods = [call.method for call in self.calls[test]]
        assert methods[-1] == "stopTest", f"{test} {methods}\n{self.result.output}"
        told = methods[1:-1]
        assert len(told) == 1 or set(told) == {"addSubTest"}, (test, self.calls[test])
        started, finished = self.events[test]
        assert (started["kind"], finished["kind"]) == ("Started", "Finished"), self.events[test]
        assert started["worker"] == finished["worker"]
        assert started["attempt"] == finished["attempt"] == 1
        outcome: str = finished["outcome"]
        if told[0] != "addSubTest":
            expected = {"crashed": "error", "timed out": "error"}.get(outcome, outcome)
            assert OUTCOMES[told[0]] == expected, test
        return outcome


def observe(project: Project) -> None:
    """Have the runs of a project write down what they report."""
    project.write("observed.py", _RUNNER)
    project.configure('TEST_RUNNER = "observed.ObservedRunner"')


def finish(project: Project, process: subprocess.Popen[str]) -> Reported:
    """Wait for the end of a run, and for that of all its processes; return what it reported."""
    stdout, stderr = process.communicate(timeout=120)
    wait_for(lambda: not session(process.pid), "the processes of the run to end")
    reported = Reported(Result(process.returncode, stdout, stderr))
    for line in read(project.folder / "reported"):
        test = line["test"].replace("library.", "")
        if line["kind"] == "call":
            call = Call(line["method"], line.get("text", ""), line.get("subtest", ""))
            reported.calls.setdefault(test, []).append(call)
        else:
            reported.events.setdefault(test, []).append(line)
    return reported


def run(project: Project, *arguments: str, env: dict[str, str] | None = None) -> Reported:
    """Run an observed project in two workers, unless the arguments say otherwise."""
    return finish(project, project.start(*(arguments or ("--parallel", "2")), env=env))


def recorded(project: Project, what: str) -> list[dict[str, Any]]:
    """List the records of one kind that tests have written."""
    return [line for line in read(project.folder / "recorded") if line["what"] == what]


def read(path: Path) -> list[dict[str, Any]]:
    """Read the lines of JSON that are whole."""
    if not path.exists():
        return []
    *lines, _ = path.read_text().split("\n")
    return [json.loads(line) for line in lines]


def session(leader: int) -> list[int]:
    """List the processes of a session that are alive."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            state, _parent, _group, of_session = fields[:4]
            if int(of_session) == leader and state != "Z":
                found.append(int(entry.name))
    return found


def children(parent: int) -> list[int]:
    """List the processes that are alive and have this one as their parent."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            state, of_process, *_ = fields
            if int(of_process) == parent and state != "Z":
                found.append(int(entry.name))
    return found


def is_asleep(process: int) -> bool:
    """Whether a process has been waiting for something each of several times."""
    for _ in range(10):
        if _stat(process)[:1] != ["S"]:
            return False
        time.sleep(0.02)
    return True


def _stat(process: int) -> list[str]:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
