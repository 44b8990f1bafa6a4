"""The SQL of tests in workers, which --debug-sql shows as in a run without them."""

import io
import logging
from typing import Any

from django.test.runner import DebugSQLTextTestResult

# What a worker tells of the SQL of a test: an event beside those of unittest's results.
EVENT = "addSQL"


class SqlLog:
    """Records what Django's result would, where there is only one for each worker.

    Where it `shows_all` that is told of tests that pass, too.
    """

    def __init__(self, *, shows_all: bool) -> None:
        self.shows_all = shows_all
        stream: Any = io.StringIO()
        result: Any = DebugSQLTextTestResult(stream, False, 0)
        result.startTest(None)
        self._recorder = result

    def begin(self) -> None:
        """Forget what there was."""
        self._recorder.stopTest(None)
        self._recorder.startTest(None)

    @property
    def text(self) -> str:
        return str(self._recorder.handler.stream.getvalue())


def wants_sql(result: Any) -> bool:
    return isinstance(result, DebugSQLTextTestResult)


def show_sql(result: Any, text: str) -> None:
    """Make a result show this SQL with the next event."""
    stream = io.StringIO(text)
    # That of Django 5.2; can go with it.
    result.debug_sql_stream = stream
    if getattr(result, "handler", None) is None:
        result.handler = logging.StreamHandler(stream)
    else:
        result.handler.stream = stream
