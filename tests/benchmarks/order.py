"""How close the order from history comes to the best possible one.

The tests of a skewed suite only sleep, so other load on the machine does not matter. Most classes
are short and come first; some with one long test each, and one with many tests, come last. The
first run of a round records the history, and that tests keep no state. The second one is measured,
from the start of the first test to the end of the last class. No order takes less than the total
time of all classes divided by the number of workers, or than the longest test.
"""

from collections.abc import Iterator

from ..project import Project
from .command import run
from .comparison import Comparison

_RUNNER = """
    from helpers import record
    from schema_runner import ClassFinished, Finished, SchemaDiscoverRunner, Started

    def note(event):
        if isinstance(event, Started | Finished | ClassFinished):
            about = {name: getattr(event, name, None) for name in ("time", "duration")}
            record(type(event).__name__, **about)

    class TimedRunner(SchemaDiscoverRunner):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.observers.append(note)
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
_RATIO = "makespan / lower bound"


def compare_orders(project: Project, *, rounds: int) -> Iterator[Comparison]:
    """Yield two rows for each number of workers, and one if the longest class commits."""
    project.write("timed.py", _RUNNER)
    for workers in (2, 4):
        project.tests(_TESTS.replace("BASE", "SimpleTestCase"))
        measured = [_ratios(project, workers) for _ in range(rounds)]
        of_suite, of_history = zip(*measured, strict=True)
        name = f"order: skewed suite, {workers} workers"
        yield Comparison(name, of_history, 1.1, _RATIO)
        yield Comparison(f"{name}, --order suite", of_suite, None, _RATIO)
    kinds = _TESTS.replace("SimpleTestCase", "TestCase").replace("BASE", "TransactionTestCase")
    project.tests(kinds)
    ratios = [_ratios(project, 2)[1] for _ in range(rounds)]
    yield Comparison("order: longest class commits, 2 workers", ratios, 1.1, _RATIO)


def _ratios(project: Project, workers: int) -> list[float]:
    """Return the ratios for the suite's own order, and for the order from history."""
    (project.folder / ".schema_runner" / "history.json").unlink(missing_ok=True)
    return [_ratio(project, workers) for _ in range(2)]


def _ratio(project: Project, workers: int) -> float:
    project.forget()
    arguments = ["--parallel", str(workers), "--testrunner", "timed.TimedRunner"]
    run(*arguments, folder=project.folder, env={}).check_passed(102)
    begun = min(line["time"] for line in project.records("Started"))
    classes = [(line["time"], line["duration"]) for line in project.records("ClassFinished")]
    longest = max(line["duration"] for line in project.records("Finished"))
    total = sum(duration for _, duration in classes)
    return (max(map(sum, classes)) - begun) / max(total / workers, longest)
