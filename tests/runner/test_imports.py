"""A run imports only the modules that it uses."""

from pathlib import Path

import pytest

from ..project import Project

# Written when the main process ends, and by a test in each worker.
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


def submodules(package: str, names: str) -> set[str]:
    return {f"{package}.{name}" for name in names.split()}


WORKERS = submodules("workers", "pipes handle process report") | {"statistics"}
WORKERS |= submodules("reruns", "diagnosis probe") | {"scheduling.plan"}
LINT = {"database.write_guard", "migration_lint"}
COPIES = submodules("postgres", "worker_schemas structure_script row_copies pg_dump pool template")
BUILDS = {"postgres.pg_dump", "postgres.reset.triggers", "fingerprint.recording"}
SNAPSHOT = {"postgres.snapshot"}
RESETS = {"flush.resetter", "flush.reset_connection", "postgres.reset.reset"}
# Modules that stock Django loads for fixtures and for serialized_rollback.
LOADING = {"django.core.management.commands.loaddata", "django.core.serializers.xml_serializer"}
KEEPING = {"fingerprint", "fixtures", *LOADING}
CHOICES = submodules("scheduling", "selection durations shards worker_count") | {"shlex"}
DATABASES = {"database.test_database", "database.patching", "postgres.server", "search_path"}


def found(path: Path, names: set[str]) -> set[str]:
    """Return those of the modules that were imported."""
    modules = set(path.read_text().split())
    return {name for name in names if modules & {name, f"schema_runner.{name}"}}


@pytest.fixture
def written(project: Project) -> Project:
    """A project whose runs start an interpreter, and list the modules they imported."""
    project.fork_server = None
    project.configure(_SETTINGS)
    project.tests(_TESTS)
    return project


@pytest.mark.parametrize(
    ("label", "unused"),
    [
        ("Simple", {*WORKERS, *LINT, *SNAPSHOT, *RESETS, *KEEPING, *CHOICES, *DATABASES}),
        ("Query", {*WORKERS, *LINT, *COPIES, *SNAPSHOT, *RESETS, *KEEPING, *CHOICES}),
    ],
)
def test_a_serial_run(written: Project, label: str, unused: set[str]) -> None:
    """Runs without workers, with and without a database."""
    written.run(f"library.test_generated.{label}").passed()
    assert found(written.folder / "modules-of-run", unused) == set()


def test_a_run_with_a_pool(written: Project) -> None:
    """A run with a clean pool neither builds, copies nor compares schemas."""
    written.configure('SCHEMA_RUNNER = {"SEEDERS": ["library.seeds.seed"]}')
    written.write("library/seeds.py", "def seed(using): pass")
    unused = {*WORKERS, *LINT, *SNAPSHOT, *RESETS, *CHOICES, *KEEPING, *BUILDS} - {"fingerprint"}
    # The server may commit a transaction in the meantime, for instance autovacuum.
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
    """A spawned worker does not import modules of the main process."""
    labels = [f"library.test_generated.{name}" for name in ("Query", "Other")]
    written.run("--parallel", "2", *labels, env={"START_METHOD": method}).passed()
    unused = {*LINT, *SNAPSHOT, *RESETS, *KEEPING, "reruns.diagnosis", "postgres.pool"}
    assert found(written.folder / "modules-of-run", unused) == set()
    if method == "spawn":
        unused |= {*CHOICES, "workers.supervisor", "workers.handle", "scheduling.plan"}
        unused |= {"postgres.pg_dump", "database.test_database", "reporting", "run_summary"}
        unused |= {"statistics"}
    workers = list(written.folder.glob("modules-of-test-*"))
    assert workers
    for worker in workers:
        assert found(worker, unused) == set()
