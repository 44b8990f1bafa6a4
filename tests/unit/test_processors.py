import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from schema_runner.foresight.processors import busy_processor_seconds, usable_processors

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

    def write(self, *, group: str, mounted: str) -> None:
        point = str(self.mount).replace(" ", "\\040")
        (self.proc / "self" / "cgroup").write_text(group)
        lines = ["22 1 0:20 / / rw - ext4 /dev/sda rw", mounted.format(point=point)]
        (self.proc / "self" / "mountinfo").write_text("\n".join(lines))

    def unified(self, group: str = "/", root: str = "/") -> None:
        mounted = f"30 22 0:26 {root} {{point}} rw shared:4 - cgroup2 cgroup2 rw"
        self.write(group=f"0::{group}\n", mounted=mounted)

    def divided(self, group: str = "/", root: str = "/") -> None:
        """Have the first version of control groups, which has a hierarchy for each controller."""
        mounted = f"30 22 0:26 {root} {{point}} rw - cgroup cgroup rw,cpu,cpuacct"
        self.write(group=f"4:cpu,cpuacct:{group}\n1:name=systemd:/x\n0::/\n", mounted=mounted)

    def hybrid(self, group: str) -> None:
        """Have both versions, each at a folder of its own, as systemd once did."""
        self.write(
            group=f"2:cpu,cpuacct:{group}\n0::{group}\n",
            mounted="30 22 0:26 / {point}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
            "31 22 0:27 / {point}/unified rw - cgroup2 cgroup2 rw",
        )

    def limit(self, inner: str, **files: str) -> None:
        folder = self.mount / inner
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)

    @property
    def processors(self) -> float:
        return usable_processors(self.proc)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def v2(quota: float) -> dict[str, str]:
    return {"cpu__max": f"{int(quota * 100_000)} 100000\n"}


def v1(quota: float) -> dict[str, str]:
    return {
        "cpu__cfs_quota_us": f"{int(quota * 50_000)}\n",
        "cpu__cfs_period_us": "50000\n",
    }


def test_without_groups_affinity_decides(kernel: Kernel) -> None:
    """As on systems that have none, and where they say nothing."""
    assert kernel.processors == ALL
    kernel.unified()
    assert kernel.processors == ALL
    kernel.divided()
    assert kernel.processors == ALL


@pytest.mark.parametrize("inner", ["a", "a/b", ""])
def test_a_quota_of_any_group_around_counts(kernel: Kernel, inner: str) -> None:
    """The least of them, of both versions."""
    kernel.unified("/a/b")
    kernel.limit("a/b", cpu__max="max 100000\n")
    kernel.limit(inner, **v2(SMALL))
    assert kernel.processors == pytest.approx(SMALL)


@pytest.mark.parametrize("inner", ["a", "a/b", ""])
def test_so_it_does_in_the_first_version(kernel: Kernel, inner: str) -> None:
    """With its own files, and -1 for no limit."""
    kernel.divided("/a/b")
    kernel.limit("a/b", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="50000\n")
    kernel.limit(inner, **v1(SMALL))
    assert kernel.processors == pytest.approx(SMALL)


@pytest.mark.parametrize("quotas", [(SMALL, ALL), (ALL, SMALL)], ids=["cpu", "unified"])
def test_where_there_are_both_versions_both_count(
    kernel: Kernel, quotas: tuple[float, float]
) -> None:
    """The controller of processors is in one of the two."""
    kernel.hybrid("/a")
    kernel.limit("cpu/a", **v1(quotas[0]))
    kernel.limit("unified/a", **v2(quotas[1]))
    assert kernel.processors == pytest.approx(SMALL)


def test_a_group_that_cannot_be_looked_at_leaves_those_around(kernel: Kernel) -> None:
    """Its name is too long for a folder; one of other users' is refused in the same way."""
    for version, limit in ((kernel.unified, v2), (kernel.divided, v1)):
        version(f"/a/{'b' * 300}")
        kernel.limit("a", **limit(SMALL))
        assert kernel.processors == pytest.approx(SMALL)


@pytest.mark.parametrize("name", ["x..y", "..x", "...", "a:b", "é"])
def test_a_group_may_have_any_name(kernel: Kernel, name: str) -> None:
    """Only one that is just two dots leads out of what is mounted."""
    kernel.unified(f"/{name}")
    kernel.limit(name, **v2(SMALL))
    assert kernel.processors == pytest.approx(SMALL)


def test_other_mounts_may_have_any_name(kernel: Kernel) -> None:
    """One that is not UTF-8 hides no other."""
    kernel.unified()
    mounts = kernel.proc / "self" / "mountinfo"
    mounts.write_bytes(b"29 22 0:9 / /caf\xe9 rw - ext4 /dev/sdb rw\n" + mounts.read_bytes())
    kernel.limit("", **v2(SMALL))
    assert kernel.processors == pytest.approx(SMALL)


def test_a_group_beside_does_not_count(kernel: Kernel) -> None:
    """Nor one within."""
    kernel.unified("/a")
    kernel.limit("a")
    kernel.limit("a/b", **v2(SMALL))
    kernel.limit("c", **v2(SMALL))
    assert kernel.processors == ALL


def test_a_quota_of_more_than_there_is_does_not_count(kernel: Kernel) -> None:
    """Nobody can use it."""
    kernel.unified()
    kernel.limit("", **v2(ALL * 2))
    assert kernel.processors == ALL


@pytest.mark.parametrize(
    ("group", "root"),
    [("/docker/1f", "/docker/1f"), ("/docker/1f", "/"), ("/../../x", "/"), ("/a", "/other")],
    ids=["bound", "private", "outside", "elsewhere"],
)
def test_in_a_container_what_is_mounted_counts(kernel: Kernel, group: str, root: str) -> None:
    """However the group is called: its folder may not be there by that name."""
    for version, limit in ((kernel.unified, v2), (kernel.divided, v1)):
        version(group, root)
        kernel.limit("", **limit(SMALL))
        assert kernel.processors == pytest.approx(SMALL)


def test_a_group_below_the_one_that_is_mounted(kernel: Kernel) -> None:
    """Its name begins with that of the other."""
    kernel.unified("/docker/1f/inner", "/docker/1f")
    kernel.limit("inner", **v2(SMALL))
    assert kernel.processors == pytest.approx(SMALL)


HUGE = f"{'9' * 400} 100000"


@pytest.mark.parametrize(
    "text",
    ["", "max", "x y", "100000", "100000 0", "\x00", pytest.param(HUGE, id="huge")],
)
def test_what_makes_no_sense_limits_nothing(kernel: Kernel, text: str) -> None:
    """Newer kernels may write what nobody knows yet."""
    kernel.unified("/a")
    kernel.limit("a", cpu__max=text)
    assert kernel.processors == ALL


def test_there_is_always_a_bit_of_a_processor(kernel: Kernel) -> None:
    """Callers divide by it."""
    kernel.unified()
    kernel.limit("", cpu__max="0 100000")
    assert kernel.processors > 0


def test_busy_seconds_are_those_of_all_processors(tmp_path: Path) -> None:
    """What is idle, waits for a disk or belongs to guests is left out."""
    assert busy_processor_seconds(tmp_path) is None
    for nothing in ("", "cpu  x\n"):
        (tmp_path / "stat").write_text(nothing)
        assert busy_processor_seconds(tmp_path) is None
    (tmp_path / "stat").write_text("cpu  100 10 50 9000 700 5 6 7 80 90\ncpu0 1 2 3\n")
    ticks = os.sysconf("SC_CLK_TCK")
    assert busy_processor_seconds(tmp_path) == pytest.approx(178 / ticks)


CODE = textwrap.dedent(
    """
    import os, sys
    from schema_runner.foresight.processors import usable_processors

    {before}
    print(usable_processors())
    """
)


def in_a_process(before: str, *options: str) -> float:
    """Return how many processors another process may use, once that is executed in it."""
    done = subprocess.run(
        [sys.executable, *options, "-c", CODE.format(before=before)],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity_is_the_processs_own() -> None:
    """Not the number of processors that there are."""
    assert in_a_process("os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])") <= 1


@pytest.mark.skipif(sys.version_info < (3, 13), reason="Python has no such option yet")
def test_python_may_be_told() -> None:
    """By its own option, also of less than there are."""
    assert in_a_process("", "-X", "cpu_count=1") <= 1


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a control group for processors; skip the test where that is not allowed."""
    name = f"schema-runner-tests-{os.getpid()}"
    for parent, needed in (
        ("/sys/fs/cgroup", "cpu.max"),
        ("/sys/fs/cgroup/unified", "cpu.max"),
        ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us"),
        ("/sys/fs/cgroup/cpu,cpuacct", "cpu.cfs_quota_us"),
    ):
        folder = Path(parent, name)
        with suppress(OSError):
            folder.mkdir()
            if (folder / needed).exists():
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
