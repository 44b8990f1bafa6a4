"""Reference data and worker set-up."""

import pytest

from ..project import Project

pytestmark = pytest.mark.oldest

MODES = [(), ("--parallel", "2")]

TESTS = """
    class Given(TestCase):
        def test_rows_are_there_and_sequences_continue(self):
            names = dict(Author.objects.values_list("id", "name"))
            self.assertEqual(names, {7: "from a fixture", 20: "from a seeder"})
            self.assertGreater(Author.objects.create(name="next").id, 20)


    class AndInTheOtherWorker(Given):
        pass


    class Committed(TransactionTestCase):
        serialized_rollback = True

        def test_rows_are_there(self):
            self.assertEqual(Author.objects.count(), 2)

        def test_they_come_back(self):
            self.assertEqual(Author.objects.count(), 2)
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
        from library.models import Author


        def seed(using):
            Author.objects.using(using).create(id=20, name="from a seeder")
        """,
    )
    project.configure(
        'SCHEMA_RUNNER = {"FIXTURES": ["authors"], "SEEDERS": ["library.seeds.seed"]}'
    )
    return project


@pytest.mark.parametrize("mode", MODES)
def test_reference_data_is_in_every_worker_s_schema(
    seeded: Project, mode: tuple[str, ...]
) -> None:
    """Fixtures and seeders, with sequences past their rows."""
    seeded.tests(TESTS)
    seeded.run(*mode).passed()


def test_a_seeder_that_fails_ends_the_run(seeded: Project) -> None:
    """With the seeder's own error; nothing is left."""
    seeded.write("library/seeds.py", "def seed(using):\n    raise ValueError('no seeds')\n")
    seeded.tests(TESTS)
    result = seeded.run("--parallel", "2")
    assert result.code == 1
    assert "ValueError: no seeds" in result.stderr
    assert seeded.databases() == []


def test_a_fixture_that_does_not_exist_ends_the_run(seeded: Project) -> None:
    """With Django's own message."""
    seeded.configure('SCHEMA_RUNNER = {"FIXTURES": ["nowhere"]}')
    seeded.tests(TESTS)
    result = seeded.run()
    assert result.code == 1
    assert "CommandError: No fixture named 'nowhere' found." in result.stderr
    assert seeded.databases() == []


SMALL = """

    class Small(Given):
        databases = {"default", "small"}
"""
SET_UP = """
    from django.conf import settings


    def isolate(worker):
        settings.MEDIA_ROOT = f"/media/{worker.number}/{worker.schema}"


    class Unpicklable(Exception):
        def __init__(self, worker, reason):
            super().__init__(f"worker {worker} {reason}")


    def fail(worker):
        raise Unpicklable(worker.number, "cannot start")
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("mode", MODES)
def test_worker_setup_runs_in_each_worker(
    project: Project, mode: tuple[str, ...], method: str
) -> None:
    """Once, before the first test, with the worker as its argument."""
    project.write("setup.py", SET_UP)
    project.configure('SCHEMA_RUNNER = {"WORKER_SETUP": ["setup.isolate"]}')
    project.tests(
        """
        import schema_runner
        from django.conf import settings


        class A(TestCase):
            def test_media(self):
                worker = schema_runner.current_worker()
                self.assertEqual(settings.MEDIA_ROOT, f"/media/{worker.number}/{worker.schema}")


        class B(A):
            pass


        class C(A):
            pass
        """
    )
    project.run(*mode, env={"START_METHOD": method}).passed()


@pytest.mark.parametrize("mode", MODES)
def test_a_worker_that_cannot_be_set_up_ends_the_run(
    project: Project, mode: tuple[str, ...]
) -> None:
    """It is not started over and over; the run ends with the error and cleans up."""
    project.write("setup.py", SET_UP)
    project.configure(
        """
        SCHEMA_RUNNER = {"WORKER_SETUP": ["setup.fail"]}
        DATABASES["small"] = {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": "small.sqlite3",
            "TEST": {"NAME": "test_small.sqlite3"},
        }
        """
    )
    project.tests(TESTS + SMALL)
    result = project.run(*mode)
    assert result.code == 1
    assert "cannot start" in result.stderr
    assert project.databases() == []
    assert not list(project.folder.glob("test_small*"))
