"""Reference data and worker set-up."""

import pytest

from ..project import PARALLEL, SERIAL, Mode, Project

pytestmark = pytest.mark.oldest

PREPARING = """
    from django.conf import settings

    def seed(using):
        from library.models import Author

        Author.objects.using(using).create(id=20, name="from a seeder")

    def fail_to_seed(using): raise ValueError("no seeds")

    def isolate(worker):
        # Once, and before the first test.
        assert not settings.MEDIA_ROOT
        settings.MEDIA_ROOT = f"/media/{worker.number}/{worker.schema}"

    class Unpicklable(Exception):
        def __init__(self, worker, reason): super().__init__(f"worker {worker} {reason}")

    def fail(worker): raise Unpicklable(worker.number, "cannot start")
"""


@pytest.fixture
def prepared(project: Project) -> Project:
    project.write("preparing.py", PREPARING)
    project.write(
        "library/fixtures/authors.json",
        '[{"model": "library.author", "pk": 7, "fields": {"name": "from a fixture"}}]',
    )
    return project


@pytest.mark.parametrize(
    ("mode", "method"),
    [(SERIAL, "fork"), (PARALLEL, "fork"), (PARALLEL, "spawn")],
    ids=["serial", "fork", "spawn"],
)
def test_every_worker_is_prepared(prepared: Project, mode: Mode, method: str) -> None:
    """Its schema has fixtures and seeders, with sequences past their rows; it is set up once."""
    prepared.configure(
        """
        SCHEMA_RUNNER = {
            "FIXTURES": ["authors"],
            "SEEDERS": ["preparing.seed"],
            "WORKER_SETUP": ["preparing.isolate"],
        }
        """
    )
    prepared.tests(
        """
        from django.conf import settings

        class Given(TestCase):
            def test_rows_are_there_and_sequences_continue(self):
                names = dict(Author.objects.values_list("id", "name"))
                self.assertEqual(names, {7: "from a fixture", 20: "from a seeder"})
                self.assertGreater(Author.objects.create(name="next").id, 20)

            def test_media(self):
                worker = schema_runner.current_worker()
                self.assertEqual(settings.MEDIA_ROOT, f"/media/{worker.number}/{worker.schema}")

        class AndInTheOtherWorker(Given): pass
        class AndOnceMore(Given): pass

        class Committed(TransactionTestCase):
            serialized_rollback = True

            def test_rows_are_there(self): self.assertEqual(Author.objects.count(), 2)

            test_they_come_back = test_rows_are_there
        """
    )
    prepared.run(*mode, env={"START_METHOD": method}).passed()


@pytest.mark.parametrize(
    ("mode", "settings", "error"),
    [
        (PARALLEL, {"SEEDERS": ["preparing.fail_to_seed"]}, "ValueError: no seeds"),
        (SERIAL, {"FIXTURES": ["nowhere"]}, "CommandError: No fixture named 'nowhere' found."),
        # A worker is not started over and over.
        (SERIAL, {"WORKER_SETUP": ["preparing.fail"]}, "cannot start"),
        (PARALLEL, {"WORKER_SETUP": ["preparing.fail"]}, "cannot start"),
    ],
)
def test_what_fails_ends_the_run(
    prepared: Project, mode: Mode, settings: dict[str, list[str]], error: str
) -> None:
    """With the error itself, or Django's own message; nothing is left."""
    prepared.configure(f"SCHEMA_RUNNER = {settings}")
    prepared.configure(
        """
        DATABASES["small"] = {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": "small.sqlite3",
            "TEST": {"NAME": "test_small.sqlite3"},
        }
        """
    )
    prepared.tests(
        """
        class Any(TestCase):
            databases = {"default", "small"}

            def test_it(self): pass

        class Other(Any): pass
        """
    )
    result = prepared.run(*mode)
    assert result.code == 1
    assert error in result.stderr
    assert prepared.databases() == []
    assert not list(prepared.folder.glob("test_small*"))
