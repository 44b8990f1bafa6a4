"""The queue of the parts that workers have not run yet: parallel parts first, then serial."""

from collections import deque
from collections.abc import Callable, Collection, Sequence
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


class PartQueue:
    """The parts of a suite that wait for a worker.

    `parallel`: parts that run at the same time, sorted by decreasing duration within a stage if
    there are estimates.
    `serial`: parts that each run alone, after the others.
    `seconds`: estimates the seconds of a part; None if there are no estimates.
    `prefetch`: the most parts that a worker holds besides the one that it runs.
    """

    def __init__(
        self,
        parallel: Sequence[Part],
        serial: Sequence[Part] = (),
        *,
        seconds: Callable[[Part], float] | None = None,
        prefetch: int = _MAX_PREFETCH,
    ) -> None:
        self._stages: dict[int, deque[Part]] = {
            stage: deque() for stage in sorted({part.stage for part in parallel})
        }
        for part in parallel:
            self._stages[part.stage].append(part)
        self._serial = deque(serial)
        self._serial_keys = {part.key for part in serial}
        self._last_key = max((part.key for part in [*parallel, *serial]), default=0)
        self._estimate = seconds
        self._prefetch = prefetch
        # The estimates of the parallel parts by key, and the sum of those that wait.
        self._seconds = {part.key: seconds(part) for part in parallel} if seconds else {}
        self._seconds_left = sum(self._seconds.values())

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
        if self._estimate and later and any(other <= first for other in others):
            fair_share = self._seconds_left / (len(others) + 1)
            for one in later:
                if self._seconds[self._stages[one][0].key] >= fair_share:
                    return one
        return first

    def _pop(self, stage: int) -> Part:
        part = self._stages[stage].popleft()
        self._seconds_left -= self._seconds.get(part.key, 0.0)
        return part

    def has_more_for(self, held: Sequence[Part], workers: int) -> bool:
        """Whether a worker that holds these parts should take another one.

        When few parts are left, they stay in the queue for the first worker that is free.
        """
        left = sum(map(len, self._stages.values()))
        if len(held) >= 1 + min(self._prefetch, left // (_PARTS_PER_PREFETCH * workers)):
            return False
        return not held or not self._estimate or sum(map(self._estimate, held)) < _PREFETCH_SECONDS

    def put_back(self, part: Part, positions: Sequence[int], *, deaths: int = 0) -> None:
        """Put tests of a part back at the front of the queue, because their worker died."""
        self._last_key += 1
        new = part._replace(key=self._last_key, positions=tuple(positions), deaths=deaths)
        if part.key in self._serial_keys:
            self._serial_keys.add(new.key)
            self._serial.appendleft(new)
        else:
            self._stages[part.stage].appendleft(new)
            if self._estimate:
                self._seconds[new.key] = self._estimate(new)
                self._seconds_left += self._seconds[new.key]
