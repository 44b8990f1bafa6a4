"""Rows that are inserted again have the keys that they had."""

from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from schema_runner.postgres import rows
from schema_runner.postgres.adoption import keys_adopted
from schema_runner.postgres.copies import Copies
from schema_runner.postgres.server import Connection
from schema_runner.postgres.structure import version
from schema_runner.postgres.template import set_path

TABLES = """
    CREATE SCHEMA w; CREATE SCHEMA aside; SET search_path = w;
    CREATE TABLE kind (id serial PRIMARY KEY, "the name" text UNIQUE,
                       long text GENERATED ALWAYS AS ("the name" || '!') STORED);
    CREATE TABLE thing (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind int REFERENCES kind,
                        note text);
    INSERT INTO kind ("the name") SELECT 'kind ' || n FROM generate_series(1, 5) n;
    INSERT INTO thing (kind, note) SELECT id, 'same' FROM kind, generate_series(1, 2);
    SELECT setval('kind_id_seq', 100)
"""


ALL = 'SELECT t.id, k.id, "the name" FROM thing t JOIN kind k ON k.id = kind ORDER BY 1'


@pytest.fixture
def place(rolled_back: Connection) -> Iterator[Connection]:
    rolled_back.execute(TABLES)
    set_path(rolled_back, "w", ["public"])
    before = version(rolled_back, "w")
    yield rolled_back
    # Nothing of it is left.
    assert version(rolled_back, "w") == before
    query = "SELECT relname FROM pg_class WHERE relnamespace = 'aside'::regnamespace"
    assert all(name.startswith("rows_") for (name,) in rolled_back.execute(query))
    query = "SELECT proname FROM pg_proc WHERE pronamespace = 'aside'::regnamespace"
    assert rolled_back.execute(query).fetchall() == []


def adopted(place: Connection) -> AbstractContextManager[None]:
    copies = Copies.make(place, "aside", "w", rows.tables_with_rows(place, "w"))
    return keys_adopted(place, "w", "aside", copies)


def test_keys_are_those_of_equal_rows(place: Connection) -> None:
    """So what refers to them is equal too; of several that are, each is taken once."""
    before = place.execute(ALL).fetchall()
    with adopted(place):
        place.execute("TRUNCATE kind, thing")
        place.execute(
            """INSERT INTO kind ("the name") SELECT 'kind ' || n FROM generate_series(5, 1, -1) n;
               INSERT INTO thing (kind, note)
               SELECT id, 'same' FROM kind, generate_series(1, 2)"""
        )
    assert place.execute(ALL).fetchall() == before


def test_others_have_new_ones(place: Connection) -> None:
    """And a key that is chosen by whoever inserts stays that."""
    with adopted(place):
        place.execute("TRUNCATE kind, thing")
        place.execute("""INSERT INTO kind ("the name") VALUES ('another')""")
        place.execute("""INSERT INTO kind (id, "the name") VALUES (50, 'kind 1')""")
    found = place.execute('SELECT id, "the name" FROM kind ORDER BY id').fetchall()
    assert found == [(50, "kind 1"), (101, "another")]


def test_keys_that_are_taken_are_left(place: Connection) -> None:
    """Where an equal row is there already, another is inserted as it is."""
    with adopted(place):
        place.execute("INSERT INTO thing (kind, note) VALUES (1, 'same')")
    assert len(place.execute(ALL).fetchall()) == 11
