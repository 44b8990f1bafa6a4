"""Schemas in the project's own database, beside what users have there (`current` mode)."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from schema_runner.postgres.server import Connection

from ..digest import digest
from ..project import STOCK, Project, wait_for

pytestmark = pytest.mark.oldest

MODES = [("--testrunner", STOCK), (), ("--parallel", "2")]
IDS = ["stock", "serial", "parallel"]
PARALLEL = ("--parallel", "2")

# What a developer has: tables of the same names with other columns and precious rows, rows that
# say everything is applied, what was left by a feature that is gone, and schemas whose names or
# comments are like ours, but never both.
DECOYS = """
    CREATE TABLE library_author (id serial PRIMARY KEY, name text, precious text);
    CREATE TABLE library_book (id serial PRIMARY KEY, author_id int REFERENCES library_author);
    INSERT INTO library_author (name, precious) VALUES ('mine', 'yes'), ('mine too', 'yes');
    INSERT INTO library_book (author_id) VALUES (1), (2);
    CREATE TABLE library_leftover (n int);
    INSERT INTO library_leftover VALUES (1);
    CREATE TYPE leftover_mood AS ENUM ('good');
    CREATE FUNCTION leftover() RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE VIEW leftover_view AS SELECT n FROM library_leftover;
    CREATE TABLE cache_rows (cache_key text PRIMARY KEY, value text, expires timestamptz);
    INSERT INTO cache_rows VALUES (':1:a', 'mine', '2099-01-01');
    CREATE TABLE django_migrations (
        id bigserial PRIMARY KEY, app text, name text, applied timestamptz DEFAULT now());
    INSERT INTO django_migrations (app, name)
        SELECT 'auth', name FROM unnest(ARRAY[
            '0001_initial', '0002_alter_permission_name_max_length',
            '0003_alter_user_email_max_length', '0004_alter_user_username_opts',
            '0005_alter_user_last_login_null', '0006_require_contenttypes_0002',
            '0007_alter_validators_add_error_messages', '0008_alter_user_username_max_length',
            '0009_alter_user_last_name_max_length', '0010_alter_group_name_max_length',
            '0011_update_proxy_permissions', '0012_alter_user_first_name_max_length']) AS name
        UNION ALL SELECT 'contenttypes', name
        FROM unnest(ARRAY['0001_initial', '0002_remove_content_type_name']) AS name
        UNION ALL SELECT 'library', name
        FROM unnest(ARRAY['0001_initial', '0002_more', '0003_more']) AS name;
    CREATE TABLE django_content_type (id serial PRIMARY KEY, app_label text, model text);
    INSERT INTO django_content_type (id, app_label, model)
        VALUES (1, 'library', 'book'), (77, 'decoy', 'decoy');
    CREATE SCHEMA test_w1_1; CREATE TABLE test_w1_1.mine (n int);
    CREATE SCHEMA test_shims_1; COMMENT ON SCHEMA test_shims_1 IS '{"schema_runner": 2}';
    CREATE SCHEMA mine;
"""
_BESIDE = """
    SELECT 'schema', nspname, nspacl::text, obj_description(oid, 'pg_namespace')
    FROM pg_namespace WHERE nspname !~ '^pg_(toast|temp)'
    UNION ALL SELECT 'extension', extname, extnamespace::regnamespace::text, extversion
    FROM pg_extension
    UNION ALL SELECT 'database', datname, datacl::text, shobj_description(oid, 'pg_database')
    FROM pg_database
    UNION ALL SELECT 'role', rolname, rolconfig::text, rolcreatedb::text FROM pg_roles
    UNION ALL SELECT 'setting', setdatabase::text, setrole::text, setconfig::text
    FROM pg_db_role_setting
    UNION ALL SELECT 'large object', oid::text, '', '' FROM pg_largeobject_metadata
    UNION ALL SELECT 'publication', pubname, '', '' FROM pg_publication
    UNION ALL SELECT 'trigger', evtname, '', '' FROM pg_event_trigger
    UNION ALL SELECT 'default', oid::text, defaclacl::text, '' FROM pg_default_acl
    ORDER BY 1, 2
"""


def state(connection: Connection) -> tuple[object, ...]:
    """Return all of a database and its server that a run could have changed."""
    schemas = [digest(connection, name) for name in ("public", "mine", "test_w1_1")]
    return (connection.execute(_BESIDE).fetchall(), *schemas)


@contextmanager
def unchanged(project: Project) -> Iterator[Project]:
    """Expect the project's own database to be left as it was found."""
    with project.host(project.name) as connection:
        before = state(connection)
    yield project
    project.end()
    with project.host(project.name) as connection:
        assert state(connection) == before


@pytest.fixture
def project(project: Project) -> Project:
    """A project in `current` mode, whose database is in use."""
    project.configure('SCHEMA_RUNNER = {"HOST_DATABASE": "current"}')
    project.create_database()
    execute(project, DECOYS)
    return project


@pytest.fixture
def occupied(project: Project) -> Iterator[Project]:
    """The same, to be left as it was."""
    with unchanged(project):
        yield project
    project.drop_database()


def execute(project: Project, statements: str) -> None:
    with project.host(project.name) as connection:
        connection.execute(statements)


def own_schemas(project: Project) -> list[str]:
    """List the schemas of runs."""
    with project.host(project.name) as connection:
        rows = connection.execute(
            "SELECT nspname FROM pg_namespace"
            " WHERE obj_description(oid, 'pg_namespace') LIKE '{\"schema_runner\": 1,%'"
            " ORDER BY 1"
        )
        return [name for (name,) in rows]


EVERYTHING = """
    import json
    from io import StringIO
    from pathlib import Path

    from django.contrib.contenttypes.models import ContentType
    from django.core.cache import cache
    from django.core.management import call_command
    from django.db import ProgrammingError


    class Isolated(TestCase):
        fixtures = ["authors"]

        def test_rows(self):
            self.assertEqual([a.name for a in Author.objects.all()], ["of a fixture"])
            Book.objects.create(title="t", author=Author.objects.create(name="mine"))

        def test_content_types(self):
            self.assertEqual(ContentType.objects.filter(app_label="decoy").count(), 0)
            self.assertEqual(ContentType.objects.get_for_model(Book).app_label, "library")

        def test_inspectdb(self):
            output = StringIO()
            call_command("inspectdb", include_views=True, stdout=output)
            self.assertIn("class LibraryBook(", output.getvalue())
            self.assertIn("title = ", output.getvalue())
            self.assertNotIn("precious", output.getvalue())
            self.assertNotIn("eftover", output.getvalue())

        def test_cache(self):
            self.assertIsNone(cache.get("a"))
            cache.set("a", "b")
            self.assertEqual(cache.get("a"), "b")

        @tag("bare")
        def test_what_migrations_have_not_made(self):
            with self.assertRaises(ProgrammingError), connection.cursor() as cursor:
                cursor.execute("SELECT n FROM library_leftover")


    class Committing(TransactionTestCase):
        def test_flush(self):
            Author.objects.create(name="a")
            call_command("flush", interactive=False, verbosity=0)
            self.assertEqual(Author.objects.count(), 0)
            self.assertEqual(ContentType.objects.filter(app_label="decoy").count(), 0)

        def test_loaddata(self):
            call_command("loaddata", "authors", verbosity=0)
            self.assertEqual(Author.objects.get().name, "of a fixture")

        def test_createcachetable(self):
            with connection.cursor() as cursor:
                cursor.execute("DROP TABLE cache_rows")
            call_command("createcachetable", verbosity=0)
            self.assertIsNone(cache.get("a"))

        def test_writes(self):
            author = Author.objects.create(name="mine")
            author.delete()
            Author.objects.all().delete()


    @tag("migrating")
    class Migrating(TransactionTestCase):
        def test_migrate(self):
            call_command("migrate", "library", "zero", verbosity=0)
            self.assertNotIn("library_book", connection.introspection.table_names())
            with self.assertRaises(ProgrammingError):
                Author.objects.count()
            with self.assertRaises(ProgrammingError):
                Author.objects.all().delete()
            call_command("migrate", "library", verbosity=0)
            self.assertEqual(Author.objects.count(), 0)


    class Where(SimpleTestCase):
        databases = {"default"}

        def test_it(self):
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT current_schema(), current_database(), current_setting('search_path')"
                )
                with Path("where").open("a") as lines:
                    lines.write(json.dumps(cursor.fetchone()) + "\\n")


    class WhereElse(Where):
        pass
"""


@pytest.fixture
def everything(occupied: Project) -> Project:
    """A project whose tests do all that could reach tables of `public`."""
    occupied.configure(
        """
        CACHES = {"default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache",
                              "LOCATION": "cache_rows"}}
        """
    )
    occupied.write(
        "library/fixtures/authors.json",
        '[{"model": "library.author", "pk": 1, "fields": {"name": "of a fixture"}}]',
    )
    # What is not there for migrations is not there for DROP either.
    occupied.migration(
        "0002_more",
        "0001_initial",
        """
        migrations.RunSQL(
            '''DROP VIEW IF EXISTS leftover_view; DROP TABLE IF EXISTS library_leftover CASCADE;
               DROP TYPE IF EXISTS leftover_mood; DROP FUNCTION IF EXISTS leftover();
               ALTER TABLE IF EXISTS library_leftover ADD COLUMN more int''',
            migrations.RunSQL.noop,
        ),
        """,
    )
    occupied.tests(EVERYTHING)
    return occupied


def where(project: Project) -> list[list[str]]:
    """Return the schema, the database and the path that tests have told of, and forget them."""
    file = project.folder / "where"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.unlink()
    return lines


@pytest.mark.parametrize(
    ("mode", "method"),
    [
        (MODES[0], "fork"),
        ((), "fork"),
        (PARALLEL, "fork"),
        (PARALLEL, "spawn"),
        (PARALLEL, "forkserver"),
        ((*PARALLEL, "--no-migrations", "--exclude-tag", "migrating"), "fork"),
    ],
    ids=[*IDS, "spawn", "forkserver", "no-migrations"],
)
def test_public_is_as_it_was(everything: Project, mode: tuple[str, ...], method: str) -> None:
    """Whatever tests do by the names of their tables, `public` has the same names untouched."""
    result = everything.run(*mode, "--verbosity", "2", env={"START_METHOD": method}).passed()
    if STOCK in mode:
        return
    assert all(
        schema.startswith("test_w") and database == everything.name and "public" not in path
        for schema, database, path in where(everything)
    )
    assert "Destroying test schemas for alias 'default' (" in result.output
    assert "Destroying test database" not in result.output
    assert own_schemas(everything) == []


def test_public_is_as_it_was_though_it_is_on_the_path(everything: Project) -> None:
    """Where an extension is in `public`, so that its tables could be found, they are not."""
    execute(everything, "CREATE EXTENSION hstore")
    (everything.folder / "library/migrations/0002_more.py").unlink()
    everything.run("--exclude-tag", "migrating", "--exclude-tag", "bare").passed()
    assert all(
        path.endswith(",pg_catalog,test_extensions,public") for *_, path in where(everything)
    )
    execute(everything, "DROP EXTENSION hstore")


@pytest.mark.parametrize("mode", [(), PARALLEL], ids=["serial", "parallel"])
def test_keepdb(occupied: Project, mode: tuple[str, ...]) -> None:
    """Schemas are kept and named, and the next run removes them."""
    occupied.tests(SMALL)
    result = occupied.run(*mode, "--keepdb").passed()
    kept = own_schemas(occupied)
    workers = [name for name in kept if name.startswith("test_w")]
    assert len(workers) == (2 if mode else 1)
    for name in workers:
        assert f"Kept schema {name} in database {occupied.name!r}." in result.output
    result = occupied.run(*mode).passed()
    assert f"Removed what an earlier run left in {occupied.name!r}: " in result.stdout
    assert all(name in result.stdout for name in workers)
    assert own_schemas(occupied) == []


SMALL = """
    class Any(TestCase):
        def test_it(self):
            self.assertEqual(Author.objects.count(), 0)
            Author.objects.create(name="a")


    class Alike(Any):
        pass
"""


def test_failures(occupied: Project) -> None:
    """A suite that fails, and a migration that does, leave no more than one that passes."""
    occupied.tests(
        """
        class Failing(TransactionTestCase):
            def test_failure(self):
                Author.objects.create(name="left behind")
                self.fail("as planned")


        class Breaking(TestCase):
            def test_error(self):
                1 / 0
        """
    )
    result = occupied.run(*PARALLEL)
    assert result.code == 1
    assert "FAILED (failures=1, errors=1)" in result.stderr
    assert own_schemas(occupied) == []
    occupied.migration("0002_broken", "0001_initial", "migrations.RunSQL('SELECT 1/0')")
    result = occupied.run(*PARALLEL)
    assert result.code == 1
    assert "division by zero" in result.stderr


# Tests that tell where they are and stay there until a file appears.
WAITING = """
    import os
    import time
    from pathlib import Path


    class First(TestCase):
        def test_it(self):
            with connection.cursor() as cursor:
                # Each run's own, though others hold the same key.
                cursor.execute("SELECT pg_advisory_lock(42)")
                cursor.execute("SELECT current_schema(), 'a=>1'::hstore -> 'a'")
                schema, _ = cursor.fetchone()
            part = Path(f".waiting_{os.getpid()}")
            part.write_text(f"{os.environ.get('GO', 'go')} {schema}")
            part.rename(f"waiting_{os.getpid()}")
            while not Path(os.environ.get("GO", "go")).exists():
                time.sleep(0.02)


    class Second(First):
        pass
"""


@pytest.fixture
def waiting(occupied: Project) -> Project:
    """A project whose tests wait, and need an extension that a migration creates."""
    occupied.migration(
        "0002_more",
        "0001_initial",
        """
        migrations.RunSQL("CREATE EXTENSION hstore"),
        migrations.RunSQL("ALTER TABLE library_book ADD COLUMN tags hstore"),
        """,
    )
    occupied.tests(WAITING)
    return occupied


def wait_until_tests(project: Project, number: int) -> list[list[str]]:
    """Wait until so many processes are in a test; return what they wait for and their schemas."""

    def found() -> list[Path]:
        files = list(project.folder.glob("waiting_*"))
        return files if len(files) == number else []

    files = wait_for(found, f"{number} processes in a test")
    return [file.read_text().split() for file in files]


def extensions(project: Project) -> dict[str, str]:
    """Map the extensions to their schemas."""
    with project.host(project.name) as connection:
        rows = connection.execute(
            "SELECT extname, extnamespace::regnamespace::text FROM pg_extension"
        )
        return dict(rows.fetchall())


def test_runs_at_once(waiting: Project) -> None:
    """They share an extension but no advisory lock, and remove what is left of a killed one."""
    with waiting.host(waiting.name) as developer:
        developer.execute("SELECT pg_advisory_lock(42)")
        killed = waiting.start(env={"GO": "never"})
        live = waiting.start(*PARALLEL)
        places = wait_until_tests(waiting, 3)
        dead_schemas = [schema for go, schema in places if go == "never"]
        live_schemas = [schema for go, schema in places if go == "go"]
        assert extensions(waiting)["hstore"] == "test_extensions"
        killed.kill()
        killed.communicate(timeout=60)
        assert set(dead_schemas + live_schemas) < set(own_schemas(waiting))
        (waiting.folder / "at_once").touch()
        result = waiting.run(env={"GO": "at_once"}).passed()
        assert "stays" not in result.output
        (removed,) = re.findall("Removed .*", result.stdout)
        assert all(schema in removed for schema in dead_schemas)
        assert not any(schema in removed for schema in live_schemas)
        assert set(live_schemas) < set(own_schemas(waiting))
        assert extensions(waiting)["hstore"] == "test_extensions"
        (waiting.folder / "go").touch()
        stdout, stderr = live.communicate(timeout=60)
        assert live.returncode == 0, stdout + stderr
    assert own_schemas(waiting) == []


def test_ctrl_c(waiting: Project) -> None:
    """The first ends the run after the test under way, two at once; both clean up."""
    process = waiting.start()
    wait_until_tests(waiting, 1)
    os.killpg(process.pid, signal.SIGINT)
    (waiting.folder / "go").touch()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "Ran 1 test " in stderr
    assert own_schemas(waiting) == []

    process = waiting.start(*PARALLEL, env={"GO": "never"})
    wait_until_tests(waiting, 3)
    for pause in (1, 30):
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.communicate(timeout=pause)
        except subprocess.TimeoutExpired:
            continue
        break
    assert own_schemas(waiting) == []


@pytest.mark.parametrize(
    "public", ["REVOKE ALL ON SCHEMA public FROM PUBLIC", "DROP SCHEMA public CASCADE"]
)
def test_a_role_that_may_only_create_schemas(project: Project, public: str) -> None:
    """It needs no right on `public`, nor that there is one; stock Django cannot use it."""
    project.migration("0002_more", "0001_initial", EXTENSION)
    project.tests(SMALL)
    with role(project) as name:
        execute(project, f"GRANT CREATE ON DATABASE {project.name} TO {name}; {public}")
        with unchanged(project):
            for mode in MODES[1:]:
                project.run(*mode).passed()
    project.drop_database()


def test_a_role_that_may_not_create_schemas(project: Project) -> None:
    """One error prints the GRANT that it needs, and nothing is made."""
    project.tests(SMALL)
    with role(project) as name, unchanged(project):
        result = project.run(*PARALLEL)
        assert result.code == 1
        assert result.stderr.count(f'GRANT CREATE ON DATABASE "{project.name}" TO "{name}";') == 1
        assert "Traceback" not in result.stderr
        assert "Warning" not in result.stderr
        assert "Ran " not in result.stderr
    project.drop_database()


def test_a_schema_of_somebody_else_where_extensions_would_be(project: Project) -> None:
    """It is not touched; the error says to rename it."""
    execute(project, "CREATE SCHEMA test_extensions")
    project.tests(SMALL)
    with unchanged(project):
        result = project.run()
        assert result.code == 1
        assert "has a schema test_extensions that is not ours" in result.stderr
        assert "Warning" not in result.stderr
    project.drop_database()


@pytest.mark.parametrize(
    ("mode", "setting"),
    [((), "ROLE {role}"), (PARALLEL, "DATABASE {database}"), (PARALLEL, "")],
    ids=["serial, of the role", "parallel, of the database", "parallel, in OPTIONS"],
)
def test_a_search_path_of_the_project_s_own(
    project: Project, mode: tuple[str, ...], setting: str
) -> None:
    """Extensions in its schemas are found; stock Django's databases have no such schemas."""
    execute(
        project,
        """
        CREATE SCHEMA "Extra, own"; GRANT USAGE ON SCHEMA "Extra, own" TO PUBLIC;
        CREATE EXTENSION citext SCHEMA "Extra, own";
        """,
    )
    path = '"Extra, own", public'
    project.migration(
        "0002_more",
        "0001_initial",
        """
        migrations.RunSQL("ALTER TABLE library_author ALTER name TYPE citext"),
        """,
    )
    project.tests(
        """
        class Any(TestCase):
            def test_it(self):
                Author.objects.create(name="Capital")
                self.assertTrue(Author.objects.filter(name="CAPITAL").exists())


        class Alike(Any):
            pass
        """
    )
    with role(project) as name:
        execute(project, f"GRANT CREATE ON DATABASE {project.name} TO {name}")
        if setting:
            where = setting.format(role=name, database=project.name)
            execute(project, f"ALTER {where} SET search_path = {path}")
        else:
            options = "-c search_path=" + path.replace(" ", "\\ ")
            project.configure(f'DATABASES["default"]["OPTIONS"] = {{"options": {options!r}}}')
        with unchanged(project):
            project.run(*mode).passed()
    project.drop_database()


@contextmanager
def role(project: Project) -> Iterator[str]:
    """Have the project use a role that can do nothing but connect to its database."""
    name = f"{project.name}_poor"
    project.configure(f'DATABASES["default"]["USER"] = {name!r}')
    execute(
        project,
        f"""
        CREATE ROLE {name} LOGIN;
        REVOKE ALL ON DATABASE {project.name} FROM PUBLIC;
        GRANT CONNECT ON DATABASE {project.name} TO {name};
        """,
    )
    yield name
    execute(project, f"DROP OWNED BY {name}; DROP ROLE {name}")


EXTENSION = """
    migrations.RunSQL("CREATE EXTENSION hstore"),
    migrations.RunSQL("ALTER TABLE library_book ADD COLUMN tags hstore"),
"""


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_extensions(project: Project, mode: tuple[str, ...]) -> None:
    """Each goes to a schema that workers share, unless `public` has it; with the run it goes."""
    project.migration(
        "0002_more",
        "0001_initial",
        """
        __import__("django.contrib.postgres.operations", fromlist=["x"]).HStoreExtension(),
        migrations.RunSQL("CREATE EXTENSION citext"),
        migrations.RunSQL("CREATE EXTENSION IF NOT EXISTS pg_trgm WITH SCHEMA public"),
        migrations.RunSQL("DO $$ BEGIN CREATE EXTENSION cube; END $$"),
        migrations.RunSQL("CREATE EXTENSION earthdistance; CREATE EXTENSION ltree"),
        migrations.RunSQL(
            '''ALTER TABLE library_book ADD tags hstore, ADD code citext, ADD place earth,
                                        ADD path ltree;
               CREATE INDEX trigrams ON library_book USING gin (title gin_trgm_ops)'''
        ),
        """,
    )
    project.tests(
        """
        import json
        from pathlib import Path

        class Any(TestCase):
            def test_it(self):
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 'a=>1'::hstore -> 'a', 'A' = 'a'::citext")
                    self.assertEqual(cursor.fetchone(), ("1", True))
                    cursor.execute("SELECT extname, extnamespace::regnamespace FROM pg_extension")
                    Path("extensions").write_text(json.dumps(dict(cursor.fetchall())))


        class Alike(Any):
            pass
        """
    )
    execute(project, "CREATE EXTENSION ltree")
    with unchanged(project):
        project.run(*mode).passed()
    if STOCK not in mode:
        found = json.loads((project.folder / "extensions").read_text())
        assert found.pop("ltree") == "public"
        assert found.pop("plpgsql") == "pg_catalog"
        assert set(found) == {"hstore", "citext", "pg_trgm", "cube", "earthdistance"}
        assert set(found.values()) == {"test_extensions"}
    project.drop_database()


def test_an_extension_that_others_use_by_now(project: Project) -> None:
    """It stays, and the run says why; once nobody uses it, a run removes it."""
    project.migration("0002_more", "0001_initial", EXTENSION)
    project.migration("0003_more", "0002_more", "migrations.RunSQL('CREATE EXTENSION citext')")
    project.tests(
        """
        class Using(TransactionTestCase):
            def test_it(self):
                with connection.cursor() as cursor:
                    cursor.execute(
                        "CREATE TABLE IF NOT EXISTS public.precious AS SELECT 'a=>1'::hstore"
                    )
        """
    )
    with unchanged(project):
        result = project.run().passed()
        assert (
            "extension hstore stays: column hstore of table precious depends on" in result.stdout
        )
        assert extensions(project).keys() == {"plpgsql", "hstore"}
        project.run(*PARALLEL).passed()
        with project.host(project.name) as connection:
            rows = connection.execute("SELECT hstore::text FROM precious").fetchall()
            assert rows == [('"a"=>"1"',)]
            connection.execute("DROP TABLE precious")
        project.tests(SMALL)
        result = project.run().passed()
        assert "stays" not in result.output
    project.drop_database()


def test_an_extension_that_somebody_looks_into(project: Project) -> None:
    """The run does not wait for a transaction that is left open; a later one removes it."""
    creates = "migrations.RunSQL('CREATE EXTENSION pg_buffercache')"
    project.migration("0002_more", "0001_initial", creates)
    project.tests(
        """
        from psycopg import connect


        class Looking(SimpleTestCase):
            databases = {"default"}

            def test_it(self):
                parameters = connection.get_connection_params()
                where = {key: parameters[key] for key in ("host", "port", "user", "dbname")}
                # Open until the process ends, and no connection of Django's.
                Looking.developer = connect(**where)
                Looking.developer.execute("LOCK TABLE test_extensions.pg_buffercache")
        """
    )
    with unchanged(project):
        result = project.run().passed()
        assert "extension pg_buffercache stays: " in result.stdout
        assert extensions(project)["pg_buffercache"] == "test_extensions"
        project.tests(SMALL)
        assert "stays" not in project.run().passed().output
    project.drop_database()


def test_reference_data_reaches_no_table_of_the_project_s_own(project: Project) -> None:
    """A model without a migration may have its table in `public`, and that on the path."""
    execute(project, "CREATE EXTENSION citext; ALTER TABLE library_leftover ADD PRIMARY KEY (n)")
    with (project.folder / "library/models.py").open("a") as models:
        models.write(
            "\n\nclass Leftover(models.Model):\n"
            "    n = models.IntegerField(primary_key=True)\n\n"
            "    class Meta:\n"
            "        managed = False\n"
            "        db_table = 'library_leftover'\n"
        )
    row = '[{"model": "library.leftover", "pk": 7, "fields": {}}]'
    project.write("library/fixtures/leftovers.json", row)
    project.write(
        "library/seeds.py",
        """
        from library.models import Leftover


        def seed(using):
            Leftover.objects.using(using).create(n=8)
        """,
    )
    project.tests(SMALL)
    with unchanged(project):
        for key, value in [("FIXTURES", "leftovers"), ("SEEDERS", "library.seeds.seed")]:
            settings = {"HOST_DATABASE": "current", key: [value]}
            project.configure(f"SCHEMA_RUNNER = {settings}")
            result = project.run()
            assert result.code == 1
            assert "A fixture or a seeder would change the project's own " in result.stderr
            assert "Traceback" not in result.stderr
    project.drop_database()


def test_a_stored_call_of_an_advisory_lock(occupied: Project) -> None:
    """It is the same function in the schemas of all workers, whichever was built first."""
    view = "CREATE VIEW busy AS SELECT pg_try_advisory_xact_lock(1) AS mine"
    occupied.migration("0002_more", "0001_initial", f'migrations.RunSQL("{view}")')
    occupied.tests(SMALL)
    occupied.run(*PARALLEL).passed()


def test_review(occupied: Project) -> None:
    """What reaches beyond the schema is listed by file and line before anything is made."""
    occupied.migration(
        "0002_more",
        "0001_initial",
        """
        migrations.RunSQL("SELECT count(*) FROM public.library_author"),
        migrations.RunPython(
            lambda apps, editor: editor.execute("COMMENT ON TABLE public.library_book IS 'x'")
        ),
        """,
    )
    occupied.migration("0003_more", "0002_more", 'migrations.RunSQL("CREATE SCHEMA audit")')
    occupied.migration(
        "0004_more",
        "0003_more",
        """
        migrations.RunSQL("SELECT FROM pg_class WHERE relname = 'library_book'"),
        """,
    )
    occupied.tests(SMALL)
    folder = "  library/migrations"
    result = occupied.run(*PARALLEL)
    assert result.code == 1
    assert [line for line in result.stderr.splitlines() if line.startswith(folder)] == [
        f"{folder}/0002_more.py:7: names the schema public (public.library_author)",
        f"{folder}/0002_more.py:9: names the schema public (public.library_book)",
        f"{folder}/0003_more.py:6: is about the whole database (CREATE SCHEMA)",
    ]
    assert "Creating" not in result.output
    assert "Traceback" not in result.stderr
    trusted = {"HOST_DATABASE": "current", "TRUSTED_MIGRATIONS": ["library.0002_more"]}
    occupied.configure(f"SCHEMA_RUNNER = {trusted}")
    occupied.migration(
        "0002_more",
        "0001_initial",
        'migrations.RunSQL("SELECT count(*) FROM public.library_author")',
    )
    occupied.migration("0003_more", "0002_more", 'migrations.RunSQL("SELECT 1")')
    result = occupied.run(*PARALLEL).passed()
    (warning,) = [line for line in result.stdout.splitlines() if line.startswith("Warning")]
    assert "library/migrations/0004_more.py:7: looks into the catalog" in warning
    assert "pg_class" in warning


# What a migration executes, which does not say that it is about `public`.
REACHING = {
    "a name put together": '"DELETE FROM " + ".".join(["pub" + "lic", "library_book"])',
    "a name in psycopg's SQL": """
        sql.SQL("DELETE FROM {}").format(sql.Identifier("pub" + "lic", "library_book"))
    """,
    "rows by a bare name": '"DELETE FROM library_leftover"',
    "what only looks like a call": """
        'UPDATE library_leftover AS "call" SET n = 2'
    """,
    "a view by a bare name": '"DROP VIEW IF EXISTS leftover_view"',
    "a type by a bare name": '"DROP TYPE IF EXISTS leftover_mood"',
    "a foreign key": '"CREATE TABLE t (n int REFERENCES library_leftover)"',
    "what the catalog has": """
        "DO $$ BEGIN EXECUTE (SELECT 'ALTER TABLE ' || conrelid::regclass || ' DROP CONSTRAINT '"
        " || conname FROM pg_constraint WHERE conname = 'library_book_author_id_fkey'); END $$"
    """,
}

# Refused before they are executed; the others are rolled back.
BY_TEXT = {"a name put together", "a name in psycopg's SQL"}
# The others are autocommitted.
ATOMIC = {"a name put together", "a view by a bare name", "what the catalog has", "a foreign key"}


@pytest.mark.parametrize("case", REACHING)
def test_guard(project: Project, case: str) -> None:
    """What only shows at run time is refused, though an extension keeps `public` on the path."""
    project.write(
        "library/migrations/0002_more.py",
        f"""
        from django.db import migrations
        from psycopg import sql


        def reach(apps, editor):
            with editor.connection.cursor() as cursor:
                cursor.execute({REACHING[case].strip()})


        class Migration(migrations.Migration):
            atomic = {case in ATOMIC}
            dependencies = [("library", "0001_initial")]
            operations = [migrations.RunPython(reach)]
        """,
    )
    project.tests(SMALL)
    execute(project, "CREATE EXTENSION citext; ALTER TABLE library_leftover ADD PRIMARY KEY (n)")
    with unchanged(project):
        result = project.run()
        assert result.code == 1
        assert ("A migration names the schema public" in result.stderr) == (case in BY_TEXT)
        assert "the project's own " in result.stderr
        assert "use --host-database test" in result.stderr
        assert "Traceback" not in result.stderr
    project.drop_database()


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_a_second_build_that_comes_out_different(occupied: Project, mode: tuple[str, ...]) -> None:
    """No database may be made for it, so it is an error that names what differs."""
    occupied.configure('SCHEMA_RUNNER = {"HOST_DATABASE": "current", "STRATEGY": "migrate"}')
    occupied.write(
        "library/migrations/0002_more.py",
        """
        import os
        from pathlib import Path

        from django.db import migrations


        def note(apps, editor):
            Path("second" if Path("first").exists() else "first").write_text(str(os.getpid()))


        class Migration(migrations.Migration):
            dependencies = [("library", "0001_initial")]
            operations = [
                migrations.RunPython(note),
                migrations.RunSQL(
                    '''DO $$ BEGIN
                         IF NOT EXISTS (
                             SELECT FROM pg_constraint WHERE conname = 'no_empty_name'
                         ) THEN
                             ALTER TABLE library_author
                             ADD CONSTRAINT no_empty_name CHECK (name <> \\'\\');
                         END IF;
                       END $$'''
                ),
            ]
        """,
    )
    occupied.tests(
        f"""
        import os
        import time
        from pathlib import Path


        class Any(TestCase):
            def test_it(self):
                second = Path("second")
                while {mode == PARALLEL} and not (second.exists() and second.read_text()):
                    time.sleep(0.01)
                while second.exists():
                    try:
                        os.kill(int(second.read_text()), 0)
                    except ProcessLookupError:
                        break
                    time.sleep(0.01)


        class Alike(TestCase):
            def test_it(self):
                pass
        """
    )
    result = occupied.run(*mode)
    if mode != PARALLEL:
        result.passed()
    else:
        assert result.code == 1
        assert "no_empty_name" in result.stderr
        assert "--host-database test" in result.stderr
        assert "--isolation database" not in result.stderr
        assert "Traceback" not in result.stderr
    assert own_schemas(occupied) == []


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_several_aliases(occupied: Project, mode: tuple[str, ...]) -> None:
    """Those that stock Django gives one database share a schema, and the others have their own."""
    second = f"{occupied.name}_second"
    occupied.create_database(second)
    occupied.configure(
        f"""
        DATABASES["again"] = DATABASES["default"]
        DATABASES["mirror"] = {{**DATABASES["default"], "TEST": {{"MIRROR": "default"}}}}
        DATABASES["apart"] = {{
            **DATABASES["default"], "TEST": {{"NAME": "{occupied.test_name}_a"}}
        }}
        DATABASES["second"] = {{**DATABASES["default"], "NAME": {second!r}}}
        DATABASES["small"] = {{"ENGINE": "django.db.backends.sqlite3", "NAME": "small.sqlite3"}}
        """
    )
    occupied.tests(
        """
        class Any(TransactionTestCase):
            databases = {"default", "again", "mirror", "apart", "second", "small"}

            def test_it(self):
                Author.objects.create(name="a")
                for alias in ("default", "again", "mirror"):
                    self.assertEqual(Author.objects.using(alias).count(), 1)
                for alias in ("apart", "second", "small"):
                    self.assertEqual(Author.objects.using(alias).count(), 0)
                    Author.objects.using(alias).create(name="b")


        class Alike(Any):
            pass
        """
    )
    occupied.run(*mode).passed()
    assert own_schemas(occupied) == []
    with occupied.host(second) as connection:
        rows = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '^test_'")
        assert rows.fetchall() == []
    occupied.drop_database(second)
