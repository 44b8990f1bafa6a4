"""Projects whose rights, names and passwords are not what a first try would have."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from psycopg import sql

from ..project import STOCK, Project

pytestmark = pytest.mark.oldest

MODES = [("--testrunner", STOCK), (), ("--parallel", "2")]
IDS = ["stock", "serial", "parallel"]
STOCK_PARALLEL = ("--testrunner", STOCK, "--parallel", "2")


@contextmanager
def roles(project: Project, **created: str) -> Iterator[None]:
    """Create roles, by name and options, and drop them afterwards."""
    with project.maintenance() as connection:
        for name, options in created.items():
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN {}").format(sql.Identifier(name), sql.SQL(options))
            )
    try:
        yield
    finally:
        with project.maintenance() as connection:
            for name in created:
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@pytest.fixture
def owned(project: Project) -> Iterator[Project]:
    """A project whose role may create databases and is no superuser."""
    owner = f"{project.name}_owner"
    with roles(project, **{owner: "CREATEDB"}):
        project.configure(f'DATABASES["default"]["USER"] = {owner!r}')
        yield project


AUDIT = """
    migrations.RunSQL("CREATE SCHEMA audit; CREATE TABLE audit.log (entry text)"),
"""
OWNING = """
    import os
    import signal
    import threading


    class Owning(TransactionTestCase):
        def test_rows_and_locks(self):
            self.assertEqual(Author.objects.count(), 0)
            Author.objects.create(name="a")
            with connection.cursor() as cursor:
                cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
                self.assertEqual(cursor.fetchone(), (False,))
                cursor.execute("SELECT pg_try_advisory_lock(1), pg_advisory_unlock(1)")
                self.assertEqual(cursor.fetchone(), (True, True))
                if os.environ.get("AUDIT"):
                    cursor.execute("INSERT INTO audit.log VALUES ('a')")

        def test_again(self):
            self.test_rows_and_locks()


    class Dying(TestCase):
        def test_it(self):
            if os.environ.get("DIE"):
                def linger():
                    with connection.cursor() as cursor:
                        cursor.execute("SELECT pg_sleep(600)")

                threading.Thread(target=linger, daemon=True).start()
                with connections["default"].copy().cursor() as cursor:
                    cursor.execute("SELECT 1")
                    while not cursor.rowcount == 2:
                        cursor.execute(
                            "SELECT 1 UNION ALL SELECT 2 FROM pg_stat_activity"
                            " WHERE query = 'SELECT pg_sleep(600)'"
                        )
                os.kill(os.getppid() if os.environ["DIE"] == "parent" else os.getpid(),
                        signal.SIGKILL)
"""


@pytest.mark.parametrize("clones", [False, True], ids=["schemas", "clones"])
def test_an_owner_that_is_no_superuser(owned: Project, clones: bool) -> None:
    """Leases, shims, clone databases and the removal of what killed runs left need no more."""
    if clones:
        owned.migration("0002_audit", "0001_initial", AUDIT)
    owned.tests(OWNING)
    env = {"AUDIT": "1"} if clones else {}
    for mode in MODES:
        result = owned.run(*mode, env=env).passed()
        assert ("uses clone databases" in result.stdout) == (clones and "--testrunner" not in mode)
        assert owned.databases() == []
    assert owned.run("--parallel", "2", env={**env, "DIE": "parent"}).code < 0
    left = owned.databases()
    assert left == [owned.test_name + suffix for suffix in ["", "_1", "_2"][: 3 if clones else 1]]
    result = owned.run(env=env).passed()
    assert all(f"database {name}" in result.stdout for name in left)
    assert owned.databases() == []


@pytest.fixture
def read(project: Project) -> Iterator[Project]:
    """A project with a second role, which may read and not write, in two aliases."""
    owner, reader = f"{project.name}_owner", f'{project.name} "Reader"'
    with roles(project, **{owner: "CREATEDB", reader: ""}):
        with project.maintenance() as connection:
            connection.execute(
                sql.SQL("GRANT {} TO {}").format(sql.Identifier(reader), sql.Identifier(owner))
            )
        project.configure(
            f"""
            DATABASES["default"]["USER"] = {owner!r}
            DATABASES["reader"] = {{**DATABASES["default"], "USER": {reader!r}}}
            DATABASES["mirror"] = {{**DATABASES["reader"], "TEST": {{"MIRROR": "default"}}}}
            """
        )
        yield project


GRANTS = """
    migrations.RunSQL(
        '''GRANT USAGE ON SCHEMA public TO "{reader}";
           GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{reader}";
           ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO "{reader}";
           REVOKE SELECT ON library_book FROM "{reader}";
           CREATE TABLE later (n int);
           INSERT INTO later VALUES (7)'''
    ),
"""
READING = """
    from django.db import DatabaseError, transaction


    class Reading(TransactionTestCase):
        databases = {"default", "mirror"}
        alias = "mirror"

        def setUp(self):
            Author.objects.create(name="seen")

        def refused(self, cursor, statement):
            with self.assertRaisesMessage(DatabaseError, "permission denied"):
                with transaction.atomic(using=cursor.db.alias):
                    cursor.execute(statement)

        def look(self, cursor):
            cursor.execute("SELECT name FROM library_author")
            self.assertEqual(cursor.fetchall(), [("seen",)])
            cursor.execute("SELECT n FROM later")
            self.refused(cursor, "SELECT FROM library_book")
            self.refused(cursor, "INSERT INTO library_author (name) VALUES ('x')")
            self.refused(cursor, "CREATE TABLE of_the_reader ()")

        def test_another_alias(self):
            with connections[self.alias].cursor() as cursor:
                self.look(cursor)

        def test_set_role(self):
            user = connections[self.alias].settings_dict["USER"]
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config('role', %s, false)", [user])
                try:
                    self.look(cursor)
                finally:
                    cursor.execute("RESET ROLE")
                self.refused(connections[self.alias].cursor(), "DELETE FROM library_author")

        def test_tables_made_in_tests(self):
            with connection.cursor() as cursor, connections[self.alias].cursor() as other:
                cursor.execute("CREATE TABLE made ()")
                try:
                    other.execute("SELECT FROM made")
                finally:
                    cursor.execute("DROP TABLE made")

        def test_locks(self):
            with connection.cursor() as cursor, connections[self.alias].cursor() as other:
                for keys in ("1", "1, 2"):
                    other.execute(f"SELECT pg_advisory_lock({keys})")
                    cursor.execute(f"SELECT pg_try_advisory_lock({keys})")
                    self.assertEqual(cursor.fetchone(), (False,))
                    other.execute(f"SELECT pg_advisory_unlock({keys})")
                    self.assertEqual(other.fetchone(), (True,))


    class ReadingRowsOfMigrations(TestCase):
        databases = {"default", "reader"}

        def test_it(self):
            with connections["reader"].cursor() as cursor:
                cursor.execute("SELECT n FROM later")
                self.assertEqual(cursor.fetchall(), [(7,)])
            with self.assertRaisesMessage(DatabaseError, "permission denied"):
                Author.objects.using("reader").create(name="x")
"""


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_a_role_that_may_only_read(read: Project, mode: tuple[str, ...]) -> None:
    """It may what a migration grants it in `public`, through its own alias and by SET ROLE."""
    read.migration(
        "0002_grants", "0001_initial", GRANTS.replace("{reader}", f'{read.name} ""Reader""')
    )
    read.tests(READING)
    read.run(*mode).passed()


@contextmanager
def template(project: Project, sql: str) -> Iterator[None]:
    """Have test databases made from a template, prepared by SQL as its owner."""
    name, owner = f"{project.name}_template", f"{project.name}_owner"
    project.configure(f'DATABASES["default"]["TEST"] = {{"TEMPLATE": {name!r}}}')
    with project.maintenance() as connection:
        connection.execute(f"CREATE DATABASE {name} OWNER {owner}")
    try:
        with project.host(name) as connection:
            connection.execute(sql)
        yield
    finally:
        project.drop_database(name)


CLOSED = """
    import os
    import time
    from pathlib import Path


    def meet(name, others):
        Path(f"{name}.met").touch()
        deadline = time.monotonic() + 30
        while not all(Path(f"{other}.met").exists() for other in others):
            assert time.monotonic() < deadline
            time.sleep(0.01)


    class Closed(TransactionTestCase):
        databases = {"default", "stranger"}
        meeting = {"Closed", "Alike"}

        def test_locks_of_a_role_that_sees_no_schema(self):
            with connection.cursor() as cursor, connections["stranger"].cursor() as other:
                other.execute("SELECT current_schema(), to_regclass('library_author')")
                self.assertIsNone(other.fetchone()[1])
                other.execute("SET lock_timeout = '20s'; SELECT pg_advisory_lock(1)")
                other.execute("SELECT pg_advisory_lock(1, 2)")
                if os.environ.get("MEET"):
                    meet(type(self).__name__, self.meeting)
                cursor.execute("SELECT pg_try_advisory_lock(1), pg_try_advisory_lock(1, 2)")
                self.assertEqual(cursor.fetchone(), (False, False))
                other.execute("SELECT pg_advisory_unlock(1), pg_advisory_unlock(1, 2)")
                self.assertEqual(other.fetchone(), (True, True))
                cursor.execute("SELECT has_schema_privilege('public', current_schema(), 'USAGE')")
                self.assertEqual(cursor.fetchone(), (False,))


    class Alike(Closed):
        pass
"""


def test_public_that_is_closed(owned: Project) -> None:
    """Worker schemas are closed to the same roles, whose advisory locks are kept apart still."""
    stranger = f"{owned.name}_stranger"
    owned.tests(CLOSED)
    with (
        roles(owned, **{stranger: ""}),
        template(owned, "REVOKE ALL ON SCHEMA public FROM PUBLIC"),
    ):
        owned.configure(
            f'DATABASES["stranger"] = {{**DATABASES["default"], "USER": {stranger!r},'
            ' "TEST": {"MIRROR": "default"}}'
        )
        for mode in [*MODES, STOCK_PARALLEL]:
            owned.run(*mode, env={"MEET": "1"} if "--parallel" in mode else {}).passed()
            for met in owned.folder.glob("*.met"):
                met.unlink()


def test_public_that_is_dropped(owned: Project) -> None:
    """Django cannot make its tables then, and says so; with a search_path it needs no `public`."""
    owned.tests("class Any(TestCase):\n    def test_it(self):\n        Author.objects.get()\n")
    options = '{"options": "-c search_path=app"}'
    with template(
        owned, "DROP SCHEMA public; CREATE SCHEMA app; GRANT ALL ON SCHEMA app TO PUBLIC"
    ):
        for mode in MODES:
            result = owned.run(*mode)
            assert result.code == 1
            assert "no schema has been selected to create in" in result.stderr
            if mode == MODES[0]:
                owned.drop_database(owned.test_name)
            assert owned.test_name not in owned.databases()
        owned.configure(f'DATABASES["default"]["OPTIONS"] = {options}')
        owned.tests(
            """
            class Any(TestCase):
                def test_it(self):
                    Author.objects.create(name="a")
                    with connection.cursor() as cursor:
                        cursor.execute("SELECT name FROM app.library_author")
                        self.assertEqual(cursor.fetchall(), [("a",)])


            class Alike(Any):
                pass
            """
        )
        for mode in MODES:
            owned.run(*mode).passed()


PLAIN = "class Any(TestCase):\n    def test_it(self):\n        Author.objects.create(name='a')\n"
TWICE = PLAIN + "\n\nclass Alike(Any):\n    pass\n"


def test_defaults_of_a_role(owned: Project) -> None:
    """Tests have them as under stock Django, and what we do ourselves heeds no time limit."""
    owner, reader = f"{owned.name}_owner", f"{owned.name}_reader"
    owned.configure(
        f"""
        DATABASES["reader"] = {{
            **DATABASES["default"], "USER": {reader!r}, "TEST": {{"MIRROR": "default"}}
        }}
        """
    )
    owned.tests(
        """
        import time


        class Defaults(TestCase):
            databases = {"default", "reader"}

            def test_it(self):
                time.sleep(1.7)  # Longer than the idle_session_timeout of our own connections.
                with connection.cursor() as cursor, connections["reader"].cursor() as other:
                    cursor.execute("SHOW statement_timeout")
                    self.assertEqual(cursor.fetchone(), ("9s",))
                    cursor.execute("SHOW idle_in_transaction_session_timeout")
                    self.assertEqual(cursor.fetchone(), ("30s",))
                    cursor.execute("SELECT count(*) FROM library_author")
                    with self.assertRaisesMessage(Exception, "read-only transaction"):
                        other.execute("CREATE TEMPORARY SEQUENCE s; CREATE TABLE t ()")


        class Alike(TestCase):
            def test_it(self):
                pass
        """
    )
    with roles(owned, **{reader: ""}), owned.maintenance() as connection:
        connection.execute(
            f"""
            ALTER ROLE {owner} SET search_path = "$user", public;
            ALTER ROLE {owner} SET statement_timeout = '9s';
            ALTER ROLE {owner} SET idle_in_transaction_session_timeout = '30s';
            ALTER ROLE {owner} SET idle_session_timeout = '1500ms';
            ALTER ROLE {owner} SET lock_timeout = '9s';
            ALTER ROLE {reader} SET default_transaction_read_only = on
            """
        )
        for mode in MODES:
            owned.run(*mode).passed()
            assert owned.databases() == []
        connection.execute(f"ALTER ROLE {owner} SET default_transaction_read_only = on")
        for mode in [MODES[0], MODES[2]]:
            result = owned.run(*mode)
            assert result.code == 2
            assert "cannot execute CREATE DATABASE in a read-only transaction" in result.stderr
        connection.execute(f"ALTER ROLE {owner} RESET ALL")
        connection.execute(f"ALTER ROLE {owner} SET search_path = nowhere")
        for mode in [MODES[0], MODES[2]]:
            result = owned.run(*mode)
            assert result.code == 1
            assert "no schema has been selected to create in" in result.stderr
            if mode == MODES[0]:
                owned.drop_database(owned.test_name)


def test_names_of_databases_and_roles(project: Project) -> None:
    """Any character will do; stock Django cannot have double quotes in NAME and TEST NAME."""
    odd = "'Ü%s %(x)s\\ C"
    user, name, quoted = (
        f'{project.name} "{odd}"',
        f"{project.name} {odd}",
        f'"{project.name} ""{odd}"',
    )
    project.migration("0002_own", "0001_initial", "migrations.RunSQL('SELECT 1')")
    project.tests(TWICE)
    with roles(project, **{user: "CREATEDB"}):
        project.configure(f'DATABASES["default"] |= {{"USER": {user!r}, "NAME": {name!r}}}')
        for mode in [*MODES, STOCK_PARALLEL]:
            project.run(*mode).passed()
            assert project.databases() == []
        project.configure(f'DATABASES["default"]["NAME"] = {quoted!r}')
        for mode in MODES[1:]:
            project.run(*mode).passed()
        project.configure(f'DATABASES["default"]["TEST"] = {{"NAME": {quoted!r}}}')
        project.migration("0003_audit", "0002_own", AUDIT)
        result = project.run("--parallel", "2").passed()
        assert "uses clone databases" in result.stdout


def test_a_schema_of_the_role_s_own_name(project: Project) -> None:
    """A default search_path finds it before `public`, so that tables are made there."""
    user = f'{project.name} "Ü%s'
    project.migration(
        "0000_own", "", "migrations.RunSQL('CREATE SCHEMA AUTHORIZATION CURRENT_USER')"
    )
    path = project.folder / "library/migrations/0000_own.py"
    path.write_text(path.read_text().replace('("library", "")', ""))
    project.configure(f'DATABASES["default"]["USER"] = {user!r}')
    project.tests(TWICE)
    initial = (project.folder / "library/migrations/0001_initial.py").read_text()
    project.write(
        "library/migrations/0001_initial.py",
        initial.replace("dependencies = []", 'dependencies = [("library", "0000_own")]'),
    )
    with roles(project, **{user: "CREATEDB"}):
        for mode in MODES:
            result = project.run(*mode).passed()
            assert ("search_path" in result.stdout) == ("--testrunner" not in mode)


LONG = """
    import os
    import subprocess
    import sys


    class Nested(TestCase):
        def test_it(self):
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_database()")
                self.assertLessEqual(len(cursor.fetchone()[0].encode()), 63)
            if not os.environ.get("NESTED"):
                run = [sys.executable, "manage.py", "test", "--parallel", "2"]
                env = {**os.environ, "NESTED": "1"}
                result = subprocess.run(run, capture_output=True, text=True, env=env)
                self.assertEqual(result.returncode, 0, result.stderr)


    class Alike(TestCase):
        def test_it(self):
            Author.objects.create(name="a")
"""


@pytest.mark.parametrize("clones", [False, True], ids=["schemas", "clones"])
def test_the_longest_names(project: Project, clones: bool) -> None:
    """Two runs at once, also with clone databases; stock Django refuses or meets its own clones.

    It has no way with a NAME of 63 bytes, and of a TEST NAME of 63 makes one clone.
    """
    name = f"{project.name} €".ljust(61, "x")
    assert len(name.encode()) == 63
    project.tests(LONG)
    if clones:
        project.migration("0002_audit", "0001_initial", AUDIT)
        project.configure(f'DATABASES["default"]["TEST"] = {{"NAME": {name!r}}}')
    else:
        project.configure(f'DATABASES["default"]["NAME"] = {name!r}')
    result = project.run("--parallel", "2").passed()
    assert ("uses clone databases" in result.stdout) == clones


SECRET = "s3kr1t-ünd-lang"
# Looks for the secret, wherever others could see it, from within a worker.
LOOKING = """
    import os
    from pathlib import Path

    SECRET = (Path(__file__).parent.parent / "secret").read_text()


    def processes():
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if os.getpgid(int(process.name)) == os.getpgid(0):
                    yield process.name, (process / "cmdline").read_bytes()
                    if "PGPASSWORD" not in os.environ:
                        yield process.name, (process / "environ").read_bytes()
            except (ProcessLookupError, FileNotFoundError):
                pass


    class Looking(TestCase):
        def test_processes(self):
            shown = list(processes())
            for process, text in shown:
                self.assertNotIn(SECRET.encode(), text, process)

        def test_server(self):
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT string_agg(concat(query, application_name, datname), '')"
                    " FROM pg_stat_activity UNION ALL"
                    " SELECT string_agg(description, '') FROM pg_description UNION ALL"
                    " SELECT string_agg(description, '') FROM pg_shdescription"
                )
                for (text,) in cursor.fetchall():
                    self.assertNotIn(SECRET, text or "")

        def test_failure(self):
            if os.environ.get("FAIL"):
                Author.objects.create(name="a")
                with connection.cursor() as cursor:
                    cursor.execute("SELECT no_such_column FROM library_author")


    class Alike(Looking):
        pass
"""


@pytest.fixture
def secretive(owned: Project) -> Iterator[Project]:
    """A project with a password, and a function of its tests that looks for it."""
    with owned.maintenance() as connection:
        connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                sql.Identifier(f"{owned.name}_owner"), SECRET
            )
        )
    owned.tests(LOOKING)
    owned.write("secret", SECRET)
    owned.write("temporary/empty", "")
    owned.configure("from pathlib import Path\nSECRET = Path('secret').read_text()")
    yield owned
    holders = {"secret", "passfile"}
    for path in owned.folder.rglob("*"):
        if path.is_file() and path.name not in holders:
            assert SECRET.encode() not in path.read_bytes(), path


WAYS = {
    "setting": 'DATABASES["default"]["PASSWORD"] = SECRET',
    "option": 'DATABASES["default"]["OPTIONS"] = {"password": SECRET}',
    "passfile": 'DATABASES["default"]["OPTIONS"] = {"passfile": str(Path("passfile").absolute())}',
    "environment": "",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_password_shows_nowhere(secretive: Project, way: str) -> None:
    """Not in outputs, processes, files, nor on the server, whatever goes wrong."""
    env = {"TMPDIR": str(secretive.folder / "temporary"), "START_METHOD": "spawn"}
    if way == "environment":
        env["PGPASSWORD"] = SECRET
    secretive.write("passfile", f"*:*:*:*:{SECRET}\n")
    (secretive.folder / "passfile").chmod(0o600)
    secretive.configure(WAYS[way])

    def outcome(*arguments: str, **more: str) -> str:
        result = secretive.run(*arguments, env={**env, **more})
        assert result.code != 0
        assert SECRET not in result.output
        return result.stderr

    failing = outcome("--debug-sql", "-v", "3", "--parallel", "2", FAIL="1")
    assert "FAILED (errors=2)" in failing
    if way != "setting":
        return
    assert "FAILED (errors=2)" in outcome("--parallel", "2", FAIL="1", START_METHOD="fork")
    secretive.migration("0002_broken", "0001_initial", "migrations.RunSQL('SELECT 1/0')")
    assert "division by zero" in outcome("-v", "3")
    secretive.configure('SCHEMA_RUNNER = {"WORKER_SETUP": ["library.setup.fail"]}')
    secretive.write("library/setup.py", "def fail(worker):\n    1 / 0\n")
    (secretive.folder / "library/migrations/0002_broken.py").unlink()
    assert "division by zero" in outcome("--parallel", "2")
    with secretive.maintenance() as connection:
        connection.execute(f"ALTER ROLE {secretive.name}_owner NOCREATEDB")
    assert "permission denied" in outcome()
    secretive.configure('DATABASES["default"]["PORT"] = "1"')
    assert "CommandError: Cannot connect" in outcome("--parallel", "2")
    assert "OperationalError" in outcome("--isolation", "database")


# The table and the column of a model. More quotes, or a percent sign, and stock Django fails.
ODD = {
    "Spaced": ("a b.C", "it's a Column"),
    "Escaped": ("Ü \\ €", "\\"),
    "Longest": ("l" * 63, "ü" * 31 + "x"),
}
IN_PUBLIC = {"Named": ('public"."named', "n"), "Quoted": ('"public"."quoted"', "n")}
MODEL = """

class {name}(models.Model):
    number = models.IntegerField(db_column={column!r}, db_index=True)
    others = models.ManyToManyField(Author)

    class Meta:
        db_table = {table!r}
"""
CREATED = """
migrations.CreateModel(
    name={name!r},
    fields=[
        ("id", models.BigAutoField(primary_key=True, serialize=False)),
        ("number", models.IntegerField(db_column={column!r}, db_index=True)),
        ("others", models.ManyToManyField("library.Author")),
    ],
    options={{"db_table": {table!r}}},
),
"""


@pytest.mark.parametrize("names", [ODD, IN_PUBLIC], ids=["odd", "in public"])
def test_names_of_tables_and_columns(project: Project, names: dict[str, tuple[str, str]]) -> None:
    """What stock Django can work with; for models that name `public`, in clone databases."""
    facts = [{"name": name, "table": table, "column": c} for name, (table, c) in names.items()]
    with (project.folder / "library/models.py").open("a") as models:
        models.write("".join(MODEL.format(**one) for one in facts))
    project.migration("0002_odd", "0001_initial", "".join(CREATED.format(**one) for one in facts))
    project.configure('SCHEMA_RUNNER = {"SEEDERS": ["library.seeds.seed"]}')
    project.write(
        "library/seeds.py",
        f"""
        from library import models


        def seed(using):
            for name in {list(names)}:
                getattr(models, name).objects.using(using).create(id=20, number=1)
        """,
    )
    project.tests(
        f"""
        from library import models


        class Odd(TestCase):
            def test_it(self):
                for name in {list(names)}:
                    model = getattr(models, name)
                    seeded = model.objects.first()
                    one = model.objects.create(number=7)
                    self.assertGreater(one.pk, seeded.pk if seeded else 0)
                    one.others.add(Author.objects.create(name=name))
                    self.assertEqual(model.objects.get(number=7, others__name=name), one)


        # A flush by stock Django leaves tables out that are named with `public`.
        class Committed({"TransactionTestCase" if names is ODD else "TestCase"}):
            def test_it(self):
                Odd.test_it(self)

            def test_again(self):
                Odd.test_it(self)
        """
    )
    for mode in MODES:
        result = project.run(*mode).passed()
        expected = names is IN_PUBLIC and "--testrunner" not in mode
        assert ("uses clone databases" in result.stdout) == expected


def test_resets_do_without_a_connection_of_their_own(owned: Project) -> None:
    """Where the role may have no more."""
    with owned.maintenance() as connection:
        owner = sql.Identifier(f"{owned.name}_owner")
        connection.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT 5").format(owner))
    owned.tests(
        """
        import psycopg


        class A(TransactionTestCase):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.others = []
                parameters = connection.get_connection_params()
                del parameters["cursor_factory"], parameters["context"]
                try:
                    while True:
                        cls.others.append(psycopg.connect(**parameters))
                except psycopg.OperationalError:
                    # One is left for Django, and one that it has closed may still count.
                    cls.others.pop().close()
                    cls.others.pop().close()

            @classmethod
            def tearDownClass(cls):
                for other in cls.others:
                    other.close()
                super().tearDownClass()

            def test_a(self):
                self.assertEqual(Author.objects.count(), 0)
                Author.objects.create(name="x")

            test_b = test_a
            test_c = test_a
        """
    )
    owned.run().passed()


SEEDS = """
    from django.db import connections


    def seed(using):
        with connections[using].cursor() as cursor:
            cursor.execute("INSERT INTO library_author (name) VALUES ('own'), ('hidden')")
"""
SECURED = """
    migrations.RunSQL(
        "ALTER TABLE library_author ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        "CREATE POLICY own ON library_author USING (name LIKE 'own%') WITH CHECK (true)"
    )
"""


@pytest.mark.parametrize("reset", ["selective", "reference"])
@pytest.mark.parametrize("mode", [(), ("--parallel", "2")], ids=["serial", "parallel"])
def test_row_security_hides_nothing_from_resets(
    owned: Project, mode: tuple[str, ...], reset: str
) -> None:
    """Not even where it is forced upon the owner, who runs the tests."""
    owned.migration("0002_security", "0001_initial", SECURED)
    owned.write("library/seeds.py", SEEDS)
    owned.configure(f'SCHEMA_RUNNER = {{"SEEDERS": ["library.seeds.seed"], "RESET": {reset!r}}}')
    owned.tests(
        """
        class A(TransactionTestCase):
            def check(self):
                with connection.cursor() as cursor:
                    cursor.execute("ALTER TABLE library_author NO FORCE ROW LEVEL SECURITY")
                    names = sorted(Author.objects.values_list("name", flat=True))
                    cursor.execute("ALTER TABLE library_author FORCE ROW LEVEL SECURITY")
                    self.assertEqual(names, ["hidden", "own"])
                    for name in ("own too", "other"):
                        cursor.execute("INSERT INTO library_author (name) VALUES (%s)", [name])
                Author.objects.filter(name="own").delete()

            test_a = test_b = test_c = check


        class B(A):
            pass
        """
    )
    owned.run(*mode).passed()
