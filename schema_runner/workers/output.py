"""Output of results: unfinished lines, and the SQL of --debug-sql."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.test.runner import DebugSQLTextTestResult


class LineTracker:
    """Tracks whether a result has written an unfinished line, and ends it before other output."""

    def __init__(self) -> None:
        self._stream: Any = None
        self._is_unfinished = False

    @contextmanager
    def track(self, result: Any) -> Iterator[None]:
        """Track the output of a result that writes to a stream."""
        stream: Any = getattr(result, "stream", None)
        # The stream inside unittest's decorator: some results write to it directly.
        stream = getattr(stream, "stream", stream)
        write = getattr(stream, "write", None)
        if not hasattr(stream, "__dict__") or write is None:
            yield
            return

        def note(text: str) -> Any:
            if text:
                self._is_unfinished = not text.endswith("\n")
            return write(text)

        self._stream, stream.write = stream, note
        try:
            yield
        finally:
            self._stream, stream.write = None, write

    def end_line(self) -> None:
        """End the current line if it is unfinished."""
        if self._stream is not None and self._is_unfinished:
            self._stream.write("\n")
            self._stream.flush()


# The event with the SQL of a test, in addition to those of Django's RemoteTestResult.
SQL_EVENT = "addSQL"


class SqlLog:
    """Records the SQL of each test, as Django's DebugSQLTextTestResult does.

    `shows_all`: report the SQL of passing tests too.
    """

    def __init__(self, *, shows_all: bool) -> None:
        self.shows_all = shows_all
        stream: Any = io.StringIO()
        result: Any = DebugSQLTextTestResult(stream, False, 0)
        result.startTest(None)
        self._recorder = result

    def clear(self) -> None:
        """Discard the recorded SQL."""
        self._recorder.stopTest(None)
        self._recorder.startTest(None)

    @property
    def text(self) -> str:
        return str(self._recorder.handler.stream.getvalue())


def wants_sql(result: Any) -> bool:
    return isinstance(result, DebugSQLTextTestResult)


def set_sql(result: Any, text: str) -> None:
    """Set the SQL that a result shows with the next event."""
    stream = io.StringIO(text)
    # Only Django 5.2 reads this attribute.
    result.debug_sql_stream = stream
    if getattr(result, "handler", None) is None:
        result.handler = logging.StreamHandler(stream)
    else:
        result.handler.stream = stream
