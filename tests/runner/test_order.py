"""The order of classes in parallel, by what earlier runs have measured."""

import pytest

from ..project import PARALLEL, Project
from .recording import TOGETHER, follows, run, sleeping

# In the suite they are sorted by name.
LENGTHS = {"A": 0.01, "B": 0.7, "C": 0.2, "D": 0.4}
SUITE = [*LENGTHS]
LONGEST_FIRST = ["B", "D", "C", "A"]
LABELS = [f"library.test_generated.{name}" for name in ("B", "A", "D", "C")]


@pytest.fixture(scope="module")
def measured(shared_project: Project) -> Project:
    """A project whose classes take different times, which a run has measured."""
    shared_project.tests("".join(sleeping(*each) for each in LENGTHS.items()))
    first = run(shared_project, *PARALLEL).passed()
    assert sorted(first.tests) == [f"{name}.test_it" for name in SUITE]
    return shared_project


def classes(project: Project, *arguments: str, env: dict[str, str] | None = None) -> list[str]:
    """Return the classes of a run in the order in which they began."""
    return run(project, *arguments, env=env).passed().classes


def test_what_takes_longest_comes_first(measured: Project) -> None:
    """Whichever kind of run has measured it; without history the suite's order holds."""
    assert follows(classes(measured, *PARALLEL, env=TOGETHER), LONGEST_FIRST)
    history = measured.folder / ".schema_runner/history.json"
    history.unlink()
    assert follows(classes(measured, *PARALLEL, env=TOGETHER), SUITE)
    history.unlink()
    # Without workers the order is stock's, however long classes take.
    assert classes(measured) == SUITE
    assert follows(classes(measured, *PARALLEL, env=TOGETHER), LONGEST_FIRST)
    assert classes(measured) == SUITE


@pytest.mark.parametrize("order", ["--order=suite", "--shuffle=1", "--reverse", " ".join(LABELS)])
def test_an_order_that_is_given_wins(measured: Project, order: str) -> None:
    """Classes begin as they do without workers: in stock's order."""
    expected = classes(measured, *order.split())
    assert not follows(expected, LONGEST_FIRST)
    assert follows(classes(measured, *PARALLEL, *order.split(), env=TOGETHER), expected)


def test_one_label_gives_no_order(measured: Project) -> None:
    """Nor do several that name modules, in which classes are for us to order."""
    label = "library.test_generated"
    assert follows(classes(measured, label, *PARALLEL, env=TOGETHER), LONGEST_FIRST)
    measured.tests(sleeping("E", 0.1), module="test_more")
    found = classes(measured, "library.test_more", label, *PARALLEL, env=TOGETHER)
    # A new test takes as long as the middle one, so it comes in the middle.
    assert follows([name for name in found if name != "E"], LONGEST_FIRST)
    (measured.folder / "library/test_more.py").unlink()


def test_kinds_keep_their_order_in_each_worker(project: Project) -> None:
    """A class that may empty tables comes after those that may not, though it takes longer."""
    others = sleeping("Other0 Other1", 0.3, "TransactionTestCase")
    project.tests(sleeping("Case0 Case1 Case2 Case3", 0.2) + others)
    run(project, *PARALLEL).passed()
    found = classes(project, *PARALLEL, env=TOGETHER)
    assert sorted(found[:4]) == ["Case0", "Case1", "Case2", "Case3"]
    assert sorted(found[4:]) == ["Other0", "Other1"]


def test_a_class_that_would_hold_up_the_run_goes_ahead(project: Project) -> None:
    """Its worker runs no test of an earlier kind from then on: those are left to another."""
    # Another time than what was measured, so that the worker ahead is through before the other.
    slower = "0.6 if 'SLOWER' in os.environ else 0.1"
    cases = sleeping("Case0 Case1 Case2 Case3", slower)
    long = sleeping("Long", 1.2, "TransactionTestCase")
    project.tests(cases + long + sleeping("Other", 0.02, "TransactionTestCase"))
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
    kinds = {"B": "TransactionTestCase", "C": "TransactionTestCase"}
    # Longer than the next two together, also where a processor is shared.
    lengths = {**LENGTHS, "B": 1.2}
    each = [sleeping(name, lengths[name], kinds.get(name, "TestCase")) for name in lengths]
    project.tests("".join(each))
    run(project, *PARALLEL).passed()
    found = run(project, *PARALLEL, env=TOGETHER).passed()
    assert follows(found.classes, LONGEST_FIRST)
    # TestCases after TransactionTestCases.
    assert ["D", "C", "A"] in found.workers
    assert classes(project) == ["A", "D", "B", "C"]
