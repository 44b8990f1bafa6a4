"""Long classes are split between workers if their tests are independent."""

from collections import Counter

import pytest

from ..project import PARALLEL, Project
from .recording import Run, run, sleeping

TESTS = [f"Long.test_{letter}" for letter in "abcd"]
# With SPLIT, each test waits until two processes run one, so the class must be split.
LONG = """
    class Data: pass

    collected, data = [], Data()

    class Long(Recording, {kind}):
        count = 0
        def work(self):
            time.sleep(0.3)
            if "SPLIT" in os.environ: meet("long")
        {more}
        def test_a(self):
            self.work()
            {statement}
        def test_b(self): self.work()
        def test_c(self): self.work()
        def test_d(self): self.work()

"""
SPLIT = {"MEET": "2", "SPLIT": "1"}
SET_UP = """
        @classmethod
        def setUpTestData(cls): cls.author = Author.objects.create(name="for all tests")
"""
# A set-up so slow that running it twice would cost more than a split saves.
SLOW_SET_UP = """
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            time.sleep(0.6)
"""
# State that a test leaves to others: in the class, a base class, or the module.
SHARED_STATE = {
    "class": "type(self).count += 1",
    "new": "type(self).unknown = 1",
    "list": "collected.append(1)",
    "object": "global data; data = Data()",
    "globals": "globals()['new'] = 1",
    "base": "Recording.seen = True",
}


def long(statement: str = "pass", kind: str = "TestCase", more: str = "") -> str:
    """Return a class of four tests, the first of which executes `statement`, and a short class."""
    return LONG.format(kind=kind, statement=statement, more=more) + sleeping("Short", 0.05)


CREATES = "Author.objects.create(name='a')"
MODULES = {
    "case": long(CREATES, more=SET_UP),
    "transaction": long(CREATES, "TransactionTestCase"),
    "set_up": long(more=SLOW_SET_UP),
    "serial": long(more="@schema_runner.serial"),
    **{name: long(statement) for name, statement in SHARED_STATE.items()},
}


@pytest.fixture(scope="module")
def recorded(shared_project: Project) -> Project:
    """A project with a long class in each module, after its first parallel run."""
    for name, text in MODULES.items():
        shared_project.tests(text, module=f"test_{name}")
    run(shared_project, *PARALLEL).passed()
    return shared_project


def again(project: Project, module: str, *more: str, env: dict[str, str] | None = None) -> Run:
    """Run a module in parallel again."""
    return run(project, *PARALLEL, *more, f"library.test_{module}", env=env)


def ran(found: Run) -> Counter[str]:
    """Count how often each test of the long class started."""
    return Counter(name for name in found.passed().tests if name.startswith("Long."))


def ran_whole(found: Run) -> bool:
    """Whether one process ran all tests of the long class, in order."""
    assert [name for name in found.passed().tests if name.startswith("Long.")] == TESTS
    return len(found.processes_of("Long")) == 1


@pytest.mark.parametrize("module", ["case", "transaction"])
def test_a_long_class_is_split_from_the_second_run_on(recorded: Project, module: str) -> None:
    """The first parallel run has recorded that tests share no state.

    Both workers set the class up.
    """
    for _ in range(2):
        found = again(recorded, module, env=SPLIT)
        assert ran(found) == Counter(TESTS)
        assert found.result.stderr.count("Ran 5 tests") == 1
        processes = found.processes_of("Long")
        assert len(processes) == 2
        set_up = {line.process for line in found.lines if line.what == "sets up"}
        assert processes <= set_up


def test_serial_runs_do_not_record_shared_state(project: Project) -> None:
    """The first parallel run records it, and the next one splits the class."""
    project.tests(long())
    for _ in range(2):
        assert ran_whole(run(project))
    assert ran_whole(run(project, *PARALLEL))
    found = run(project, *PARALLEL, env=SPLIT)
    assert ran(found) == Counter(TESTS)
    assert len(found.processes_of("Long")) == 2


@pytest.mark.parametrize("module", [*SHARED_STATE, "set_up"])
def test_a_class_that_is_not_split(recorded: Project, module: str) -> None:
    """The class is not split if its tests share state, or if its set-up is slow."""
    assert ran_whole(again(recorded, module))


@pytest.mark.parametrize("order", ["--order=suite", "--shuffle=1"])
def test_a_class_is_not_split_with_an_explicit_order(recorded: Project, order: str) -> None:
    """One worker runs its tests in the explicit order."""
    found = again(recorded, "case", order)
    assert ran(found) == Counter(TESTS)
    assert len(found.processes_of("Long")) == 1


def test_serial_tests_of_a_split_class(recorded: Project) -> None:
    """One worker runs the tests marked as serial after the split ones."""
    found = again(recorded, "serial", env=SPLIT)
    assert ran(found) == Counter(TESTS)
    assert found.tests[-1] == "Long.test_a"
    assert found.met["Long.test_a"] == set()
    assert len(found.processes_of("Long")) == 2
