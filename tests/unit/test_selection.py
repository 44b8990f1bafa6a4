import random
import unittest
from typing import Any

from schema_runner.foresight import selection
from schema_runner.foresight.history import ClassRecord, History, TestRecord
from schema_runner.foresight.sharding import Shard


def suite(**classes: list[float]) -> tuple[list[Any], History]:
    """Return tests of classes that take so long each, and a history that knows it."""
    tests, records, class_records = [], {}, {}
    for name, seconds in classes.items():
        methods = {f"test_{n}": lambda _: None for n in range(len(seconds))}
        kind = type(name, (unittest.TestCase,), {"__module__": "m", **methods})
        kind.__qualname__ = name
        for number, one in enumerate(seconds):
            test = kind(f"test_{number}")
            tests.append(test)
            records[test.id()] = TestRecord(one, "P", 1)
        class_records[f"m.{name}"] = ClassRecord(0.0, keeps_state=False, day=1)
    return tests, History(records, class_records)


def ids(tests: list[Any]) -> list[str]:
    return [test.id() for test in tests]


def test_a_shard_is_the_same_in_any_order_of_the_suite() -> None:
    """Shuffled suites of several machines add up what tests take in orders of their own."""
    tests, history = suite(A=[0.1, 0.2, 0.3], B=[0.3, 0.2, 0.1], C=[0.2, 0.1, 0.3], D=[0.6])
    for shard in (Shard(1, 2), Shard(2, 2)):
        expected = sorted(ids(selection.of_shard(tests, shard, history)))
        for seed in range(20):
            shuffled = random.Random(seed).sample(tests, len(tests))
            assert sorted(ids(selection.of_shard(shuffled, shard, history))) == expected


def test_the_order_stays_but_for_what_has_failed() -> None:
    """Its class comes first, and in it the test itself; classes stay together."""
    tests, _ = suite(A=[1, 1], B=[1, 1, 1], C=[1])
    first = selection.failed_first(tests, {"m.B.test_2", "m.C.test_0"}, lambda _: 0)
    expected = ["B.test_2", "B.test_0", "B.test_1", "C.test_0", "A.test_0", "A.test_1"]
    assert ids(first) == [f"m.{name}" for name in expected]
    assert selection.failed_first(tests, set(), lambda _: 0) == tests
