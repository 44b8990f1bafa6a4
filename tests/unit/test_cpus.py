import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from schema_runner.scheduling.cpus import busy_cpu_seconds, usable_cpus

# As many as this process can use without control groups.
ALL = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
SMALL = ALL / 4


class Kernel:
    """A folder that looks like /proc, with nested control groups."""

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
        """Control groups v1, with a hierarchy for each controller."""
        groups = f"4:cpu,cpuacct:{group}\n1:name=systemd:/x\n0::/\n"
        self.write(groups, f"30 22 0:26 {root} POINT rw - cgroup cgroup rw,cpu,cpuacct")

    def hybrid(self, group: str) -> None:
        """Both versions, each mounted at its own folder, as older versions of systemd did."""
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
    """Without a quota, or with a larger one, the affinity mask decides."""
    assert kernel.processors == ALL
    kernel.divided()
    assert kernel.processors == ALL
    kernel.unified()
    assert kernel.processors == ALL
    kernel.limit("", **v2(ALL * 2))
    assert kernel.processors == ALL


@pytest.mark.parametrize("inner", ["a", "a/b", ""])
def test_the_least_quota_of_the_parent_groups_counts(kernel: Kernel, inner: str) -> None:
    for mount, limit in VERSIONS:
        mount(kernel, "/a/b")
        kernel.limit("a/b", **limit(None))
        kernel.limit(inner, **limit(SMALL))
        assert kernel.processors == pytest.approx(SMALL)


@pytest.mark.parametrize("quotas", [(SMALL, ALL), (ALL, SMALL)], ids=["cpu", "unified"])
def test_quotas_of_both_versions_count(kernel: Kernel, quotas: tuple[float, float]) -> None:
    """The CPU controller is in one of the two versions."""
    kernel.hybrid("/a")
    kernel.limit("cpu/a", **v1(quotas[0]))
    kernel.limit("unified/a", **v2(quotas[1]))
    assert kernel.processors == pytest.approx(SMALL)


@pytest.mark.parametrize(
    ("group", "root", "limited"),
    [
        # The name is too long for a folder; a folder of another user gives the same error.
        pytest.param(f"/a/{'b' * 300}", "/", "a", id="long"),
        # Only a name that is exactly two dots leads out of the mount.
        *[(f"/{name}", "/", name) for name in ("x..y", "..x", "...", "a:b", "é")],
        # In a container, the group's folder may not exist under that name.
        *[("/docker/1f", "/docker/1f", ""), ("/docker/1f", "/", "")],
        *[("/../../x", "/", ""), ("/a", "/other", "")],
        # Its name starts with the name of the mounted group.
        ("/docker/1f/inner", "/docker/1f", "inner"),
    ],
)
def test_the_mounted_group_counts(kernel: Kernel, group: str, root: str, limited: str) -> None:
    for mount, limit in VERSIONS:
        mount(kernel, group, root)
        kernel.limit(limited, **limit(SMALL))
        assert kernel.processors == pytest.approx(SMALL)


def test_other_mounts_may_have_any_name(kernel: Kernel) -> None:
    """A mount whose name is not UTF-8 does not hide others."""
    kernel.unified()
    mounts = kernel.proc / "self" / "mountinfo"
    mounts.write_bytes(b"29 22 0:9 / /caf\xe9 rw - ext4 /dev/sdb rw\n" + mounts.read_bytes())
    kernel.limit("", **v2(SMALL))
    assert kernel.processors == pytest.approx(SMALL)


def test_sibling_and_child_groups_do_not_count(kernel: Kernel) -> None:
    kernel.unified("/a")
    kernel.limit("a")
    kernel.limit("a/b", **v2(SMALL))
    kernel.limit("c", **v2(SMALL))
    assert kernel.processors == ALL


HUGE = pytest.param(f"{'9' * 400} 100000", id="huge")


@pytest.mark.parametrize("text", ["", "max", "x y", "100000", "100000 0", "\x00", HUGE])
def test_invalid_values_are_no_limit(kernel: Kernel, text: str) -> None:
    """Unknown values, as newer kernels may write, are no limit."""
    kernel.unified("/a")
    kernel.limit("a", cpu__max=text)
    assert kernel.processors == ALL

    # The result is never 0, because callers divide by it.
    kernel.limit("a", cpu__max="0 100000")
    assert kernel.processors > 0


def test_busy_seconds_of_all_processors(tmp_path: Path) -> None:
    """Busy time excludes idle time, I/O wait and guests."""
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
    """Return how many processors another process can use, after it has executed the statements."""
    command = [sys.executable, *options, "-c", CODE.format(before=before)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity_of_the_process() -> None:
    assert in_a_process("os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])") <= 1


@pytest.mark.skipif(sys.version_info < (3, 13), reason="Python has no such option yet")
def test_python_cpu_count_option() -> None:
    """Python's own option can set the number, even to less."""
    assert in_a_process("", "-X", "cpu_count=1") <= 1


@pytest.fixture
def group() -> Iterator[Path]:
    """Create a control group with a CPU quota; skip the test if that is not permitted."""
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
    """A quota set in the kernel's own files, v1 or v2."""
    if (group / "cpu.max").exists():
        (group / "cpu.max").write_text("25000 100000")
    else:
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text("25000")
    joining = f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))"
    assert in_a_process(f"assert {joining}") == pytest.approx(0.25)
