"""The text of a setting's value: the same in every process, and different for other values."""

import datetime
import enum
import functools
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext_lazy, ngettext_lazy, pgettext_lazy

from schema_runner.fingerprint.hashing import render

Colour = enum.Enum("Colour", "RED BLUE")


class Plain:
    def __init__(self, value: object) -> None:
        self.value = value


def adding(number: int) -> Callable[[], int]:
    return lambda: number


DIFFERENT: list[tuple[Any, Any]] = [
    *[(1, True), (1, 1.0), (1, "1"), ("1", b"1"), (None, "None"), ([1, 2], [2, 1])],
    *[({"a": 1, "b": 2}, {"b": 2, "a": 1}), ({1, 2}, {1, 3}), ({(1, 2): 3}, {(1, 2): 4})],
    *[(Colour.RED, Colour.BLUE), (Decimal("1"), Decimal("1.0")), (Path("a"), Path("b"))],
    *[(uuid.UUID(int=1), uuid.UUID(int=2)), (datetime.timedelta(1), datetime.timedelta(2))],
    *[(len, max), (Plain, Colour), (Plain(1), Plain(2)), ([Plain(1)], [Plain(2)])],
    (functools.partial(int, base=2), functools.partial(int, base=3)),
    *[(gettext_lazy("a"), gettext_lazy("b")), (gettext_lazy("a"), "a")],
    (gettext_lazy("a"), pgettext_lazy("context", "a")),
    (ngettext_lazy("one", "many"), ngettext_lazy("one", "more")),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_values(one: object, other: object) -> None:
    assert render(one) != render(other)
    assert " at 0x" not in render(one) + render(other)


def test_values_equal_in_every_process() -> None:
    """The text of an object is that of its contents, not of its address or order."""
    assert render(Plain(1)) == render(Plain(1))
    assert render(adding(1)) == render(adding(1))
    assert render({"b", "a"}) == render({"a", "b"})


def test_a_function_counts_with_its_module(tmp_path: Path) -> None:
    texts = []
    for number in (1, 2):
        path = tmp_path / "module.py"
        path.write_text(f"def function(): return {number}\n")
        names: dict[str, Any] = {"__name__": "module"}
        exec(compile(path.read_text(), path, "exec"), names)
        texts.append(render(names["function"]))
    assert texts[0] != texts[1]


def test_cyclic_values() -> None:
    one = list[object]()
    one.append(one)
    assert render(one) == "[[...]]"


def test_lazy_objects_stay_lazy() -> None:
    """Lazy objects are not evaluated, which might need a database."""
    render(SimpleLazyObject(lambda: pytest.fail("evaluated")))
