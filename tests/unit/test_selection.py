import random
from itertools import chain
from typing import Any

from schema_runner.scheduling import selection
from schema_runner.scheduling.shards import Shard

from .test_plan import suite


def ids(tests: list[Any]) -> list[str]:
    return [test.id() for test in tests]


def test_a_shard_is_the_same_in_any_order_of_the_suite() -> None:
    """Sums of seconds do not depend on the order of shuffled suites."""
    subsuites, history = suite(A=[0.1, 0.2, 0.3], B=[0.3, 0.2, 0.1], C=[0.2, 0.1, 0.3], D=[0.6])
    tests = [*chain(*subsuites)]
    for shard in (Shard(1, 2), Shard(2, 2)):
        expected = sorted(ids(selection.select_shard(tests, shard, history)))
        assert 0 < len(expected) < len(tests)
        for seed in range(20):
            shuffled = random.Random(seed).sample(tests, len(tests))
            assert sorted(ids(selection.select_shard(shuffled, shard, history))) == expected


def test_failed_tests_come_first_and_the_order_stays() -> None:
    """Classes with failed tests come first, and in them those tests; classes stay together."""
    tests = [*chain(*suite(A=[1, 1], B=[1, 1, 1], C=[1])[0])]
    first = ids(selection.move_failed_first(tests, {"B.test_002", "C.test_000"}, lambda _: 0))
    assert first[:3] == ["B.test_002", "B.test_000", "B.test_001"]
    assert first[3:] == ["C.test_000", "A.test_000", "A.test_001"]
    assert selection.move_failed_first(tests, set(), lambda _: 0) == tests
