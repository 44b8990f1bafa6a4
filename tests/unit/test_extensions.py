import pytest

from schema_runner.backend import extensions


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("CREATE EXTENSION hstore", "CREATE EXTENSION IF NOT EXISTS hstore"),
        ('create  extension\n"uuid-ossp"', 'CREATE EXTENSION IF NOT EXISTS "uuid-ossp"'),
        ("SELECT 1; CREATE EXTENSION x;", "SELECT 1; CREATE EXTENSION IF NOT EXISTS x;"),
        ("CREATE EXTENSION IF NOT EXISTS hstore", "CREATE EXTENSION IF NOT EXISTS hstore"),
        ("CREATE TABLE extension (id int)", "CREATE TABLE extension (id int)"),
    ],
)
def test_creating_an_extension_twice_is_no_error(given: str, sent: str) -> None:
    """Each worker's build runs the migrations, and extensions are shared."""
    statements = []
    extensions.share(lambda statement, *_: statements.append(statement), given, None, False, {})
    assert statements == [sent]
