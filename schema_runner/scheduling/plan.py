"""The parts that a suite is run in: whole classes, or some tests of one that is long."""

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

from .durations import Durations
from .queue import Part, PartQueue

# A class that would hold up the run is divided into pieces of this share of a worker's time, so
# that they fill the gaps between others; and a piece takes so many times its set-up at least.
_PIECES = 4
_WORTH = 10


class Ordering(NamedTuple):
    """What decides about the order of tests in parallel, where the suite's does not.

    `stage_of` tells of a test how many kinds of tests come before it: that order holds in each
    worker. Classes with tests that are to come `first` do so within their stage.
    """

    durations: Durations
    stage_of: Callable[[Any], int]
    first: Collection[str] = ()


class Plan:
    """The parts of a suite in so many workers; `tests` lists the test cases of each subsuite."""

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
        apart = [self._apart(subsuite, is_serial) for subsuite in tests]
        beside = [(index, one) for index, (one, _) in enumerate(apart) if one]
        self._fair = sum(itertools.starmap(self._seconds_of, beside)) / workers
        self.parallel = [
            self._part(index, piece)
            for index, positions in beside
            for piece in self._divided(index, positions)
        ]
        self.serial = [self._part(index, alone) for index, (_, alone) in enumerate(apart) if alone]
        if order is not None:
            self.parallel.sort(key=self._rank)

    @staticmethod
    def _apart(
        tests: Sequence[Any], is_serial: Callable[[Any], bool]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        are_serial = [is_serial(test) for test in tests]
        positions = range(len(tests))
        beside = tuple(position for position in positions if not are_serial[position])
        return beside, tuple(position for position in positions if are_serial[position])

    def queue(self) -> PartQueue:
        seconds = None if self._order is None else self.seconds
        return PartQueue(self.parallel, self.serial, seconds=seconds)

    def seconds(self, part: Part) -> float:
        """Estimate how long a part takes."""
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

    def _divided(self, subsuite: int, positions: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """Yield the tests of a class in pieces, if it alone would hold up the run."""
        test, order = self._tests[subsuite][positions[0]], self._order
        is_long = self._seconds_of(subsuite, positions) > self._fair
        if order is None or not is_long or not order.durations.is_divisible(test):
            yield positions
            return
        size = max(self._fair / _PIECES, order.durations.overhead(test) * _WORTH)
        piece, taken = list[int](), 0.0
        for position in positions:
            seconds = order.durations.seconds_of(self._tests[subsuite][position])
            if piece and taken + seconds > size:
                yield tuple(piece)
                piece, taken = [], 0.0
            piece.append(position)
            taken += seconds
        yield tuple(piece)
