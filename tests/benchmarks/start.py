"""What a run costs that has next to nothing to do: its start and its end, ours and stock's.

A project of 20 tables has one test: a SimpleTestCase, or a TestCase with one query, tested as the
first run of a day and with `--keepdb` as every later one. A smaller one has 20 short tests for two
workers, which are forked. Both runners take turns in each round, each with a database of its own,
and run the same command otherwise.

CPU time is what the command and its workers have spent in programs, not in the kernel: it is
hardly disturbed by what else the machine does. That of the server is not in it.
"""

import compileall
import re
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from schema_runner import embedded
from schema_runner.postgres.server import Server

from ..project import STOCK, Project
from .command import run
from .comparison import Comparison, Target
from .generated import SMALL, Size, write_project
from .timed import drop_databases

_RUNNERS = {"ours": "schema_runner.SchemaDiscoverRunner", "stock": STOCK}
# As in a Debian that people have; without it, what the wheel brings.
_DEBIAN = Path("/usr/lib/postgresql/15/bin")
_TINY = Size("tiny", tables=13, migrations=18, apps=1)
_TESTS = """\
from django.contrib.auth.models import Group
from django.test import SimpleTestCase, TestCase


class OneSimple(SimpleTestCase):
    def test_nothing(self):
        pass


class OneQuery(TestCase):
    def test_query(self):
        self.assertEqual(Group.objects.count(), 0)
"""
_SHORT = """

class Short{}(TestCase):
    def test_first(self):
        self.assertEqual(Group.objects.count(), 0)

    def test_second(self):
        self.assertFalse(Group.objects.exists())
"""


class Case(NamedTuple):
    """What is tested how, in a project of that size; `tests` says how many tests there are."""

    name: str
    arguments: tuple[str, ...]
    bound: float
    size: Size = SMALL
    tests: int = 1
    # Whether each run finds the databases of the one before.
    is_kept: bool = False


_CASES = [
    Case("one SimpleTestCase", ("suite.start.OneSimple",), 1.05),
    Case("one TestCase", ("suite.start.OneQuery",), 1.05),
    Case("one TestCase, --keepdb", ("--keepdb", "suite.start.OneQuery"), 1.0, is_kept=True),
    Case("20 short tests, 2 workers", ("--parallel", "2", "suite.short"), 1.0, _TINY, tests=20),
]
_CPU_BOUND = 1.05


def compare_starts(folder: Path, *, rounds: int) -> Iterator[Comparison]:
    """Yield a row of times and one of CPU times for each case."""
    bin_dir = _DEBIAN if (_DEBIAN / "postgres").is_file() else None
    server = embedded.start(bin_dir=bin_dir, cache_dir=folder / "server")
    params = {"host": str(server.socket_dir), "port": server.port, "user": server.user}
    address = Server({**params, "dbname": "postgres"})
    try:
        projects = {size: _project(folder, address, size) for size in (SMALL, _TINY)}
        for case in _CASES:
            yield from _compare(projects[case.size], case, rounds)
            drop_databases(projects[case.size])
    finally:
        embedded.stop(server)


def _project(folder: Path, address: Server, size: Size) -> Project:
    project = Project(folder / f"start-{size.name}", address, f"bench_{size.name}")
    write_project(project, size)
    # Neither runner finds what the other has left.
    project.configure(
        'import os\n\nDATABASES["default"]["NAME"] += os.environ.get("BENCH_RUNNER", "")'
    )
    project.write("suite/start.py", _TESTS)
    classes = "".join(_SHORT.format(number) for number in range(10))
    project.write("suite/short.py", _TESTS.partition("\n\n\n")[0] + "\n" + classes)
    compileall.compile_dir(project.folder, quiet=1)
    return project


def _compare(project: Project, case: Case, rounds: int) -> Iterator[Comparison]:
    # The first turns are not taken: they compile, and make what is kept.
    taken = [[_take(project, case, name) for name in _RUNNERS] for _ in range(rounds + 1)]
    ratios = [[one / other for one, other in zip(*turn, strict=True)] for turn in taken[1:]]
    times, cpu_times = zip(*ratios, strict=True)
    name = f"start: {case.name}"
    yield Comparison(name, "ours / stock", times, Target(is_maximum=True, bound=case.bound))
    # Workers run at the same time: what they take in all is there to be read.
    cpu_target = Target(is_maximum=True, bound=_CPU_BOUND) if case.tests == 1 else None
    yield Comparison(f"{name}, user CPU", "ours / stock", cpu_times, cpu_target)


def _take(project: Project, case: Case, name: str) -> tuple[float, float]:
    """Test once; return the seconds that it takes, and those of the command's CPU time."""
    if not case.is_kept:
        drop_databases(project)
    with project.maintenance() as connection:
        connection.execute("CHECKPOINT")
    before, begun = _user_seconds(), time.perf_counter()
    output = run(
        *("--noinput", "--testrunner", _RUNNERS[name], *case.arguments),
        folder=project.folder,
        environment={"START_METHOD": "fork", "BENCH_RUNNER": f"_{name}"},
    )
    seconds = time.perf_counter() - begun
    assert re.search(rf"^Ran {case.tests} tests? in .*\n\nOK$", output, re.MULTILINE), output
    return seconds, _user_seconds() - before


def _user_seconds() -> float:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
