"""What earlier runs measured of tests and classes, and the folder that keeps it."""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from ..folders import make_gitignored

# Of the form that histories are written in; another one is not read.
_FORMAT = 1
# A history is not to grow for ever: what has not been run for so many days goes, and of more tests
# than these those that were run the longest time ago.
_DAYS = 180
_TESTS = 100_000
_RUNS = 20
# How many outcomes of a test are kept.
_OUTCOMES = 10
# How much the last run counts for in an average.
_WEIGHT = 0.5

PASSED, FAILED, SKIPPED, FLAKY = "P", "F", "S", "~"


class TestRecord(NamedTuple):
    """A test: how many seconds it takes, if that is known, and its last outcomes.

    Those are a letter each, the newest at the end; FLAKY stands for a test that has passed when it
    was run again. `day` is the last on which it was run, counted since the Unix epoch.
    """

    seconds: float | None
    outcomes: str
    day: int

    @property
    def has_failed(self) -> bool:
        return self.outcomes.endswith(FAILED)

    @property
    def is_flaky(self) -> bool:
        return FLAKY in self.outcomes


# pytest would take it for a class of tests.
TestRecord.__test__ = False  # type: ignore[attr-defined]


class ClassRecord(NamedTuple):
    """A class: the seconds it takes besides its tests, and whether these leave state in it."""

    overhead: float
    keeps_state: bool
    day: int


class RunRecord(NamedTuple):
    """A run: how many seconds a worker took to be set up, if it had any, and how busy tests were.

    `processor_share` is the share of the time in tests for which a processor was busy, up to 1;
    None where that is not known.
    """

    start: float | None
    processor_share: float | None


class Observed(NamedTuple):
    """What one run has seen, by name: seconds and outcomes of tests.

    And of classes: overhead, and whether tests leave state in them, None where nobody has looked.
    """

    tests: Mapping[str, tuple[float | None, str]]
    classes: Mapping[str, tuple[float, bool | None]]
    runs: tuple[RunRecord, ...] = ()


class History(NamedTuple):
    """Records of tests and classes, by name, and of the last runs, the newest at the end."""

    tests: Mapping[str, TestRecord] = {}
    classes: Mapping[str, ClassRecord] = {}
    runs: tuple[RunRecord, ...] = ()

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Read what `as_data` returns; raise LookupError, TypeError or ValueError otherwise."""
        if data["format"] != _FORMAT:
            raise ValueError("written by another version")
        return cls(
            {_text(name): _test_record(*values) for name, values in data["tests"].items()},
            {_text(name): _class_record(*values) for name, values in data["classes"].items()},
            tuple(_run_record(*values) for values in data["runs"]),
        )

    def as_data(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        return {
            "format": _FORMAT,
            "tests": dict(sorted(self.tests.items())),
            "classes": dict(sorted(self.classes.items())),
            "runs": self.runs,
        }

    @property
    def failed(self) -> set[str]:
        """The tests that have failed when they were run last."""
        return {name for name, record in self.tests.items() if record.has_failed}

    @property
    def flaky(self) -> set[str]:
        """The tests that were flaky, not many runs ago."""
        return {name for name, record in self.tests.items() if record.is_flaky}

    def after(self, observed: Observed, day: int) -> Self:
        """Return the history with what a run has seen on a day, without what is too old."""
        tests = dict(self.tests)
        for name, (seconds, outcomes) in observed.tests.items():
            before = tests.get(name, TestRecord(None, "", day))
            last = (before.outcomes + outcomes)[-_OUTCOMES:]
            tests[name] = TestRecord(_average(before.seconds, seconds), last, day)
        newest = sorted(tests.items(), key=lambda item: -item[1].day)[:_TESTS]
        classes = dict(self.classes)
        for name, (overhead, keeps_state) in observed.classes.items():
            # Of what nobody has looked at the worst is assumed.
            known = name not in classes or classes[name].keeps_state
            classes[name] = ClassRecord(
                overhead, known if keeps_state is None else keeps_state, day
            )
        return type(self)(
            {name: record for name, record in newest if record.day >= day - _DAYS},
            {name: record for name, record in classes.items() if record.day >= day - _DAYS},
            (*self.runs, *observed.runs)[-_RUNS:],
        )


def _average(before: float | None, now: float | None) -> float | None:
    if before is None or now is None:
        return before if now is None else now
    return before + _WEIGHT * (now - before)


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
        raise ValueError(f"{value!r} is no measurement")
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


_DAY = 24 * 60 * 60


class HistoryFolder:
    """A folder that any number of runs use at a time, for all of which it is a matter of luck.

    No failure to read or to write it is an error: a run without history is only slower.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "history.json"

    def read(self) -> History:
        """Return the history; an empty one where there is none that makes sense."""
        try:
            return History.from_data(json.loads(self._file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return History()

    def why_not_writable(self) -> str | None:
        """Say why a run could not add what it has seen; None if it could."""
        try:
            with self._locked():
                return None
        except OSError as error:
            return f"{error.filename}: {error.strerror}"

    def add(self, observed: Observed) -> None:
        """Add what a run has seen to what others have added in the meantime."""
        with suppress(OSError), self._locked():
            history = self.read().after(observed, int(time.time() // _DAY))
            text = json.dumps(history.as_data(), separators=(",", ":"), ensure_ascii=False)
            # A run that is killed in the middle of it leaves the file as it was.
            new = self._file.with_suffix(".new")
            # A test's name may have what UTF-8 cannot: half of a pair of surrogates.
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
