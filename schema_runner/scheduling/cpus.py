"""The processors that this process may use, and how busy those of the machine have been."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
# So little no quota allows, whatever it says: the kernel's least is a hundredth.
_LEAST = 0.01
# Of the processors' time in /proc/stat, what is no work: being idle, and waiting for a disk. The
# time of guests, which comes last, is in that of users already.
_STATES = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"]
_IDLE = {"idle", "iowait"}


def usable_cpus(proc: Path = _PROC) -> float:
    """Return how many processors this process may use, by affinity and quotas of its groups.

    A quota may be a fraction. `proc` is the folder of the kernel's files about processes; systems
    without one have no control groups. See https://docs.kernel.org/admin-guide/cgroup-v2.html.
    """
    return max(min([float(_count()), *_quotas(proc / "self")]), _LEAST)


def busy_cpu_seconds(proc: Path = _PROC) -> float | None:
    """Return for how long the processors of this machine have worked; None if nobody knows."""
    with suppress(OSError, ValueError):
        _name, *ticks = _read(proc / "stat").partition("\n")[0].split()
        by_state = dict(zip(_STATES, map(int, ticks), strict=False))
        busy = sum(number for state, number in by_state.items() if state not in _IDLE)
        return busy / os.sysconf("SC_CLK_TCK")
    return None


def _count() -> int:
    # From Python 3.13 on, also what PYTHON_CPU_COUNT says.
    counting: Callable[[], int | None] | None = getattr(os, "process_cpu_count", None)
    if counting is not None:
        return counting() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


class _Mount(NamedTuple):
    """A mounted hierarchy of control groups, of which the group `root` is at `point`."""

    root: str
    point: Path
    is_unified: bool
    controllers: frozenset[str]


def _quotas(process: Path) -> Iterator[float]:
    """Yield the quotas of the groups of a process, and of those that they are in."""
    groups = _groups(process)
    for mount in _mounts(process):
        group = groups.get("" if mount.is_unified else "cpu")
        if group is not None and (mount.is_unified or "cpu" in mount.controllers):
            for folder in _folders(mount, group):
                with suppress(OSError, ValueError, ArithmeticError):
                    yield from _quota_v2(folder) if mount.is_unified else _quota_v1(folder)


def _groups(process: Path) -> dict[str, str]:
    """Map controllers to the group that a process is in; "" to that of the unified hierarchy."""
    found = {}
    with suppress(OSError, ValueError):
        for line in _read(process / "cgroup").splitlines():
            _, controllers, group = line.split(":", 2)
            found.update(dict.fromkeys(controllers.split(","), group))
    return found


def _mounts(process: Path) -> Iterator[_Mount]:
    with suppress(OSError, ValueError):
        for line in _read(process / "mountinfo").splitlines():
            fields, _, rest = line.partition(" - ")
            root, point = fields.split(" ")[3:5]
            kind, _, options = rest.split(" ", 2)
            if kind in {"cgroup", "cgroup2"}:
                controllers = frozenset(options.split(","))
                yield _Mount(
                    _unescaped(root), Path(_unescaped(point)), kind == "cgroup2", controllers
                )


def _read(path: Path) -> str:
    # Names of groups, and of whatever else is mounted, need not be UTF-8.
    return os.fsdecode(path.read_bytes())


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _folders(mount: _Mount, group: str) -> Iterator[Path]:
    """Yield the folders of a group and of those around it, as far as they are to be seen."""
    # In a container the group may be named as the host sees it: what is mounted is its own then.
    root = mount.root.rstrip("/")
    is_within = f"{group}/".startswith(f"{root}/") and ".." not in group.split("/")
    folder = mount.point / group[len(root) :].strip("/") if is_within else mount.point
    # Whether it is there is not asked: that may be forbidden where what is around it is not.
    yield folder
    while folder != mount.point:
        folder = folder.parent
        yield folder


def _quota_v2(folder: Path) -> Iterator[float]:
    quota, period = (folder / "cpu.max").read_text().split()
    if quota != "max":
        yield int(quota) / int(period)


def _quota_v1(folder: Path) -> Iterator[float]:
    quota = int((folder / "cpu.cfs_quota_us").read_text())
    period = int((folder / "cpu.cfs_period_us").read_text())
    if quota > 0 and period > 0:
        yield quota / period
