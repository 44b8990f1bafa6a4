"""Programs that tests start find the worker's schema through PGOPTIONS."""

import pytest

from ..project import Mode, Project, each_mode, fork_and_spawn

OPTIONS = "-c statement_timeout=77s"

# Connect without Django, as psql does, and with Django.
COMMANDS = {
    "asking": """
        import json, psycopg, sys

        with psycopg.connect(**json.loads(sys.argv[1]), autocommit=True) as connection:
            cursor = connection.execute(sys.argv[2])
            print(json.dumps(cursor.fetchall() if cursor.description else []))
    """,
    "library/management/commands/authors.py": """
        from django.core.management.base import BaseCommand
        from library.models import Author

        class Command(BaseCommand):
            def handle(self, **options): print(Author.objects.count(), end="")
    """,
    "library/management/__init__.py": "",
    "library/management/commands/__init__.py": "",
}
SETTINGS = """
    import os
    DEFAULT = DATABASES["default"]
    LEGACY = {**DEFAULT, "NAME": DEFAULT["NAME"] + "_legacy"}
    DATABASES = {"default": {**DEFAULT, "NAME": os.environ.get("DBNAME", DEFAULT["NAME"])},
                 "legacy": LEGACY}
    TEST_RUNNER = "runners.Runner"
    SCHEMA_RUNNER = {"WORKER_SETUP": ["runners.set_up"]}
"""
RUNNERS = """
    import os
    from helpers import record
    from schema_runner import SchemaDiscoverRunner

    def set_up(worker): record("set up", options=os.environ["PGOPTIONS"])

    class Runner(SchemaDiscoverRunner):
        def run_tests(self, *args, **kwargs):
            failures = super().run_tests(*args, **kwargs)
            record("after", options=os.environ.get("PGOPTIONS"))
            return failures
"""
TESTS = """
    import subprocess

    from django.conf import settings

    def run(*arguments, **variables):
        done = subprocess.run([sys.executable, *arguments], env=os.environ | variables,
                              capture_output=True, text=True)
        if done.returncode: raise AssertionError(done.stderr)
        return done.stdout

    def ask(statement, alias="default", **variables):
        params = connections[alias].get_connection_params()
        kept = {key: params[key] for key in ("host", "port", "user", "dbname")}
        return json.loads(run("asking", json.dumps(kept), statement, **variables))

    class Asking(TransactionTestCase):
        def test_a_programs(self):
            Author.objects.create(name="a")
            name = connection.settings_dict["NAME"]
            self.assertEqual(run("manage.py", "authors", DBNAME=name), "1")
            (row,) = ask("SELECT current_schema(), (SELECT count(*) FROM library_author),"
                         " current_setting('statement_timeout')")
            self.assertEqual(row, [schema_runner.current_worker().schema, 1, "77s"])
            ask("INSERT INTO library_author (name) VALUES ('b') RETURNING 1")
            self.assertEqual(Author.objects.count(), 2)
            # With the options of Django's connection, the path is the same.
            options = connection.settings_dict["OPTIONS"]["options"]
            path = ask("SHOW search_path", PGOPTIONS=options)
            self.assertEqual(path, [[*query("SHOW search_path")[0]]])

        def test_b_alters(self):
            query("ALTER TABLE library_book ADD COLUMN IF NOT EXISTS b int")
    class AskingAgain(Asking): pass

    class Legacy(unittest.TestCase):
        def test_other_database(self):
            # Django's connection has the search_path of its database.
            found = query("SHOW search_path", using="legacy")
            self.assertEqual(found, [("old, public",)])
            self.assertEqual(query("SELECT name FROM names", using="legacy"), [("old",)])
            # A program with PGOPTIONS has PostgreSQL's default search_path.
            made = f"made_by_{type(self).__name__}"
            ask(f"CREATE TABLE {made} (id) AS VALUES (1)", "legacy")
            for table in ("mine", f"public.{made}"):
                self.assertEqual(ask(f"SELECT id FROM {table}", "legacy"), [[1]])
    class LegacyToo(Legacy): pass
"""


@pytest.fixture
def with_programs(project: Project) -> Project:
    """A project whose tests start programs, with an alias that has no test database."""
    for path, text in COMMANDS.items():
        project.write(path, text)
    project.write("runners.py", RUNNERS)
    project.configure(SETTINGS)
    project.tests(TESTS)
    return project


@fork_and_spawn
def test_programs_find_the_tables(with_programs: Project, mode: Mode, method: str) -> None:
    """PGOPTIONS contains the worker's search_path, and is restored afterwards."""
    legacy = f"{with_programs.name}_legacy"
    with_programs.create_database(legacy)
    with_programs.query("CREATE SCHEMA old", database=legacy)
    with_programs.query("CREATE TABLE old.names (name) AS VALUES ('old')", database=legacy)
    with_programs.query("CREATE TABLE mine (id) AS VALUES (1)", database=legacy)
    path = f"ALTER DATABASE {legacy} SET search_path = old, public"
    with_programs.query(path, database=legacy)
    env = {"START_METHOD": method, "PGOPTIONS": OPTIONS}
    with_programs.run(*mode, env=env).passed("Ran 6 tests")
    with_programs.drop_database(legacy)
    worker = [line["options"] for line in with_programs.records("set up")]
    assert len(worker) == (2 if mode else 1)
    assert all(options.startswith(f"{OPTIONS} -c search_path=test_w") for options in worker)
    assert [line["options"] for line in with_programs.records("after")] == [OPTIONS]


ALONE = """
    class Unled(TransactionTestCase):
        def test_a(self): self.assertNotIn("PGOPTIONS", os.environ)
        # An altered schema is replaced by another one.
        def test_b_alters(self): query("ALTER TABLE library_book ADD COLUMN IF NOT EXISTS b int")
    class UnledToo(Unled): pass
"""


@each_mode
def test_programs_without_pgoptions(project: Project, mode: Mode) -> None:
    """PGOPTIONS is not set for clone databases, and a project can remove it."""
    unset = """
        import os
        def unset(worker): os.environ.pop("PGOPTIONS", None)
    """
    project.write("unset.py", unset)
    project.tests(ALONE)
    project.run(*mode, "--isolation", "database", "library.test_generated.Unled").passed()
    project.configure('SCHEMA_RUNNER = {"WORKER_SETUP": ["unset.unset"]}')
    project.run(*mode).passed("Ran 4 tests")
