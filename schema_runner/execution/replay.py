"""Telling a result of a test that is over, as if it took place just then."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from .sql_log import EVENT, show_sql, wants_sql

# What a Django suite does with an event of one of its subsuites.
HandleEvent = Callable[[Any, Any, tuple[Any, ...]], object]


class Replay:
    """The events of a test that took `seconds`."""

    def __init__(self, test: Any, events: Iterable[tuple[Any, ...]], seconds: float) -> None:
        self._tests, self._events = _Only(test), list(events)
        measured = [event[2] for event in self._events if event[0] == "addDuration"]
        self._seconds = measured[0] if measured else seconds

    def tell(self, result: Any, handle_event: HandleEvent) -> None:
        for event in self._events:
            before = _attributes(result) if event[0] == "startTest" else None
            if event[0] == EVENT:
                show_sql(result, event[-1])
            else:
                handle_event(result, self._tests, event)
            if before is not None:
                self._set_back(result, before)
        if wants_sql(result):
            # Else what comes next might be shown with it, though it is of another worker.
            show_sql(result, "")

    def _set_back(self, result: Any, before: dict[str, Any]) -> None:
        """Set back the time at which a test began, for a result that measures time itself."""
        for name, value in _attributes(result).items():
            if value is before.get(name):
                continue
            if isinstance(value, float):
                setattr(result, name, value - self._seconds)
            elif isinstance(value, datetime):
                setattr(result, name, value - timedelta(seconds=self._seconds))


def _attributes(result: Any) -> dict[str, Any]:
    return dict(getattr(result, "__dict__", {}))


class _Only:
    """The tests of a subsuite where all that is told is about one of them."""

    def __init__(self, test: Any) -> None:
        self._test = test

    def __getitem__(self, _index: int) -> Any:
        return self._test
