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
        separated = [self._separate(subsuite, is_serial) for subsuite in tests]
        parallel = [(index, one) for index, (one, _) in enumerate(separated) if one]
        # The seconds that each worker takes if all take the same time.
        self._fair_share = sum(itertools.starmap(self._seconds_of, parallel)) / workers
        self.parallel = [
            self._part(index, piece)
            for index, positions in parallel
            for piece in self._split(index, positions)
        ]
        self.serial = [self._part(index, one) for index, (_, one) in enumerate(separated) if one]
        if order is not None:
            self.parallel.sort(key=self._rank)

    @staticmethod
    def _separate(
        tests: Sequence[Any], is_serial: Callable[[Any], bool]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the positions of the parallel tests and of the serial ones."""
        are_serial = [is_serial(test) for test in tests]
        positions = range(len(tests))
        parallel = tuple(position for position in positions if not are_serial[position])
        return parallel, tuple(position for position in positions if are_serial[position])

    def queue(self) -> PartQueue:
        seconds = None if self._order is None else self.seconds
        return PartQueue(self.parallel, self.serial, seconds=seconds)

    def seconds(self, part: Part) -> float:
        """Estimate the seconds of a part."""
        return self._seconds_of(part.subsuite, part.positions)

    def _seconds_of(self, subsuite: int, positions: Sequence[int]) -> float:
        if self._order is None:
            return 0.0
        tests = [self._tests[subsuite][position] for position in positions]
        return self._order.durations.seconds(tests)

    def _part(self, subsuite: int, positions: tuple[int, ...]) -> Part:
        first = self._tests[subsuite][positions[0]]
        stage = self._order.stage_of(first) if self._order else 0
        return Part(next(self._keys), subsuite, positions, stage=stage)

    def _rank(self, part: Part) -> tuple[int, bool, float]:
        assert self._order is not None
        tests = [self._tests[part.subsuite][position] for position in part.positions]
        is_first = any(test.id() in self._order.first for test in tests)
        return part.stage, not is_first, -self.seconds(part)

    def _split(self, subsuite: int, positions: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """Yield the tests of a class, in pieces if the class would delay the end of the run."""
        test, order = self._tests[subsuite][positions[0]], self._order
        is_long = self._seconds_of(subsuite, positions) > self._fair_share
        if order is None or not is_long or not order.durations.can_split(test):
            yield positions
            return
        overhead = order.durations.overhead(test)
        size = max(self._fair_share / _PIECES_PER_SHARE, overhead * _MIN_OVERHEADS)
        piece, taken = list[int](), 0.0
        for position in positions:
            seconds = order.durations.seconds_of(self._tests[subsuite][position])
            if piece and taken + seconds > size:
                yield tuple(piece)
                piece, taken = [], 0.0
            piece.append(position)
            taken += seconds
        yield tuple(piece)
