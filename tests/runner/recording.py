"""Runs whose tests record when they begin and end, by `helpers.Recording`."""

from collections import defaultdict
from typing import NamedTuple

from ..project import Project, Result

# Each test waits until two processes have come to one, so that neither is through with its first
# while the other is still being set up.
TOGETHER = {"MEET": "2"}


class Line(NamedTuple):
    """What one process has recorded of a class, or of a test of it."""

    what: str
    case: str
    test: str
    process: int

    @property
    def name(self) -> str:
        return f"{self.case}.{self.test}"


class Run(NamedTuple):
    """A run, and the lines that its tests have recorded, in their order."""

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
        """The tests in the order in which they began."""
        return [line.name for line in self.begun]

    @property
    def classes(self) -> list[str]:
        """The classes in the order in which they began."""
        return list(dict.fromkeys(line.case for line in self.begun))

    @property
    def workers(self) -> list[list[str]]:
        """The classes of each process, in the order in which they began there."""
        found: dict[int, dict[str, None]] = defaultdict(dict)
        for line in self.begun:
            found[line.process][line.case] = None
        return [list(classes) for classes in found.values()]

    def processes_of(self, case: str) -> set[int]:
        return {line.process for line in self.lines if line.case == case}

    @property
    def met(self) -> dict[str, set[str]]:
        """Map each test to those that were under way at any time of its own."""
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
    """Run a project's tests, alone; forget what others have recorded before."""
    project.forget()
    result = project.run(*arguments, env=env)
    return Run(result, read(project))


def read(project: Project, name: str = "recorded") -> list[Line]:
    """Return what was recorded in a file of this name, if anything was."""
    return [Line(*map(line.get, Line._fields)) for line in project.records(name=name)]


def sleeping(names: str, seconds: float | str, kind: str = "TestCase") -> str:
    """Return classes of one test each that takes so long; `seconds` may be an expression."""
    text = "    class {}(Recording, {}):\n        def test_it(self): time.sleep({})\n\n"
    return "".join(text.format(name, kind, seconds) for name in names.split())


def follows(begun: list[str], expected: list[str]) -> bool:
    """Whether things began in this order, but for the first two: workers begin them at once."""
    return {*begun[:2]} == {*expected[:2]} and begun[2:] == expected[2:]
