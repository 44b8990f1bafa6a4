"""Runs whose tests record their start and end, with `helpers.Recording`."""

from collections import defaultdict
from typing import NamedTuple

from ..project import Project, Result

# Each worker's first test waits for the other's, so that no worker finishes before both started.
TOGETHER = {"MEET": "2"}


class Line(NamedTuple):
    """A record of one process about a class or a test."""

    what: str
    case: str
    test: str
    process: int

    @property
    def name(self) -> str:
        return f"{self.case}.{self.test}"


class Run(NamedTuple):
    """A finished run, and the records of its tests in order."""

    result: Result
    lines: list[Line]

    def passed(self, *said: str) -> "Run":
        self.result.passed(*said)
        return self

    def failed(self, *said: str) -> "Run":
        self.result.failed(*said)
        return self

    @property
    def begun(self) -> list[Line]:
        return [line for line in self.lines if line.what == "begins"]

    @property
    def tests(self) -> list[str]:
        """Tests in the order in which they started."""
        return [line.name for line in self.begun]

    @property
    def classes(self) -> list[str]:
        """Classes in the order in which they started."""
        return list(dict.fromkeys(line.case for line in self.begun))

    @property
    def workers(self) -> list[list[str]]:
        """The classes of each process, in the order in which they started there."""
        found: dict[int, dict[str, None]] = defaultdict(dict)
        for line in self.begun:
            found[line.process][line.case] = None
        return [list(classes) for classes in found.values()]

    def processes_of(self, case: str) -> set[int]:
        return {line.process for line in self.lines if line.case == case}

    @property
    def met(self) -> dict[str, set[str]]:
        """Map each test to the tests that ran at the same time."""
        found: dict[str, set[str]] = {}
        under_way: set[str] = set()
        for line in self.lines:
            if line.what == "begins":
                found[line.name] = set(under_way)
                for other in under_way:
                    found[other].add(line.name)
                under_way.add(line.name)
            elif line.what == "ends":
                under_way.remove(line.name)
        return found


def run(project: Project, *arguments: str, env: dict[str, str] | None = None) -> Run:
    """Discard earlier records, and run the project's tests."""
    project.forget()
    result = project.run(*arguments, env=env)
    return Run(result, read(project))


def read(project: Project, name: str = "recorded") -> list[Line]:
    """Return the records in the file `name`; empty if there is no such file."""
    return [Line(*map(line.get, Line._fields)) for line in project.records(name=name)]


def sleeping(names: str, seconds: float | str, kind: str = "TestCase") -> str:
    """Return classes with one test each that sleeps for `seconds`, a number or an expression."""
    text = "    class {}(Recording, {}):\n        def test_it(self): time.sleep({})\n\n"
    return "".join(text.format(name, kind, seconds) for name in names.split())


def follows(begun: list[str], expected: list[str]) -> bool:
    """Whether the order is as expected, except that of the first two, which start together."""
    return {*begun[:2]} == {*expected[:2]} and begun[2:] == expected[2:]
