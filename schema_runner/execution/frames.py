"""Frames of this package that pass on what a test calls, which tracebacks need not show."""

from types import TracebackType


def hide_frames(error: BaseException) -> None:
    """Take them out of the tracebacks of an exception, of those that led to it and of its group.

    They are marked as for pytest, by a local variable `__tracebackhide__`.
    """
    seen = set()
    found: list[BaseException | None] = [error]
    while found:
        one = found.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        tb = one.__traceback__
        while tb is not None:
            while tb.tb_next is not None and _is_hidden(tb.tb_next):
                tb.tb_next = tb.tb_next.tb_next
            tb = tb.tb_next
        found += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            found += one.exceptions


def _is_hidden(tb: TracebackType) -> bool:
    frame = tb.tb_frame
    is_ours = str(frame.f_globals.get("__name__")).startswith("schema_runner.")
    return is_ours and "__tracebackhide__" in frame.f_code.co_varnames
