"""PostGIS, by GeoDjango's own backend."""

import pytest

from ..digest import digest
from ..project import STOCK, Project

MODES = [("--testrunner", STOCK), (), ("--parallel", "2")]
IDS = ["stock", "serial", "parallel"]

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
    from django.contrib.gis.db import models
    from django.db import migrations


    class Migration(migrations.Migration):
        initial = True
        operations = [
            migrations.CreateModel(
                name="Author",
                fields=[
                    ("id", models.BigAutoField(primary_key=True, serialize=False)),
                    ("name", models.CharField(max_length=100, unique=True)),
                    ("home", models.PointField(srid=4326)),
                ],
            ),
            migrations.CreateModel(
                name="Book",
                fields=[
                    ("id", models.BigAutoField(primary_key=True, serialize=False)),
                    ("title", models.CharField(max_length=100)),
                    ("setting", models.PolygonField(geography=True, null=True)),
                    (
                        "route",
                        models.LineStringField(dim=3, null=True, spatial_index=False, srid=3857),
                    ),
                ],
            ),
        ]
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
            index = constraints["library_author_home_" + self.suffix(constraints)]
            self.assertEqual((index["type"], index["columns"]), ("gist", ["home"]))

        def suffix(self, constraints):
            (name,) = (name for name in constraints if "_home_" in name)
            return name.removeprefix("library_author_home_")


    class First(Queries, TestCase):
        pass


    class Second(Queries, TestCase):
        pass


    class Third(Queries, TransactionTestCase):
        def test_inspection(self):
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_schema()")
                (own,) = cursor.fetchone()
                cursor.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '^test_w'")
                others = {name for (name,) in cursor.fetchall()} - {own}
                decoys = [] if own == "public" else [("public", "POLYGON,3857")]
                decoys += [(other, "LINESTRING,3857") for other in others]
                for schema, geometry in [*decoys, (own, "POINT,4326")]:
                    cursor.execute(
                        f"CREATE TABLE {schema}.decoy (id int PRIMARY KEY,"
                        f" place geometry({geometry}), round geography({geometry[:-5]}))"
                    )
                    self.addCleanup(self.drop, schema)
            output = StringIO()
            call_command("inspectdb", "decoy", stdout=output)
            self.assertIn("    place = models.PointField(", output.getvalue())
            self.assertIn("    round = models.PointField(geography=True", output.getvalue())
            for other in ("Polygon", "LineString", "GeometryField"):
                self.assertNotIn(other, output.getvalue())

        def drop(self, schema):
            with connection.cursor() as cursor:
                cursor.execute(f"DROP TABLE {schema}.decoy")


    class Fourth(TransactionTestCase):
        def test_flushed(self):
            self.assertEqual(Author.objects.count() + Book.objects.count(), 0)
            with connection.cursor() as cursor:
                cursor.execute("SELECT count(*) > 1000 FROM spatial_ref_sys")
                self.assertEqual(cursor.fetchone(), (True,))
"""


@pytest.fixture
def gis(project: Project) -> Project:
    project.configure(
        """
        INSTALLED_APPS.append("django.contrib.gis")
        DATABASES["default"]["ENGINE"] = "django.contrib.gis.db.backends.postgis"
        """
    )
    project.write("library/models.py", MODELS)
    project.write("library/migrations/0001_initial.py", MIGRATION)
    project.tests(TESTS)
    return project


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_a_spatial_project(gis: Project, mode: tuple[str, ...]) -> None:
    """Geometries, distances and indexes; inspection of a schema sees that schema's columns."""
    result = gis.run(*mode).passed()
    assert "uses clone databases" not in result.output


@pytest.mark.parametrize("is_there", [True, False], ids=["there", "not there"])
def test_a_spatial_project_s_own_database(gis: Project, is_there: bool) -> None:
    """PostGIS is used where it is, or is there for as long as the run."""
    gis.create_database()
    installed = "SELECT extname, extnamespace::regnamespace::text FROM pg_extension ORDER BY 1"
    with gis.host(gis.name) as connection:
        if is_there:
            connection.execute("CREATE EXTENSION postgis")
        connection.execute("CREATE TABLE library_author (id int, home text)")
        before = digest(connection), connection.execute(installed).fetchall()
    for mode in MODES[1:]:
        gis.run(*mode, "--host-database", "current").passed()
        with gis.host(gis.name) as connection:
            assert (digest(connection), connection.execute(installed).fetchall()) == before
    gis.drop_database()
