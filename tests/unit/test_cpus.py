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

    def join(self, group: str) -> None:
        """Put the process into a group; version 1, in other lines, has others."""
        text = f"4:cpu,cpuacct:/x\n1:name=systemd:/x\n0::{group}\n"
        (self.proc / "self" / "cgroup").write_text(text)

    def limit(self, inner: str, quota: float | None) -> None:
        self.write(inner, f"{int(quota * 100_000) if quota else 'max'} 100000\n")

    def write(self, inner: str, text: str) -> None:
        folder = self.mount / inner
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(text)

    @property
    def processors(self) -> float:
        return usable_cpus(self.proc, self.mount)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_without_quotas_affinity_decides(kernel: Kernel) -> None:
    """Without a quota, or with a larger one, the affinity mask decides."""
    assert kernel.processors == ALL
    kernel.join("/")
    assert kernel.processors == ALL
    kernel.limit("", ALL * 2)
    assert kernel.processors == ALL


@pytest.mark.parametrize("inner", ["a", "a/b", ""])
def test_the_least_quota_of_the_parent_groups_counts(kernel: Kernel, inner: str) -> None:
    kernel.join("/a/b")
    kernel.limit("a/b", None)
    kernel.limit(inner, SMALL)
    assert kernel.processors == pytest.approx(SMALL)


@pytest.mark.parametrize(
    ("group", "limited"),
    [
        # The name is too long for a folder; a folder of another user gives the same error.
        pytest.param(f"/a/{'b' * 300}", "a", id="long"),
        *[(f"/{name}", name) for name in ("x..y", "..x", "...", "a:b", "é")],
        # In a container, the group's folder may not exist under that name.
        *[("/docker/1f", ""), ("/../../x", "")],
    ],
)
def test_groups_have_any_name(kernel: Kernel, group: str, limited: str) -> None:
    kernel.join(group)
    kernel.limit(limited, SMALL)
    assert kernel.processors == pytest.approx(SMALL)


def test_sibling_and_child_groups_do_not_count(kernel: Kernel) -> None:
    kernel.join("/a")
    kernel.limit("a", None)
    kernel.limit("a/b", SMALL)
    kernel.limit("c", SMALL)
    assert kernel.processors == ALL


HUGE = pytest.param(f"{'9' * 400} 100000", id="huge")


@pytest.mark.parametrize("text", ["", "max", "x y", "100000", "100000 0", "\x00", HUGE])
def test_invalid_values_are_no_limit(kernel: Kernel, text: str) -> None:
    """Unknown values, as newer kernels may write, are no limit."""
    kernel.join("/a")
    kernel.write("a", text)
    assert kernel.processors == ALL

    # The result is never 0, because callers divide by it.
    kernel.write("a", "0 100000")
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
    folder = Path("/sys/fs/cgroup", name)
    with suppress(OSError):
        folder.mkdir()
        if (folder / "cpu.max").exists():
            yield folder
            folder.rmdir()
            return
        folder.rmdir()
    pytest.skip("no control group can be made here")


def test_a_real_quota(group: Path) -> None:
    """A quota set in the kernel's own file."""
    (group / "cpu.max").write_text("25000 100000")
    joining = f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))"
    assert in_a_process(f"assert {joining}") == pytest.approx(0.25)
