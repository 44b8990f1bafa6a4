"""Changes that tests make to the project's own database are prevented or reported."""

import re
import signal
from collections.abc import Iterator
from textwrap import dedent, indent

import pytest

from ..project import PARALLEL, SERIAL, Mode, Project, each_mode
from .decoys import DECOYS, unchanged
from .test_current import execute, role
from .test_keepdb import EXTENSION

pytestmark = pytest.mark.oldest

# Objects of the project's own database that no test may change.
CRM = """
    CREATE SCHEMA crm; CREATE TABLE crm.customer (id serial PRIMARY KEY, name text);
    INSERT INTO crm.customer (name) VALUES ('one'), ('two'), ('three');
    SELECT lo_from_bytea(4711, 'precious');
"""
CULPRIT = "library.test_generated.Culprit0"
# Attack name: test body, and the change that is reported.
ATTACKS = {
    "connect": (
        """
        import psycopg
        where = connection.get_connection_params()
        where = {key: where[key] for key in ("host", "port", "user", "dbname")}
        with psycopg.connect(**where) as opened:
            opened.execute("DELETE FROM crm.customer")
        """,
        "crm.customer: 3 rows deleted",
    ),
    "dbshell": (
        """
        from django.core.management import call_command
        call_command("dbshell", "--", "-c", "UPDATE crm.customer SET name = 'x' WHERE id = 1")
        """,
        "crm.customer: 1 row updated",
    ),
    "dblink": (
        """
        query("CREATE EXTENSION dblink")
        ((where,),) = query("SELECT format('dbname=%s port=%s host=%s user=%s', "
            "current_database(), current_setting('port'), split_part("
            "current_setting('unix_socket_directories'), ',', 1), current_user)")
        query("SELECT test_extensions.dblink_exec(%s, %s)", where,
              "INSERT INTO crm.customer (name) VALUES ('x')")
        query("DROP EXTENSION dblink")
        """,
        "crm.customer: 1 row inserted",
    ),
    "model": (
        """
        from django.db import models
        from django.test.utils import isolate_apps
        with isolate_apps("library"):
            class Customer(models.Model):
                class Meta:
                    app_label, db_table, managed = "library", 'crm"."customer', False
            with connection.schema_editor() as editor:
                editor.delete_model(Customer)
        """,
        "crm.customer: dropped",
    ),
    "orm": (
        """
        query("SET search_path TO public")
        query("DELETE FROM library_book")
        Author.objects.all().delete()
        """,
        "public.library_author: 2 rows deleted",
    ),
    "flush": (
        """
        from django.core.management import call_command
        query("SET search_path TO public")
        call_command("flush", interactive=False, verbosity=0, inhibit_post_migrate=True)
        """,
        "public.library_author: truncated or rewritten",
    ),
    "setting": (
        """
        ((name,),) = query("SELECT current_database()")
        query(f"ALTER DATABASE {name} SET work_mem = '7MB'")
        """,
        "setting work_mem in database ",
    ),
    "role": (
        "query(\"ALTER ROLE CURRENT_USER SET work_mem = '7MB'\")", "setting work_mem of role "
    ),
    "object": ("query(\"SELECT lo_unlink(4711)\")", "large object 4711: dropped"),
    "content": (
        "query(\"SELECT lo_put(4711, 0, 'x')\")", "pg_catalog.pg_largeobject: 1 row updated"
    ),
    "sequence": (
        "query(\"SELECT setval('crm.customer_id_seq', 7)\")",
        "crm.customer_id_seq: changed from 3 to 7",
    ),
    "structure": (
        "query(\"ALTER TABLE crm.customer ALTER name SET DEFAULT 'x'\")", "crm.customer: altered"
    ),
    "objects": (
        "query(\"CREATE SCHEMA more; CREATE TYPE crm.mood AS ENUM ('good')\")",
        "schema more: created",
    ),
}  # fmt: skip


@pytest.fixture
def project(project: Project) -> Iterator[Project]:
    """A project in `current` mode, whose database has tables of the same names."""
    project.configure('SCHEMA_RUNNER = {"HOST_DATABASE": "current"}')
    project.create_database()
    execute(project, DECOYS)
    execute(project, CRM)
    yield project
    project.end()
    project.drop_database()


def suite_of(*bodies: str) -> str:
    """Return one class for each body, with harmless classes before and after them."""
    quiet = "Author.objects.create(name='a')"
    names = ["Before", *(f"Culprit{number}" for number in range(len(bodies))), "Later"]
    case = "class {}(TransactionTestCase):\n    def test_it(self):\n{}\n"
    texts = (indent(dedent(body), " " * 8) for body in (quiet, *bodies, quiet))
    return "".join(map(case.format, names, texts))


@pytest.mark.parametrize("name", ATTACKS)
def test_changes_are_reported(project: Project, name: str) -> None:
    """The change is reported with its class, and fails the run though all tests pass."""
    body, expected_lines = ATTACKS[name]
    project.tests(suite_of(body))
    result = project.run().failed("\nOK\n", expected_lines)
    assert result.stderr.index("\nOK\n") < result.stderr.index("Changed in the project's own")
    when = set(re.findall(r"(?m)^    \S.*: .*, ((?:during|detected) .*)", result.stderr))
    during, at_end = f"during {CULPRIT}", "detected after the tests"
    # Some parts of definitions are compared at the end only, not after each class.
    assert when == {"objects": {during, at_end}, "structure": {at_end}}.get(name, {during})
    assert "No other session was connected" in result.stderr


BOTH = """
    class Culprit0(TransactionTestCase):
        def test_it(self):
            meet("both", 2)
            query("DELETE FROM crm.customer")

    class Other(TransactionTestCase):
        def test_it(self):
            meet("both", 2)
"""


IN_NO_SCHEMA = {
    "ALTER DEFAULT PRIVILEGES IN SCHEMA crm GRANT SELECT ON TABLES TO PUBLIC": "default privileges"
    " (r) of role {user} in schema crm: created",
    "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC": "default privileges (r) of role"
    " {user}: created",
    "CREATE FOREIGN DATA WRAPPER w": "foreign-data wrapper w: created",
    "CREATE SERVER s FOREIGN DATA WRAPPER w": "foreign server s: created",
    "CREATE USER MAPPING FOR PUBLIC SERVER s": "user mapping of public for s: created",
    "CREATE CAST (text AS int) WITH INOUT": "cast text as integer: created",
    "CREATE LANGUAGE more HANDLER plpgsql_call_handler": "language more: created",
    "COMMENT ON DATABASE {name} IS 'theirs'": "database {name}: altered",
}


def test_changes_of_objects_outside_schemas(project: Project) -> None:
    names = {"name": project.name, "user": project.server.params["user"]}
    statements = [statement.format(**names) for statement in IN_NO_SCHEMA]
    project.tests(suite_of("".join(f"query({statement!r})\n" for statement in statements)))
    expected_lines = [
        f"    {text.format(**names)}, during {CULPRIT}" for text in IN_NO_SCHEMA.values()
    ]
    project.run().failed(*expected_lines)
    extension = "query('CREATE EXTENSION postgres_fdw'); query('DROP EXTENSION postgres_fdw')"
    project.tests(suite_of(extension))
    project.run().passed()


@pytest.mark.parametrize("sequence", ["customer_id_seq", "unused"])
def test_a_locked_sequence(project: Project, sequence: str) -> None:
    """An open transaction does not block the run, and uncertain changes are not reported."""
    execute(project, "CREATE SEQUENCE crm.unused")
    project.tests(suite_of("query('DELETE FROM crm.customer')"))
    with project.host(project.name) as developer, developer.transaction():
        developer.execute(f"ALTER SEQUENCE crm.{sequence} RESTART 77")
        # Reading the sequence would block until this transaction ends.
        result = project.run().failed("crm.customer: 3 rows deleted")
    assert "crm.customer_id_seq" not in result.stderr
    assert "crm.unused" not in result.stderr


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_several_workers(project: Project, method: str) -> None:
    """Both classes that ran at the same time are named, but no class before or after them."""
    project.tests(BOTH)
    project.tests(suite_of("pass", "pass"), "test_more")
    arguments = ("--order", "suite", *PARALLEL)
    with project.host(project.name) as developer:
        developer.execute("SET application_name = 'a developer'")
        result = project.run(*arguments, env={"START_METHOD": method}).failed("\nOK\n")
    said = re.findall("crm.customer: 3 rows deleted, during (.*)", result.stderr)
    assert sorted(said[0].split(" or ")) == [CULPRIT, "library.test_generated.Other"]
    assert (
        "Other sessions were connected, and may have made the changes: a developer (role "
        in result.stderr
    )


@pytest.mark.parametrize("mode", [SERIAL, PARALLEL], ids=["serial", "parallel"])
@pytest.mark.parametrize("signals", [0, 1, 2])
def test_an_interrupted_run(project: Project, mode: Mode, signals: int) -> None:
    """Changes are reported also if --failfast or Ctrl-C, once or twice, ends the run early."""
    whom = "os.getppid()" if mode else "os.getpid()"
    ends = f"os.kill({whom}, signal.SIGINT)\n" * signals or "self.fail()\n"
    project.tests(suite_of(f"query('DELETE FROM crm.customer')\n{ends}"))
    result = project.run(*mode, "--failfast", "--order", "suite")
    assert result.code == (128 + signal.SIGINT if signals else 1), result.output
    assert "crm.customer: 3 rows deleted, " in result.stderr
    assert result.stderr.count("Traceback") == (not signals), result.output


HARMLESS = """
    from django.contrib.auth.models import Permission
    from django.core.management import call_command

    class Committing(TransactionTestCase):
        serialized_rollback = True

        def test_rows(self):
            call_command("flush", interactive=False, verbosity=0)
            Author.objects.create(name="a").delete()
            query("CREATE EXTENSION citext")
            query("CREATE TABLE more AS SELECT 'a'::citext")
            query("VACUUM ANALYZE more")
            query("DROP TABLE more; DROP EXTENSION citext")
        def test_reads(self):
            self.assertEqual(query("SELECT count(*) FROM crm.customer"), [(3,)])

    class RolledBack(TestCase):
        def test_rows(self):
            query("INSERT INTO crm.customer VALUES (77, 'x')")
            query("UPDATE crm.customer SET name = 'y'")
            query("DELETE FROM crm.customer WHERE id < 3")
            query("TRUNCATE public.library_book; ALTER TABLE crm.customer ADD more int")
            query("SET search_path = public")
        def test_objects(self):
            query("SELECT lo_unlink(4711), lo_from_bytea(0, 'x')")
            query("CREATE SCHEMA more; CREATE TEMP TABLE customer (n int)")
            query("ALTER ROLE CURRENT_USER SET work_mem = '7MB'")
    class RolledBackToo(RolledBack): pass
"""


@each_mode
def test_a_harmless_suite(project: Project, mode: Mode) -> None:
    """Changes inside worker schemas, and changes that are rolled back, are not reported."""
    project.migration("0002_more", "0001_initial", EXTENSION)
    project.tests(HARMLESS)
    with unchanged(project):
        result = project.run(*mode).passed()
    assert "own database" not in result.output


def test_expected_changes(project: Project) -> None:
    """EXPECTED_CHANGES lists patterns for table names, and for other objects with their kind."""
    expected = ["crm.*", "setting work_mem*", "large object *", "*.pg_largeobject"]
    settings = {"HOST_DATABASE": "current", "EXPECTED_CHANGES": expected}
    project.configure(f"SCHEMA_RUNNER = {settings}")
    project.tests(suite_of(*(ATTACKS[name][0] for name in ("connect", "setting", "object"))))
    assert "own database" not in project.run().passed().output


@pytest.mark.parametrize("cause", ["track_counts is off", "statistics were reset during the run"])
def test_statistics_that_cannot_be_compared(project: Project, cause: str) -> None:
    """One line says so. Changes that show without statistics are still reported."""
    resets = "pass"
    if "reset" in cause:
        resets = "query('SELECT pg_stat_reset()')"
    else:
        execute(project, f"ALTER DATABASE {project.name} SET track_counts = off")
    project.tests(suite_of("query('DELETE FROM crm.customer')", resets))
    result = project.run("--verbosity", "0").passed()
    assert result.stderr.count(cause) == 1
    project.tests(suite_of("query('TRUNCATE crm.customer')", resets))
    project.run().failed("crm.customer: truncated or rewritten", cause)


NAMING = """
    class Customer(models.Model):
        class Meta:
            db_table = 'crm"."customer'
            managed = False

    class Tag(models.Model):
        customers = models.ManyToManyField("Author", db_table='"crm"."tags"')

        class Meta:
            managed = False
"""


def test_models_that_name_a_schema(project: Project) -> None:
    """They are refused before anything is created, unless TRUSTED_MODELS lists them."""
    with (project.folder / "library/models.py").open("a") as models:
        models.write(dedent(NAMING))
    body = "from library.models import Customer\nself.assertEqual(Customer.objects.count(), 3)"
    project.tests(suite_of(body))
    with unchanged(project):
        result = project.run().refused(
            "library.Customer", 'crm"."customer', "library.Tag_customers"
        )
        assert "Ran " not in result.stderr
    trusted = ["library.Customer", "library.Tag_customers"]
    settings = {"HOST_DATABASE": "current", "TRUSTED_MODELS": trusted}
    project.configure(f"SCHEMA_RUNNER = {settings}")
    with unchanged(project):
        project.run().passed()


def test_a_role_without_privileges_on_the_project_s_objects(project: Project) -> None:
    """PostgreSQL refuses each change for lack of privileges."""
    bodies = [body for name, (body, _) in ATTACKS.items() if name not in {"role", "objects"}]
    tries = "try:\n{}\nexcept Exception as error:\n    record('refused', why=str(error))"
    project.tests(suite_of(*(tries.format(indent(dedent(body), "    ")) for body in bodies)))
    with role(project), unchanged(project):
        result = project.run().passed()
    assert "own database" not in result.stderr
    # The dbshell test counts too: its error is that of psql.
    assert len(project.records("refused")) == len(bodies)


def test_a_role_with_few_privileges(project: Project) -> None:
    """Other sessions are named, and changes in tables it cannot read are marked as uncertain."""
    execute(project, "CREATE TABLE crm.log (n int)")
    project.tests(
        """
        class RolledBack(TestCase):
            def test_it(self):
                query("INSERT INTO crm.log VALUES (1)")
        """
    )
    with role(project) as name:
        execute(project, f"GRANT USAGE ON SCHEMA crm TO {name}; GRANT INSERT ON crm.log TO {name}")
        with project.host(project.name) as developer:
            developer.execute("SET application_name = 'a developer'")
            developer.commit()
            result = project.run().failed("crm.log: 1 row inserted (or rolled back), during ")
    assert "may have made the changes: a developer (role " in result.stderr
    assert " (role None)" not in result.stderr
