"""The folder in which runs keep their history, for each other."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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
        if not self._folder.is_dir():
            self._folder.mkdir(parents=True, exist_ok=True)
            # Whether it is to be under version control is for its owner to say.
            (self._folder / ".gitignore").write_text("*\n")
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
