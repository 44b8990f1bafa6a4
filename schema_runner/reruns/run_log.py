"""The log of a run: which tests ran before a failure in its worker, and alongside it."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..events import Event, Finished, FixtureFailed, Started, WorkerReady


@dataclass(slots=True)
class _TestRun:
    """A test that a worker has started. Times are in seconds since the Unix epoch."""

    test_id: str
    worker: int
    # All tests of the worker's process, and the index of this one.
    process_tests: list[str]
    index: int
    started: float
    finished: float = float("inf")


@dataclass(slots=True)
class RunLog:
    """An observer that records the first attempt of each test.

    The events of one worker arrive in order. Those of different workers may not.
    """

    _runs: dict[str, _TestRun] = field(default_factory=dict)
    # The tests of each worker's current process, in order.
    _processes: dict[int, list[str]] = field(default_factory=dict)
    # The tests before each fixture that failed, by its name.
    _before: dict[str, list[str]] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        match event:
            case WorkerReady():
                self._processes[event.worker] = []
            case Started(attempt=1):
                tests = self._processes.setdefault(event.worker, [])
                self._runs[event.test_id] = _TestRun(
                    event.test_id, event.worker, tests, len(tests), event.time
                )
                tests.append(event.test_id)
            case Finished(attempt=1) if event.test_id in self._runs:
                run = self._runs[event.test_id]
                run.finished = run.started + event.duration
            case FixtureFailed(attempt=1):
                self._before[event.name] = list(self._processes.get(event.worker, []))

    def before(self, name: str) -> list[str]:
        """Return the tests that the same process ran before a test or a fixture that failed."""
        if run := self._runs.get(name):
            return run.process_tests[: run.index]
        return self._before.get(name, [])

    def alongside(self, test_ids: Iterable[str]) -> list[str]:
        """Return the tests that other workers ran at the same time, in the order they started."""
        others = {
            other.test_id: other
            for run in map(self._runs.get, test_ids)
            if run is not None
            for other in self._runs.values()
            if other.worker != run.worker
            and other.started < run.finished
            and other.finished > run.started
        }
        return sorted(others, key=lambda name: others[name].started)
