"""A class that would hold up a run is divided between workers, where that changes nothing."""

from collections import Counter

import pytest

from ..project import Project
from .recording import PARALLEL, Run, run, sleeping

TESTS = [f"Long.test_{letter}" for letter in "abcd"]
# With TOGETHER, a test of the class waits until two processes are at one: it has to be divided.
LONG = """
    class Data:
        pass


    collected = []
    data = Data()


    class Long(Recording, {kind}):
        count = 0

        def work(self):
            time.sleep(0.3)
            if "DIVIDED" in os.environ:
                meet("long")

        {test_a}
        def test_b(self):
            self.work()

        def test_c(self):
            self.work()

        def test_d(self):
            self.work()


"""
TEST_A = """
        def test_a(self):
            self.work()
            {statement}
"""
DIVIDED = {"MEET": "2", "DIVIDED": "1"}


def long(test_a: str = "pass", kind: str = "TestCase", more: str = "") -> str:
    """Return a class of four tests, of which the first does something besides."""
    text = more + TEST_A.format(statement=test_a)
    return LONG.format(kind=kind, test_a=text.strip()) + sleeping("Short", 0.05)


SET_UP = """
        @classmethod
        def setUpTestData(cls):
            cls.author = Author.objects.create(name="for all tests")
"""
SLOW_SET_UP = """
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            time.sleep(0.6)
"""


def ran(found: Run) -> Counter[str]:
    """Count how often each test of the long class has begun."""
    return Counter(name for name in found.passed().tests if name.startswith("Long."))


def is_whole(found: Run) -> bool:
    """Whether one process has run all tests of the long class, in their order."""
    assert [name for name in found.passed().tests if name.startswith("Long.")] == TESTS
    return len(found.processes_of("Long")) == 1


@pytest.mark.parametrize("kind", ["TestCase", "TransactionTestCase"])
def test_a_long_class_is_divided_from_the_second_parallel_run_on(
    project: Project, kind: str
) -> None:
    """The first has seen that its tests change nothing; set-up is done in both workers."""
    more = SET_UP if kind == "TestCase" else ""
    project.tests(long("Author.objects.create(name='a')", kind, more))
    assert is_whole(run(project, *PARALLEL))
    for _ in range(2):
        found = run(project, *PARALLEL, env=DIVIDED)
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


@pytest.mark.parametrize(
    "statement",
    [
        "type(self).count += 1",
        "type(self).unknown = 1",
        "collected.append(1)",
        "global data; data = Data()",
        "globals()['new'] = 1",
        "Recording.seen = True",
    ],
)
def test_a_class_whose_tests_leave_something_to_each_other_stays_whole(
    project: Project, statement: str
) -> None:
    """In attributes of the class, of another one it is made from, or of its module."""
    project.tests(long(statement))
    for _ in range(2):
        assert is_whole(run(project, *PARALLEL))


def test_a_class_with_a_long_set_up_stays_whole(project: Project) -> None:
    """Doing that twice would cost more than it could save."""
    project.tests(long(more=SLOW_SET_UP))
    for _ in range(2):
        assert is_whole(run(project, *PARALLEL))


@pytest.mark.parametrize("arguments", [["--order", "suite"], ["--shuffle", "1"]])
def test_a_class_stays_whole_where_somebody_wants_an_order(
    project: Project, arguments: list[str]
) -> None:
    """Its tests are run in that order, by one worker."""
    project.tests(long())
    run(project, *PARALLEL).passed()
    found = run(project, *PARALLEL, *arguments)
    assert ran(found) == Counter(TESTS)
    assert len(found.processes_of("Long")) == 1


def test_tests_of_a_divided_class_that_run_alone_do_so(project: Project) -> None:
    """The others are divided; what is marked is run by one worker, after them."""
    project.tests(long(more="@schema_runner.serial"))
    run(project, *PARALLEL).passed()
    found = run(project, *PARALLEL, env=DIVIDED)
    assert ran(found) == Counter(TESTS)
    assert found.tests[-1] == "Long.test_a"
    assert found.met["Long.test_a"] == set()
    assert len(found.processes_of("Long")) == 2
