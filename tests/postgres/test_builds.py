"""The extensions that the marker `needs` assumes of the tested build."""

import pytest

from schema_runner.postgres.server import Connection

from ..builds import BUILD

EXTENSIONS = "btree_gin btree_gist citext hstore pg_trgm pgcrypto postgis unaccent uuid-ossp"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.needs(name)) for name in EXTENSIONS.split()]
)
def test_a_needed_extension_can_be_created(connection: Connection, name: str) -> None:
    """It is not only listed: its library loads."""
    connection.execute(f'CREATE EXTENSION "{name}"')


def test_extensions_for_which_tests_are_skipped_are_missing(connection: Connection) -> None:
    """If a build gets an extension, the tests that need it must run."""
    rows = connection.execute(
        "SELECT name FROM pg_available_extensions WHERE name = ANY(%s)", [list(BUILD.lacks)]
    )
    assert rows.fetchall() == [], "remove them from `lacks`"
