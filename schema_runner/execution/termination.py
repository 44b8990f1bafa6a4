"""SIGTERM, which ends a run as Ctrl-C does: once after the test under way, twice at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType, TracebackType
from typing import Self

from .. import forks

# What a shell shows of a process that SIGTERM has ended.
_EXIT_CODE = 128 + signal.SIGTERM


class Termination(AbstractContextManager["Termination"]):
    """Cleans up where stock Django is ended, as long as the body of the `with` runs.

    It ends with exit code 143 if there was a SIGTERM. A handler of the project's own stays.
    """

    def __init__(self) -> None:
        self._is_asked_for = False
        self._waits_for_a_test = False
        self._is_ours = False

    def __enter__(self) -> Self:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            forks.handle(signal.SIGTERM, self._heed)
            self._is_ours = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_ours:
            forks.stop_handling(signal.SIGTERM, self._heed)
        if self._is_asked_for and (error is None or isinstance(error, KeyboardInterrupt)):
            raise SystemExit(_EXIT_CODE)

    @contextmanager
    def after_the_test_under_way(self) -> Iterator[None]:
        """Have a SIGTERM do what Ctrl-C does, which unittest sees to; elsewhere it ends all."""
        self._waits_for_a_test = True
        try:
            yield
        finally:
            self._waits_for_a_test = False

    def _heed(self, _number: int, frame: FrameType | None) -> None:
        self._is_asked_for = True
        interrupt = signal.getsignal(signal.SIGINT)
        if not self._waits_for_a_test or not callable(interrupt):
            raise SystemExit(_EXIT_CODE)
        interrupt(signal.SIGINT, frame)
