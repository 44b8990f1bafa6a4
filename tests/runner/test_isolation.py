"""`--isolation database` is stock Django's way, with our settings."""

import pytest

from ..project import SERIAL, Mode, Project, each_start

pytestmark = pytest.mark.oldest

TESTS = """
    from django.conf import settings

    class Given(TestCase):
        def test_reference_data(self):
            names = dict(Author.objects.values_list("id", "name"))
            self.assertEqual(names, {7: "from a fixture", 20: "from a seeder"})
            self.assertGreater(Author.objects.create(name="next").id, 20)

        def test_worker(self):
            worker = schema_runner.current_worker()
            ((database, marker),) = query("SELECT current_database(), to_regclass('marker')")
            self.assertEqual((worker.database, worker.schema), (database, "public"))
            self.assertEqual(worker.schemas, {"default": "public"})
            self.assertEqual(settings.MEDIA_ROOT, f"/media/{worker.number}")
            record("is", database=database, marker=marker)

    class Alike(Given): pass

    class Committed(TransactionTestCase):
        serialized_rollback = True

        def test_rows_come_back(self): Author.objects.create(name="gone")

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

        def seed(using): Author.objects.using(using).get_or_create(id=20, name="from a seeder")
        def isolate(worker): settings.MEDIA_ROOT = f"/media/{worker.number}"
        """,
    )
    settings = {"FIXTURES": ["authors"], "SEEDERS": ["library.seeds.seed"]}
    settings["WORKER_SETUP"] = ["library.seeds.isolate"]
    project.configure(f"SCHEMA_RUNNER = {settings}")
    project.tests(TESTS)
    return project


def used(project: Project, *arguments: str, method: str = "fork") -> set[tuple[str, str | None]]:
    """Run tests; list the databases of the workers, each with the name of a planted table."""
    project.forget()
    project.run(*arguments, env={"START_METHOD": method}).passed()
    return {(line["database"], line["marker"]) for line in project.records("is")}


@each_start
def test_databases_are_kept_and_used_again(seeded: Project, mode: Mode, method: str) -> None:
    """As by stock Django, tables of others included; all our other settings count.

    SCHEMA_RUNNER["ISOLATION"] is the option's default, and one process needs no clone.
    """
    if mode == SERIAL:
        seeded.configure('SCHEMA_RUNNER["ISOLATION"] = "database"')
    arguments = ("--isolation", "database", *mode) if mode else ()
    places = [f"{seeded.test_name}_{worker}" for worker in (1, 2)] if mode else [seeded.test_name]
    found = used(seeded, *arguments, "--keepdb", method=method)
    assert found
    assert found <= {(name, None) for name in places}
    assert seeded.databases() == sorted({seeded.test_name, *places})
    for name in seeded.databases():
        with seeded.host(name) as connection:
            connection.execute("CREATE TABLE marker ()")
            ours = connection.execute("SELECT FROM pg_namespace WHERE nspname ~ '^test_'")
            assert ours.rowcount == 0
    found = used(seeded, *arguments, "--keepdb", method=method)
    assert found
    assert found <= {(name, "marker") for name in places}
    used(seeded, *arguments, "--noinput")
