"""`--isolation database`: stock Django's clone databases with this package's settings."""

import pytest

from ..project import SERIAL, Mode, Project, each_start

pytestmark = pytest.mark.oldest

TESTS = """
    from helpers.seeds import Given

    class First(Given, TestCase):
        def test_worker(self):
            worker = schema_runner.current_worker()
            ((database, marker),) = query("SELECT current_database(), to_regclass('marker')")
            self.assertEqual((worker.database, worker.schema), (database, "public"))
            self.assertEqual(worker.schemas, {"default": "public"})
            record("is", database=database, marker=marker)
    class Second(First): pass

    class Committed(TransactionTestCase):
        serialized_rollback = True
        def test_rows_come_back(self):
            self.assertEqual(Author.objects.count(), 2)
            Author.objects.create(name="gone")

        test_rows_come_back_again = test_rows_come_back
"""


def used_databases(
    project: Project, *arguments: str, method: str = "fork"
) -> set[tuple[str, str | None]]:
    """Run tests; list the workers' databases, each with the name of a marker table."""
    project.forget()
    project.run(*arguments, env={"START_METHOD": method}).passed()
    return {(line["database"], line["marker"]) for line in project.records("is")}


@each_start
def test_databases_are_kept_and_reused(project: Project, mode: Mode, method: str) -> None:
    """--keepdb works as in stock Django, and all other settings apply."""
    project.seed()
    project.tests(TESTS)
    # In the serial case, ISOLATION comes from the settings, and one process needs no clone.
    if mode == SERIAL:
        project.configure('SCHEMA_RUNNER["ISOLATION"] = "database"')
    arguments = ("--isolation", "database", *mode) if mode else ()
    places = [f"{project.test_name}{suffix}" for suffix in (("_1", "_2") if mode else ("",))]
    found = used_databases(project, *arguments, "--keepdb", method=method)
    assert found
    assert found <= {(name, None) for name in places}
    assert project.databases() == sorted({project.test_name, *places})
    for name in project.databases():
        assert project.schemas(name) == {}
        with project.host(name) as connection:
            connection.execute("CREATE TABLE marker ()")
    found = used_databases(project, *arguments, "--keepdb", method=method)
    assert found
    assert found <= {(name, "marker") for name in places}
    used_databases(project, *arguments, "--noinput")
