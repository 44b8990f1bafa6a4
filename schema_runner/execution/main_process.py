"""A forked process that looks to its tests like the one it was forked from."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

Process: TypeAlias = multiprocessing.process.BaseProcess


def look_like(main: Process) -> None:
    """Be that process, as far as Python tells."""
    module: Any = multiprocessing.process
    module._current_process, module._parent_process = main, None


@contextmanager
def seeming_forked() -> Iterator[None]:
    """Let Django's set-up of a worker see that this one was forked, where others are not."""
    method = multiprocessing.get_start_method()
    multiprocessing.set_start_method("fork", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(method, force=True)
