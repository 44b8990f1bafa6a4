import unittest
from typing import Any

import pytest
from django.test import tag

from schema_runner import serial, timeout
from schema_runner.execution import marks


class Plain(unittest.TestCase):
    def test_plain(self) -> None: ...

    @serial
    def test_serial(self) -> None: ...

    @tag("slow")
    def test_tagged(self) -> None: ...

    @timeout(2)
    def test_short(self) -> None: ...

    @timeout(None)
    def test_unlimited(self) -> None: ...


@serial
@timeout(30)
@tag("browser")
class Marked(Plain):
    def test_own(self) -> None: ...


class Inheriting(Marked):
    def test_plain(self) -> None: ...


@timeout(None)
class Lifted(Marked):
    pass


PLAIN = Plain("test_plain")


def test_decorators_return_what_they_are_put_on() -> None:
    """So that they can be combined with any others."""

    def test() -> None: ...

    class Tests: ...

    for thing in (test, Tests):
        assert serial(thing) is thing
        assert timeout(1.5)(thing) is thing


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        (PLAIN, False),
        (Plain("test_serial"), True),
        (Marked("test_own"), True),
        (Marked("test_plain"), True),
        (Inheriting("test_plain"), True),
    ],
    ids=str,
)
def test_a_test_is_serial_by_its_own_mark_or_that_of_its_class(
    test: unittest.TestCase, expected: bool
) -> None:
    """Or of a class that its own inherits from, which itself stays as it was."""
    assert marks.is_serial(test, ()) is expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([PLAIN.id()], True),
        ([PLAIN.id().rpartition(".")[0]], True),
        ([__name__], True),
        ([__name__.partition(".")[0]], True),
        (["other", __name__], True),
        ([PLAIN.id()[:-1]], False),
        ([__name__[:-1]], False),
        ([f"{__name__}."], False),
        ([__name__.rpartition(".")[2]], False),
        (["Plain"], False),
        (["test_plain"], False),
        ([""], False),
    ],
)
def test_labels_name_tests_as_on_the_command_line(names: list[str], expected: bool) -> None:
    """From the top package on, down to any dot of the test's id."""
    assert marks.is_serial(PLAIN, names) is expected


def test_tags_are_those_of_the_test_and_of_its_class() -> None:
    """As for --tag."""
    assert marks.is_serial(Plain("test_tagged"), ["slow"])
    assert not marks.is_serial(Plain("test_tagged"), ["browser", "slo", "slower"])
    assert not marks.is_serial(PLAIN, ["slow", "browser"])

    @tag("heavy")
    class Tagged(Plain):
        pass

    assert marks.is_serial(Tagged("test_plain"), ["heavy"])
    assert marks.is_serial(Tagged("test_tagged"), ["slow"])


@pytest.mark.parametrize(
    ("test", "of_test", "of_class"),
    [
        (PLAIN, 5, 5),
        (Plain("test_short"), 2, 5),
        (Plain("test_unlimited"), None, 5),
        (Marked("test_own"), 30, 30),
        (Marked("test_plain"), 30, 30),
        (Marked("test_short"), 2, 30),
        (Marked("test_unlimited"), None, 30),
        (Inheriting("test_plain"), 30, 30),
        (Lifted("test_own"), None, None),
        (Lifted("test_short"), 2, None),
    ],
    ids=str,
)
def test_the_limit_of_a_test_wins_over_that_of_its_class_and_of_the_run(
    test: unittest.TestCase, of_test: float | None, of_class: float | None
) -> None:
    """None lifts it; what a class does around its tests has the limit of the class."""
    assert marks.limit(test, 5) == of_test
    assert marks.limit_of_class(test, 5) == of_class


def test_there_is_no_limit_by_default() -> None:
    """For tests without a mark, and for what unittest puts where a module cannot be imported."""
    assert marks.limit(PLAIN, None) is None
    assert marks.limit_of_class(PLAIN, None) is None
    (failed,) = unittest.TestLoader().loadTestsFromName("no.such.module")
    assert marks.limit(failed, None) is None
    assert not marks.is_serial(failed, ["slow", "no.such"])


@pytest.mark.parametrize(
    "seconds", [0, -1, "5", True, False, float("inf"), float("nan"), [1], serial]
)
def test_a_limit_that_is_none_is_refused(seconds: Any) -> None:
    """The decorator without arguments too, where the test would be the seconds."""
    with pytest.raises(ValueError, match=r"@schema_runner.timeout takes seconds, more than 0"):
        timeout(seconds)


def test_serial_takes_no_arguments() -> None:
    """Which is said."""
    with pytest.raises(TypeError, match=r"Put @schema_runner\.serial, without arguments"):
        serial("reason")  # type: ignore[type-var]
