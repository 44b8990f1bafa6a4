"""The order of classes in parallel runs, by their recorded durations."""

import json

import pytest

from ..project import PARALLEL, Project
from .recording import TOGETHER, follows, run, sleeping

# In suite order, classes are sorted by name.
LENGTHS = {"A": 0.01, "B": 0.7, "C": 0.2, "D": 0.4}
SUITE = [*LENGTHS]
LONGEST_FIRST = ["B", "D", "C", "A"]
LABELS = [f"library.test_generated.{name}" for name in ("B", "A", "D", "C")]


@pytest.fixture(scope="module")
def measured(shared_project: Project) -> Project:
    """A project whose classes take different times, which one run has recorded."""
    shared_project.tests("".join(sleeping(*each) for each in LENGTHS.items()))
    first = run(shared_project, *PARALLEL).passed()
    assert sorted(first.tests) == [f"{name}.test_it" for name in SUITE]
    return shared_project


def classes(project: Project, *arguments: str, env: dict[str, str] | None = None) -> list[str]:
    """Return the classes of a run in the order in which they started."""
    return run(project, *arguments, env=env).passed().classes


def record_lengths(project: Project) -> None:
    """Replace the recorded durations by LENGTHS, so that they do not depend on the machine."""
    file = project.folder / ".schema_runner/history.json"
    history = json.loads(file.read_text())
    for name, record in history["tests"].items():
        record[0] = LENGTHS.get(name.split(".")[-2], record[0])
    for record in history["classes"].values():
        record[0] = 0
    file.write_text(json.dumps(history))


def test_the_longest_class_starts_first(measured: Project) -> None:
    """Durations of serial and parallel runs count alike.

    Without a history, suite order applies.
    """
    record_lengths(measured)
    assert follows(classes(measured, *PARALLEL, env=TOGETHER), LONGEST_FIRST)
    history = measured.folder / ".schema_runner/history.json"
    history.unlink()
    assert follows(classes(measured, *PARALLEL, env=TOGETHER), SUITE)
    history.unlink()
    # Without workers, the order is that of stock Django, whatever the durations.
    assert classes(measured) == SUITE
    record_lengths(measured)
    assert follows(classes(measured, *PARALLEL, env=TOGETHER), LONGEST_FIRST)
    assert classes(measured) == SUITE


@pytest.mark.parametrize("order", ["--order=suite", "--shuffle=1", "--reverse", " ".join(LABELS)])
def test_an_explicit_order_is_kept(measured: Project, order: str) -> None:
    """With an explicit order, classes start as in a serial run of stock Django."""
    expected = classes(measured, *order.split())
    assert not follows(expected, LONGEST_FIRST)
    assert follows(classes(measured, *PARALLEL, *order.split(), env=TOGETHER), expected)


def test_module_labels_are_not_an_explicit_order(measured: Project) -> None:
    """Labels that name one module, or whole modules, leave the order of classes to the runner."""
    label = "library.test_generated"
    record_lengths(measured)
    assert follows(classes(measured, label, *PARALLEL, env=TOGETHER), LONGEST_FIRST)
    measured.tests(sleeping("E", 0.1), module="test_more")
    record_lengths(measured)
    found = classes(measured, "library.test_more", label, *PARALLEL, env=TOGETHER)
    # A new test is assumed to take the median duration, so it starts in the middle.
    assert follows([name for name in found if name != "E"], LONGEST_FIRST)
    (measured.folder / "library/test_more.py").unlink()


def test_kinds_of_classes_keep_their_order(project: Project) -> None:
    """TransactionTestCases start after TestCases, even if they take longer."""
    others = sleeping("Other0 Other1", 0.3, "TransactionTestCase")
    project.tests(sleeping("Case0 Case1 Case2 Case3", 0.2) + others)
    run(project, *PARALLEL).passed()
    found = classes(project, *PARALLEL, env=TOGETHER)
    assert sorted(found[:4]) == ["Case0", "Case1", "Case2", "Case3"]
    assert sorted(found[4:]) == ["Other0", "Other1"]


def test_a_class_that_would_delay_the_run_starts_early(project: Project) -> None:
    """Its worker then runs no TestCases, which the other worker runs."""
    # Tests take longer now than recorded, so the worker with the long class finishes first.
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


def test_reset_reference_orders_by_duration_only(project: Project) -> None:
    """With RESET "reference", TransactionTestCases change nothing that a TestCase could see."""
    project.configure('SCHEMA_RUNNER = {"RESET": "reference"}')
    kinds = {"B": "TransactionTestCase", "C": "TransactionTestCase"}
    # B's worker runs nothing else, however slow a process is at its first tests.
    lengths = {**dict.fromkeys(LENGTHS, 0.01), "B": 2}
    each = [sleeping(name, lengths[name], kinds.get(name, "TestCase")) for name in lengths]
    project.tests("".join(each))
    run(project, *PARALLEL).passed()
    record_lengths(project)
    found = run(project, *PARALLEL, env=TOGETHER).passed()
    assert follows(found.classes, LONGEST_FIRST)
    # TestCases after TransactionTestCases.
    assert ["D", "C", "A"] in found.workers
    assert classes(project) == ["A", "D", "B", "C"]
