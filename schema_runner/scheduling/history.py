"""The history: durations and outcomes from earlier runs, and the folder that stores them."""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from ..clock import Clock
from ..events import (
    BAD_OUTCOMES,
    ClassFinished,
    Event,
    Finished,
    FixtureFailed,
    Outcome,
    WorkerReady,
)
from ..folders import make_gitignored

# The file format. Files of another format are ignored.
_FORMAT = 1
# Limits of a history: days since a test or class ran, tests (the most recent ones), runs, and
# outcomes of each test.
_MAX_DAYS = 180
_MAX_TESTS = 100_000
_MAX_RUNS = 20
_MAX_OUTCOMES = 10
# The weight of the last run in a test's average duration.
_WEIGHT = 0.5

PASSED, FAILED, SKIPPED, FLAKY = "P", "F", "S", "~"
# A test with one of these outcomes has no meaningful duration.
_INCOMPLETE = {Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.SKIPPED}


class TestRecord(NamedTuple):
    """The record of a test."""

    # None if it is unknown.
    seconds: float | None
    # The last outcomes, a letter each, oldest first. FLAKY: the test passed on a retry, or
    # --diagnose found it flaky or parallel-unsafe.
    outcomes: str
    # The day of its last run, counted from the Unix epoch.
    day: int = 0

    @property
    def has_failed(self) -> bool:
        return self.outcomes.endswith(FAILED)


# Keeps pytest from collecting the class.
TestRecord.__test__ = False  # type: ignore[attr-defined]


class ClassRecord(NamedTuple):
    """The record of a test class."""

    # Seconds before the first test and after the last.
    overhead: float
    # Whether tests leave state in attributes of the class or its module; None if a run has not
    # checked it.
    keeps_state: bool | None
    # The day of its last run, counted from the Unix epoch.
    day: int = 0


class RunRecord(NamedTuple):
    """The record of a run."""

    # Median seconds that a worker took to start; None without workers.
    start: float | None
    # CPU time of the tests divided by their duration, at most 1; None if it is unknown.
    processor_share: float | None


class History(NamedTuple):
    """Records of tests (by id), of classes (by name) and of the last runs (oldest first)."""

    tests: Mapping[str, TestRecord] = {}
    classes: Mapping[str, ClassRecord] = {}
    runs: tuple[RunRecord, ...] = ()

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the history for data from `as_data`.

        Raises an exception for any other data.
        """
        if data["format"] != _FORMAT:
            raise ValueError("The file has another format.")
        return cls(
            {
                name: TestRecord(_number_or_none(seconds), str(outcomes), int(day))
                for name, (seconds, outcomes, day) in data["tests"].items()
            },
            {
                name: ClassRecord(_number(overhead), bool(keeps_state), int(day))
                for name, (overhead, keeps_state, day) in data["classes"].items()
            },
            tuple(
                RunRecord(_number_or_none(start), _number_or_none(share))
                for start, share in data["runs"]
            ),
        )

    def as_data(self) -> dict[str, Any]:
        """Return the history as values that JSON can represent."""
        return {
            "format": _FORMAT,
            "tests": dict(sorted(self.tests.items())),
            "classes": dict(sorted(self.classes.items())),
            "runs": self.runs,
        }

    @property
    def failed(self) -> set[str]:
        """The ids of the tests that failed in their last run."""
        return {name for name, record in self.tests.items() if record.has_failed}

    @property
    def flaky(self) -> set[str]:
        """The ids of the tests that were flaky in one of their last runs."""
        return {name for name, record in self.tests.items() if FLAKY in record.outcomes}

    def after(self, run: Self, day: int) -> Self:
        """Return the history with the records of a run on `day`, without outdated records."""
        tests = dict(self.tests)
        for name, new_test in run.tests.items():
            seconds, outcomes, _ = tests.get(name, TestRecord(None, ""))
            outcomes = (outcomes + new_test.outcomes)[-_MAX_OUTCOMES:]
            tests[name] = TestRecord(_average(seconds, new_test.seconds), outcomes, day)
        newest = sorted(tests.items(), key=lambda item: -item[1].day)[:_MAX_TESTS]
        classes = dict(self.classes)
        for name, new_class in run.classes.items():
            keeps_state = new_class.keeps_state
            if keeps_state is None:
                # A class that was never checked may keep state.
                keeps_state = name not in classes or classes[name].keeps_state
            classes[name] = ClassRecord(new_class.overhead, keeps_state, day)
        return type(self)(
            {name: record for name, record in newest if record.day >= day - _MAX_DAYS},
            {name: record for name, record in classes.items() if record.day >= day - _MAX_DAYS},
            (*self.runs, *run.runs)[-_MAX_RUNS:],
        )


def _average(old: float | None, new: float | None) -> float | None:
    if old is None or new is None:
        return old if new is None else new
    return old + _WEIGHT * (new - old)


def _number_or_none(value: Any) -> float | None:
    return None if value is None else _number(value)


def _number(value: Any) -> float:
    number = float(value)
    if not 0 <= number < float("inf"):
        raise ValueError(f"{value!r} is not a finite number, 0 or greater")
    return number


class HistoryRecorder:
    """An observer that records durations, outcomes and worker starts. Times are in seconds."""

    def __init__(self) -> None:
        self._tests: dict[str, TestRecord] = {}
        self._classes: dict[str, ClassRecord] = {}
        self._starts: list[float] = []
        self._time = 0.0
        self._processor_time = 0.0

    def __call__(self, event: Event) -> None:
        match event:
            case Finished():
                is_complete = event.outcome not in _INCOMPLETE
                seconds = event.duration if is_complete else None
                self._tests[event.test_id] = TestRecord(seconds, _letter(event))
            case FixtureFailed():
                for test_id in event.test_ids:
                    self._tests.setdefault(test_id, TestRecord(None, FAILED))
            case ClassFinished():
                earlier = self._classes.get(event.test_class)
                # Keep what is known about the state of a class that runs in several parts.
                if not earlier or not (earlier.keeps_state or event.keeps_state is None):
                    record = ClassRecord(event.overhead, event.keeps_state)
                    self._classes[event.test_class] = record
                self._time += event.duration
                self._processor_time += event.processor_time
            case WorkerReady():
                self._starts.append(event.duration)

    def observed(self, flaky: Iterable[str], busy: float | None) -> History:
        """Return the history of this run only.

        `flaky` lists the ids of tests that a diagnosis found flaky or parallel-unsafe. `busy` is
        the CPU time of the whole machine during the tests; None to use the run's own.
        """
        tests, start = dict(self._tests), None
        for name in tests.keys() & {*flaky}:
            outcomes = f"{FLAKY}{FAILED}" if tests[name].has_failed else FLAKY
            tests[name] = tests[name]._replace(outcomes=outcomes)
        if self._starts:
            from statistics import median

            start = median(self._starts)
        used = max(busy or 0.0, self._processor_time)
        share = min(used / self._time, 1.0) if self._time else None
        return History(tests, self._classes, (RunRecord(start, share),))


def _letter(test: Finished) -> str:
    if test.outcome in BAD_OUTCOMES:
        return FAILED
    if test.attempt > 1:
        return FLAKY
    return SKIPPED if test.outcome is Outcome.SKIPPED else PASSED


_DAY = 24 * 60 * 60


class HistoryFolder:
    """The folder of the history, which concurrent runs can share.

    Failures to read or write it are ignored: a run does not need a history.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "history.json"

    def read(self) -> History:
        """Return the history; an empty one if the file is missing or invalid."""
        try:
            return History.from_data(json.loads(self._file.read_text(encoding="utf-8")))
        except Exception:
            return History()

    def why_not_writable(self) -> str | None:
        """Return why a run cannot write to the folder; None if it can."""
        try:
            with self._locked():
                return None
        except OSError as error:
            return f"{error.filename}: {error.strerror}"

    def add(self, run: History) -> None:
        """Add the records of a run, keeping what other runs added in the meantime."""
        with suppress(OSError), self._locked():
            history = self.read().after(run, int(Clock.time() // _DAY))
            text = json.dumps(history.as_data(), separators=(",", ":"), ensure_ascii=False)
            # Written to another file first, so that a killed run leaves no partial history.
            new = self._file.with_suffix(".new")
            # A test's name can contain a lone surrogate, which UTF-8 cannot encode.
            new.write_text(text, encoding="utf-8", errors="replace")
            new.replace(self._file)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        make_gitignored(self._folder)
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
