"""Tests that record the contents of their worker's schema, for tests/runner/test_template.py."""

from typing import Any

import catalog
from django.db import connection

import schema_runner

from . import query, record

# Populated tables, sequences and views, with their quoted names.
_RELATIONS = """
    SELECT relname, quote_ident(relname), relkind::text FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relname <> 'django_migrations'
      AND (relkind IN ('r', 'v', 'S') OR relkind = 'm' AND relispopulated)
"""
_CONTENTS = {
    "S": "SELECT last_value, is_called FROM {}",
    "r": "SELECT tableoid::regclass::text, t::text FROM ONLY {} t",
    "v": "SELECT t::text FROM {} t",
    "m": "SELECT t::text FROM {} t",
}


def tell(**more: Any) -> None:
    worker = schema_runner.current_worker()
    assert worker
    ((schema, database),) = query("SELECT current_schema(), current_database()")
    assert (worker.schema, worker.database) == (schema, database)
    record("told", database=database, **more)


def contents() -> dict[str, list[str]]:
    return {
        name: sorted(map(str, query(_CONTENTS[kind].format(quoted))))
        for name, quoted, kind in query(_RELATIONS)
    }


def structure() -> str:
    ((schema,),) = query("SELECT current_schema()")
    return catalog.digest(connection.connection, schema)
