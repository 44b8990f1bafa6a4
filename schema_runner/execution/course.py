"""Which tests have run where: what came before a failure in its worker, and what beside it."""

from dataclasses import dataclass, field

from .events import BAD, Event, Finished, FixtureFailed, Started, WorkerReady


@dataclass(slots=True)
class _Ran:
    """A test that a worker has begun; times are in seconds since the Unix epoch."""

    test_id: str
    worker: int
    begun: float
    ended: float = float("inf")


@dataclass(slots=True)
class Course:
    """An observer of the first time that the tests of a run are run.

    What was told of tests has been so in the order of each worker, not in that of all of them.
    """

    _ran: dict[str, _Ran] = field(default_factory=dict)
    # The tests of each worker's process, in their order.
    _lives: dict[int, list[str]] = field(default_factory=dict)
    # By the name of what has failed.
    _before: dict[str, list[str]] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        match event:
            case WorkerReady():
                self._lives[event.worker] = []
            case Started(attempt=1):
                self._ran[event.test_id] = _Ran(event.test_id, event.worker, event.time)
                self._lives.setdefault(event.worker, []).append(event.test_id)
            case Finished(attempt=1) if event.test_id in self._ran:
                ran = self._ran[event.test_id]
                ran.ended = ran.begun + event.duration
                if event.outcome in BAD:
                    life = self._lives.get(event.worker, [])
                    self._before[event.test_id] = [one for one in life if one != event.test_id]
            case FixtureFailed(attempt=1):
                self._before[event.name] = list(self._lives.get(event.worker, []))

    def before(self, name: str) -> list[str]:
        """Return the tests that the process of a worker had run before something failed in it."""
        return self._before.get(name, [])

    def beside(self, test_id: str) -> list[str]:
        """Return the tests that other workers were at while a test ran, as they have begun."""
        ran = self._ran.get(test_id)
        if ran is None:
            return []
        others = [
            other
            for other in self._ran.values()
            if other.worker != ran.worker and other.begun < ran.ended and other.ended > ran.begun
        ]
        return [other.test_id for other in sorted(others, key=lambda other: other.begun)]
