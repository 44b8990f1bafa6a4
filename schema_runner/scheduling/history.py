"""The history: durations and outcomes from earlier runs, and the folder that stores them."""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

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


class TestRecord(NamedTuple):
    """The record of a test."""

    # None if it is unknown.
    seconds: float | None
    # The last outcomes, a letter each, oldest first. FLAKY: the test passed on a retry, or
    # --diagnose found it flaky or parallel-unsafe.
    outcomes: str
    # The day of its last run, counted from the Unix epoch.
    day: int

    @property
    def has_failed(self) -> bool:
        return self.outcomes.endswith(FAILED)

    @property
    def is_flaky(self) -> bool:
        return FLAKY in self.outcomes


# Keeps pytest from collecting the class.
TestRecord.__test__ = False  # type: ignore[attr-defined]


class ClassRecord(NamedTuple):
    """The record of a test class."""

    # Seconds before the first test and after the last.
    overhead: float
    # Whether tests leave state in attributes of the class or its module.
    keeps_state: bool
    # The day of its last run, counted from the Unix epoch.
    day: int


class RunRecord(NamedTuple):
    """The record of a run."""

    # Median seconds that a worker took to start; None without workers.
    start: float | None
    # CPU time of the tests divided by their duration, at most 1; None if it is unknown.
    processor_share: float | None


class Observed(NamedTuple):
    """The measurements of one run."""

    # Seconds and outcomes of each test, by its id.
    tests: Mapping[str, tuple[float | None, str]]
    # The overhead of each class, by its name, and whether it keeps state (None: not checked).
    classes: Mapping[str, tuple[float, bool | None]]
    runs: tuple[RunRecord, ...] = ()


class History(NamedTuple):
    """Records of tests (by id), of classes (by name) and of the last runs (oldest first)."""

    tests: Mapping[str, TestRecord] = {}
    classes: Mapping[str, ClassRecord] = {}
    runs: tuple[RunRecord, ...] = ()

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the history for data from `as_data`.

        Raises LookupError, TypeError or ValueError for any other data.
        """
        if data["format"] != _FORMAT:
            raise ValueError("The file has another format.")
        return cls(
            {_text(name): _test_record(*values) for name, values in data["tests"].items()},
            {_text(name): _class_record(*values) for name, values in data["classes"].items()},
            tuple(_run_record(*values) for values in data["runs"]),
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
        return {name for name, record in self.tests.items() if record.is_flaky}

    def after(self, observed: Observed, day: int) -> Self:
        """Return the history with the measurements of a run on `day`, without outdated records."""
        tests = dict(self.tests)
        for name, (seconds, outcomes) in observed.tests.items():
            record = tests.get(name, TestRecord(None, "", day))
            recent = (record.outcomes + outcomes)[-_MAX_OUTCOMES:]
            tests[name] = TestRecord(_average(record.seconds, seconds), recent, day)
        newest = sorted(tests.items(), key=lambda item: -item[1].day)[:_MAX_TESTS]
        classes = dict(self.classes)
        for name, (overhead, keeps_state) in observed.classes.items():
            # A class that was never checked may keep state.
            known = name not in classes or classes[name].keeps_state
            classes[name] = ClassRecord(
                overhead, known if keeps_state is None else keeps_state, day
            )
        return type(self)(
            {name: record for name, record in newest if record.day >= day - _MAX_DAYS},
            {name: record for name, record in classes.items() if record.day >= day - _MAX_DAYS},
            (*self.runs, *observed.runs)[-_MAX_RUNS:],
        )


def _average(old: float | None, new: float | None) -> float | None:
    if old is None or new is None:
        return old if new is None else new
    return old + _WEIGHT * (new - old)


def _test_record(seconds: Any, outcomes: Any, day: Any) -> TestRecord:
    return TestRecord(_number_or_none(seconds), _text(outcomes), int(day))


def _class_record(overhead: Any, keeps_state: Any, day: Any) -> ClassRecord:
    return ClassRecord(_number(overhead), bool(keeps_state), int(day))


def _run_record(start: Any, processor_share: Any) -> RunRecord:
    return RunRecord(_number_or_none(start), _number_or_none(processor_share))


def _number_or_none(value: Any) -> float | None:
    return None if value is None else _number(value)


def _number(value: Any) -> float:
    number = float(value)
    if not 0 <= number < float("inf"):
        raise ValueError(f"{value!r} is not a finite number, 0 or greater")
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


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
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return History()

    def why_not_writable(self) -> str | None:
        """Return why a run cannot write to the folder; None if it can."""
        try:
            with self._locked():
                return None
        except OSError as error:
            return f"{error.filename}: {error.strerror}"

    def add(self, observed: Observed) -> None:
        """Add the measurements of a run, keeping what other runs added in the meantime."""
        with suppress(OSError), self._locked():
            history = self.read().after(observed, int(time.time() // _DAY))
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
