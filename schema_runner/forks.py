"""Keep signal handlers, files and timers of this process out of forked processes.

Callbacks of `os.register_at_fork` cannot be removed, so this module registers one set, which reads
the current state.
"""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

Handler = Callable[[int, FrameType | None], object]


class _InstalledHandler(NamedTuple):
    signum: int
    handler: Handler
    # The previous handler, as `signal.signal` returns it.
    previous: Any


class ForkAware:
    """Base class of objects that are notified of forks of their process while they exist."""

    def __init__(self) -> None:
        _fork_aware.add(self)

    def before_fork(self) -> None:
        """Run in the parent before a fork."""

    def after_fork(self, *, is_child: bool) -> None:
        """Run in the parent and in the child after a fork."""


# A list, because a run inside a test installs handlers on top of the outer run's.
_installed: list[_InstalledHandler] = []
_close_in_child: WeakKeyDictionary[Any, Callable[[Any], object]] = WeakKeyDictionary()
_fork_aware: WeakSet[ForkAware] = WeakSet()
# The signal mask of the forking thread.
_blocked_signals = threading.local()


def handle_signal(signum: int, handler: Handler) -> None:
    """Install a signal handler in this process; forked processes get the previous handler."""
    if signal.getsignal(signum) != handler:
        _installed.append(_InstalledHandler(signum, handler, signal.signal(signum, handler)))


def restore_signal(signum: int, handler: Handler) -> None:
    """Restore the handler from before `handle_signal`, unless a test has set another since.

    Outside of the main thread, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for installed in [item for item in _installed if item[:2] == (signum, handler)]:
        _installed.remove(installed)
        if signal.getsignal(signum) == handler:
            # None is a handler that was not installed from Python.
            signal.signal(
                signum, signal.SIG_DFL if installed.previous is None else installed.previous
            )


def close_in_child(file: object, close: Callable[[Any], object]) -> None:
    """Call `close(file)` in each process that is forked while the file exists."""
    _close_in_child[file] = close


def _before() -> None:
    for item in list(_fork_aware):
        item.before_fork()
    # A signal that the child gets before it has restored the handlers would call this process's
    # handler, or be lost.
    _blocked_signals.mask = signal.pthread_sigmask(
        signal.SIG_BLOCK, {item.signum for item in _installed}
    )


def _after_in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _blocked_signals.mask)
    for item in list(_fork_aware):
        item.after_fork(is_child=False)


def _after_in_child() -> None:
    for signum, handler, _ in _installed[::-1]:
        restore_signal(signum, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, _blocked_signals.mask)
    for file, close in list(_close_in_child.items()):
        # A test may have closed it already.
        with suppress(OSError):
            close(file)
    _close_in_child.clear()
    for item in list(_fork_aware):
        item.after_fork(is_child=True)


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
