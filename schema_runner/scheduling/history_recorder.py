"""What a run sees of its tests, collected from its events for the history."""

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

# What has not come to its end does not say how long it takes.
_CUT_OFF = {Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.SKIPPED}


class HistoryRecorder:
    """An observer of a run, and what it has seen."""

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
        """Return what the run has seen; `flaky` tests were found to be so.

        `busy` says for how many seconds processors were, where those of the run's own processes
        are not all that counts.
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
        """Return the event, or the one of another piece of the class that says more of state."""
        before = self._classes.get(event.test_class)
        says_more = before and (before.keeps_state or event.keeps_state is None)
        return before if before and says_more else event


def _seconds(last: Finished) -> float | None:
    return None if last.outcome in _CUT_OFF else last.duration


def _letters(last: Finished, *, is_flaky: bool) -> str:
    if last.outcome in BAD_OUTCOMES:
        return f"{FLAKY}{FAILED}" if is_flaky else FAILED
    if last.attempt > 1 or is_flaky:
        return FLAKY
    return SKIPPED if last.outcome is Outcome.SKIPPED else PASSED
