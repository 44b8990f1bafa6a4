"""The order of classes in parallel, by what earlier runs have measured."""

import pytest

from ..project import Project
from .recording import PARALLEL, TOGETHER, follows, run, sleeping

# In the suite they are sorted by name.
LENGTHS = {"A": 0.01, "B": 0.7, "C": 0.2, "D": 0.4}
SUITE = [*LENGTHS]
LONGEST_FIRST = ["B", "D", "C", "A"]
LABELS = [f"library.test_generated.{name}" for name in ("B", "A", "D", "C")]


@pytest.fixture
def measured(project: Project) -> Project:
    """A project whose classes take different times, which a run has measured."""
    project.tests("".join(sleeping(*each) for each in LENGTHS.items()))
    first = run(project, *PARALLEL).passed()
    assert sorted(first.tests) == [f"{name}.test_it" for name in SUITE]
    return project


def test_what_takes_longest_comes_first(measured: Project) -> None:
    """Whichever kind of run has measured it; without history the suite's order holds."""
    assert follows(run(measured, *PARALLEL, env=TOGETHER).passed().classes, LONGEST_FIRST)
    history = measured.folder / ".schema_runner/history.json"
    history.unlink()
    assert follows(run(measured, *PARALLEL, env=TOGETHER).passed().classes, SUITE)
    history.unlink()
    assert run(measured).passed().classes == SUITE
    assert follows(run(measured, *PARALLEL, env=TOGETHER).passed().classes, LONGEST_FIRST)


def test_without_workers_the_order_is_stocks(measured: Project) -> None:
    """However long classes take."""
    assert run(measured).passed().classes == SUITE


@pytest.mark.parametrize(
    "arguments",
    [["--order", "suite"], ["--shuffle", "1"], ["--reverse"], LABELS],
    ids=["suite", "shuffle", "reverse", "labels"],
)
def test_an_order_that_somebody_wants_wins(measured: Project, arguments: list[str]) -> None:
    """Classes begin as they do without workers: in stock's order."""
    expected = run(measured, *arguments).passed().classes
    assert not follows(expected, LONGEST_FIRST)
    found = run(measured, *PARALLEL, *arguments, env=TOGETHER).passed().classes
    assert follows(found, expected)


def test_one_label_wants_no_order(measured: Project) -> None:
    """Nor do several that name modules, in which classes are for us to order."""
    found = run(measured, "library.test_generated", *PARALLEL, env=TOGETHER).passed()
    assert follows(found.classes, LONGEST_FIRST)
    measured.tests(sleeping("E", 0.1), module="test_more")
    labels = ("library.test_more", "library.test_generated")
    found = run(measured, *labels, *PARALLEL, env=TOGETHER).passed()
    # A new test takes as long as the middle one, so it comes in the middle.
    assert follows([name for name in found.classes if name != "E"], LONGEST_FIRST)


def test_kinds_keep_their_order_in_each_worker(project: Project) -> None:
    """A class that may empty tables comes after those that may not, though it takes longer."""
    classes = [sleeping(f"Case{n}", 0.2) for n in range(4)]
    classes += [sleeping(f"Other{n}", 0.3, "TransactionTestCase") for n in range(2)]
    project.tests("".join(classes))
    run(project, *PARALLEL).passed()
    found = run(project, *PARALLEL, env=TOGETHER).passed()
    assert sorted(found.classes[:4]) == ["Case0", "Case1", "Case2", "Case3"]
    assert sorted(found.classes[4:]) == ["Other0", "Other1"]


def test_a_class_that_would_hold_up_the_run_goes_ahead(project: Project) -> None:
    """Its worker runs no test of an earlier kind from then on: those are left to another."""
    # Another time than what was measured, so that the worker ahead is through before the other.
    slower = "0.6 if 'SLOWER' in os.environ else 0.1"
    classes = [sleeping(f"Case{n}", slower) for n in range(4)]
    classes += [sleeping("Long", 1.2, "TransactionTestCase")]
    classes += [sleeping("Other", 0.02, "TransactionTestCase")]
    project.tests("".join(classes))
    run(project, *PARALLEL).passed()
    found = run(project, *PARALLEL, env={**TOGETHER, "SLOWER": "1"}).passed()
    assert sorted(found.classes) == ["Case0", "Case1", "Case2", "Case3", "Long", "Other"]
    (behind,) = (worker for worker in found.workers if "Long" not in worker)
    assert sorted(behind) == ["Case0", "Case1", "Case2", "Case3"]
    assert ["Long", "Other"] in found.workers
    assert "Long" in found.classes[:2]


def test_where_tests_find_everything_as_it_was_length_alone_decides(project: Project) -> None:
    """A reset to the reference leaves nothing to the tests of an earlier kind."""
    project.configure('SCHEMA_RUNNER = {"RESET": "reference"}')
    kinds = ["TransactionTestCase", "TestCase", "TransactionTestCase", "TestCase"]
    lengths = zip(["B", "D", "C", "A"], [0.7, 0.4, 0.2, 0.01], kinds, strict=True)
    project.tests("".join(sleeping(*each) for each in lengths))
    run(project, *PARALLEL).passed()
    found = run(project, *PARALLEL, env=TOGETHER).passed()
    assert follows(found.classes, ["B", "D", "C", "A"])
    # TestCases after TransactionTestCases.
    assert ["D", "C", "A"] in found.workers
    assert run(project).passed().classes == ["A", "D", "B", "C"]
