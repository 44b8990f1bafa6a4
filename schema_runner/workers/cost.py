"""What a process has spent on tests."""

import time
from typing import NamedTuple

from ..connections import resets_so_far


class Cost(NamedTuple):
    """Times in seconds, of a clock and of the process, and how many resets there were."""

    time: float
    processor_time: float
    resets: int
    reset_time: float

    def since(self, before: "Cost") -> "Cost":
        return Cost(
            self.time - before.time,
            self.processor_time - before.processor_time,
            self.resets - before.resets,
            self.reset_time - before.reset_time,
        )


def cost_so_far() -> Cost:
    """Return what this process has spent since some moment, which is always the same one."""
    return Cost(time.perf_counter(), time.process_time(), *resets_so_far())
