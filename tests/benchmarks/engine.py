"""What a test class costs beyond its tests: in our engine, and in stock Django's.

The time taken is that of the parallel suite's `run`: from before its workers are started until
all of them have ended, with every result in, but without finding tests, without databases, of
which these tests use none, and without the summary. Each suite is run with few classes and with
many. The difference, divided by the number of classes between the two, is what one class costs;
what it costs to start and to end workers is the same in both, and drops out. The classes do
nothing, so that what is left is handing them out, running them by unittest, and getting the
results back. Both runners fork their workers, and both print the same, into a file.

CPU time is that of all processes, and matters because it is hardly disturbed by what else the
machine does.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..project import Project
from .command import run
from .comparison import Comparison, Target

_OURS = "timed.OurRunner"
_STOCK = "timed.StockRunner"
_TIMED = '''
    import json
    import os
    import time
    from pathlib import Path

    from django.test.runner import DiscoverRunner, ParallelTestSuite
    from schema_runner import SchemaDiscoverRunner, SchemaParallelTestSuite


    def costs():
        """Return the time, and the CPU time of this process and of those it has waited for."""
        return time.perf_counter(), sum(os.times()[:4])


    class Timed:
        def run(self, *args, **kwargs):
            before = costs()
            result = super().run(*args, **kwargs)
            taken = [after - start for start, after in zip(before, costs())]
            Path("costs.json").write_text(json.dumps(taken))
            return result


    class OurSuite(Timed, SchemaParallelTestSuite):
        pass


    class OurRunner(SchemaDiscoverRunner):
        parallel_test_suite = OurSuite


    class StockSuite(Timed, ParallelTestSuite):
        pass


    class StockRunner(DiscoverRunner):
        parallel_test_suite = StockSuite
'''
_TARGET = Target(is_maximum=True, bound=1.0)
_RATIO = "ours / stock"


@dataclass(frozen=True, slots=True)
class Shape:
    """Suites of classes that are all alike, a small one and a large one of so many classes."""

    name: str
    tests: int
    body: str
    small: int
    large: int

    def text(self, classes: int) -> str:
        tests = [f"    def test_{n}(self):\n        {self.body}\n" for n in range(self.tests)]
        return "\n\n".join(
            f"class Generated{n}(SimpleTestCase):\n{''.join(tests)}" for n in range(classes)
        )


SHAPES = [
    Shape("classes of 2 tests", 2, "pass", 100, 1600),
    Shape("classes of 20 tests", 20, "pass", 20, 220),
    Shape("classes of 2 tests that fail with 10 kB", 2, 'self.fail("m" * 10_000)', 50, 350),
]


def compare_engines(project: Project, *, rounds: int) -> Iterator[Comparison]:
    """Yield a row of times and one of CPU times for each shape."""
    project.write("timed.py", _TIMED)
    for shape in SHAPES:
        for size in (shape.small, shape.large):
            project.tests(shape.text(size), module=f"classes_{size}")
        taken = [_ratios(project, shape) for _ in range(rounds)]
        times, cpu_times = zip(*taken, strict=True)
        yield Comparison(f"engine: {shape.name}", _RATIO, times, _TARGET)
        yield Comparison(f"engine: {shape.name}, CPU time", _RATIO, cpu_times, _TARGET)


def _ratios(project: Project, shape: Shape) -> tuple[float, float]:
    """Run both suites under both runners in turn; return the ratios of both costs of a class."""
    costs = {
        (size, runner): _costs(project, shape, size, runner)
        for size in (shape.small, shape.large)
        for runner in (_OURS, _STOCK)
    }
    differences = {
        runner: [
            large - small
            for small, large in zip(
                costs[shape.small, runner], costs[shape.large, runner], strict=True
            )
        ]
        for runner in (_OURS, _STOCK)
    }
    time, cpu_time = (
        ours / stock for ours, stock in zip(differences[_OURS], differences[_STOCK], strict=True)
    )
    return time, cpu_time


def _costs(project: Project, shape: Shape, size: int, runner: str) -> list[float]:
    arguments = ["--parallel", "2", "--testrunner", runner, f"library.classes_{size}"]
    output = run(*arguments, folder=project.folder, environment={"START_METHOD": "fork"})
    ran = re.search(r"^Ran (\d+) tests", output, re.MULTILINE)
    assert ran, output
    assert int(ran[1]) == size * shape.tests, output
    costs: list[float] = json.loads((project.folder / "costs.json").read_text())
    return costs
