"""The cost of a test class beyond its tests: with our parallel engine, and with stock Django's.

The parallel suite's `run` is measured, from before its workers start until all have ended, without
discovery, databases and the summary. Each suite runs with few and with many empty classes. The
difference is the cost of distributing classes and returning results, without that of starting and
ending workers. Both runners fork their workers, and print the same to a file. CPU time is that of
all processes, which other load on the machine hardly affects.
"""

from collections.abc import Iterator
from typing import NamedTuple

from ..project import PARALLEL, Project
from .command import run
from .comparison import Comparison

_TIMED = """
    from django.test.runner import DiscoverRunner, ParallelTestSuite

    from helpers import os, record, time
    from schema_runner import SchemaDiscoverRunner, SchemaParallelTestSuite

    def costs():
        # The time, and the CPU time of this process and its reaped children.
        return time.perf_counter(), sum(os.times()[:4])

    class Timed:
        def run(self, *args, **kwargs):
            before = costs()
            result = super().run(*args, **kwargs)
            record("costs", taken=[after - start for start, after in zip(before, costs())])
            return result

    class OurRunner(SchemaDiscoverRunner):
        parallel_test_suite = type("OurSuite", (Timed, SchemaParallelTestSuite), {})

    class StockRunner(DiscoverRunner):
        parallel_test_suite = type("StockSuite", (Timed, ParallelTestSuite), {})
"""


class Shape(NamedTuple):
    """Suites of identical classes, in a small and a large number."""

    name: str
    tests: int
    body: str
    small: int
    large: int


SHAPES = [
    Shape("classes of 2 tests", 2, "pass", 100, 1600),
    Shape("classes of 20 tests", 20, "pass", 20, 220),
    Shape("classes of 2 tests failing with 10 kB", 2, 'self.fail("m" * 10_000)', 50, 350),
]


def compare_engines(project: Project, *, rounds: int) -> Iterator[Comparison]:
    """Yield a row of times and one of CPU times for each shape."""
    project.write("timed.py", _TIMED)
    for shape in SHAPES:
        tests = "".join(f"    def test_{n}(self): {shape.body}\n" for n in range(shape.tests))
        for size in (shape.small, shape.large):
            classes = (f"class Generated{n}(SimpleTestCase):\n{tests}\n" for n in range(size))
            project.tests("".join(classes), module=f"classes_{size}")
        measured = [_ratios(project, shape) for _ in range(rounds)]
        times, cpu_times = zip(*measured, strict=True)
        yield Comparison(f"engine: {shape.name}", times, 1)
        yield Comparison(f"engine: {shape.name}, CPU time", cpu_times, 1)


def _ratios(project: Project, shape: Shape) -> list[float]:
    """Run both suites with both runners; return the ratios of the time and CPU time of a class."""
    small, large = (
        [_costs(project, shape, size, runner) for runner in ("OurRunner", "StockRunner")]
        for size in (shape.small, shape.large)
    )
    ours, stock = (
        [more - less for more, less in zip(*costs, strict=True)]
        for costs in zip(large, small, strict=True)
    )
    return [cost / of_stock for cost, of_stock in zip(ours, stock, strict=True)]


def _costs(project: Project, shape: Shape, size: int, runner: str) -> list[float]:
    arguments = [*PARALLEL, "--testrunner", f"timed.{runner}", f"library.classes_{size}"]
    result = run(*arguments, folder=project.folder, env={})
    assert f"\nRan {size * shape.tests} tests in " in result.output, result.output
    costs: list[float] = project.records("costs")[-1]["taken"]
    return costs
