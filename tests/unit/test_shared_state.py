from collections.abc import Callable
from typing import ClassVar

import pytest
from django.test import SimpleTestCase, TestCase, TransactionTestCase

from schema_runner.workers.shared_state import SharedState

COUNT = 0
SEEN: list[int] = []


class Case:
    number = 0
    names: ClassVar[set[str]] = set()
    texts: ClassVar[dict[str, str]] = {"a": "b"}


class Derived(Case): ...


def assign_to_the_module() -> None:
    global COUNT  # noqa: PLW0603
    COUNT += 1


CHANGES: list[Callable[[], None]] = [
    *(lambda: setattr(Derived, "number", 1), lambda: setattr(Case, "number", 1)),
    *(lambda: Case.names.add("x"), lambda: Case.texts.update(a="c"), assign_to_the_module),
    *(lambda: globals().update(ADDED=1), lambda: SEEN.append(1)),
]


@pytest.mark.parametrize("change", CHANGES)
def test_state_left_by_a_test_is_detected(change: Callable[[], None]) -> None:
    state = SharedState()
    before = state.snapshot(Derived)
    assert state.snapshot(Derived) == before
    change()
    assert state.snapshot(Derived) != before


@pytest.mark.parametrize("base", [SimpleTestCase, TestCase, TransactionTestCase])
def test_attributes_that_django_sets_are_no_state(base: type) -> None:
    """Otherwise no class could be divided."""
    test_class = type("Tests", (base,), {"__module__": __name__})
    before = SharedState().snapshot(test_class)
    for name in ("client", "async_client", "atomics", "cls_atomics", "_pre_setup_ran_eagerly"):
        setattr(test_class, name, object())
    assert SharedState().snapshot(test_class) == before
