"""Which tests of a suite are run, and which of them first."""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any
from unittest.loader import _FailedTest  # type: ignore[attr-defined]
from unittest.util import strclass

from .forecast import Forecast
from .history import History
from .sharding import Shard, Weight


def of_shard(tests: Sequence[Any], shard: Shard, history: History) -> list[Any]:
    """Return those of a shard. What could not be loaded is in all of them."""
    loaded = [test for test in tests if not isinstance(test, _FailedTest)]
    weights = _weights(loaded, history)
    left_out = weights.keys() - shard.select(weights)
    return [test for test in tests if strclass(type(test)) not in left_out]


def _weights(tests: Sequence[Any], history: History) -> dict[str, Weight]:
    forecast = Forecast(history, tests)
    classes: dict[str, list[Any]] = defaultdict(list)
    # In one order on every machine: that of a sum shows in its last digit.
    for test in sorted(tests, key=lambda test: test.id()):
        classes[strclass(type(test))].append(test)
    return {
        name: Weight(len(its), forecast.seconds(its) if name in history.classes else None)
        for name, its in classes.items()
    }


def failed(tests: Sequence[Any], names: Collection[str]) -> list[Any]:
    """Return the tests of these names, and what could not be loaded."""
    return [test for test in tests if isinstance(test, _FailedTest) or test.id() in names]


def failed_first(
    tests: Sequence[Any], names: Collection[str], stage_of: Callable[[Any], int]
) -> list[Any]:
    """Return the tests with the classes first, in each stage, that have some of these names.

    Within such a class, those tests are the first.
    """
    ranks: dict[type, int] = {}
    for test in tests:
        ranks.setdefault(type(test), len(ranks))
    bad = {type(test) for test in tests if test.id() in names}

    def rank(test: Any) -> tuple[int, bool, int, bool]:
        kind = type(test)
        return stage_of(test), kind not in bad, ranks[kind], test.id() not in names

    return sorted(tests, key=rank)
