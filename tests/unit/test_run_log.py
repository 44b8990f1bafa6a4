from schema_runner import Finished, FixtureFailed, Outcome, Started, WorkerReady
from schema_runner.events import Event
from schema_runner.reruns.run_log import RunLog


def ran(
    name: str, worker: int, begun: float, seconds: float = 1.0, outcome: Outcome = Outcome.PASSED
) -> list[Event]:
    return [Started(name, worker, 1, begun), Finished(name, worker, 1, outcome, seconds)]


def run_log(*events: Event) -> RunLog:
    """Return the log of a run with two workers."""
    found = RunLog()
    for event in [WorkerReady(1, 0.1, False), WorkerReady(2, 0.1, False), *events]:
        found(event)
    return found


def test_earlier_tests_of_the_same_process() -> None:
    """Not those of another worker, or of a dead worker with the same number."""
    found = run_log(
        *ran("a", 1, 0.0),
        *ran("b", 2, 0.0),
        *ran("c", 1, 1.0, outcome=Outcome.CRASHED),
        WorkerReady(1, 0.1, True),
        *ran("d", 1, 3.0),
        *ran("e", 1, 4.0, outcome=Outcome.FAILED),
        *ran("f", 1, 5.0),
        FixtureFailed("setUpClass (G)", ("g",), 1, 1),
        FixtureFailed("setUpClass (H)", ("h",), 2, 1),
    )
    assert found.before("c") == ["a"]
    assert found.before("e") == ["d"]
    assert found.before("f") == ["d", "e"]
    assert found.before("setUpClass (G)") == ["d", "e", "f"]
    assert found.before("setUpClass (H)") == ["b"]


def test_concurrent_tests_of_other_workers() -> None:
    """Tests that overlapped in time in another worker, in order of their start."""
    found = run_log(
        *ran("a", 1, 10.0, 2.0, Outcome.FAILED),
        *ran("before", 2, 8.0, 1.9),
        *ran("into", 2, 9.95, 0.1),
        *ran("within", 2, 10.5, 0.5),
        *ran("out of", 2, 11.5, 9.0),
        *ran("after", 2, 21.0),
        *ran("same worker", 1, 10.5),
    )
    assert found.alongside(["a"]) == ["into", "within", "out of"]
    assert found.alongside(["unknown"]) == []
    assert found.alongside(["a", "same worker"]) == found.alongside(["a"])


def test_only_the_first_attempt_counts() -> None:
    """A retry runs in another process."""
    found = run_log(
        *ran("a", 1, 0.0),
        *ran("b", 1, 1.0, outcome=Outcome.FAILED),
        Started("b", 1, 2, 9.0),
        Finished("b", 1, 2, Outcome.FAILED, 1.0),
        *ran("c", 2, 9.0),
    )
    assert found.before("b") == ["a"]
    assert found.alongside(["b"]) == []
