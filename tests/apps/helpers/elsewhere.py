"""Other connections to the database than the one that a test's thread has."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

from django.db import connections

T = TypeVar("T")


def in_a_thread(function: Callable[[], T]) -> T:
    """Call it in another thread, and close the connections that it has there."""

    def call() -> T:
        try:
            return function()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def answers(alias: str, statement: str) -> list[Any]:
    """Return the value that this connection gives, another thread's, and a copy."""
    with closing(connections[alias].copy()) as copy:
        copied = _ask(copy, statement)
    threaded = in_a_thread(lambda: _ask(connections[alias], statement))
    return [_ask(connections[alias], statement), threaded, copied]


def _ask(connection: Any, statement: str) -> Any:
    # In a transaction, which is of the isolation level that the settings name.
    connection.set_autocommit(False)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone()[0]
    finally:
        connection.rollback()
        connection.set_autocommit(True)
