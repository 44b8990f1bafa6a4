"""The queue of the parts that workers have not run yet: parallel parts first, then serial."""

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

# The most parts that a worker holds besides the one that it runs.
_MAX_PREFETCH = 8
# A worker prefetches one part if this many are left for each worker, two if twice as many, and so
# on, so that the last parts stay available to all.
_PARTS_PER_PREFETCH = 4
# A worker that holds parts of at least this many estimated seconds gets no more.
_PREFETCH_SECONDS = 0.05


class Part(NamedTuple):
    """Tests of one class that a worker runs together."""

    # A part that is put back gets a new key.
    key: int
    # The index of the subsuite, and the positions of the tests in it.
    subsuite: int
    positions: tuple[int, ...]
    # The number of workers that died while they set up the class.
    deaths: int = 0
    # The stage of its tests; see `Ordering`. A worker does not go back to an earlier stage.
    stage: int = 0
    # The estimated duration; 0 if there are no estimates.
    seconds: float = 0.0
    # Whether it runs alone, after all parallel parts.
    is_serial: bool = False


class PartQueue:
    """The parts of a suite that wait for a worker.

    `parts`: within a stage, sorted by decreasing duration if there are estimates.
    `prefetch`: the most parts that a worker holds besides the one that it runs.
    """

    def __init__(self, parts: Iterable[Part], *, prefetch: int = _MAX_PREFETCH) -> None:
        parts = sorted(parts, key=lambda part: part.stage)
        self._stages: dict[int, deque[Part]] = {part.stage: deque() for part in parts}
        self._serial: deque[Part] = deque()
        # The estimated seconds of the parallel parts.
        self._seconds_left = 0.0
        for part in parts:
            self._waiting(part).append(part)
        self._last_key = max((part.key for part in parts), default=0)
        self._prefetch = prefetch

    def _waiting(self, part: Part) -> deque[Part]:
        """Return the parts that a part waits with, to add it there."""
        if part.is_serial:
            return self._serial
        self._seconds_left += part.seconds
        return self._stages[part.stage]

    @property
    def is_empty(self) -> bool:
        return not self._waiting_stages and not self._serial

    @property
    def _waiting_stages(self) -> list[int]:
        """The stages that have parts left."""
        return [stage for stage, parts in self._stages.items() if parts]

    def take(self, *, stage: int, others: Collection[int], is_alone: bool) -> Part | None:
        """Remove and return the next part for a worker; None if there is none for now.

        `stage` is the stage that the worker has reached, `others` those of the other workers. The
        worker `is_alone` if no other worker has a part.
        """
        if self._waiting_stages:
            chosen = self._stage_for(stage, others)
            return None if chosen is None else self._pop(chosen)
        return self._serial.popleft() if self._serial and is_alone else None

    def _stage_for(self, stage: int, others: Collection[int]) -> int | None:
        first, *later = self._waiting_stages
        if stage > first:
            return next((one for one in later if one >= stage), None)
        # A part as long as a worker's share of the rest would delay the end of the run if it
        # waited for its stage. Another worker has to stay in the earlier stage.
        if any(other <= first for other in others):
            fair_share = self._seconds_left / (len(others) + 1)
            for one in later:
                if self._stages[one][0].seconds >= fair_share > 0:
                    return one
        return first

    def _pop(self, stage: int) -> Part:
        part = self._stages[stage].popleft()
        self._seconds_left -= part.seconds
        return part

    def has_more_for(self, held: Sequence[Part], workers: int) -> bool:
        """Whether a worker that holds these parts should take another one.

        When few parts are left, they stay in the queue for the first worker that is free.
        """
        left = sum(map(len, self._stages.values()))
        if len(held) >= 1 + min(self._prefetch, left // (_PARTS_PER_PREFETCH * workers)):
            return False
        return sum(part.seconds for part in held) < _PREFETCH_SECONDS

    def put_back(self, part: Part, positions: Sequence[int], *, deaths: int = 0) -> None:
        """Put tests of a part back at the front of the queue, because their worker died."""
        self._last_key += 1
        new = part._replace(
            key=self._last_key,
            positions=tuple(positions),
            deaths=deaths,
            seconds=part.seconds * len(positions) / len(part.positions),
        )
        self._waiting(new).appendleft(new)
