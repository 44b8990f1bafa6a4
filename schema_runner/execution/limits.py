"""Time limits kept from outside, of workers that keep none themselves: those that are stopped."""

import time
from collections.abc import Iterable

from .crew import Worker

# A supervisor that has not looked for so many seconds was stopped itself, or suspended with the
# whole machine, or had to wait for whoever reads its output.
_PAUSE = 1.0


class Limits:
    """Kills workers that have not ended by themselves what has taken too long."""

    def __init__(self) -> None:
        self._looked = time.monotonic()

    def keep(self, workers: Iterable[Worker]) -> None:
        """Kill those that are overdue; whatever has come from them has been heard."""
        now = time.monotonic()
        pause, self._looked = now - self._looked, now
        for worker in workers:
            if worker.allowed_until is None:
                continue
            if pause > _PAUSE:
                # It may have been stopped as well.
                worker.allowed_until += pause
            elif now > worker.allowed_until and not worker.is_overdue:
                worker.is_overdue = True
                worker.kill()
