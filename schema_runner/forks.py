"""What forked processes must not share with this one: signal handlers, files, timers.

`os.register_at_fork` is for ever, so this module registers once and looks at what there is then.
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


class _Handled(NamedTuple):
    number: int
    handler: Handler
    # What was there before, as `signal.signal` returns it.
    before: Any


class ForkAware:
    """Base class of what is told of each fork in its process, as long as it exists."""

    def __init__(self) -> None:
        _aware.add(self)

    def before_fork(self) -> None:
        """Prepare for a fork."""

    def after_fork(self, *, is_child: bool) -> None:
        """Go on after a fork."""


# A run within a test handles signals on top of the test's own run.
_handled: list[_Handled] = []
_files: WeakKeyDictionary[Any, Callable[[Any], object]] = WeakKeyDictionary()
_aware: WeakSet[ForkAware] = WeakSet()
# The signals that the forking thread had blocked.
_blocked = threading.local()


def handle(number: int, handler: Handler) -> None:
    """Handle a signal in this process; a forked one gets the handler that was there before."""
    if signal.getsignal(number) != handler:
        _handled.append(_Handled(number, handler, signal.signal(number, handler)))


def stop_handling(number: int, handler: Handler) -> None:
    """Bring back what was there before `handle`, unless a test has set another handler since.

    Other threads than the main one cannot, and change nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for one in [one for one in _handled if one[:2] == (number, handler)]:
        _handled.remove(one)
        if signal.getsignal(number) == handler:
            # None: a handler that was not set by Python.
            signal.signal(number, signal.SIG_DFL if one.before is None else one.before)


def let_go(file: object, close: Callable[[Any], object]) -> None:
    """Call `close` with the file in each process that is forked while the file exists."""
    _files[file] = close


def _before() -> None:
    for one in list(_aware):
        one.before_fork()
    # Python drops signals that reach a child before it has begun, and then calls our handlers.
    _blocked.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {one.number for one in _handled})


def _after_in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _blocked.mask)
    for one in list(_aware):
        one.after_fork(is_child=False)


def _after_in_child() -> None:
    for number, handler, _ in _handled[::-1]:
        stop_handling(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, _blocked.mask)
    for file, close in list(_files.items()):
        # A test may have closed it behind our back.
        with suppress(OSError):
            close(file)
    _files.clear()
    for one in list(_aware):
        one.after_fork(is_child=True)


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
