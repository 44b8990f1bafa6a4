import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from schema_runner.scheduling.cpus import busy_cpu_seconds, usable_cpus

# As many as this process may use without any group.
ALL = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
SMALL = ALL / 4


class Kernel:
    """A folder that looks like /proc, with control groups below another one."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.mount = folder / "sys fs" / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        self.mount.mkdir(parents=True)

    def write(self, group: str, *mounted: str) -> None:
        point = str(self.mount).replace(" ", "\\040")
        (self.proc / "self" / "cgroup").write_text(group)
        lines = ["22 1 0:20 / / rw - ext4 /dev/sda rw", *mounted]
        (self.proc / "self" / "mountinfo").write_text("\n".join(lines).replace("POINT", point))

    def unified(self, group: str = "/", root: str = "/") -> None:
        self.write(f"0::{group}\n", f"30 22 0:26 {root} POINT rw shared:4 - cgroup2 cgroup2 rw")

    def divided(self, group: str = "/", root: str = "/") -> None:
        """The first version of control groups, with a hierarchy for each controller."""
        groups = f"4:cpu,cpuacct:{group}\n1:name=systemd:/x\n0::/\n"
        self.write(groups, f"30 22 0:26 {root} POINT rw - cgroup cgroup rw,cpu,cpuacct")

    def hybrid(self, group: str) -> None:
        """Both versions, each at a folder of its own, as systemd once had them."""
        first = "30 22 0:26 / POINT/cpu rw - cgroup cgroup rw,cpu,cpuacct"
        second = "31 22 0:27 / POINT/unified rw - cgroup2 cgroup2 rw"
        self.write(f"2:cpu,cpuacct:{group}\n0::{group}\n", first, second)

    def limit(self, inner: str, **files: str) -> None:
        folder = self.mount / inner
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)

    @property
    def processors(self) -> float:
        return usable_cpus(self.proc)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def v2(quota: float | None) -> dict[str, str]:
    return {"cpu__max": f"{int(quota * 100_000) if quota else 'max'} 100000\n"}


def v1(quota: float | None) -> dict[str, str]:
    microseconds = f"{int(quota * 50_000) if quota else -1}\n"
    return {"cpu__cfs_quota_us": microseconds, "cpu__cfs_period_us": "50000\n"}


VERSIONS = [(Kernel.unified, v2), (Kernel.divided, v1)]


def test_without_quotas_affinity_decides(kernel: Kernel) -> None:
    """Nor does a quota of more than there is count."""
    assert kernel.processors == ALL
    kernel.divided()
    assert kernel.processors == ALL
    kernel.unified()
    assert kernel.processors == ALL
    kernel.limit("", **v2(ALL * 2))
    assert kernel.processors == ALL


@pytest.mark.parametrize("inner", ["a", "a/b", ""])
def test_the_least_quota_of_the_groups_around_counts(kernel: Kernel, inner: str) -> None:
    for mount, limit in VERSIONS:
        mount(kernel, "/a/b")
        kernel.limit("a/b", **limit(None))
        kernel.limit(inner, **limit(SMALL))
        assert kernel.processors == pytest.approx(SMALL)


@pytest.mark.parametrize("quotas", [(SMALL, ALL), (ALL, SMALL)], ids=["cpu", "unified"])
def test_quotas_of_both_versions_count(kernel: Kernel, quotas: tuple[float, float]) -> None:
    """The controller of processors is in one of the two."""
    kernel.hybrid("/a")
    kernel.limit("cpu/a", **v1(quotas[0]))
    kernel.limit("unified/a", **v2(quotas[1]))
    assert kernel.processors == pytest.approx(SMALL)


@pytest.mark.parametrize(
    ("group", "root", "limited"),
    [
        # Its name is too long for a folder; one of other users' is refused in the same way.
        pytest.param(f"/a/{'b' * 300}", "/", "a", id="long"),
        # Only a name that is just two dots leads out of what is mounted.
        *[(f"/{name}", "/", name) for name in ("x..y", "..x", "...", "a:b", "é")],
        # In a container the folder of a group may not be there by that name.
        *[("/docker/1f", "/docker/1f", ""), ("/docker/1f", "/", "")],
        *[("/../../x", "/", ""), ("/a", "/other", "")],
        # Its name begins with that of the one that is mounted.
        ("/docker/1f/inner", "/docker/1f", "inner"),
    ],
)
def test_the_mounted_group_counts(kernel: Kernel, group: str, root: str, limited: str) -> None:
    for mount, limit in VERSIONS:
        mount(kernel, group, root)
        kernel.limit(limited, **limit(SMALL))
        assert kernel.processors == pytest.approx(SMALL)


def test_other_mounts_may_have_any_name(kernel: Kernel) -> None:
    """One that is not UTF-8 hides no other."""
    kernel.unified()
    mounts = kernel.proc / "self" / "mountinfo"
    mounts.write_bytes(b"29 22 0:9 / /caf\xe9 rw - ext4 /dev/sdb rw\n" + mounts.read_bytes())
    kernel.limit("", **v2(SMALL))
    assert kernel.processors == pytest.approx(SMALL)


def test_a_group_beside_or_within_does_not_count(kernel: Kernel) -> None:
    kernel.unified("/a")
    kernel.limit("a")
    kernel.limit("a/b", **v2(SMALL))
    kernel.limit("c", **v2(SMALL))
    assert kernel.processors == ALL


HUGE = pytest.param(f"{'9' * 400} 100000", id="huge")


@pytest.mark.parametrize("text", ["", "max", "x y", "100000", "100000 0", "\x00", HUGE])
def test_what_makes_no_sense_limits_nothing(kernel: Kernel, text: str) -> None:
    """Newer kernels may write what is unknown yet."""
    kernel.unified("/a")
    kernel.limit("a", cpu__max=text)
    assert kernel.processors == ALL

    # There is always a bit of a processor: callers divide by it.
    kernel.limit("a", cpu__max="0 100000")
    assert kernel.processors > 0


def test_busy_seconds_are_those_of_all_processors(tmp_path: Path) -> None:
    """What is idle, waits for a disk or belongs to guests is left out."""
    assert busy_cpu_seconds(tmp_path) is None
    for nothing in ("", "cpu  x\n"):
        (tmp_path / "stat").write_text(nothing)
        assert busy_cpu_seconds(tmp_path) is None
    (tmp_path / "stat").write_text("cpu  100 10 50 9000 700 5 6 7 80 90\ncpu0 1 2 3\n")
    ticks = os.sysconf("SC_CLK_TCK")
    assert busy_cpu_seconds(tmp_path) == pytest.approx(178 / ticks)


CODE = """
import os, sys
from schema_runner.scheduling.cpus import usable_cpus

{before}
print(usable_cpus())
"""


def in_a_process(before: str, *options: str) -> float:
    """Return how many processors another process may use, once that is executed in it."""
    command = [sys.executable, *options, "-c", CODE.format(before=before)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity_is_the_processs_own() -> None:
    assert in_a_process("os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])") <= 1


@pytest.mark.skipif(sys.version_info < (3, 13), reason="Python has no such option yet")
def test_python_may_be_told() -> None:
    """By its own option, also of less than there are."""
    assert in_a_process("", "-X", "cpu_count=1") <= 1


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a control group for processors; skip the test where that is not allowed."""
    name = f"schema-runner-tests-{os.getpid()}"
    for parent in ("", "unified", "cpu", "cpu,cpuacct"):
        folder = Path("/sys/fs/cgroup", parent, name)
        with suppress(OSError):
            folder.mkdir()
            if (folder / "cpu.max").exists() or (folder / "cpu.cfs_quota_us").exists():
                yield folder
                folder.rmdir()
                return
            folder.rmdir()
    pytest.skip("no control group can be made here")


def test_a_real_quota(group: Path) -> None:
    """The kernel's own files, of whichever version."""
    if (group / "cpu.max").exists():
        (group / "cpu.max").write_text("25000 100000")
    else:
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text("25000")
    joining = f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))"
    assert in_a_process(f"assert {joining}") == pytest.approx(0.25)
