import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from schema_runner import Finished, FixtureFailed, Outcome
from schema_runner.events import ClassFinished, Event, WorkerReady
from schema_runner.scheduling.history import (
    FAILED,
    FLAKY,
    PASSED,
    SKIPPED,
    History,
    HistoryFolder,
    HistoryRecorder,
)


def finished(
    name: str, outcome: Outcome = Outcome.PASSED, *, seconds: float = 1.0, attempt: int = 1
) -> Finished:
    return Finished(name, 1, attempt, outcome, seconds)


def class_finished(
    name: str = "A", *, overhead: float = 0.5, keeps_state: bool | None = None, cpu: float = 1.0
) -> ClassFinished:
    return ClassFinished(name, 1, 1, 0.0, 2.0, cpu, overhead, keeps_state, 0, 0.0)


def observed(*events: Event, flaky: tuple[str, ...] = (), busy: float | None = None) -> History:
    recorder = HistoryRecorder()
    for event in events:
        recorder(event)
    return recorder.observed(flaky, busy)


def after(*runs: History, day: int = 20_000) -> History:
    history = History()
    for run in runs:
        history = history.after(run, day)
    return history


SET_UP_FAILED = FixtureFailed("setUpClass (A)", ("t",), 1, 1)
FAILURES = [Outcome.FAILED, Outcome.ERROR, Outcome.CRASHED, Outcome.TIMED_OUT]
LETTERS = [
    ([finished("t")], PASSED),
    ([finished("t", Outcome.EXPECTED_FAILURE)], PASSED),
    ([finished("t", Outcome.SKIPPED)], SKIPPED),
    *(([finished("t", one)], FAILED) for one in (*FAILURES, Outcome.UNEXPECTED_SUCCESS)),
    ([finished("t", Outcome.FAILED), finished("t", attempt=2)], FLAKY),
    ([finished("t", Outcome.FAILED), finished("t", Outcome.FAILED, attempt=2)], FAILED),
    ([SET_UP_FAILED], FAILED),
    ([SET_UP_FAILED, finished("t", attempt=2)], FLAKY),
]


@pytest.mark.parametrize(("events", "letter"), LETTERS)
def test_outcomes_are_letters(events: list[Event], letter: str) -> None:
    """The outcome of the last attempt, or that the run could not run the test."""
    assert after(observed(*events)).tests["t"].outcomes == letter


def test_failures_are_those_of_the_last_run() -> None:
    """A test that passes is no longer a failure, and counts as flaky for ten runs."""
    bad, good = observed(finished("t", Outcome.ERROR)), observed(finished("t"))
    flaky = observed(finished("t", Outcome.ERROR), finished("t", attempt=2))
    assert after(good, bad).failed == {"t"}
    assert after(bad, good).failed == set()
    assert after(flaky, *[good] * 9).flaky == {"t"}
    assert after(flaky, *[good] * 10).flaky == set()
    # A test diagnosed as flaky is also among the last failures.
    diagnosed = after(observed(finished("t", Outcome.FAILED), flaky=("t",)))
    assert diagnosed.flaky == diagnosed.failed == {"t"}


def test_seconds_are_averaged() -> None:
    """Times of skipped tests, and of those cut off by a timeout, do not count."""
    history = after(
        observed(finished("t", seconds=1.0)),
        observed(finished("t", seconds=3.0)),
        observed(finished("t", Outcome.TIMED_OUT, seconds=9.0)),
        observed(finished("t", Outcome.SKIPPED, seconds=0.0)),
    )
    assert history.tests["t"].seconds == pytest.approx(2.0)
    assert after(observed(finished("t", Outcome.CRASHED))).tests["t"].seconds is None


@pytest.mark.parametrize(
    ("keeps_state", "looks"),
    [
        *((True, looks) for looks in ([None], [False, True], [True, False])),
        *((False, looks) for looks in ([False], [False, None], [None, False])),
    ],
)
def test_a_class_is_stateful_unless_seen_not_to_be(keeps_state: bool, looks: list[Any]) -> None:
    """In all parts of a run, and for later runs, which may not check it."""
    seen = observed(*(class_finished(keeps_state=look) for look in looks))
    later = observed(class_finished(keeps_state=None, overhead=0.25))
    assert after(seen).classes["A"].keeps_state is keeps_state
    assert after(seen, later).classes["A"].keeps_state is keeps_state
    assert after(seen, later).classes["A"].overhead == 0.25


@pytest.mark.parametrize(("busy", "share"), [(None, 0.5), (0.1, 0.5), (3.0, 0.75), (99.0, 1.0)])
def test_processor_use_is_recorded(busy: float | None, share: float) -> None:
    """By the run's own processes, or all processes if the server uses the same processors."""
    seen = observed(*[class_finished(cpu=1.0)] * 2, WorkerReady(1, 0.5, False), busy=busy)
    (run,) = after(seen).runs
    assert (run.start, run.processor_share) == (0.5, share)
    (empty,) = after(observed()).runs
    assert (empty.start, empty.processor_share) == (None, None)


def test_a_history_has_a_limited_size(monkeypatch: pytest.MonkeyPatch) -> None:
    history = after(observed(finished("old"), class_finished("Old")), day=10_000)
    for _ in range(50):
        history = history.after(observed(finished("new"), class_finished("New")), 10_181)
    assert set(history.tests) == {"new"}
    assert set(history.classes) == {"New"}
    assert len(history.runs) == 20
    monkeypatch.setattr("schema_runner.scheduling.history._MAX_TESTS", 3)
    history = history.after(observed(*(finished(f"t{n}") for n in range(3))), 10_182)
    assert set(history.tests) == {"t0", "t1", "t2"}


def test_a_history_is_written_and_read(tmp_path: Path) -> None:
    """With any names; a .gitignore excludes the folder."""
    seen = observed(
        finished("t.é\ud800", Outcome.FAILED),
        finished("t.b"),
        class_finished(keeps_state=False),
        WorkerReady(1, 0.5, False),
    )
    folder = tmp_path / "deep" / "kept"
    HistoryFolder(folder).add(seen)
    history = HistoryFolder(folder).read()
    assert history.failed == {"t.é?"}
    assert history.tests["t.b"].seconds == 1.0
    assert history.classes["A"].keeps_state is False
    assert history.runs[0].start == 0.5
    assert (folder / ".gitignore").read_text() == "*\n"


VALID: Any = after(observed(finished("t"), class_finished())).as_data()
DAMAGED = [
    *("", "{", "[]", "null", "\x00\xff", "[" * 100_000, '{"format": 1}'),
    *(
        json.dumps({**VALID, **damage})
        for damage in (
            *({"format": 2}, {"tests": []}, {"tests": None}, {"runs": [[1]]}),
            *({"tests": {"t": ["fast", "P", 1]}}, {"tests": {"t": [float("nan"), "P", 1]}}),
            *({"tests": {"t": [-1, "P", 1]}}, {"tests": {"t": [1]}}),
            *({"classes": {"A": [float("inf"), True, 1]}}, {"runs": [[10**400, None]]}),
            {"tests": {"t": [1, "P", float("inf")]}},
        )
    ),
]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_history_is_ignored_and_replaced(tmp_path: Path, text: str) -> None:
    """A run continues with any file content; it uses the entries that it can read."""
    file = tmp_path / "history.json"
    file.write_text(json.dumps(VALID))
    assert set(HistoryFolder(tmp_path).read().tests) == {"t"}
    file.write_text(text, encoding="latin-1")
    assert HistoryFolder(tmp_path).read() == History()
    HistoryFolder(tmp_path).add(observed(finished("u")))
    assert set(HistoryFolder(tmp_path).read().tests) == {"u"}


def _add(folder: str, number: int) -> None:
    for index in range(10):
        HistoryFolder(Path(folder)).add(observed(finished(f"t{number}.{index}")))


def test_concurrent_runs_lose_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add, args=(str(folder), n)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(HistoryFolder(folder).read().tests) == 40
    assert sorted(os.listdir(folder)) == [".gitignore", "history.json", "lock"]
