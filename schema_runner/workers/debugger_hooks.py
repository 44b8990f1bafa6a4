"""Hooks for debuggers of this process: pdb and others that are derived from `bdb`."""

import bdb
import pdb
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any


class DebuggerHooks:
    """Base class of what is called by debugger hooks."""

    def opens(self, _debugger: Any) -> bool:
        """A debugger is about to stop, or to prompt; return whether it should."""
        return True

    def prompts(self, _debugger: Any) -> AbstractContextManager[object]:
        """Return what is entered for each prompt of pdb."""
        return nullcontext()


@contextmanager
def debuggers_call(hooks: DebuggerHooks) -> Iterator[None]:
    """Make the debuggers of this process call the hooks in the body."""
    set_trace, interaction = bdb.Bdb.set_trace, pdb.Pdb.interaction

    @wraps(set_trace)
    def stop(self: Any, frame: Any = None) -> None:
        __tracebackhide__ = True
        # Nothing after the original: the debugger would stop there.
        if hooks.opens(self):
            set_trace(self, frame or sys._getframe(1))

    @wraps(interaction)
    def interact(self: Any, *about: Any) -> None:
        __tracebackhide__ = True
        if hooks.opens(self):
            with hooks.prompts(self):
                interaction(self, *about)

    _replace(stop, interact)
    try:
        yield
    finally:
        _replace(set_trace, interaction)


def _replace(set_trace: Any, interaction: Any) -> None:
    bdb.Bdb.set_trace = set_trace  # type: ignore[method-assign]
    pdb.Pdb.interaction = interaction  # type: ignore[method-assign]
