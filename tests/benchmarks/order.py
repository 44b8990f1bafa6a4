"""How near the order from history comes to the best possible one.

The tests of a skewed suite only sleep, so other load on the machine does not matter. Most classes
are short and come first; some of one long test each, and one of many tests, come last. The first
run of a round makes the history, and finds that tests keep no state; the second one is timed, from
the begin of the first test to the end of the last class. No order takes less than the time of all
classes divided by the workers, or than the longest single test.
"""

import json
from collections.abc import Iterator

from ..project import Project
from .command import run
from .comparison import Comparison

_RUNNER = """
    import json
    from pathlib import Path

    from schema_runner import ClassFinished, Finished, SchemaDiscoverRunner, Started


    class TimedRunner(SchemaDiscoverRunner):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.observers.append(self.note)
            self.begun, self.tests, self.classes = [], [], []

        def note(self, event):
            if isinstance(event, Started):
                self.begun.append(event.time)
            elif isinstance(event, Finished):
                self.tests.append(event.duration)
            elif isinstance(event, ClassFinished):
                self.classes.append((event.time, event.duration))

        def suite_result(self, *args, **kwargs):
            taken = {
                "makespan": max(map(sum, self.classes)) - min(self.begun),
                "total": sum(duration for _, duration in self.classes),
                "longest": max(self.tests),
            }
            Path("taken.json").write_text(json.dumps(taken))
            return super().suite_result(*args, **kwargs)
"""
_TESTS = """
    def sleeping(name, tests, seconds, base=SimpleTestCase):
        bodies = {f"test_{n:02}": lambda self: time.sleep(seconds) for n in range(tests)}
        globals()[name] = type(name, (base,), {"__module__": __name__, **bodies})


    for number in range(20):
        sleeping(f"Short{number:02}", 2, 0.1)
    for number in range(2):
        sleeping(f"TakesLong{number}", 1, 1.5)
    sleeping("TheLongest", 60, 0.1, base=BASE)
"""
_RATIO = "makespan / best possible"


def compare_orders(project: Project, *, rounds: int) -> Iterator[Comparison]:
    """Yield a row for each number of workers, one for the suite's order, and one for two kinds."""
    project.write("timed.py", _RUNNER)
    for workers in (2, 4):
        project.tests(_TESTS.replace("BASE", "SimpleTestCase"))
        taken = [_ratios(project, workers) for _ in range(rounds)]
        of_suite, of_history = zip(*taken, strict=True)
        name = f"order: skewed suite, {workers} workers"
        yield Comparison(name, of_history, 1.1, _RATIO)
        yield Comparison(f"{name}, --order suite", of_suite, None, _RATIO)
    kinds = _TESTS.replace("SimpleTestCase", "TestCase").replace("BASE", "TransactionTestCase")
    project.tests(kinds)
    ratios = [_ratios(project, 2)[1] for _ in range(rounds)]
    yield Comparison("order: the longest class commits, 2 workers", ratios, 1.1, _RATIO)


def _ratios(project: Project, workers: int) -> list[float]:
    """Return the ratios of the suite's own order, and of that from history."""
    (project.folder / ".schema_runner" / "history.json").unlink(missing_ok=True)
    return [_ratio(project, workers) for _ in range(2)]


def _ratio(project: Project, workers: int) -> float:
    arguments = ["--parallel", str(workers), "--testrunner", "timed.TimedRunner"]
    ran = run(*arguments, folder=project.folder, env={})
    assert "Ran 102 tests" in ran.output, ran.output
    taken_file = project.folder / "taken.json"
    taken: dict[str, float] = json.loads(taken_file.read_text())
    taken_file.unlink()
    return taken["makespan"] / max(taken["total"] / workers, taken["longest"])
