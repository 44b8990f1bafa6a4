"""What a run imports: nothing that it does not use."""

from pathlib import Path

import pytest

from ..project import Project

# Written as the main process ends, and by a test in each worker.
_SETTINGS = """
    import atexit
    import sys
    from pathlib import Path

    def write_modules(name): Path(name).write_text("\\n".join(sys.modules))

    if "manage.py" in sys.argv[0]: atexit.register(write_modules, "modules-of-run")
"""
_TESTS = """
    from settings import write_modules

    class Simple(SimpleTestCase):
        def test_nothing(self): write_modules(f"modules-of-test-{os.getpid()}")

    class Query(TestCase):
        def test_nothing(self):
            self.assertEqual(Author.objects.count(), 0)
            write_modules(f"modules-of-test-{os.getpid()}")
    class Other(Query): pass
"""


def of(package: str, names: str) -> set[str]:
    return {f"{package}.{name}" for name in names.split()}


ENGINE = of("execution", "channel crew diagnosis engine plan process report") | {"statistics"}
REVIEW = of("backend", "guard review source statements")
COPIES = of("postgres", "blueprint contents copies pg_dump pool template")
BUILDS = of("postgres", "pg_dump silence") | {"fingerprint.recording"}
SNAPSHOT = {"postgres.snapshot"}
RESETS = {"backend.resets", "backend.standing", "postgres.reset", "postgres.adoption"}
# What stock Django loads for fixtures, and for serialized_rollback.
LOADING = {"django.core.management.commands.loaddata", "django.core.serializers.xml_serializer"}
KEEPING = {"fingerprint", "reference", *LOADING}
CHOICES = {"execution.arrangement", "foresight.forecast", "foresight.selection"}
CHOICES |= {"foresight.sharding", "foresight.sizing", "shlex"}
DATABASES = {"workspace", "postgres", "backend.assignment", "backend.installation"}


def found(path: Path, names: set[str]) -> set[str]:
    """Return those of the modules that have been imported."""
    modules = set(path.read_text().split())
    return {name for name in names if modules & {name, f"schema_runner.{name}"}}


@pytest.fixture
def written(project: Project) -> Project:
    """A project whose runs start an interpreter, and list what is imported."""
    project.fork_server = None
    project.configure(_SETTINGS)
    project.tests(_TESTS)
    return project


@pytest.mark.parametrize(
    ("label", "unused"),
    [
        ("Simple", {*ENGINE, *REVIEW, *SNAPSHOT, *RESETS, *KEEPING, *CHOICES, *DATABASES}),
        ("Query", {*ENGINE, *REVIEW, *COPIES, *SNAPSHOT, *RESETS, *KEEPING, *CHOICES}),
    ],
)
def test_a_serial_run(written: Project, label: str, unused: set[str]) -> None:
    """Without workers, and without a database where none is used."""
    written.run(f"library.test_generated.{label}").passed()
    assert found(written.folder / "modules-of-run", unused) == set()


def test_a_run_that_finds_all_it_needs(written: Project) -> None:
    """It neither builds, nor copies, nor compares what no transaction has altered."""
    written.configure('SCHEMA_RUNNER = {"SEEDERS": ["library.seeds.seed"]}')
    written.write("library/seeds.py", "def seed(using): pass")
    unused = {*ENGINE, *REVIEW, *SNAPSHOT, *RESETS, *CHOICES, *KEEPING, *BUILDS} - {"fingerprint"}
    # The server itself may commit a transaction in the meantime, as autovacuum does.
    for number in range(5):
        written.run("--keepdb", "library.test_generated.Query").passed()
        assert found(written.folder / "modules-of-run", LOADING) == set()
        imported = found(written.folder / "modules-of-run", unused)
        if number and not imported:
            break
    written.drop_database(written.test_name)
    assert imported == set()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_parallel_run(written: Project, method: str) -> None:
    """A worker that is spawned imports nothing of what the run does before."""
    labels = [f"library.test_generated.{name}" for name in ("Query", "Other")]
    written.run("--parallel", "2", *labels, env={"START_METHOD": method}).passed()
    unused = {*REVIEW, *SNAPSHOT, *RESETS, *KEEPING, "execution.diagnosis", "postgres.pool"}
    assert found(written.folder / "modules-of-run", unused) == set()
    if method == "spawn":
        unused |= {*CHOICES, "execution.supervisor", "execution.crew", "execution.plan"}
        unused |= {"postgres.pg_dump", "workspace", "reporting", "closing", "statistics"}
    workers = list(written.folder.glob("modules-of-test-*"))
    assert workers
    for worker in workers:
        assert found(worker, unused) == set()
