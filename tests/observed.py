"""The results that a run reports for each test, as recorded by its main process."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .project import PARALLEL, Process, Project, Result, outcome, wait_for

OUTCOMES = {
    "addSuccess": "passed",
    "addFailure": "failed",
    "addError": "error",
    "addSkip": "skipped",
    "addExpectedFailure": "expected failure",
    "addUnexpectedSuccess": "unexpected success",
}
# A class that passes, to run alongside those that do not.
OTHER = """

    class Other(Recording, TestCase):
        def test_it(self): pass
"""
TWO_CLASSES = """
    class First(Recording, TestCase):
        def test_it(self): pass
    class Second(First): pass
"""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a method of the test result, for a test or a fixture."""

    method: str
    text: str
    subtest: str = ""


@dataclass(frozen=True, slots=True)
class Reported:
    """The calls, events and records of a run, by test id without `library.test_generated.`."""

    result: Result
    records: list[dict[str, Any]]
    calls: dict[str, list[Call]] = field(default_factory=dict)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def outcomes(self) -> dict[str, str]:
        """Map each test to the outcome that observers got; fail unless reported exactly once."""
        tests = self.tests
        assert set(self.events) == tests, self.result.output
        return {test: self._outcome(test) for test in sorted(tests)}

    @property
    def tests(self) -> set[str]:
        return {test for test, calls in self.calls.items() if calls[0].method == "startTest"}

    @property
    def fixtures(self) -> dict[str, list[Call]]:
        """Map fixtures, such as `setUpClass (A)`, to their calls."""
        return {name: calls for name, calls in self.calls.items() if name not in self.tests}

    def text(self, test: str) -> str:
        """Return all texts reported for a test or a fixture."""
        return "\n".join(call.text for call in self.calls[test] if call.text)

    def processes(self, what: str, case: str) -> list[int]:
        """List the processes that recorded `what` for this class, once for each record."""
        found = [line for line in self.records if line["what"] == what]
        return [line["process"] for line in found if line["case"] == case]

    def _outcome(self, test: str) -> str:
        methods = [call.method for call in self.calls[test]]
        assert methods[-1] == "stopTest", f"{test} {methods}\n{self.result.output}"
        reported_methods = methods[1:-1]
        assert len(reported_methods) == 1 or set(reported_methods) == {"addSubTest"}, (
            test,
            self.calls[test],
        )
        started, finished = self.events[test]
        assert (started["what"], finished["what"]) == ("Started", "Finished"), self.events[test]
        assert started["worker"] == finished["worker"]
        assert started["attempt"] == finished["attempt"] == 1
        outcome: str = finished["outcome"]
        if reported_methods[0] != "addSubTest":
            expected = {"crashed": "error", "timed out": "error"}.get(outcome, outcome)
            assert OUTCOMES[reported_methods[0]] == expected, test
        return outcome


def observe(project: Project) -> None:
    """Configure the project so that its runs record all that they report."""
    project.configure('TEST_RUNNER = "helpers.observed.ObservedRunner"')


def finish(project: Project, process: Process, *, name: str = "recorded") -> Reported:
    """Wait until the run and all its processes end; return what it reported.

    Concurrent runs record in files of different `name`s.
    """
    result = outcome(process)
    wait_for(lambda: not session(process.pid), "the processes of the run to end")
    reported = Reported(result, project.records(name=name))
    for line in reported.records:
        test = line.get("test_id", line.get("test", "")).replace("library.test_generated.", "")
        if line["what"] == "call":
            call = Call(line["method"], line["text"], line["subtest"])
            reported.calls.setdefault(test, []).append(call)
        elif line["what"] in {"Started", "Finished"}:
            reported.events.setdefault(test, []).append(line)
    return reported


def run(
    project: Project, text: str, *flags: str, method: str = "fork", code: int = 1, **env: str
) -> Reported:
    """Run these tests of an observed project with two workers; check the exit code."""
    project.forget()
    project.tests(text)
    process = project.start(*PARALLEL, *flags, env={"START_METHOD": method, **env})
    reported = finish(project, process)
    assert reported.result.code == code, reported.result.output
    return reported


def session(leader: int) -> list[int]:
    """List the live processes of a session."""
    return _alive(lambda fields: int(fields[3]) == leader)


def children(parent: int) -> list[int]:
    """List the live child processes of a process."""
    return _alive(lambda fields: int(fields[1]) == parent)


def workers(run: int) -> list[int]:
    """List the worker processes of a run, with any start method."""
    return sorted(
        process
        for process in session(run)
        if process != run
        and "python" in (command := _command(process))
        and not ("resource_tracker" in command or _is_fork_server(process, command, run))
    )


def is_alive(process: int) -> bool:
    return _stat(process)[:1] not in ([], ["Z"])


def is_stopped(process: int) -> bool:
    return _stat(process)[:1] == ["T"]


def is_asleep(process: int) -> bool:
    """Whether the process was sleeping each of several times that it was checked."""
    for _ in range(10):
        if _stat(process)[:1] != ["S"]:
            return False
        time.sleep(0.02)
    return True


def _alive(condition: Callable[[list[str]], bool]) -> list[int]:
    found = {int(name): _stat(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    return [process for process, of in found.items() if of and of[0] != "Z" and condition(of)]


def _stat(process: int) -> list[str]:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _is_fork_server(process: int, command: str, run: int) -> bool:
    """Workers of a forkserver have the same command, but another parent."""
    return "forkserver" in command and process in children(run)
