"""The number of CPUs that this process may use, and the busy time of the machine's CPUs."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
# The smallest quota that the kernel accepts, in CPUs.
_MIN_QUOTA = 0.01
# Columns of /proc/stat. The guest columns, which come last, are included in "user" and "nice".
_STATES = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"]
_IDLE = {"idle", "iowait"}


def usable_cpus(proc: Path = _PROC) -> float:
    """Return how many CPUs this process may use, by its affinity and its control groups' quotas.

    A quota can be a fraction. `proc` is the procfs mount point; without procfs there are no
    quotas. See https://docs.kernel.org/admin-guide/cgroup-v2.html.
    """
    return max(min([float(_cpu_count()), *_quotas(proc / "self")]), _MIN_QUOTA)


def busy_cpu_seconds(proc: Path = _PROC) -> float | None:
    """Return the busy time of all CPUs since boot, in seconds; None if it is unknown."""
    with suppress(OSError, ValueError):
        _name, *ticks = _read(proc / "stat").partition("\n")[0].split()
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


class _Mount(NamedTuple):
    """A mounted control group hierarchy."""

    # The group that is mounted at `mount_point`.
    root: str
    mount_point: Path
    # Whether it is the v2 hierarchy.
    is_unified: bool
    # The v1 controllers.
    controllers: frozenset[str]


def _quotas(process: Path) -> Iterator[float]:
    """Yield the CPU quotas of a process's control groups and of their ancestors."""
    groups = _groups(process)
    for mount in _mounts(process):
        group = groups.get("" if mount.is_unified else "cpu")
        if group is not None and (mount.is_unified or "cpu" in mount.controllers):
            for folder in _folders(mount, group):
                with suppress(OSError, ValueError, ArithmeticError):
                    yield from _quota_v2(folder) if mount.is_unified else _quota_v1(folder)


def _groups(process: Path) -> dict[str, str]:
    """Map each controller to the process's group; the key of the v2 group is ""."""
    groups = {}
    with suppress(OSError, ValueError):
        for line in _read(process / "cgroup").splitlines():
            _, controllers, group = line.split(":", 2)
            groups.update(dict.fromkeys(controllers.split(","), group))
    return groups


def _mounts(process: Path) -> Iterator[_Mount]:
    with suppress(OSError, ValueError):
        for line in _read(process / "mountinfo").splitlines():
            fields, _, rest = line.partition(" - ")
            root, mount_point = fields.split(" ")[3:5]
            kind, _, options = rest.split(" ", 2)
            if kind in {"cgroup", "cgroup2"}:
                controllers = frozenset(options.split(","))
                path = Path(_unescape(mount_point))
                yield _Mount(_unescape(root), path, kind == "cgroup2", controllers)


def _read(path: Path) -> str:
    # Names of groups and mount points need not be UTF-8.
    return os.fsdecode(path.read_bytes())


def _unescape(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _folders(mount: _Mount, group: str) -> Iterator[Path]:
    """Yield the folders of a group and of its ancestors, up to the mount point."""
    # In a container, /proc/self/cgroup can show the host's path of the group, which is not below
    # `root`. What is mounted is then the container's own group.
    root = mount.root.rstrip("/")
    is_within = f"{group}/".startswith(f"{root}/") and ".." not in group.split("/")
    folder = mount.mount_point / group[len(root) :].strip("/") if is_within else mount.mount_point
    # Not checked for existence: the folder can be unreadable while its parents are readable.
    yield folder
    while folder != mount.mount_point:
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
