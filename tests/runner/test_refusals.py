"""Bad input gets one clear error, a non-zero exit, and nothing is lost."""

import pytest

from ..digest import digest
from ..project import Project

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
        ('{"STRATEGIES": 1}', "Unknown key in SCHEMA_RUNNER: STRATEGIES. The keys are FIXTURES"),
        ('{"STRATEGY": "copy"}', "use one of 'migrate'"),
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


def test_a_template_with_objects_of_its_own(project: Project) -> None:
    """What a new database has in `public` is neither shared nor dropped: the run refuses."""
    template = f"{project.name}_template"
    project.create_database(template)
    with project.host(template) as connection:
        connection.execute("CREATE TABLE prepared ()")
    project.configure(f'DATABASES["default"]["TEST"] = {{"TEMPLATE": {template!r}}}')
    project.tests(TESTS)
    refused(project, saying="table public.prepared")
    assert project.databases() == [template]
    project.drop_database(template)


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
    """Stock Django's error and exit code."""
    role = f"{project.name}_poor"
    with project.maintenance() as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")
    project.configure(f'DATABASES["default"]["USER"] = {role!r}')
    project.tests(TESTS)
    try:
        result = project.run()
        assert result.code == 2
        assert "permission denied to create database" in result.stderr
    finally:
        with project.maintenance() as connection:
            connection.execute(f"DROP ROLE {role}")
