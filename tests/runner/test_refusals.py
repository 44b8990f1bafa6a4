"""Invalid input causes one clear error and a non-zero exit code, and nothing is lost."""

import re
from collections.abc import Iterator

import pytest

from ..digest import digest
from ..project import PARALLEL, SERIAL, Mode, Project, Result
from .test_roles import roles

pytestmark = pytest.mark.oldest

TESTS = "class Any(TestCase):\n    def test_it(self): pass\n"
CURRENT = ("--host-database", "current")


def refused(project: Project, *arguments: str, saying: str, stdin: str = "") -> Result:
    result = project.run(*arguments, stdin=stdin)
    assert result.code != 0
    assert saying in result.stderr
    assert "Traceback" not in result.stderr
    assert "Ran " not in result.stderr
    return result


# Settings, arguments, error. tests/unit/test_settings.py has the errors of single settings.
CLONES_IN_CURRENT = "Use --isolation schema or --host-database test"
WRONG: list[tuple[str, Mode, str]] = [
    (
        '{"STRATEGIES": 1}',
        (),
        "in SCHEMA_RUNNER: 'STRATEGIES'. Did you mean 'STRATEGY'?",
    ),
    ('{"ISOLATION": "table"}', (), "Valid values: 'schema', 'database'."),
    ('{"WORKER_SETUP": ["no.where"]}', (), "'no.where', which cannot be imported"),
    ("{}", ("--isolation", "table"), "--isolation: invalid choice: 'table' (choose from"),
    ("{}", ("--host-database", "mine"), "--host-database: invalid choice: 'mine' (choose from"),
    *(
        ("{}", (f"--{option}={text}",), f"argument --{option}: must be {takes}, not {text!r}\n")
        for option, texts, takes in (
            ("retries", ("-1", "x", "1.5"), "an integer, 0 or greater"),
            ("test-timeout", ("0", "x", "nan"), "a positive number of seconds"),
        )
        for text in texts
    ),
    ('{"ISOLATION": "database"}', CURRENT, CLONES_IN_CURRENT),
    ('{"HOST_DATABASE": "current"}', ("--isolation", "database"), CLONES_IN_CURRENT),
    ('{"ISOLATION": "database", "HOST_DATABASE": "current"}', PARALLEL, CLONES_IN_CURRENT),
]


@pytest.mark.parametrize(("setting", "arguments", "saying"), WRONG)
def test_a_wrong_setting(
    shared_project: Project, setting: str, arguments: Mode, saying: str
) -> None:
    """The error comes before anything is created. Errors of options are argparse's."""
    shared_project.tests(TESTS)
    shared_project.configure(f"SCHEMA_RUNNER = {setting}")
    result = refused(shared_project, *arguments, saying=saying)
    assert result.code == (2 if ": error: argument --" in result.stderr else 1)
    assert shared_project.databases() == []


def test_options_override_contradictory_settings(project: Project) -> None:
    """Workers use the resolved options of the run, not the settings alone."""
    project.configure('SCHEMA_RUNNER = {"ISOLATION": "database", "HOST_DATABASE": "current"}')
    project.tests(f"{TESTS}class Alike(Any): pass\n")
    project.run(*PARALLEL, "--host-database", "test").passed()


@pytest.fixture
def same(project: Project) -> Project:
    """A project whose TEST NAME is its NAME."""
    project.configure(f'DATABASES["default"]["TEST"] = {{"NAME": {project.name!r}}}')
    project.tests(TESTS)
    return project


def test_test_name_equal_to_name(same: Project) -> None:
    """The run refuses to start. Stock Django with --noinput would drop the project's database."""
    same.create_database()
    with same.host(same.name) as connection:
        connection.execute("CREATE TABLE precious (n int); INSERT INTO precious VALUES (1)")
        before = digest(connection)
        for flags in ((), ("--noinput",), ("--keepdb",), PARALLEL):
            refused(same, *flags, saying="tests would remove its contents", stdin="yes\n")
            assert digest(connection) == before
    same.drop_database()


def test_test_name_equal_to_name_that_does_not_exist(same: Project) -> None:
    """The database is created, marked and dropped by every run."""
    same.run().passed()
    same.run("--keepdb").passed()
    assert same.databases() == [same.name]
    same.run("--clear-pools").passed()
    assert same.databases() == []
    # A run with a failing migration drops it too, so that the next run can work.
    same.migration("0002_more", "0001_initial", 'migrations.RunSQL("SELECT 1 / 0")')
    assert "division by zero" in same.run().stderr


def test_a_marked_database_in_use(same: Project) -> None:
    """If TEST NAME is NAME, a kept database that contains other objects is not dropped."""
    same.run("--keepdb").passed()
    with same.host(same.name) as connection:
        for schema in ("public", "app"):
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
            connection.execute(f"CREATE TABLE {schema}.precious (n int)")
            refused(same, "--noinput", "--clear-pools", saying="tests would remove")
            connection.execute(f"DROP TABLE {schema}.precious")
    same.drop_database()


def test_objects_created_during_a_run_stay(same: Project) -> None:
    """The run created the database, but it is in use when the run ends."""
    same.tests(
        "class Using(TransactionTestCase):\n"
        "    def test_it(self): query('CREATE TABLE public.precious (n int)')\n"
    )
    result = same.run().passed()
    assert "is not dropped: it contains table public.precious" in result.stdout
    with same.host(same.name) as connection:
        connection.execute("SELECT FROM public.precious")
    same.drop_database()


def test_the_database_of_another_alias(project: Project) -> None:
    """The test database has the name of another database in DATABASES."""
    project.create_database(project.test_name)
    other = f'{{**DATABASES["default"], "NAME": {project.test_name!r}}}'
    project.configure(f'DATABASES["other"] = {other}')
    project.tests(TESTS)
    with project.host() as connection:
        connection.execute("CREATE TABLE precious (n int)")
        refused(project, "--noinput", saying="tests would remove its contents")
        connection.execute("SELECT FROM precious")
    project.drop_database(project.test_name)


SPELLINGS: dict[str, dict[str, object]] = {
    "another path": {"HOST": "linked"},
    "a service": {"NAME": "", "HOST": "", "OPTIONS": {"service": "named"}},
    "the environment": {"NAME": "", "HOST": "", "OPTIONS": {"service": "nameless"}},
    # This server cannot be asked, so it may be the same one.
    "a server that does not answer": {"HOST": "127.0.0.1", "PORT": "1"},
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_the_database_of_another_alias_with_other_parameters(
    project: Project, spelling: dict[str, object]
) -> None:
    """The run asks the server which database it is."""
    params = project.server.params
    (project.folder / "linked").symlink_to(params["host"])
    where = "\n".join(f"{key}={params[key]}" for key in ("host", "port", "user"))
    services = f"[nameless]\n{where}\n[named]\n{where}\ndbname={project.test_name}\n"
    (project.folder / "services").write_text(services)
    if spelling["HOST"] == "linked":
        spelling = {"HOST": str(project.folder / "linked")}
    project.configure(
        f'DATABASES["other"] = {{**DATABASES["default"], "NAME": {project.test_name!r},'
        f" **{spelling}}}"
    )
    project.tests(TESTS)
    env = {"PGSERVICEFILE": str(project.folder / "services"), "PGDATABASE": project.test_name}
    project.run(env=env).passed()
    project.create_database(project.test_name)
    project.query("CREATE TABLE precious (n int)")
    project.run("--noinput", env=env).refused("tests would remove its contents")
    project.query("SELECT FROM precious")
    project.drop_database(project.test_name)


MIRRORS = [
    ("{'default'}", {"default": "default"}, "default", "Mirror an alias that has no MIRROR"),
    ("'__all__'", {"one": "two", "two": "one"}, "one", "Mirror an alias that has no MIRROR"),
    # Its NAME would be that of "two" before "two" gets its test database.
    ("'__all__'", {"one": "two", "two": "default"}, "one", "Mirror an alias that has no MIRROR"),
    ("{'one'}", {"one": "default"}, "one", "Add 'default' to the `databases` of the test"),
]


@pytest.mark.parametrize(("databases", "mirrors", "alias", "way_out"), MIRRORS)
def test_a_mirror_without_a_test_database(
    project: Project, databases: str, mirrors: dict[str, str], alias: str, way_out: str
) -> None:
    """In stock Django, such tests use the project's own database."""
    for name, primary in mirrors.items():
        project.configure(
            f"DATABASES[{name!r}] = DATABASES['default'] | {{'TEST': {{'MIRROR': {primary!r}}}}}"
        )
    project.tests(
        "class Any(TransactionTestCase):\n"
        f"    databases = {databases}\n"
        f"    def test_it(self): Author.objects.using({alias!r}).create(name='a')\n"
    )
    for mode in (SERIAL, PARALLEL, ("--isolation", "database")):
        result = project.run(*mode).refused(f"TEST['MIRROR'] of alias {alias!r}", way_out)
        assert f"the project's own database {project.name!r}." in result.stderr
    assert project.databases() == []
    project.configure(f"DATABASES[{alias!r}]['TEST'] = {{'MIRROR': 'defualt'}}")
    project.run().refused(
        "is 'defualt', which is not an alias in DATABASES. Did you mean 'default'?"
    )


def test_an_unmarked_database_causes_a_prompt(project: Project) -> None:
    """Django's prompt appears: "no" leaves the database, "yes" and --noinput replace it."""
    project.tests(TESTS)
    project.create_database(project.test_name)
    with project.host() as connection:
        connection.execute("CREATE TABLE from_stock ()")
    result = project.run(stdin="no\n").failed("Tests cancelled.")
    assert "Type 'yes' if you would like to try deleting the test database" in result.stdout
    with project.host() as connection:
        connection.execute("SELECT FROM from_stock")
    project.run(stdin="yes\n").passed()
    assert project.databases() == []
    project.create_database(project.test_name)
    project.run("--noinput", *PARALLEL).passed()


def test_a_server_that_does_not_answer(project: Project) -> None:
    """One error names the setting, without the password."""
    nowhere = {"HOST": "127.0.0.1", "PORT": "1", "PASSWORD": "s3cret"}
    project.configure(f'DATABASES["default"] |= {nowhere}')
    project.tests(TESTS)
    result = refused(project, saying="Check DATABASES")
    assert result.code == 1
    assert "s3cret" not in result.output


def test_a_role_without_createdb(project: Project) -> None:
    """The exit code is that of stock Django, and the error has the SQL to run."""
    role = f"{project.name}_poor"
    project.configure(f'DATABASES["default"]["USER"] = {role!r}')
    project.tests(TESTS)
    with roles(project, **{role: ""}):
        result = refused(project, saying=f'ALTER ROLE "{role}" CREATEDB;')
    assert result.code == 2
    assert "permission denied to create database" in result.stderr
    assert "--host-database current" in result.stderr


def test_a_fixture_that_does_not_exist(project: Project) -> None:
    """The error comes before migrations, and names the setting."""
    project.configure('SCHEMA_RUNNER = {"FIXTURES": ["nowhere"]}')
    tells = "migrations.RunPython(lambda apps, editor: open('migrated', 'w').close())"
    project.migration("0002_tells", "0001_initial", tells)
    project.tests(TESTS)
    project.create_database()
    for mode in (SERIAL, ("--isolation", "database"), CURRENT):
        refused(project, *mode, saying="No fixture named 'nowhere' found. Correct SCHEMA_RUNNER")
        assert project.databases() == [project.name]
    assert not (project.folder / "migrated").exists()
    project.drop_database()


def test_a_server_that_is_too_old(project: Project) -> None:
    """Third-party backends may require a newer server than Django does."""
    project.write(
        "oldbackend/base.py",
        """
        from django.db.backends.postgresql import base, features

        class DatabaseWrapper(base.DatabaseWrapper):
            class features_class(features.DatabaseFeatures):
                minimum_database_version = (99,)
        """,
    )
    project.configure('DATABASES["default"]["ENGINE"] = "oldbackend"')
    project.tests(TESTS)
    project.create_database()
    for mode in (SERIAL, CURRENT):
        refused(project, *mode, saying="this version of Django needs 99 or later. Use a newer")
    assert project.schemas(project.name) == {}
    assert project.databases() == [project.name]
    project.drop_database()


@pytest.fixture
def crowded(project: Project) -> Iterator[Project]:
    """A project of five test classes, whose role may open ten connections."""
    role = f"{project.name}_crowded"
    project.configure(f'DATABASES["default"]["USER"] = {role!r}')
    project.tests(TESTS + "".join(f"class Any{n}(Any): pass\n" for n in range(4)))
    with roles(project, **{role: "CREATEDB CONNECTION LIMIT 10"}):
        yield project


def allowed(project: Project, *arguments: str) -> tuple[str, int]:
    """Return the line about the number of workers, and the number of clones."""
    result = project.run(*arguments).passed()
    (line,) = re.findall("^--parallel .*$", result.stdout, re.MULTILINE) or [""]
    return line, result.stderr.count("Cloning test database")


def test_more_workers_than_connections(crowded: Project) -> None:
    """The number is limited as with --parallel auto, and one line says so."""
    assert allowed(crowded, "--parallel", "5") == (
        "--parallel 5: 2 workers, because the server has connections left for at most 2.",
        2,
    )
    assert allowed(crowded, "--parallel", "2") == ("", 2)
    with crowded.maintenance() as connection:
        # One connection for the lease, one for the tests.
        connection.execute(f"ALTER ROLE {crowded.name}_crowded CONNECTION LIMIT 2")
        line = "--parallel 5: no workers, because the server has connections left for at most 1."
        assert allowed(crowded, "--parallel", "5") == (line, 0)
        # CONNECTION LIMIT does not apply to superusers.
        connection.execute(f"ALTER ROLE {crowded.name}_crowded SUPERUSER")
    assert allowed(crowded, "--parallel", "5") == ("", 5)
    assert crowded.databases() == []


def test_more_workers_than_connections_to_the_database(crowded: Project) -> None:
    """The project's own database can have its own CONNECTION LIMIT."""
    role = f"{crowded.name}_crowded"
    with crowded.maintenance() as connection:
        connection.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")
        connection.execute(f"CREATE DATABASE {crowded.name} OWNER {role} CONNECTION LIMIT 9")
    line = "--parallel 5: 2 workers, because the server has connections left for at most 2."
    assert allowed(crowded, *CURRENT, "--parallel", "5") == (line, 2)
    assert crowded.schemas(crowded.name) == {}
    crowded.drop_database()
