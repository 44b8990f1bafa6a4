"""Tests that tell what is in their worker's schema: tests/runner/test_template.py reads it."""

import json
import os
from typing import Any

from django.db import connection

import schema_runner
from schema_runner.postgres import catalog

from . import FOLDER, meet, query

# Populated tables, sequences and views; `quoted` for statements that read them.
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


class Telling:
    """A mixin of tests, one of which each process tells of."""

    query = staticmethod(query)

    def meet(self, number: int, name: str = "here") -> None:
        meet(name, number)

    def tell(self, **more: Any) -> None:
        worker = schema_runner.current_worker()
        assert worker
        ((schema, database),) = query("SELECT current_schema(), current_database()")
        assert (worker.schema, worker.database) == (schema, database)
        told = {"number": worker.number, "schema": schema, "database": database, **more}
        (FOLDER / f"told-{os.getpid()}").write_text(json.dumps(told))

    def contents(self) -> dict[str, list[str]]:
        return {
            name: sorted(map(str, query(_CONTENTS[kind].format(quoted))))
            for name, quoted, kind in query(_RELATIONS)
        }

    def structure(self) -> str:
        ((schema,),) = query("SELECT current_schema()")
        return catalog.digest(connection.connection, schema)
