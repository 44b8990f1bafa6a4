import random
import unittest
from typing import Any

import pytest

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


@pytest.mark.parametrize("seed", range(20))
def test_a_shard_is_the_same_in_any_order_of_the_suite(seed: int) -> None:
    """Shuffled suites of several machines add up what tests take in orders of their own."""
    tests, history = suite(A=[0.1, 0.2, 0.3], B=[0.3, 0.2, 0.1], C=[0.2, 0.1, 0.3], D=[0.6])
    shuffled = random.Random(seed).sample(tests, len(tests))
    for number in (1, 2):
        shard = Shard(number, 2)
        expected = selection.of_shard(tests, shard, history)
        assert sorted(ids(selection.of_shard(shuffled, shard, history))) == sorted(ids(expected))


def test_the_order_stays_but_for_what_has_failed() -> None:
    """Its class comes first, and in it the test itself; classes stay together."""
    tests, _ = suite(A=[1, 1], B=[1, 1, 1], C=[1])
    first = selection.failed_first(tests, {"m.B.test_2", "m.C.test_0"}, lambda _: 0)
    assert [name.removeprefix("m.") for name in ids(first)] == [
        "B.test_2",
        "B.test_0",
        "B.test_1",
        "C.test_0",
        "A.test_0",
        "A.test_1",
    ]
    assert selection.failed_first(tests, set(), lambda _: 0) == tests
