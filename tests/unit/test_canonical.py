"""Canonical text of values: the same for equal values in every process, different for others."""

import datetime
import enum
import functools
import re
import uuid
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.conf import SettingsReference
from django.core.validators import MaxValueValidator, RegexValidator
from django.db.models import F, Q, TextChoices, Value
from django.db.models.functions import Lower
from django.utils.functional import SimpleLazyObject, cached_property, lazy
from django.utils.translation import gettext_lazy, ngettext_lazy, pgettext_lazy

from schema_runner.fingerprint.canonical import Canonical
from schema_runner.project import Project

Pair = namedtuple("Pair", "one two")
Other = namedtuple("Other", "one two")


Colour = enum.Enum("Colour", "RED BLUE")


class Size(TextChoices):
    SMALL = "s"
    LARGE = "l"


class Plain:
    def __init__(self, value: object) -> None:
        self.value = value

    @cached_property
    def computed(self) -> str:
        return "computed"


class Slotted:
    __slots__ = ("__hidden", "value")

    def __init__(self, value: object) -> None:
        self.value = self.__hidden = value


class Bare: ...


def adding(number: int) -> Callable[[], int]:
    return lambda: number


lazily = lazy(lambda one, b=0: f"{one} {b}", str)


def text(value: object) -> str:
    return Canonical(Project.find()).text(value)


DIFFERENT: list[tuple[Any, Any]] = [
    *[(1, True), (1, 1.0), (1, "1"), ("1", b"1"), (None, "None"), (Path("a"), "a")],
    *[(Decimal("1"), Decimal("1.0")), ([1, 2], [2, 1]), (["a, b"], ["a", "b"])],
    *[({"a": 1, "b": 2}, {"b": 2, "a": 1}), ({"a": 1}, OrderedDict(a=1))],
    *[({1, 2}, {1, 3}), ({1}, [1]), (Pair(1, 2), Other(1, 2)), (deque([1]), deque([2]))],
    *[(Colour.RED, Colour.BLUE), (Size.SMALL, Size.LARGE), (Size.SMALL, "s")],
    (datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1)),
    (datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)),
    (datetime.timedelta(1), datetime.timedelta(2)),
    (ZoneInfo("Europe/Oslo"), ZoneInfo("Europe/Rome")),
    *[(uuid.UUID(int=1), uuid.UUID(int=2)), (re.compile("a"), re.compile("a", re.IGNORECASE))],
    *[(len, max), (Plain, Bare), (Plain(1).__init__, Plain(2).__init__)],
    (functools.partial(int, base=2), functools.partial(int, base=3)),
    *[(lambda: 1, lambda: 2), (lambda a=1: a, lambda a=2: a)],
    *[(lambda: len("a"), lambda: hash("a")), (adding(1), adding(2))],
    *[(gettext_lazy("a"), gettext_lazy("b")), (gettext_lazy("a"), "a")],
    (gettext_lazy("a"), pgettext_lazy("context", "a")),
    *[(lazily(1), lazily(True)), (lazily("a", b=1), lazily("a", b=2))],
    (ngettext_lazy("one", "many"), ngettext_lazy("one", "more")),
    (SettingsReference("a.B", "ONE"), SettingsReference("a.B", "TWO")),
    *[(RegexValidator("a"), RegexValidator("b")), (MaxValueValidator(1), MaxValueValidator(2))],
    *[(Q(a=1) | Q(b=2), Q(a=1) & Q(b=2)), (F("a"), Value("a")), (Lower("a"), Lower("b"))],
    *[(Plain(1), Plain(2)), (Slotted(1), Slotted(2))],
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_values(one: object, other: object) -> None:
    to = Canonical(Project.find())
    assert to.text(one) != to.text(other)
    assert " at 0x" not in text(one) + text(other)


def test_values_equal_in_every_process() -> None:
    """The text of an object is that of its contents, not of its address or cached attributes."""
    used = Plain(1)
    assert used.computed
    assert text(used) == text(Plain(1))
    assert text(Bare()) == text(Bare())
    assert text(adding(1)) == text(adding(1))
    assert text({"b", "a"}) == text({"a", "b"})
    assert text(RegexValidator("a")) == text(RegexValidator("a"))


def test_paths_in_the_project_have_no_root() -> None:
    """In strings too, because fields and settings take both."""
    root = Project.find().root
    for value in (Path(root, "media"), f"{root}/media", {"a": [f"{root}/media"]}):
        assert root not in text(value)
        assert "media" in text(value)


def test_cyclic_values() -> None:
    """Cyclic values have a text, which depends on where the cycle begins."""
    one, other = list[object](), list[object]()
    one.append(one)
    other.append([other])
    assert text(one) != text(other)


def test_lazy_objects_stay_lazy() -> None:
    """Lazy objects are not evaluated, which might need a database."""
    text(SimpleLazyObject(lambda: pytest.fail("evaluated")))


class Broken(Plain):
    def deconstruct(self) -> None:
        raise ValueError


def test_deconstruct_raises() -> None:
    """If `deconstruct` fails, the attributes are used."""
    assert text(Broken(1)) == text(Broken(1)) != text(Broken(2))
