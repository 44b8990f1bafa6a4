"""`--isolation database` is stock Django's way, with our settings."""

import pytest

from ..project import Project

pytestmark = pytest.mark.oldest

METHODS = ["fork", "spawn", "forkserver"]
CLONES = ("--isolation", "database", "--parallel", "2")

TESTS = """
    import os
    from pathlib import Path
    import schema_runner
    from django.conf import settings


    class Given(TestCase):
        def test_reference_data(self):
            names = dict(Author.objects.values_list("id", "name"))
            self.assertEqual(names, {7: "from a fixture", 20: "from a seeder"})
            self.assertGreater(Author.objects.create(name="next").id, 20)

        def test_worker(self):
            worker = schema_runner.current_worker()
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_database(), to_regclass('marker')")
                database, marker = cursor.fetchone()
            self.assertEqual((worker.database, worker.schema), (database, "public"))
            self.assertEqual(worker.schemas, {"default": "public"})
            self.assertEqual(settings.MEDIA_ROOT, f"/media/{worker.number}")
            Path(f"{type(self).__name__}.told").write_text(f"{database} {marker}")


    class Alike(Given):
        pass


    class Committed(TransactionTestCase):
        serialized_rollback = True

        def test_rows_come_back(self):
            Author.objects.create(name="gone")

        def test_rows_come_back_again(self):
            self.assertEqual(Author.objects.count(), 2)
            self.test_rows_come_back()
"""


@pytest.fixture
def seeded(project: Project) -> Project:
    project.write(
        "library/fixtures/authors.json",
        '[{"model": "library.author", "pk": 7, "fields": {"name": "from a fixture"}}]',
    )
    project.write(
        "library/seeds.py",
        """
        from django.conf import settings
        from library.models import Author


        def seed(using):
            Author.objects.using(using).get_or_create(id=20, name="from a seeder")


        def isolate(worker):
            settings.MEDIA_ROOT = f"/media/{worker.number}"
        """,
    )
    project.configure(
        """
        SCHEMA_RUNNER = {
            "FIXTURES": ["authors"],
            "SEEDERS": ["library.seeds.seed"],
            "WORKER_SETUP": ["library.seeds.isolate"],
        }
        """
    )
    project.tests(TESTS)
    return project


def told(project: Project) -> set[tuple[str, ...]]:
    """Return the databases of the workers, each with the name of a table that was planted."""
    return {tuple(path.read_text().split()) for path in project.folder.glob("*.told")}


@pytest.mark.parametrize("method", METHODS)
def test_databases_are_kept_and_used_again(seeded: Project, method: str) -> None:
    """As by stock Django, tables of others included; all our other settings count."""
    clones = [f"{seeded.test_name}_{worker}" for worker in (1, 2)]
    seeded.run(*CLONES, "--keepdb", env={"START_METHOD": method}).passed()
    assert seeded.databases() == [seeded.test_name, *clones]
    assert {database for database, _ in told(seeded)} <= set(clones)
    for name in [seeded.test_name, *clones]:
        with seeded.host(name) as connection:
            connection.execute("CREATE TABLE marker ()")
            ours = connection.execute("SELECT FROM pg_namespace WHERE nspname ~ '^test_'")
            assert ours.rowcount == 0
    seeded.run(*CLONES, "--keepdb", env={"START_METHOD": method}).passed()
    assert {marker for _, marker in told(seeded)} == {"marker"}
    seeded.run(*CLONES, "--noinput").passed()
    assert seeded.databases() == []


def test_the_setting_and_a_serial_run(seeded: Project) -> None:
    """SCHEMA_RUNNER["ISOLATION"] is the option's default, and one process needs no clone."""
    seeded.configure('SCHEMA_RUNNER["ISOLATION"] = "database"')
    seeded.run("--keepdb").passed()
    assert told(seeded) == {(seeded.test_name, "None")}
    with seeded.host() as connection:
        connection.execute("CREATE TABLE marker ()")
    seeded.run("--keepdb").passed()
    assert told(seeded) == {(seeded.test_name, "marker")}
    seeded.run("--noinput").passed()
    assert seeded.databases() == []
