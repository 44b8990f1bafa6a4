"""The cost of a run that has almost nothing to do: start-up and tear-down, ours and stock's.

A project of 20 tables has one test: a SimpleTestCase, or a TestCase with one query, tested like
the first run of a day, and with `--keepdb` like every later one. A smaller one has 20 short tests
for two forked workers. In each round both runners run once, with different databases and the same
command. CPU time is the user time of the command and its workers, without the server's, which
other load on the machine hardly affects.
"""

import compileall
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..project import PARALLEL, STOCK, Project
from .command import drop_databases, prepare, run, running_server
from .comparison import Comparison
from .generated import SMALL, Size, write_project

_RUNNERS = {"ours": "schema_runner.SchemaDiscoverRunner", "stock": STOCK}
# The server of Debian if it is installed, otherwise that of the wheel.
_DEBIAN = Path("/usr/lib/postgresql/15/bin")
_TINY = Size("tiny", tables=13, migrations=18, apps=1)
_IMPORTS = """\
from django.contrib.auth.models import Group
from django.test import SimpleTestCase, TestCase
"""
_TESTS = """
class OneSimple(SimpleTestCase):
    def test_nothing(self): pass

class OneQuery(TestCase):
    def test_query(self): self.assertEqual(Group.objects.count(), 0)
"""
_SHORT = """
class Short{}(TestCase):
    def test_first(self): self.assertEqual(Group.objects.count(), 0)
    def test_second(self): self.assertFalse(Group.objects.exists())
"""


class Case(NamedTuple):
    """A command to measure; `tests` is the number of tests that it runs."""

    name: str
    arguments: tuple[str, ...]
    bound: float
    size: Size = SMALL
    tests: int = 1
    # Whether each run uses the databases of the previous one.
    is_kept: bool = False


_CASES = [
    Case("one SimpleTestCase", ("suite.start.OneSimple",), 1.05),
    Case("one TestCase", ("suite.start.OneQuery",), 1.05),
    Case("one TestCase, --keepdb", ("--keepdb", "suite.start.OneQuery"), 1.0, is_kept=True),
    Case("20 short tests, 2 workers", (*PARALLEL, "suite.short"), 1.0, _TINY, tests=20),
]


def compare_starts(folder: Path, *, rounds: int) -> Iterator[Comparison]:
    """Yield a row of times and one of CPU times for each case."""
    bin_dir = _DEBIAN if (_DEBIAN / "postgres").is_file() else None
    with running_server("test", folder, bin_dir) as address:
        projects = {}
        for size in (SMALL, _TINY):
            projects[size] = Project(folder / f"start-{size.name}", address, f"bench_{size.name}")
            _write(projects[size], size)
        for case in _CASES:
            yield from _compare(projects[case.size], case, rounds)
            drop_databases(projects[case.size])


def _write(project: Project, size: Size) -> None:
    write_project(project, size)
    # The runners use different databases.
    project.configure(
        'import os\n\nDATABASES["default"]["NAME"] += os.environ.get("BENCH_RUNNER", "")'
    )
    project.write("suite/start.py", _IMPORTS + _TESTS)
    project.write("suite/short.py", _IMPORTS + "".join(map(_SHORT.format, range(10))))
    compileall.compile_dir(project.folder, quiet=1)


def _compare(project: Project, case: Case, rounds: int) -> Iterator[Comparison]:
    # The first round is ignored: it compiles, and creates what is kept.
    measured = [[_measure(project, case, name) for name in _RUNNERS] for _ in range(rounds + 1)]
    ratios = [[one / other for one, other in zip(*pair, strict=True)] for pair in measured[1:]]
    times, cpu_times = zip(*ratios, strict=True)
    yield Comparison(f"start: {case.name}", times, case.bound)
    # Workers run at the same time, so their total has no target.
    yield Comparison(f"start: {case.name}, user CPU", cpu_times, 1.05 if case.tests == 1 else None)


def _measure(project: Project, case: Case, name: str) -> tuple[float, float]:
    """Run the command; return the seconds that it took, and its seconds of user CPU time."""
    prepare(project, is_kept=case.is_kept)
    flags = ["--noinput", "--testrunner", _RUNNERS[name]]
    env = {"BENCH_RUNNER": f"_{name}"}
    result = run(*flags, *case.arguments, folder=project.folder, env=env)
    result.check_passed(case.tests)
    return result.seconds, result.user_cpu
