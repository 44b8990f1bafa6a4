"""The parts that a suite is split into: whole classes, or pieces of a long class."""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple
from unittest.util import strclass

from .history import History
from .queue import Part, PartQueue

# A class that would delay the end of the run is split into pieces, this many to a worker's share
# of the run, so that they can fill gaps between other parts.
_PIECES_PER_SHARE = 4
# The least duration of a piece, as a multiple of the overhead of its class.
_MIN_OVERHEADS = 10
# Assumed seconds of a test if the history has no test of the suite.
_DEFAULT_SECONDS = 0.02


class Durations:
    """Estimated durations of a suite's tests; a test without history gets the median."""

    def __init__(self, history: History, tests: Iterable[Any]) -> None:
        self._history = history
        measured = [self._measured(test) for test in tests]
        known = [seconds for seconds in measured if seconds is not None]
        # Whether the history has more than half of the tests.
        self.is_measured = 2 * len(known) > len(measured)
        self._default = median(known) if known else _DEFAULT_SECONDS

    def seconds(self, tests: Sequence[Any]) -> float:
        """Estimate the seconds of tests of one class, including the overhead of the class."""
        return self.overhead(tests[0]) + sum(map(self.seconds_of, tests))

    def seconds_of(self, test: Any) -> float:
        """Estimate the seconds of one test, without the overhead of its class."""
        measured = self._measured(test)
        return self._default if measured is None else measured

    def _measured(self, test: Any) -> float | None:
        record = self._history.tests.get(test.id())
        return None if record is None else record.seconds

    def overhead(self, test: Any) -> float:
        """Estimate the seconds of the test's class before its first test and after its last."""
        record = self._history.classes.get(strclass(type(test)))
        return 0.0 if record is None else record.overhead

    def can_split(self, test: Any) -> bool:
        """Whether earlier runs showed that the tests of this test's class share no state."""
        record = self._history.classes.get(strclass(type(test)))
        return record is not None and not record.keeps_state


class Ordering(NamedTuple):
    """How to order the tests of a parallel run, instead of in the order of the suite."""

    durations: Durations
    # Returns the stage of a test: how many kinds of tests come before its kind.
    stage_of: Callable[[Any], int]
    # The ids of tests whose classes come first within their stage.
    first: Collection[str] = ()


class Plan:
    """The parts of a suite for a number of workers; `tests` has the test cases by subsuite."""

    def __init__(
        self,
        tests: Sequence[Sequence[Any]],
        *,
        workers: int,
        is_serial: Callable[[Any], bool],
        order: Ordering | None = None,
    ) -> None:
        self._tests = tests
        self._order = order
        self._keys = itertools.count(1)
        classes = list[Part]()
        self.serial = list[Part]()
        for index, subsuite in enumerate(tests):
            serial, parallel = list[int](), list[int]()
            for position, test in enumerate(subsuite):
                (serial if is_serial(test) else parallel).append(position)
            if parallel:
                classes.append(self._part(index, parallel))
            if serial:
                self.serial.append(self._part(index, serial, is_serial=True))
        # The seconds that each worker takes if all take the same time.
        fair_share = sum(part.seconds for part in classes) / workers
        self.parallel = [piece for part in classes for piece in self._split(part, fair_share)]
        if order is not None:
            self.parallel.sort(key=self._rank)

    def queue(self) -> PartQueue:
        return PartQueue([*self.parallel, *self.serial])

    def _part(self, subsuite: int, positions: Sequence[int], *, is_serial: bool = False) -> Part:
        part = Part(next(self._keys), subsuite, tuple(positions), is_serial=is_serial)
        if self._order is None:
            return part
        tests = self._tests_of(part)
        return part._replace(
            stage=self._order.stage_of(tests[0]), seconds=self._order.durations.seconds(tests)
        )

    def _tests_of(self, part: Part) -> list[Any]:
        return [self._tests[part.subsuite][position] for position in part.positions]

    def _rank(self, part: Part) -> tuple[int, bool, float]:
        first = self._order.first if self._order else ()
        is_first = any(test.id() in first for test in self._tests_of(part))
        return part.stage, not is_first, -part.seconds

    def _split(self, part: Part, fair_share: float) -> Iterator[Part]:
        """Yield a class, in pieces if it would delay the end of the run."""
        tests, order = self._tests_of(part), self._order
        if order is None or part.seconds <= fair_share or not order.durations.can_split(tests[0]):
            yield part
            return
        overhead = order.durations.overhead(tests[0])
        size = max(fair_share / _PIECES_PER_SHARE, overhead * _MIN_OVERHEADS)
        piece, taken = list[int](), 0.0
        for position, test in zip(part.positions, tests, strict=True):
            seconds = order.durations.seconds_of(test)
            if piece and taken + seconds > size:
                yield self._part(part.subsuite, piece)
                piece, taken = [], 0.0
            piece.append(position)
            taken += seconds
        yield self._part(part.subsuite, piece)
