"""Lines of a log between what is shown of tests, which may have begun a line without ending it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
