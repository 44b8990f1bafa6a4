"""PostGIS with GeoDjango's database backend."""

import pytest

from ..project import PARALLEL, Mode, Project, each_runner
from .decoys import unchanged

pytestmark = [pytest.mark.debian, pytest.mark.needs("postgis")]

MODELS = """
    from django.contrib.gis.db import models

    class Author(models.Model):
        name = models.CharField(max_length=100, unique=True)
        home = models.PointField(srid=4326)

    class Book(models.Model):
        title = models.CharField(max_length=100)
        setting = models.PolygonField(geography=True, null=True)
        route = models.LineStringField(srid=3857, dim=3, null=True, spatial_index=False)
"""
MIGRATION = """
    from django.db import migrations
    from helpers.migrations import created
    from library import models

    class Migration(migrations.Migration):
        initial = True
        operations = created(models.Author, models.Book)
"""
TESTS = """
    from io import StringIO
    from django.contrib.gis.geos import LineString, Point, Polygon
    from django.contrib.gis.measure import D
    from django.core.management import call_command

    class Queries:
        def test_distance(self):
            self.assertEqual(Author.objects.count(), 0)
            Author.objects.create(name="near", home=Point(13.4, 52.5, srid=4326))
            Author.objects.create(name="far", home=Point(2.3, 48.9, srid=4326))
            here = Point(13.0, 52.4, srid=4326)
            near = Author.objects.filter(home__dwithin=(here, 1))
            self.assertEqual([author.name for author in near], ["near"])
            author = Author.objects.get(home__bboverlaps=here.buffer(1))
            self.assertEqual((author.home.x, author.home.srid), (13.4, 4326))

        def test_geography(self):
            self.assertEqual(Book.objects.count(), 0)
            square = Polygon.from_bbox((12, 52, 14, 53))
            route = LineString((0, 0, 1), (1, 1, 2), srid=3857)
            Book.objects.create(title="b", setting=square, route=route)
            point = Point(11.99, 52.5, srid=4326)
            for distance, found in ((D(km=1), 1), (D(m=100), 0)):
                books = Book.objects.filter(setting__distance_lte=(point, distance))
                self.assertEqual(books.count(), found)
            self.assertEqual(Book.objects.get().route[1], (1, 1, 2))

        def test_index(self):
            with connection.cursor() as cursor:
                constraints = connection.introspection.get_constraints(cursor, "library_author")
            indexes = [(one["type"], one["columns"]) for name, one in constraints.items()
                       if name.startswith("library_author_home_")]
            self.assertEqual(indexes, [("gist", ["home"])])
    class First(Queries, TestCase): pass
    class Second(Queries, TestCase): pass

    class Third(Queries, TransactionTestCase):
        def test_inspection(self):
            ((own,),) = query("SELECT current_schema()")
            found = query("SELECT nspname FROM pg_namespace WHERE nspname ~ '^test_w'")
            decoys = [] if own == "public" else [("public", "POLYGON,3857")]
            decoys += [(other, "LINESTRING,3857") for (other,) in found if other != own]
            for schema, geometry in [*decoys, (own, "POINT,4326")]:
                query(
                    f"CREATE TABLE {schema}.decoy (id int PRIMARY KEY,"
                    f" place geometry({geometry}), round geography({geometry[:-5]}))"
                )
                self.addCleanup(query, f"DROP TABLE {schema}.decoy")
            output = StringIO()
            call_command("inspectdb", "decoy", stdout=output)
            self.assertIn("    place = models.PointField(", output.getvalue())
            self.assertIn("    round = models.PointField(geography=True", output.getvalue())
            for other in ("Polygon", "LineString", "GeometryField"):
                self.assertNotIn(other, output.getvalue())

    class Fourth(TransactionTestCase):
        def test_flushed(self):
            self.assertEqual(Author.objects.count() + Book.objects.count(), 0)
            self.assertEqual(query("SELECT count(*) > 1000 FROM spatial_ref_sys"), [(True,)])
"""


@pytest.fixture
def gis(project: Project) -> Project:
    project.configure('INSTALLED_APPS.append("django.contrib.gis")')
    backend = "django.contrib.gis.db.backends.postgis"
    project.configure(f'DATABASES["default"]["ENGINE"] = {backend!r}')
    project.write("library/models.py", MODELS)
    project.write("library/migrations/0001_initial.py", MIGRATION)
    project.tests(TESTS)
    return project


@each_runner
def test_a_spatial_project(gis: Project, mode: Mode) -> None:
    """Geometries, distances and indexes work, and introspection sees the worker's columns."""
    result = gis.run(*mode).passed()
    assert "uses clone databases" not in result.output


@pytest.mark.parametrize("is_installed", [True, False], ids=["installed", "not installed"])
def test_the_own_database_of_a_spatial_project(gis: Project, is_installed: bool) -> None:
    """PostGIS is used if the database has it, and otherwise created until the run ends."""
    gis.create_database()
    extension = "CREATE EXTENSION postgis;" if is_installed else ""
    decoy = "CREATE TABLE library_author (id int, home text)"
    gis.query(extension + decoy, database=gis.name)
    with unchanged(gis):
        gis.run(*PARALLEL, "--host-database", "current").passed()
    gis.drop_database()
