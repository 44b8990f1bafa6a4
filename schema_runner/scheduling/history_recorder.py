"""The observer that collects the measurements of a run for the history."""

from collections.abc import Iterable

from ..events import (
    BAD_OUTCOMES,
    ClassFinished,
    Event,
    Finished,
    FixtureFailed,
    Outcome,
    WorkerReady,
)
from .history import FAILED, FLAKY, PASSED, SKIPPED, Observed, RunRecord

# A test with one of these outcomes has no meaningful duration.
_INCOMPLETE = {Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.SKIPPED}


class HistoryRecorder:
    """An observer that records durations, outcomes and worker starts. Times are in seconds."""

    def __init__(self) -> None:
        self._tests: dict[str, Finished] = {}
        self._unrun: set[str] = set()
        self._classes: dict[str, ClassFinished] = {}
        self._starts: list[float] = []
        self._time = 0.0
        self._processor_time = 0.0

    def __call__(self, event: Event) -> None:
        match event:
            case Finished():
                self._tests[event.test_id] = event
                self._unrun.discard(event.test_id)
            case FixtureFailed():
                self._unrun.update(event.test_ids)
            case ClassFinished():
                self._classes[event.test_class] = self._with_state(event)
                self._time += event.duration
                self._processor_time += event.processor_time
            case WorkerReady():
                self._starts.append(event.duration)

    def observed(self, flaky: Iterable[str], busy: float | None) -> Observed:
        """Return the measurements of the run.

        `flaky` lists the ids of tests that a diagnosis found flaky or parallel-unsafe. `busy` is
        the CPU time of the whole machine during the tests; None to use the run's own.
        """
        names, start = set(flaky), None
        if self._starts:
            from statistics import median

            start = median(self._starts)
        used = self._processor_time if busy is None else max(busy, self._processor_time)
        return Observed(
            tests={
                **dict.fromkeys(self._unrun, (None, FAILED)),
                **{
                    name: (_seconds(last), _letters(last, is_flaky=name in names))
                    for name, last in self._tests.items()
                },
            },
            classes={
                name: (last.overhead, last.keeps_state) for name, last in self._classes.items()
            },
            runs=(
                RunRecord(
                    start=start,
                    processor_share=min(used / self._time, 1.0) if self._time else None,
                ),
            ),
        )

    def _with_state(self, event: ClassFinished) -> ClassFinished:
        """Return the event to keep: an earlier one of the class if that knows more about state."""
        earlier = self._classes.get(event.test_class)
        if earlier and (earlier.keeps_state or event.keeps_state is None):
            return earlier
        return event


def _seconds(last: Finished) -> float | None:
    return None if last.outcome in _INCOMPLETE else last.duration


def _letters(last: Finished, *, is_flaky: bool) -> str:
    if last.outcome in BAD_OUTCOMES:
        return f"{FLAKY}{FAILED}" if is_flaky else FAILED
    if last.attempt > 1 or is_flaky:
        return FLAKY
    return SKIPPED if last.outcome is Outcome.SKIPPED else PASSED
