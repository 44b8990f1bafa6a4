"""The clock of the runner, which goes on while tests mock or freeze the time."""

import time as real


class Clock:
    """Functions of `time`. As class attributes, neither mock nor freezegun replaces them."""

    monotonic = staticmethod(real.monotonic)
    perf_counter = staticmethod(real.perf_counter)
    process_time = staticmethod(real.process_time)
    time = staticmethod(real.time)
