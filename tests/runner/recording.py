"""Tests that write down when they begin and end, and a run of them with what they have written."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ..project import Project, Result

PARALLEL = ("--parallel", "2")
TOGETHER = {"MEET": "2"}

# Each test waits until as many processes as the variable MEET says have come to a test, so that
# none of them is through with its first one while another is still being set up.
RECORDING = """
    import json
    import os
    import time
    from pathlib import Path

    import schema_runner

    HERE = Path(__file__).parents[1]


    def write(what, case, test=""):
        line = json.dumps([what, case, test, os.getpid()])
        with open(HERE / os.environ.get("WRITTEN", "written"), "a") as lines:
            lines.write(line + "\\n")


    def meet(what="any"):
        number = int(os.environ.get("MEET", 0))
        (HERE / f"here-{what}-{os.getpid()}").touch()
        deadline = time.monotonic() + 25
        while len(list(HERE.glob(f"here-{what}-*"))) < number:
            assert time.monotonic() < deadline, "waited in vain for another process"
            time.sleep(0.01)


    class Recording:
        @classmethod
        def setUpClass(cls):
            write("sets up", cls.__name__)
            super().setUpClass()

        def setUp(self):
            super().setUp()
            about = type(self).__name__, self._testMethodName
            write("begins", *about)
            self.addCleanup(write, "ends", *about)
            meet()


"""


@dataclass(frozen=True, slots=True)
class Line:
    """What one process has written about a class, or about a test of it."""

    what: str
    case: str
    test: str
    process: int

    @property
    def name(self) -> str:
        return f"{self.case}.{self.test}"


@dataclass(frozen=True, slots=True)
class Run:
    """A run, and the lines that its tests have written, in their order."""

    result: Result
    lines: list[Line]

    def passed(self) -> "Run":
        self.result.passed()
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
    """Run a project's tests, alone; forget what others have written before."""
    for path in [project.folder / "written", *project.folder.glob("here-*")]:
        path.unlink(missing_ok=True)
    result = project.run(*arguments, env=env)
    return Run(result, read(project.folder / "written"))


def read(path: Path) -> list[Line]:
    """Return what was written into a file, if anything was."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Line(*json.loads(line)) for line in lines]


def sleeping(name: str, seconds: float | str, kind: str = "TestCase") -> str:
    """Return a class of one test that takes so long; `seconds` may be an expression."""
    return f"""
    class {name}(Recording, {kind}):
        def test_it(self):
            time.sleep({seconds})


"""


def follows(begun: list[str], expected: list[str]) -> bool:
    """Whether things began in this order, but for the first two: workers begin them at once."""
    return {*begun[:2]} == {*expected[:2]} and begun[2:] == expected[2:]
