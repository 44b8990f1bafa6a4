"""Which tests are still to be run, and in what order: in parallel first, then alone."""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

# How many parts a worker is given ahead, at most, and how many have to be left for each.
_AHEAD = 8
_LEFT = 4
# With more seconds of work than these a worker can wait for its next part without harm.
_ENOUGH = 0.05


class Part(NamedTuple):
    """Tests of one class: those at `positions` in the `subsuite` of that number.

    `key` is another each time that a part is given to a worker. `deaths` counts the workers that
    have died while they set the class up. A worker that has come to a `stage` does not go back to
    an earlier one.
    """

    key: int
    subsuite: int
    positions: tuple[int, ...]
    deaths: int = 0
    stage: int = 0


class PartQueue:
    """The parts of a suite that no worker has been given, or that one has not come to.

    Those that are `serial` are each to be run while nothing else is. `seconds` estimates how long
    a part takes, if there is an estimate: then the longest one of a stage comes first. A worker
    that is at a part is given so many more `ahead`, at most.
    """

    def __init__(
        self,
        parallel: Sequence[Part],
        serial: Sequence[Part] = (),
        *,
        seconds: Callable[[Part], float] | None = None,
        ahead: int = _AHEAD,
    ) -> None:
        self._stages: dict[int, deque[Part]] = {
            stage: deque() for stage in sorted({part.stage for part in parallel})
        }
        for part in parallel:
            self._stages[part.stage].append(part)
        self._serial = deque(serial)
        self._alone = {part.key for part in serial}
        self._last_key = max((part.key for part in [*parallel, *serial]), default=0)
        self._estimate = seconds
        self._ahead = ahead
        # By key, of the parts that are to be run in parallel; those that are left take so long.
        self._seconds = {part.key: seconds(part) for part in parallel} if seconds else {}
        self._seconds_left = sum(self._seconds.values())

    @property
    def is_empty(self) -> bool:
        return not self._waiting and not self._serial

    @property
    def _waiting(self) -> list[int]:
        """The stages of which there is something left."""
        return [stage for stage, parts in self._stages.items() if parts]

    def take(self, *, stage: int, others: Collection[int], is_alone: bool) -> Part | None:
        """Return the next part for a worker, which `is_alone` if no other has anything to do.

        It has come to a stage, and the others to theirs. None if there is no part for now.
        """
        if self._waiting:
            chosen = self._stage_for(stage, others)
            return None if chosen is None else self._take_of(chosen)
        return self._serial.popleft() if self._serial and is_alone else None

    def _stage_for(self, stage: int, others: Collection[int]) -> int | None:
        first, *later = self._waiting
        if stage > first:
            return next((one for one in later if one >= stage), None)
        # What is long would hold up the run if it were left to its stage. Somebody else has to
        # stay behind.
        if self._estimate and later and any(other <= first for other in others):
            fair = self._seconds_left / (len(others) + 1)
            for one in later:
                if self._seconds[self._stages[one][0].key] >= fair:
                    return one
        return first

    def _take_of(self, stage: int) -> Part:
        part = self._stages[stage].popleft()
        self._seconds_left -= self._seconds.get(part.key, 0.0)
        return part

    def has_more_for(self, held: Sequence[Part], workers: int) -> bool:
        """Whether a worker that has these parts already should have another one.

        With few left, one that is given nothing yet goes to whoever is free first.
        """
        left = sum(map(len, self._stages.values()))
        if len(held) >= 1 + min(self._ahead, left // (_LEFT * workers)):
            return False
        return not held or not self._estimate or sum(map(self._estimate, held)) < _ENOUGH

    def put_back(self, part: Part, positions: Sequence[int], *, deaths: int = 0) -> None:
        """Have these tests of a part run next: its worker has died."""
        self._last_key += 1
        again = part._replace(key=self._last_key, positions=tuple(positions), deaths=deaths)
        if part.key in self._alone:
            self._alone.add(again.key)
            self._serial.appendleft(again)
        else:
            self._stages[part.stage].appendleft(again)
            if self._estimate:
                self._seconds[again.key] = self._estimate(again)
                self._seconds_left += self._seconds[again.key]
