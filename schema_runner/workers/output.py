"""Output of tests: log lines between it, and the SQL of --debug-sql."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.test.runner import DebugSQLTextTestResult


class Lines:
    """Follows what a result writes, to end its line before something else is shown."""

    def __init__(self) -> None:
        self._stream: Any = None
        self._is_begun = False

    @contextmanager
    def follow(self, result: Any) -> Iterator[None]:
        """Follow a result, if it writes to a stream."""
        stream: Any = getattr(result, "stream", None)
        # That in unittest's decorator: some results write to it past that.
        stream = getattr(stream, "stream", stream)
        write = getattr(stream, "write", None)
        if not hasattr(stream, "__dict__") or write is None:
            yield
            return

        def note(text: str) -> Any:
            if text:
                self._is_begun = not text.endswith("\n")
            return write(text)

        self._stream, stream.write = stream, note
        try:
            yield
        finally:
            self._stream, stream.write = None, write

    def end(self) -> None:
        """End the line that was begun, if one was."""
        if self._stream is not None and self._is_begun:
            self._stream.write("\n")
            self._stream.flush()


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
