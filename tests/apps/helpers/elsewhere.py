"""Database connections other than that of a test's thread."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

from django.db import connections

T = TypeVar("T")


def in_a_thread(function: Callable[[], T]) -> T:
    """Call the function in another thread, and close that thread's connections."""

    def call() -> T:
        try:
            return function()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def answers(alias: str, statement: str) -> list[Any]:
    """Return the values of the statement in this connection, another thread's, and a copy."""
    with closing(connections[alias].copy()) as copy:
        copied = _query_one(copy, statement)
    threaded = in_a_thread(lambda: _query_one(connections[alias], statement))
    return [_query_one(connections[alias], statement), threaded, copied]


def _query_one(connection: Any, statement: str) -> Any:
    # In a transaction, whose isolation level the settings determine.
    connection.set_autocommit(False)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone()[0]
    finally:
        connection.rollback()
        connection.set_autocommit(True)
