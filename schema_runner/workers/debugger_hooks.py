"""Hooks for the debuggers of this process: pdb and others that derive from `bdb`."""

import bdb
import pdb
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any


class DebuggerHooks:
    """Base class of the hooks that debuggers call."""

    def should_stop(self, _debugger: Any) -> bool:
        """Return whether a debugger that is about to stop or prompt should do so."""
        return True

    def prompting(self, _debugger: Any) -> AbstractContextManager[object]:
        """Return a context manager that is entered around each prompt of pdb."""
        return nullcontext()


@contextmanager
def install_hooks(hooks: DebuggerHooks) -> Iterator[None]:
    """Make the debuggers of this process call `hooks`."""
    set_trace, interaction = bdb.Bdb.set_trace, pdb.Pdb.interaction

    @wraps(set_trace)
    def stop(self: Any, frame: Any = None) -> None:
        __tracebackhide__ = True
        # Call the original last: the debugger would stop in any code after it.
        if hooks.should_stop(self):
            set_trace(self, frame or sys._getframe(1))

    @wraps(interaction)
    def interact(self: Any, *about: Any) -> None:
        __tracebackhide__ = True
        if hooks.should_stop(self):
            with hooks.prompting(self):
                interaction(self, *about)

    _replace(stop, interact)
    try:
        yield
    finally:
        _replace(set_trace, interaction)


def _replace(set_trace: Any, interaction: Any) -> None:
    bdb.Bdb.set_trace = set_trace  # type: ignore[method-assign]
    pdb.Pdb.interaction = interaction  # type: ignore[method-assign]
