"""Bad input gets one clear error, a non-zero exit, and nothing is lost."""

import re
from collections.abc import Iterator

import pytest

from ..digest import digest
from ..project import Project

pytestmark = pytest.mark.oldest

TESTS = "class Any(TestCase):\n    def test_it(self):\n        pass\n"


def refused(project: Project, *arguments: str, saying: str, stdin: str = "") -> None:
    result = project.run(*arguments, stdin=stdin)
    assert result.code != 0
    assert saying in result.stderr
    assert "Traceback" not in result.stderr
    assert "Ran " not in result.stderr


@pytest.mark.parametrize(
    ("setting", "saying"),
    [
        ('{"STRATEGIES": 1}', "Unknown key in SCHEMA_RUNNER: STRATEGIES. The keys are FING"),
        ('{"STRATEGY": "copy"}', "use one of 'template', 'migrate'"),
        ('{"ISOLATION": "table"}', "use one of 'schema', 'database'"),
        ('{"FIXTURES": "authors"}', 'SCHEMA_RUNNER["FIXTURES"] must be a list of strings.'),
        ('{"SEEDERS": ["no.where"]}', "'no.where', which cannot be imported"),
        ('{"WORKER_SETUP": ["no.where"]}', "'no.where', which cannot be imported"),
    ],
)
def test_a_wrong_setting(project: Project, setting: str, saying: str) -> None:
    """Found before anything is created."""
    project.configure(f"SCHEMA_RUNNER = {setting}")
    project.tests(TESTS)
    refused(project, saying=saying)


@pytest.fixture
def precious(project: Project) -> Project:
    """A project whose TEST NAME is its NAME, with rows in that database."""
    project.create_database()
    with project.host(project.name) as connection:
        connection.execute("CREATE TABLE precious (n int); INSERT INTO precious VALUES (1)")
    project.configure(f'DATABASES["default"]["TEST"] = {{"NAME": {project.name!r}}}')
    project.tests(TESTS)
    return project


@pytest.mark.parametrize("flags", [(), ("--noinput",), ("--keepdb",), ("--parallel", "2")])
def test_test_name_equal_to_name(precious: Project, flags: tuple[str, ...]) -> None:
    """Stock Django with --noinput would drop the database with its rows; this refuses."""
    with precious.host(precious.name) as connection:
        before = digest(connection)
    refused(precious, *flags, saying="tests would remove what is in it", stdin="yes\n")
    with precious.host(precious.name) as connection:
        assert digest(connection) == before
    precious.drop_database()


def test_test_name_equal_to_name_that_does_not_exist(project: Project) -> None:
    """There is nothing to lose: the database is made, marked and removed, every time."""
    project.configure(f'DATABASES["default"]["TEST"] = {{"NAME": {project.name!r}}}')
    project.tests(TESTS)
    project.run().passed()
    project.run("--keepdb").passed()
    assert project.databases() == [project.name]
    project.run().passed()
    assert project.databases() == []


def test_a_failing_migration_where_test_name_is_name(project: Project) -> None:
    """What it has made until then is nobody's, and does not keep the next run from working."""
    project.configure(f'DATABASES["default"]["TEST"] = {{"NAME": {project.name!r}}}')
    project.migration("0002_more", "0001_initial", 'migrations.RunSQL("SELECT 1 / 0")')
    project.tests(TESTS)
    assert "division by zero" in project.run().stderr
    assert project.databases() == []


@pytest.mark.parametrize("schema", ["public", "app"])
def test_a_marked_database_that_somebody_has_used(project: Project, schema: str) -> None:
    """Where TEST NAME is NAME, what was put into a kept database is not removed either."""
    project.configure(f'DATABASES["default"]["TEST"] = {{"NAME": {project.name!r}}}')
    project.tests(TESTS)
    project.run("--keepdb").passed()
    with project.host(project.name) as connection:
        connection.execute(
            f"CREATE SCHEMA IF NOT EXISTS {schema}; CREATE TABLE {schema}.precious (n int)"
        )
    refused(project, "--noinput", saying="tests would remove")
    with project.host(project.name) as connection:
        connection.execute(f"SELECT FROM {schema}.precious")
    project.drop_database()


def test_what_is_put_into_the_project_s_database_during_a_run_stays(project: Project) -> None:
    """A database that did not exist when the run began may be in use when it ends."""
    project.configure(f'DATABASES["default"]["TEST"] = {{"NAME": {project.name!r}}}')
    project.tests(
        """
        class Using(TransactionTestCase):
            def test_it(self):
                with connection.cursor() as cursor:
                    cursor.execute("CREATE TABLE public.precious (n int)")
        """
    )
    result = project.run().passed()
    assert "stays: it has table public.precious" in result.stdout
    with project.host(project.name) as connection:
        connection.execute("SELECT FROM public.precious")
    project.drop_database()


def test_another_alias_s_database(project: Project) -> None:
    """A test database with the name of some other database in DATABASES is that database."""
    project.create_database(project.test_name)
    with project.host() as connection:
        connection.execute("CREATE TABLE precious (n int)")
    project.configure(
        f'DATABASES["other"] = {{**DATABASES["default"], "NAME": {project.test_name!r}}}'
    )
    project.tests(TESTS)
    refused(project, "--noinput", saying="tests would remove what is in it")
    with project.host() as connection:
        connection.execute("SELECT FROM precious")
    project.drop_database(project.test_name)


def test_a_database_that_is_not_ours_is_asked_about(project: Project) -> None:
    """With stock Django's prompt; "no" leaves it, "yes" and --noinput replace it."""
    project.tests(TESTS)
    project.create_database(project.test_name)
    with project.host() as connection:
        connection.execute("CREATE TABLE from_stock ()")
    result = project.run(stdin="no\n")
    assert result.code == 1
    assert "Type 'yes' if you would like to try deleting the test database" in result.stdout
    assert "Tests cancelled." in result.stderr
    with project.host() as connection:
        connection.execute("SELECT FROM from_stock")
    project.run(stdin="yes\n").passed()
    assert project.databases() == []
    project.create_database(project.test_name)
    project.run("--noinput", "--parallel", "2").passed()


def test_keepdb_does_not_build_upon_a_database_that_is_not_ours(project: Project) -> None:
    """What stock Django's --keepdb has left is asked about like any other."""
    project.tests(TESTS)
    project.create_database(project.test_name)
    result = project.run("--keepdb", stdin="no\n")
    assert result.code == 1
    assert "Type 'yes' if you would like to try deleting the test database" in result.stdout
    project.drop_database(project.test_name)


def test_a_server_that_does_not_answer(project: Project) -> None:
    """One error that names the setting, without the password."""
    project.configure(
        """
        DATABASES["default"] |= {"HOST": "127.0.0.1", "PORT": "1", "PASSWORD": "s3cret"}
        """
    )
    project.tests(TESTS)
    result = project.run()
    assert result.code == 1
    assert "check DATABASES" in result.stderr
    assert "Traceback" not in result.stderr
    assert "s3cret" not in result.output


def test_no_right_to_create_databases(project: Project) -> None:
    """Stock Django's exit code, and what to do: the GRANT, or `current` mode."""
    role = f"{project.name}_poor"
    with project.maintenance() as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")
    project.configure(f'DATABASES["default"]["USER"] = {role!r}')
    project.tests(TESTS)
    try:
        result = project.run()
        assert result.code == 2
        assert "permission denied to create database" in result.stderr
        assert "--host-database current" in result.stderr
        assert f'ALTER ROLE "{role}" CREATEDB;' in result.stderr
        assert "Traceback" not in result.stderr
    finally:
        with project.maintenance() as connection:
            connection.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize(
    ("arguments", "saying"),
    [
        (("--isolation", "table"), "--isolation: invalid choice: 'table' (choose from"),
        (("--host-database", "mine"), "--host-database: invalid choice: 'mine' (choose from"),
    ],
)
def test_an_unknown_choice(project: Project, arguments: tuple[str, ...], saying: str) -> None:
    """The command line's own error, which lists the choices."""
    project.tests(TESTS)
    refused(project, *arguments, saying=saying)


CLONES_IN_CURRENT = "give --isolation schema or --host-database test"


@pytest.mark.parametrize("key", ["isolation", "host_database"])
def test_clone_databases_beside_the_project_s(project: Project, key: str) -> None:
    """`current` allows no other database; one of the two can come from the settings."""
    values = {"isolation": "database", "host_database": "current"}
    value = values.pop(key)
    ((other, choice),) = values.items()
    project.configure(f"SCHEMA_RUNNER = {{{key.upper()!r}: {value!r}}}")
    project.tests(TESTS)
    refused(project, f"--{other.replace('_', '-')}", choice, saying=CLONES_IN_CURRENT)


def test_the_command_line_settles_what_settings_contradict(project: Project) -> None:
    """Workers go by what the run has settled, not by the settings alone."""
    project.configure('SCHEMA_RUNNER = {"ISOLATION": "database", "HOST_DATABASE": "current"}')
    project.tests(TESTS + "\n\nclass Alike(Any):\n    pass\n")
    refused(project, "--parallel", "2", saying=CLONES_IN_CURRENT)
    project.run("--parallel", "2", "--host-database", "test").passed()


def test_a_fixture_that_does_not_exist(project: Project) -> None:
    """Found before migrating, and named together with the setting."""
    project.configure('SCHEMA_RUNNER = {"FIXTURES": ["nowhere"]}')
    project.migration(
        "0002_tells",
        "0001_initial",
        "migrations.RunPython(lambda apps, editor: open('migrated', 'w').close())",
    )
    project.tests(TESTS)
    project.create_database()
    for mode in [(), ("--isolation", "database"), ("--host-database", "current")]:
        refused(project, *mode, saying="No fixture named 'nowhere' found. Correct SCHEMA_RUNNER")
        assert project.databases() == [project.name]
    assert not (project.folder / "migrated").exists()
    project.drop_database()


def test_a_server_that_is_too_old(project: Project) -> None:
    """For the project's own database backend, which may need a newer one than Django does."""
    project.write(
        "oldbackend/base.py",
        """
        from django.db.backends.postgresql import base, features


        class Features(features.DatabaseFeatures):
            minimum_database_version = (99,)


        class DatabaseWrapper(base.DatabaseWrapper):
            features_class = Features
        """,
    )
    project.configure('DATABASES["default"]["ENGINE"] = "oldbackend"')
    project.tests(TESTS)
    project.create_database()
    for mode in [(), ("--host-database", "current")]:
        refused(project, *mode, saying="this version of Django needs 99 or later. Use a newer")
    with project.host(project.name) as connection:
        assert connection.execute(SCHEMAS).fetchall() == []
    assert project.databases() == [project.name]
    project.drop_database()


SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'test%'"


@pytest.fixture
def crowded(project: Project) -> Iterator[Project]:
    """A project of five test classes, whose role may open four connections."""
    role = f"{project.name}_crowded"
    with project.maintenance() as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN CREATEDB CONNECTION LIMIT 4")
    project.configure(f'DATABASES["default"]["USER"] = {role!r}')
    project.tests(TESTS + "".join(f"\n\nclass Any{n}(Any):\n    pass\n" for n in range(4)))
    yield project
    with project.maintenance() as connection:
        connection.execute(f"DROP ROLE {role}")


def test_more_workers_than_connections(crowded: Project) -> None:
    """The remedy that is named is followed, and helps."""
    refused(crowded, "--parallel", "5", saying="workers need at least 5. Run with --parallel")
    assert crowded.databases() == []
    remedy = re.search(r"Run with (--parallel) ([1-9])", crowded.run("--parallel", "5").stderr)
    assert remedy is not None
    crowded.run(*remedy.groups()).passed()
    with crowded.maintenance() as connection:
        connection.execute(f"ALTER ROLE {crowded.name}_crowded CONNECTION LIMIT 2")
    refused(crowded, saying="has 0 connections left")
    with crowded.maintenance() as connection:
        connection.execute(f"ALTER ROLE {crowded.name}_crowded SUPERUSER")
    # Such a limit does not bind a superuser.
    crowded.run("--parallel", "5").passed()


def test_more_workers_than_the_database_takes(crowded: Project) -> None:
    """In `current` mode the project's database can have a limit of its own."""
    role = f"{crowded.name}_crowded"
    with crowded.maintenance() as connection:
        connection.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")
        connection.execute(f"CREATE DATABASE {crowded.name} OWNER {role} CONNECTION LIMIT 5")
    mode = ("--host-database", "current", "--parallel")
    refused(crowded, *mode, "5", saying="workers need at least 5. Run with --parallel")
    with crowded.host(crowded.name) as connection:
        assert connection.execute(SCHEMAS).fetchall() == []
    crowded.run(*mode, "2").passed()
    crowded.drop_database()
