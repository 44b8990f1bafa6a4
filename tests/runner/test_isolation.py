"""`--isolation database` is stock Django's way, with our settings."""

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


def used(project: Project, *arguments: str, method: str = "fork") -> set[tuple[str, str | None]]:
    """Run tests; list the databases of the workers, each with the name of a planted table."""
    project.forget()
    project.run(*arguments, env={"START_METHOD": method}).passed()
    return {(line["database"], line["marker"]) for line in project.records("is")}


@each_start
def test_databases_are_kept_and_used_again(project: Project, mode: Mode, method: str) -> None:
    """As by stock Django, tables of others included; all our other settings count."""
    project.seed()
    project.tests(TESTS)
    # SCHEMA_RUNNER["ISOLATION"] is the option's default, and one process needs no clone.
    if mode == SERIAL:
        project.configure('SCHEMA_RUNNER["ISOLATION"] = "database"')
    arguments = ("--isolation", "database", *mode) if mode else ()
    places = [f"{project.test_name}{suffix}" for suffix in (("_1", "_2") if mode else ("",))]
    found = used(project, *arguments, "--keepdb", method=method)
    assert found
    assert found <= {(name, None) for name in places}
    assert project.databases() == sorted({project.test_name, *places})
    for name in project.databases():
        assert project.schemas(name) == {}
        with project.host(name) as connection:
            connection.execute("CREATE TABLE marker ()")
    found = used(project, *arguments, "--keepdb", method=method)
    assert found
    assert found <= {(name, "marker") for name in places}
    used(project, *arguments, "--noinput")
