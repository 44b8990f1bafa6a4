"""Which tests a run has started where: before a failure in its worker, and beside it."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..events import Event, Finished, FixtureFailed, Started, WorkerReady


@dataclass(slots=True)
class _Ran:
    """A test that a worker has begun; times are in seconds since the Unix epoch.

    `life` lists all that its process has run, of which `place` tests came before.
    """

    test_id: str
    worker: int
    life: list[str]
    place: int
    begun: float
    ended: float = float("inf")


@dataclass(slots=True)
class RunLog:
    """An observer of the first time that the tests of a run are run.

    What was told of tests has been so in the order of each worker, not in that of all of them.
    """

    _ran: dict[str, _Ran] = field(default_factory=dict)
    # The tests of each worker's process, in their order.
    _lives: dict[int, list[str]] = field(default_factory=dict)
    # What came before fixtures that have failed, by their names.
    _before: dict[str, list[str]] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        match event:
            case WorkerReady():
                self._lives[event.worker] = []
            case Started(attempt=1):
                life = self._lives.setdefault(event.worker, [])
                self._ran[event.test_id] = _Ran(
                    event.test_id, event.worker, life, len(life), event.time
                )
                life.append(event.test_id)
            case Finished(attempt=1) if event.test_id in self._ran:
                ran = self._ran[event.test_id]
                ran.ended = ran.begun + event.duration
            case FixtureFailed(attempt=1):
                self._before[event.name] = list(self._lives.get(event.worker, []))

    def before(self, name: str) -> list[str]:
        """Return the tests that a process had run before a test, or a fixture that failed."""
        if ran := self._ran.get(name):
            return ran.life[: ran.place]
        return self._before.get(name, [])

    def beside(self, test_ids: Iterable[str]) -> list[str]:
        """Return the tests that other workers were at while tests ran, as they have begun."""
        others = {
            other.test_id: other
            for ran in map(self._ran.get, test_ids)
            if ran is not None
            for other in self._ran.values()
            if other.worker != ran.worker and other.begun < ran.ended and other.ended > ran.begun
        }
        return sorted(others, key=lambda name: others[name].begun)
