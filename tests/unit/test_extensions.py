import pytest
from psycopg import sql

from schema_runner.database import extensions
from schema_runner.database.extensions import (
    extension_drop,
    with_schema,
    without_drops,
)

HSTORE = "CREATE EXTENSION IF NOT EXISTS hstore SCHEMA s"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("CREATE EXTENSION hstore", HSTORE),
        ("CREATE EXTENSION IF NOT EXISTS hstore", HSTORE),
        ("create  extension\n\"uuid-ossp\" WITH SCHEMA public VERSION '1.1' CASCADE;",
         "CREATE EXTENSION IF NOT EXISTS \"uuid-ossp\" SCHEMA s VERSION '1.1' CASCADE;"),
        ("CREATE EXTENSION x WITH CASCADE", "CREATE EXTENSION IF NOT EXISTS x SCHEMA s CASCADE"),
        ('SELECT 1; CREATE EXTENSION hstore SCHEMA "My s"; SELECT 2',
         f"SELECT 1; {HSTORE}; SELECT 2"),
        ("DO $$ BEGIN CREATE EXTENSION hstore; END $$", f"DO $$ BEGIN {HSTORE}; END $$"),
        ("CREATE EXTENSION Fixed", "CREATE EXTENSION IF NOT EXISTS Fixed"),
        ("CREATE TABLE extension (id int)", "CREATE TABLE extension (id int)"),
    ],
)  # fmt: skip
def test_extensions_are_created_in_the_common_schema(statement: str, expected: str) -> None:
    """The first worker creates it; for the others it exists already."""
    assert with_schema(statement, "s", fixed={"fixed"}) == expected


def test_in_public_the_project_s_schema_is_kept() -> None:
    for given in (" SCHEMA app", " WITH SCHEMA app CASCADE"):
        statement = f"CREATE EXTENSION IF NOT EXISTS x{given}"
        assert with_schema(statement, "public", fixed=()) == statement
    assert with_schema("CREATE EXTENSION x", "public", fixed=()).endswith("x SCHEMA public")


def test_extensions_of_others_are_not_dropped() -> None:
    """Extensions that others created are removed from DROP EXTENSION; the rest stays."""
    statement = 'SELECT 1; DROP EXTENSION IF EXISTS A, "B" CASCADE; drop extension c; SELECT 2'
    assert without_drops(statement, {"x"}) == statement
    assert without_drops(statement, {"a", "c"}) == (
        'SELECT 1; DROP EXTENSION IF EXISTS "B" CASCADE;'
        " DROP EXTENSION IF EXISTS kept_for_other_workers; SELECT 2"
    )


def test_created_and_dropped_names_are_parsed() -> None:
    created, dropped = extensions.created_extensions, extensions.dropped_extensions
    assert created('CREATE EXTENSION A; create extension "B ""q"""') == ["a", 'B "q"']
    assert created("SELECT 'no extension'") == []
    assert dropped('DROP EXTENSION IF EXISTS A, "B" CASCADE; drop extension c') == ["a", "B", "c"]
    assert extension_drop("drop\nextension if exists hstore") == "drop extension if exists hstore"
    statement = sql.SQL("DROP EXTENSION {}").format(sql.Identifier("hstore"))
    assert extension_drop(statement) == 'DROP EXTENSION "hstore"'
    assert extension_drop("DROP TABLE extension") is None
    assert extension_drop(None) is None
