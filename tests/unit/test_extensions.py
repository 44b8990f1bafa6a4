import pytest

from schema_runner.backend import extensions
from schema_runner.errors import SchemaRunnerError


def test_dropping_one_that_others_use_is_refused() -> None:
    """With CASCADE it would take columns of other workers' tables along."""
    with pytest.raises(SchemaRunnerError, match="drops an extension"):
        extensions.share(print, "DROP  extension IF EXISTS hstore CASCADE", None, False, {})


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
