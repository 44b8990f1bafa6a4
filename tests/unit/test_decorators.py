import unittest
from typing import Any

import pytest
from django.test import tag

from schema_runner import decorators, own_database, serial, timeout
from schema_runner.settings import Settings


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
class Lifted(Marked): ...


@tag("heavy")
class Tagged(Plain): ...


@own_database
class Whole(Plain): ...


class WholeToo(Whole): ...


PLAIN = Plain("test_plain")
CLASS = PLAIN.id().rpartition(".")[0]
PACKAGE, MODULE = __name__.partition(".")[0], __name__.rpartition(".")[2]


@pytest.mark.parametrize("thing", [lambda: None, type("Tests", (), {})])
def test_decorators_return_what_they_decorate(thing: Any) -> None:
    assert serial(thing) is thing
    assert timeout(1.5)(thing) is thing


@pytest.mark.parametrize(
    ("test", "names", "expected"),
    [
        # A decorator on the test, on its class, or on a base class.
        (PLAIN, [], False),
        (Plain("test_serial"), [], True),
        (Marked("test_own"), [], True),
        (Marked("test_plain"), [], True),
        (Inheriting("test_plain"), [], True),
        # Labels as on the command line: a prefix of the test's id that ends at a dot.
        *((PLAIN, [name], True) for name in (PLAIN.id(), CLASS, __name__, PACKAGE)),
        (PLAIN, ["other", __name__], True),
        *((PLAIN, [name], False) for name in (PLAIN.id()[:-1], __name__[:-1], f"{__name__}.")),
        *((PLAIN, [name], False) for name in (MODULE, "Plain", "test_plain", "")),
        # Tags of the test and of its class, as for --tag.
        (Plain("test_tagged"), ["slow"], True),
        (Plain("test_tagged"), ["browser", "slo", "slower"], False),
        (PLAIN, ["slow", "browser"], False),
        (Tagged("test_plain"), ["heavy"], True),
        (Tagged("test_tagged"), ["slow"], True),
    ],
    ids=str,
)
def test_what_makes_a_test_serial(
    test: unittest.TestCase, names: list[str], *, expected: bool
) -> None:
    assert decorators.must_run_alone(test, Settings(serial=tuple(names))) is expected


@pytest.mark.parametrize(
    ("test", "of_test", "of_class"),
    [
        *[(PLAIN, 5, 5), (Plain("test_short"), 2, 5), (Plain("test_unlimited"), None, 5)],
        *((test("test_plain"), 30, 30) for test in (Marked, Inheriting)),
        *[(Marked("test_own"), 30, 30), (Marked("test_short"), 2, 30)],
        *[(Marked("test_unlimited"), None, 30), (Lifted("test_short"), 2, None)],
        (Lifted("test_own"), None, None),
    ],
    ids=str,
)
def test_the_limit_of_a_test_wins(
    test: unittest.TestCase, of_test: float | None, of_class: float | None
) -> None:
    """It overrides that of the class, which still applies to class fixtures; None removes it."""
    assert decorators.timeout_of(test, 5) == of_test
    assert decorators.timeout_of_class(test, 5) == of_class


def test_there_is_no_limit_by_default() -> None:
    """Undecorated tests have none, nor do unittest's placeholders for failed imports."""
    assert decorators.timeout_of(PLAIN, None) is None
    assert decorators.timeout_of_class(PLAIN, None) is None
    (failed,) = unittest.TestLoader().loadTestsFromName("no.such.module")
    assert decorators.timeout_of(failed, None) is None
    assert not decorators.must_run_alone(failed, Settings(serial=("slow", "no.such")))


NO_LIMITS = [0, -1, "5", True, False, float("inf"), float("nan"), [1], serial]


@pytest.mark.parametrize("seconds", NO_LIMITS)
def test_an_invalid_limit_is_an_error(seconds: Any) -> None:
    """None is not a limit; nor is the test itself, if the decorator has no arguments."""
    with pytest.raises(ValueError, match=r"@schema_runner.timeout takes a number greater than 0"):
        timeout(seconds)


@pytest.mark.parametrize(
    ("test_class", "names", "expected"),
    [
        *[(Plain, [], False), (Whole, [], True), (WholeToo, ["other"], True)],
        *((Plain, [name], True) for name in (CLASS, __name__, PACKAGE, PLAIN.id())),
        *((Plain, [name], False) for name in (CLASS[:-1], f"{CLASS}.", f"{CLASS}.other", "Plain")),
        # A tag of one test counts for its class, because the whole class moves.
        *[(Plain, ["slow"], True), (Tagged, ["heavy"], True), (Plain, ["heavy"], False)],
    ],
)
def test_own_database_classes(test_class: type, names: list[str], *, expected: bool) -> None:
    assert decorators.needs_own_database(test_class, names) is expected


@pytest.mark.parametrize(
    ("decorator", "wrong"), [(serial, "reason"), (own_database, lambda: None)]
)
def test_decorators_that_take_no_arguments(decorator: Any, wrong: object) -> None:
    message = rf"@schema_runner\.{decorator.__name__} decorates a .*, and takes no arguments"
    with pytest.raises(TypeError, match=message):
        decorator(wrong)
