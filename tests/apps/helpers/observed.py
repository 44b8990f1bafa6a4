"""A runner that records all calls of its test result, and all events of its observers."""

import traceback
import unittest
from collections.abc import Callable
from typing import Any

from schema_runner import SchemaDiscoverRunner

from . import record

_METHODS = [
    "startTest", "stopTest", "addSuccess", "addError", "addFailure", "addSubTest", "addSkip",
    "addExpectedFailure", "addUnexpectedSuccess",
]  # fmt: skip


def _observe(event: Any) -> None:
    record(type(event).__name__, **event._asdict())


def _recorded(method: str) -> Callable[..., None]:
    def call(result: unittest.TextTestResult, test: unittest.TestCase, *about: Any) -> None:
        told = about[-1] if about else ""
        text = "".join(traceback.format_exception(*told)) if isinstance(told, tuple) else str(told)
        subtest = about[0].id() if method == "addSubTest" else ""
        # Passing subtests are no outcomes of a test.
        if not subtest or told:
            record("call", method=method, test=test.id(), text=text, subtest=subtest)
        getattr(unittest.TextTestResult, method)(result, test, *about)

    return call


_RECORDED = {method: _recorded(method) for method in _METHODS}
_Result = type("_Result", (unittest.TextTestResult,), _RECORDED)


class ObservedRunner(SchemaDiscoverRunner):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.observers.append(_observe)

    def get_resultclass(self) -> type[unittest.TextTestResult]:
        return _Result
