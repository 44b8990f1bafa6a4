"""Exceptions in a pipe, so that they are shown at its other end as they would have been here."""

import ast
import io
import marshal
import pickle
import traceback
from contextlib import suppress
from traceback import TracebackException
from types import TracebackType
from typing import Any, cast

from tblib.pickling_support import pickle_exception  # type: ignore[import-untyped]

from ..errors import WorkerError


class Text:
    """Stands for a value that is shown like this."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def pickled(error: BaseException, *, with_locals: bool) -> bytes | None:
    """Pickle an exception with its traceback; None if it would not be the same again."""
    with suppress(Exception):
        data = _dumps(error, is_plain=False, with_locals=with_locals)
        # Some lose their arguments, or the object in which a misspelt name was looked for.
        if _shown(pickle.loads(data)) == _shown(error):  # noqa: S301
            return data
    return None


def _shown(error: BaseException) -> TracebackException:
    """Return what is shown of an exception but for lines of code, which take long to mark."""
    return TracebackException.from_exception(error, lookup_lines=False)


def pickled_for_any(error: BaseException, *, with_locals: bool) -> bytes:
    """Pickle it as one that is shown like it, and that any process can read."""
    try:
        return _dumps(error, is_plain=True, with_locals=with_locals)
    except Exception:
        # A chain of exceptions may be too long.
        return pickle.dumps(WorkerError("".join(traceback.format_exception(error))))


def _dumps(error: BaseException, **how: bool) -> bytes:
    file = io.BytesIO()
    _Pickler(file, **how).dump(error)
    return file.getvalue()


class _Pickler(pickle.Pickler):
    """Pickles exceptions with their tracebacks; as what any process can read if it `is_plain`."""

    def __init__(self, file: io.BytesIO, *, is_plain: bool, with_locals: bool) -> None:
        super().__init__(file)
        self._is_plain = is_plain
        self._with_locals = with_locals

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, TracebackType):
            return _traceback, (_frames(obj, with_locals=self._with_locals),)
        if not isinstance(obj, BaseException):
            return NotImplemented
        return _reduced(obj) if self._is_plain else pickle_exception(obj)


def _reduced(error: BaseException) -> tuple[Any, ...]:
    """Tell pickle to make an exception anew, or one that is shown like it."""
    kind, text = type(error), str(_shown(error))
    base = next(one for one in kind.__mro__ if one.__module__ == "builtins")
    arguments: tuple[Any, ...] = ()
    if isinstance(error, BaseExceptionGroup):
        arguments = (error.message, error.exceptions)
    elif base is kind and _is_plain(reduced := error.__reduce__()[1]):
        arguments = cast("tuple[Any, ...]", reduced)
    state = (
        *(error.__cause__, error.__context__, error.__suppress_context__),
        *(error.__traceback__, [str(note) for note in notes_of(error)]),
    )
    if base is kind and arguments and str(kind(*arguments)) == text:
        return kind, arguments, state, None, None, _set_state
    if issubclass(base, SyntaxError):
        # It would be shown with the line that it is about.
        base = Exception
    names = (str(kind.__module__), kind.__qualname__)
    return _stand_in, (base, *names, text, arguments), state, None, None, _set_state


def notes_of(error: BaseException) -> list[Any]:
    """List the notes of an exception as they are shown; a test may have set anything."""
    notes = getattr(error, "__notes__", None)
    if isinstance(notes, list | tuple):
        return [*notes]
    return [] if notes is None else [repr(notes)]


def _is_plain(value: Any) -> bool:
    """Whether a value is made of builtin types alone, which any process can read."""
    with suppress(ValueError):
        return bool(marshal.dumps(value))
    return False


def _stand_in(
    base: type[BaseException], module: str, name: str, text: str, arguments: tuple[Any, ...]
) -> BaseException:
    """Return an exception that is shown as one of a class that this process does not have."""
    kind = named(base, module, name)
    kind.__str__ = lambda _: text  # type: ignore[method-assign]
    return kind.__new__(kind, *arguments)


def named(base: type[BaseException], module: str, name: str) -> type[BaseException]:
    """Return a class of exceptions that is shown with this name."""
    attributes = {"__module__": module, "__qualname__": name}
    return type(name.rpartition(".")[2], (base,), attributes)


def _set_state(error: BaseException, state: tuple[Any, ...]) -> None:
    cause, context, suppresses, tb, notes = state
    error.__cause__, error.__context__, error.__traceback__ = cause, context, tb
    error.__suppress_context__ = suppresses
    for note in notes:
        error.add_note(note)


def _frames(tb: TracebackType, *, with_locals: bool) -> list[tuple[Any, ...]]:
    """List where the frames of a traceback are, as `_traceback` takes them."""
    nothing = BaseException()
    shown = TracebackException(
        BaseException, nothing, tb, lookup_lines=False, capture_locals=with_locals
    )
    return [
        (
            *(one.filename, one.name, one.lineno, one.end_lineno, one.colno, one.end_colno),
            one.locals,
        )
        for one in shown.stack
    ]


def _traceback(frames: list[tuple[Any, ...]]) -> TracebackType | None:
    """Return a traceback that is shown like one with these frames, with marks below the code.

    Those that `tblib` makes know lines alone.
    """
    tb: TracebackType | None = None
    for filename, name, line, end_line, column, end_column, shown in reversed(frames):
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
            values = {variable: Text(text) for variable, text in (shown or {}).items()}
            eval(code, {}, values)  # noqa: S307
        except NameError as error:
            found = error.__traceback__ and error.__traceback__.tb_next
            assert found is not None
            tb = TracebackType(tb, found.tb_frame, found.tb_lasti, found.tb_lineno)
    return tb
