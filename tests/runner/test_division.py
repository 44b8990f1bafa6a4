"""A class that would hold up a run is divided between workers, where that changes nothing."""

from collections import Counter

import pytest

from ..project import PARALLEL, Project
from .recording import Run, run, sleeping

TESTS = [f"Long.test_{letter}" for letter in "abcd"]
# With DIVIDED, a test of the class waits until two processes are at one: it has to be divided.
LONG = """
    class Data: pass

    collected, data = [], Data()

    class Long(Recording, {kind}):
        count = 0
        def work(self):
            time.sleep(0.3)
            if "DIVIDED" in os.environ: meet("long")
        {more}
        def test_a(self):
            self.work()
            {statement}
        def test_b(self): self.work()
        def test_c(self): self.work()
        def test_d(self): self.work()

"""
DIVIDED = {"MEET": "2", "DIVIDED": "1"}
SET_UP = """
        @classmethod
        def setUpTestData(cls): cls.author = Author.objects.create(name="for all tests")
"""
# Doing that twice would cost more than it could save.
SLOW_SET_UP = """
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            time.sleep(0.6)
"""
# What tests leave to each other in the class, in another one it is made from, or in its module.
LEAVINGS = {
    "class": "type(self).count += 1",
    "new": "type(self).unknown = 1",
    "list": "collected.append(1)",
    "object": "global data; data = Data()",
    "globals": "globals()['new'] = 1",
    "base": "Recording.seen = True",
}


def long(statement: str = "pass", kind: str = "TestCase", more: str = "") -> str:
    """Return a class of four tests, of which the first does something besides; and another."""
    return LONG.format(kind=kind, statement=statement, more=more) + sleeping("Short", 0.05)


CREATES = "Author.objects.create(name='a')"
MODULES = {
    "case": long(CREATES, more=SET_UP),
    "transaction": long(CREATES, "TransactionTestCase"),
    "set_up": long(more=SLOW_SET_UP),
    "serial": long(more="@schema_runner.serial"),
    **{name: long(statement) for name, statement in LEAVINGS.items()},
}


@pytest.fixture(scope="module")
def seen(shared_project: Project) -> Project:
    """A project of modules with a long class each, which a parallel run has looked at."""
    for name, text in MODULES.items():
        shared_project.tests(text, module=f"test_{name}")
    run(shared_project, *PARALLEL).passed()
    return shared_project


def again(project: Project, module: str, *more: str, env: dict[str, str] | None = None) -> Run:
    """Run a module in parallel once more."""
    return run(project, *PARALLEL, *more, f"library.test_{module}", env=env)


def ran(found: Run) -> Counter[str]:
    """Count how often each test of the long class has begun."""
    return Counter(name for name in found.passed().tests if name.startswith("Long."))


def is_whole(found: Run) -> bool:
    """Whether one process has run all tests of the long class, in their order."""
    assert [name for name in found.passed().tests if name.startswith("Long.")] == TESTS
    return len(found.processes_of("Long")) == 1


@pytest.mark.parametrize("module", ["case", "transaction"])
def test_a_long_class_is_divided_from_the_second_run_on(seen: Project, module: str) -> None:
    """The first in parallel has seen that tests change nothing; both workers do the set-up."""
    for _ in range(2):
        found = again(seen, module, env=DIVIDED)
        assert ran(found) == Counter(TESTS)
        assert found.result.stderr.count("Ran 5 tests") == 1
        processes = found.processes_of("Long")
        assert len(processes) == 2
        set_up = {line.process for line in found.lines if line.what == "sets up"}
        assert processes <= set_up


def test_runs_without_workers_do_not_look_at_what_tests_change(project: Project) -> None:
    """So the first run with workers does, and the next one divides the class."""
    project.tests(long())
    for _ in range(2):
        assert is_whole(run(project))
    assert is_whole(run(project, *PARALLEL))
    found = run(project, *PARALLEL, env=DIVIDED)
    assert ran(found) == Counter(TESTS)
    assert len(found.processes_of("Long")) == 2


@pytest.mark.parametrize("module", [*LEAVINGS, "set_up"])
def test_a_class_stays_whole(seen: Project, module: str) -> None:
    """Where tests leave something to each other, and where the set-up takes long."""
    assert is_whole(again(seen, module))


@pytest.mark.parametrize("order", ["--order=suite", "--shuffle=1"])
def test_a_class_stays_whole_where_an_order_is_given(seen: Project, order: str) -> None:
    """Its tests are run in that order, by one worker."""
    found = again(seen, "case", order)
    assert ran(found) == Counter(TESTS)
    assert len(found.processes_of("Long")) == 1


def test_tests_of_a_divided_class_that_run_alone_do_so(seen: Project) -> None:
    """The others are divided; what is marked is run by one worker, after them."""
    found = again(seen, "serial", env=DIVIDED)
    assert ran(found) == Counter(TESTS)
    assert found.tests[-1] == "Long.test_a"
    assert found.met["Long.test_a"] == set()
    assert len(found.processes_of("Long")) == 2
