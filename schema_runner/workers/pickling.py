"""Pickling of exceptions, so that they look the same in another process."""

import ast
import io
import pickle
import traceback
from contextlib import suppress
from traceback import TracebackException
from types import TracebackType
from typing import Any

from tblib.pickling_support import pickle_exception  # type: ignore[import-untyped]

from ..errors import WorkerError


class ReprText(str):
    """A text that stands for a value, with the same `repr()`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def pickle_exactly(error: BaseException, *, with_locals: bool) -> bytes | None:
    """Pickle an exception with its traceback; return None if it would not look the same."""
    with suppress(Exception):
        data = _dumps(error, is_portable=False, with_locals=with_locals)
        # Some lose arguments; an AttributeError loses its object, which suggestions need.
        if _rendered(pickle.loads(data)) == _rendered(error):  # noqa: S301
            return data
    return None


def _rendered(error: BaseException) -> TracebackException:
    """Render an exception without its source lines, which are slow to annotate."""
    return TracebackException.from_exception(error, lookup_lines=False)


def pickle_portably(error: BaseException, *, with_locals: bool) -> bytes:
    """Pickle an exception that looks like `error` and that any process can unpickle."""
    try:
        return _dumps(error, is_portable=True, with_locals=with_locals)
    except Exception:
        # For example if the chain of exceptions is too long.
        return pickle.dumps(WorkerError("".join(traceback.format_exception(error))))


def _dumps(error: BaseException, **how: bool) -> bytes:
    file = io.BytesIO()
    _Pickler(file, **how).dump(error)
    return file.getvalue()


class _Pickler(pickle.Pickler):
    """Pickles exceptions with tracebacks; any process can unpickle them if `is_portable`."""

    def __init__(self, file: io.BytesIO, *, is_portable: bool, with_locals: bool) -> None:
        super().__init__(file)
        self._is_portable = is_portable
        self._with_locals = with_locals

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, TracebackType):
            return _build_traceback, (_describe_frames(obj, with_locals=self._with_locals),)
        if not isinstance(obj, BaseException):
            return NotImplemented
        return _reduce_portably(obj) if self._is_portable else pickle_exception(obj)


def _reduce_portably(error: BaseException) -> tuple[Any, ...]:
    """Reduce an exception to one of a built-in class that looks like it."""
    exc_type = type(error)
    base = next(base for base in exc_type.__mro__ if base.__module__ == "builtins")
    names = (str(exc_type.__module__), exc_type.__qualname__)
    arguments: tuple[Any, ...] = ()
    if isinstance(error, BaseExceptionGroup):
        arguments = error.message, error.exceptions
    state = (
        *(error.__cause__, error.__context__, error.__suppress_context__),
        *(error.__traceback__, [str(note) for note in notes_of(error)]),
    )
    if exc_type is SyntaxError:
        return exc_type, error.args, state, None, None, _set_state
    if issubclass(base, SyntaxError):
        # A SyntaxError would also show the source line that it is about.
        base = Exception
    created = (base, *names, str(_rendered(error)), arguments)
    return _create_stand_in, created, state, None, None, _set_state


def notes_of(error: BaseException) -> list[Any]:
    """Return the notes of an exception as a list; a test may have set `__notes__` to anything."""
    notes = getattr(error, "__notes__", None)
    if isinstance(notes, list | tuple):
        return [*notes]
    return [] if notes is None else [repr(notes)]


def _create_stand_in(
    base: type[BaseException], module: str, name: str, text: str, arguments: tuple[Any, ...]
) -> BaseException:
    """Create an exception that looks like one of a class that this process cannot import."""
    exc_type = exception_class(base, module, name)
    exc_type.__str__ = lambda _: text  # type: ignore[method-assign]
    return exc_type.__new__(exc_type, *arguments)


def exception_class(base: type[BaseException], module: str, name: str) -> type[BaseException]:
    """Create an exception class with this name."""
    attributes = {"__module__": module, "__qualname__": name}
    return type(name.rpartition(".")[2], (base,), attributes)


def _set_state(error: BaseException, state: tuple[Any, ...]) -> None:
    cause, context, suppresses, tb, notes = state
    error.__cause__, error.__context__, error.__traceback__ = cause, context, tb
    error.__suppress_context__ = suppresses
    for note in notes:
        error.add_note(note)


def _describe_frames(tb: TracebackType, *, with_locals: bool) -> list[tuple[Any, ...]]:
    """Describe the frames of a traceback, for `_build_traceback`."""
    summary = TracebackException(
        BaseException, BaseException(), tb, lookup_lines=False, capture_locals=with_locals
    )
    return [
        (one.filename, one.name, one.lineno, one.end_lineno, one.colno, one.end_colno, one.locals)
        for one in summary.stack
    ]


def _build_traceback(frames: list[tuple[Any, ...]]) -> TracebackType | None:
    """Build a traceback that looks like one with these frames.

    Unlike tblib's, it has columns, so that Python underlines the code.
    """
    tb: TracebackType | None = None
    for filename, name, line, end_line, column, end_column, local_texts in reversed(frames):
        has_columns = column is not None and end_column is not None
        missing = ast.Name(
            " ",
            ast.Load(),
            lineno=line or 1,
            end_lineno=end_line or line or 1,
            col_offset=column if has_columns else -1,
            end_col_offset=end_column if has_columns else -1,
        )
        code = compile(ast.Expression(missing), filename, "eval").replace(co_name=name)
        try:
            values = {variable: ReprText(text) for variable, text in (local_texts or {}).items()}
            eval(code, {}, values)  # noqa: S307
        except NameError as error:
            found = error.__traceback__ and error.__traceback__.tb_next
            assert found is not None
            tb = TracebackType(tb, found.tb_frame, found.tb_lasti, found.tb_lineno)
    return tb
