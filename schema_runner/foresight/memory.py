"""The folder in which runs keep their history, for each other."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..folders import make_hidden
from .history import History, Observed

_DAY = 24 * 60 * 60


class Memory:
    """A folder that any number of runs use at a time, for all of which it is a matter of luck.

    No failure to read or to write it is an error: a run without history is only slower.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "history.json"

    def read(self) -> History:
        """Return the history; an empty one where there is none that makes sense."""
        try:
            return History.from_data(json.loads(self._file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return History()

    def why_not_writable(self) -> str | None:
        """Say why a run could not add what it has seen; None if it could."""
        try:
            with self._locked():
                return None
        except OSError as error:
            return f"{error.filename}: {error.strerror}"

    def add(self, observed: Observed) -> None:
        """Add what a run has seen to what others have added in the meantime."""
        with suppress(OSError), self._locked():
            history = self.read().after(observed, int(time.time() // _DAY))
            text = json.dumps(history.as_data(), separators=(",", ":"), ensure_ascii=False)
            # A run that is killed in the middle of it leaves the file as it was.
            new = self._file.with_suffix(".new")
            # A test's name may have what UTF-8 cannot: half of a pair of surrogates.
            new.write_text(text, encoding="utf-8", errors="replace")
            new.replace(self._file)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        make_hidden(self._folder)
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
