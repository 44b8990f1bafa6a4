from typing import ClassVar

import pytest
from django.test import SimpleTestCase, TestCase, TransactionTestCase

from schema_runner.execution.state import State

COUNT = 0
SEEN: list[int] = []


class Case:
    number = 0
    names: ClassVar[set[str]] = set()
    texts: ClassVar[dict[str, str]] = {"a": "b"}


class Derived(Case):
    """What tests leave in a base class others of its classes find."""


def assign_to_the_class() -> None:
    Derived.number = 1


def assign_to_a_base() -> None:
    Case.number = 1


def add_to_a_container() -> None:
    Case.names.add("x")


def change_a_value() -> None:
    Case.texts["a"] = "c"


def assign_to_the_module() -> None:
    global COUNT  # noqa: PLW0603
    COUNT += 1


def add_to_the_module() -> None:
    globals()["ADDED"] = 1


def add_to_a_list_of_the_module() -> None:
    SEEN.append(1)


@pytest.mark.parametrize(
    "change",
    [
        assign_to_the_class,
        assign_to_a_base,
        add_to_a_container,
        change_a_value,
        assign_to_the_module,
        add_to_the_module,
        add_to_a_list_of_the_module,
    ],
)
def test_what_a_test_leaves_is_seen(change: object) -> None:
    """In its class, in bases of the project's, and in the module."""
    state = State()
    before = state.of(Derived)
    assert state.of(Derived) == before
    assert callable(change)
    change()
    assert state.of(Derived) != before


@pytest.mark.parametrize("base", [SimpleTestCase, TestCase, TransactionTestCase])
def test_what_django_sets_for_each_test_is_no_state(base: type) -> None:
    """Otherwise no class could ever be divided."""
    test_class = type("Tests", (base,), {"__module__": __name__})
    before = State().of(test_class)
    for name in ("client", "async_client", "atomics", "cls_atomics", "_pre_setup_ran_eagerly"):
        setattr(test_class, name, object())
    assert State().of(test_class) == before
