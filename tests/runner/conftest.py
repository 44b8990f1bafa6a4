"""Projects that count their migrations, or whose own database is in use."""

from collections.abc import Iterator

import pytest

from ..digest import digest
from ..project import Project
from .decoys import DECOYS, unchanged

# Tests that meet, so that each worker runs one, and record the contents of its schema.
SIMPLE = """
    from helpers.telling import contents, tell

    class First(TestCase):
        def test_it(self):
            names = sorted(Author.objects.values_list("name", flat=True))
            self.assertEqual(names, ["of a migration", "of a seeder"])
            self.assertGreater(Author.objects.create(name="new").id, 2)
            meet()
            tell(contents=contents())
    class Second(First): pass
"""


@pytest.fixture(params=["test", "current"])
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def host(project: Project, place: str) -> str:
    """The name of the host database, unless another run uses it."""
    return project.test_name if place == "test" else project.name


@pytest.fixture
def counted(project: Project, place: str) -> Iterator[Project]:
    """A project that counts its migrations, and whose own database must not change."""
    settings = {"HOST_DATABASE": place, "SEEDERS": ["helpers.counting.seed"]}
    project.configure(f'INSTALLED_APPS = ["library"]\nSCHEMA_RUNNER = {settings}')
    migrate = '__import__("helpers.counting", fromlist=["x"]).migrate'
    project.migration("0002_counting", "0001_initial", f"migrations.RunPython({migrate})")
    project.tests(SIMPLE)
    project.create_database()
    with project.host(project.name) as connection:
        connection.execute(DECOYS)
        before = digest(connection)
    yield project
    project.end()
    assert project.databases() == [project.name]
    with project.host(project.name) as connection:
        assert digest(connection) == before
    project.drop_database()


@pytest.fixture
def occupied(project: Project) -> Iterator[Project]:
    """A project whose own database exists and must not change."""
    project.create_database()
    project.query(DECOYS, database=project.name)
    with unchanged(project):
        yield project
    project.drop_database()
