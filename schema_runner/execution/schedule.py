"""Which tests are still to be run, and in what order: in parallel first, then alone."""

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from .messages import Part

# How many parts a worker is given ahead, at most; and how many have to be left for each.
_AHEAD = 8
_LEFT = 4


class Schedule:
    """The parts of a suite that no worker has been given, or that one has not come to.

    `subsuites` lists the test cases of each class. Those that are serial make parts of their
    own, each to be run while nothing else is.
    """

    def __init__(
        self, subsuites: Sequence[Sequence[Any]], *, is_serial: Callable[[Any], bool]
    ) -> None:
        self._keys = itertools.count(1)
        self._parallel: deque[Part] = deque()
        self._serial: deque[Part] = deque()
        for index, tests in enumerate(subsuites):
            alone = [position for position, test in enumerate(tests) if is_serial(test)]
            beside = [position for position in range(len(tests)) if position not in set(alone)]
            for positions, queue in ((beside, self._parallel), (alone, self._serial)):
                if positions:
                    queue.append(Part(next(self._keys), index, tuple(positions)))
        self._alone = {part.key for part in self._serial}

    @property
    def is_empty(self) -> bool:
        return not self._parallel and not self._serial

    def take(self, *, is_alone: bool) -> Part | None:
        """Return the next part for a worker, which `is_alone` if no other has anything to do.

        None if there is none for now.
        """
        if self._parallel:
            return self._parallel.popleft()
        return self._serial.popleft() if self._serial and is_alone else None

    def ahead(self, workers: int) -> int:
        """Return how many parts a worker is to have at a time.

        With few left, one that is given nothing yet goes to whoever is free first.
        """
        return 1 + min(_AHEAD, len(self._parallel) // (_LEFT * workers))

    def put_back(self, part: Part, positions: Sequence[int], *, deaths: int = 0) -> None:
        """Have these tests of a part run next: its worker has died."""
        is_alone = part.key in self._alone
        again = Part(next(self._keys), part.subsuite, tuple(positions), deaths)
        if is_alone:
            self._alone.add(again.key)
        (self._serial if is_alone else self._parallel).appendleft(again)
