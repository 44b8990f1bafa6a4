"""The number of CPUs that this process may use, and the busy time of the machine's CPUs."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
# The smallest quota that the kernel accepts, in CPUs.
_MIN_QUOTA = 0.01
# Columns of /proc/stat. The guest columns, which come last, are included in "user" and "nice".
_STATES = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"]
_IDLE = {"idle", "iowait"}


def usable_cpus(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> float:
    """Return how many CPUs this process may use, by its affinity and its control groups' quotas.

    A quota can be a fraction. `cgroups` is the mount point of control groups v2. See
    https://docs.kernel.org/admin-guide/cgroup-v2.html.
    """
    return max(min([float(_cpu_count()), *_quotas(proc, cgroups)]), _MIN_QUOTA)


def busy_cpu_seconds(proc: Path = _PROC) -> float | None:
    """Return the busy time of all CPUs since boot, in seconds; None if it is unknown."""
    with suppress(OSError, ValueError):
        _name, *ticks = (proc / "stat").read_text().partition("\n")[0].split()
        by_state = dict(zip(_STATES, map(int, ticks), strict=False))
        busy = sum(number for state, number in by_state.items() if state not in _IDLE)
        return busy / os.sysconf("SC_CLK_TCK")
    return None


def _cpu_count() -> int:
    # Python 3.13+. Follows PYTHON_CPU_COUNT as well.
    process_cpu_count: Callable[[], int | None] | None = getattr(os, "process_cpu_count", None)
    if process_cpu_count is not None:
        return process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def _quotas(proc: Path, cgroups: Path) -> Iterator[float]:
    """Yield the CPU quotas of the process's control group and of those above it."""
    with suppress(OSError):
        for line in os.fsdecode((proc / "self" / "cgroup").read_bytes()).splitlines():
            if line.startswith("0::"):
                # In a container, only `cgroups` may exist: its own group.
                group = cgroups / line.removeprefix("0::").lstrip("/")
                yield from map(_quota, [group, *group.parents][: -len(cgroups.parents)])


def _quota(group: Path) -> float:
    with suppress(OSError, ValueError, ArithmeticError):
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)  # The quota can be "max".
    return float("inf")
