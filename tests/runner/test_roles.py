"""Roles without superuser rights, unusual names, and passwords."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ..project import PARALLEL, SERIAL, WITH_STOCK, Mode, Project, Result

pytestmark = pytest.mark.oldest


@contextmanager
def roles(project: Project, **created: str) -> Iterator[None]:
    """Create login roles with these options, and drop them after the block."""
    for name, options in created.items():
        project.query(f"CREATE ROLE {quoted(name)} LOGIN {options}", database="postgres")
    try:
        yield
    finally:
        for name in created:
            project.query(f"DROP ROLE {quoted(name)}", database="postgres")


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.fixture
def owned(project: Project) -> Iterator[Project]:
    """A project whose role has CREATEDB and is not a superuser."""
    owner = f"{project.name}_owner"
    with roles(project, **{owner: "CREATEDB"}):
        project.configure(f'DATABASES["default"]["USER"] = {owner!r}')
        yield project


def run(project: Project, mode: Mode, **env: str) -> Result:
    """Run the tests. With two workers, their first tests meet."""
    project.forget()
    return project.run(*mode, env={"MEET": "2" if mode == PARALLEL else "0", **env})


def mirror(project: Project, alias: str, user: str) -> None:
    """Add a mirror of the default alias that connects as another role."""
    settings = f'{{**DATABASES["default"], "USER": {user!r}, "TEST": {{"MIRROR": "default"}}}}'
    project.configure(f"DATABASES[{alias!r}] = {settings}")


def alter(project: Project, options: str, role: str = "owner") -> None:
    project.query(f"ALTER ROLE {project.name}_{role} {options}", database="postgres")


AUDIT = 'migrations.RunSQL("CREATE SCHEMA audit; CREATE TABLE audit.log (entry text)")'
OWNING = """
    class Owning(TransactionTestCase):
        def test_rows_and_locks(self):
            self.assertEqual(Author.objects.count(), 0)
            Author.objects.create(name="a")
            found = query("SELECT rolsuper, pg_try_advisory_lock(1), pg_advisory_unlock(1)"
                          " FROM pg_roles WHERE rolname = current_user")
            self.assertEqual(found, [(False, True, True)])
            if "AUDIT" in os.environ:
                query("INSERT INTO audit.log VALUES ('a')")

        def test_again(self): self.test_rows_and_locks()

    class Dying(TestCase):
        def test_it(self):
            if "DIE" in os.environ:
                sleep = "SELECT pg_sleep(600)"
                threading.Thread(target=query, args=[sleep], daemon=True).start()
                at_work = f"SELECT 1 FROM pg_stat_activity WHERE query = '{sleep}'"
                with connection.copy().cursor() as cursor:
                    wait_until(lambda: cursor.execute(at_work).fetchall())
                    os.kill(os.getppid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("clones", [False, True], ids=["schemas", "clones"])
def test_an_owner_that_is_not_a_superuser(owned: Project, clones: bool) -> None:
    """CREATEDB suffices, also for clone databases and the removal of what killed runs left."""
    if clones:
        owned.migration("0002_audit", "0001_initial", AUDIT)
    owned.tests(OWNING)
    env = {"AUDIT": "1"} if clones else {}
    result = owned.run(*PARALLEL, env=env).passed()
    assert ("uses clone databases" in result.stdout) == clones
    assert owned.databases() == []
    assert owned.run(*PARALLEL, env={**env, "DIE": "1"}).code < 0
    left = owned.databases()
    assert left == [owned.test_name + suffix for suffix in ["", "_1", "_2"][: 3 if clones else 1]]
    result = owned.run(env=env).passed()
    assert ("uses clone databases" in result.stdout) == clones
    assert all(f"database {name}" in result.stdout for name in left)
    assert owned.databases() == []


GRANTS = """
    GRANT USAGE ON SCHEMA public TO READER;
    GRANT SELECT ON ALL TABLES IN SCHEMA public TO READER;
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO READER;
    REVOKE SELECT ON library_book FROM READER;
    CREATE TABLE later (n int); INSERT INTO later VALUES (7)
"""
READING = """
    from django.db import DatabaseError

    class Reading(TransactionTestCase):
        databases = {"default", "mirror"}
        def setUp(self): Author.objects.create(name="seen")
        def refused(self, statement, using="mirror"):
            with self.assertRaisesMessage(DatabaseError, "permission denied"):
                with transaction.atomic(using=using):
                    query(statement, using=using)
        def look(self, using):
            found = query("SELECT name FROM library_author", using=using)
            self.assertEqual(found, [("seen",)])
            query("SELECT n FROM later", using=using)
            self.refused("SELECT FROM library_book", using)
            self.refused("INSERT INTO library_author (name) VALUES ('x')", using)
            self.refused("CREATE TABLE of_the_reader ()", using)

        def test_another_alias(self): self.look("mirror")
        def test_set_role(self):
            user = connections["mirror"].settings_dict["USER"]
            query("SELECT set_config('role', %s, false)", user)
            try:
                self.look("default")
            finally:
                query("RESET ROLE")
            self.refused("DELETE FROM library_author")

        def test_tables_made_in_tests(self):
            query("CREATE TABLE made ()")
            self.addCleanup(query, "DROP TABLE made")
            query("SELECT count(*) FROM made", using="mirror")
        def test_locks(self):
            for keys in ("1", "1, 2"):
                query(f"SELECT pg_advisory_lock({keys})", using="mirror")
                self.assertEqual(query(f"SELECT pg_try_advisory_lock({keys})"), [(False,)])
                found = query(f"SELECT pg_advisory_unlock({keys})", using="mirror")
                self.assertEqual(found, [(True,)])

    class ReadingRowsOfMigrations(TestCase):
        databases = {"default", "reader"}
        def test_it(self):
            self.assertEqual(query("SELECT n FROM later", using="reader"), [(7,)])
            with self.assertRaisesMessage(DatabaseError, "permission denied"):
                Author.objects.using("reader").create(name="x")
"""


def test_a_read_only_role(owned: Project) -> None:
    """The role has the privileges that a migration grants, via its alias and SET ROLE."""
    reader = f'{owned.name} "Reader"'
    mirror(owned, "mirror", reader)
    owned.configure('DATABASES["reader"] = {**DATABASES["mirror"], "TEST": {}}')
    grants = GRANTS.replace("READER", quoted(reader))
    owned.migration("0002_grants", "0001_initial", f"migrations.RunSQL({grants!r})")
    owned.tests(READING)
    with roles(owned, **{reader: ""}):
        grant = f"GRANT {quoted(reader)} TO {owned.name}_owner"
        owned.query(grant, database="postgres")
        for mode in (WITH_STOCK, SERIAL, PARALLEL):
            owned.run(*mode).passed()


@contextmanager
def template(project: Project, sql: str) -> Iterator[None]:
    """Configure TEST TEMPLATE with a database that this SQL prepared."""
    name, owner = f"{project.name}_template", f"{project.name}_owner"
    project.configure(f'DATABASES["default"]["TEST"] = {{"TEMPLATE": {name!r}}}')
    project.query(f"CREATE DATABASE {name} OWNER {owner}", database="postgres")
    try:
        project.query(sql, database=name)
        yield
    finally:
        project.drop_database(name)


CLOSED = """
    class Closed(TransactionTestCase):
        databases = {"default", "stranger"}
        def test_locks_of_a_role_that_sees_no_schema(self):
            def of_stranger(statement): return query(statement, using="stranger")
            self.assertEqual(of_stranger("SELECT to_regclass('library_author')"), [(None,)])
            of_stranger("SET lock_timeout = '20s'; SELECT pg_advisory_lock(1)")
            of_stranger("SELECT pg_advisory_lock(1, 2)")
            meet()
            found = query("SELECT pg_try_advisory_lock(1), pg_try_advisory_lock(1, 2)")
            self.assertEqual(found, [(False, False)])
            found = of_stranger("SELECT pg_advisory_unlock(1), pg_advisory_unlock(1, 2)")
            self.assertEqual(found, [(True, True)])
            found = query("SELECT has_schema_privilege('public', current_schema(), 'USAGE')")
            self.assertEqual(found, [(False,)])
    class Alike(Closed): pass
"""


def test_public_without_privileges(owned: Project) -> None:
    """Worker schemas are closed to the same roles, whose advisory locks stay separate."""
    stranger = f"{owned.name}_stranger"
    owned.tests(CLOSED)
    closes = "REVOKE ALL ON SCHEMA public FROM PUBLIC"
    with roles(owned, **{stranger: ""}), template(owned, closes):
        mirror(owned, "stranger", stranger)
        for mode in (WITH_STOCK, SERIAL, PARALLEL):
            run(owned, mode).passed()


TWICE = """
    class Any(TestCase):
        def test_it(self):
            Author.objects.create(name="a")
            if path := os.environ.get("TABLES"):
                self.assertEqual(query(f"SELECT name FROM {path}.library_author"), [("a",)])
    class Alike(Any): pass
"""


def test_dropped_public(owned: Project) -> None:
    """Migrations fail as under stock Django, unless the search_path names another schema."""
    owned.tests(TWICE)
    prepared = "DROP SCHEMA public; CREATE SCHEMA app; GRANT ALL ON SCHEMA app TO PUBLIC"
    options = '{"options": "-c search_path=app"}'
    with template(owned, prepared):
        for mode in (SERIAL, PARALLEL):
            run(owned, mode).failed("no schema has been selected to create in")
            assert owned.test_name not in owned.databases()
        owned.configure(f'DATABASES["default"]["OPTIONS"] = {options}')
        for mode in (SERIAL, PARALLEL):
            result = run(owned, mode, TABLES="app").passed()
            assert "app comes first on the project's own search_path" in result.stdout


DEFAULTS = """
    class Defaults(TestCase):
        databases = {"default", "reader"}
        def test_it(self):
            time.sleep(1.7)  # Longer than the idle_session_timeout of our own connections.
            self.assertEqual(query("SHOW statement_timeout"), [("9s",)])
            self.assertEqual(query("SHOW idle_in_transaction_session_timeout"), [("30s",)])
            query("SELECT count(*) FROM library_author")
            with self.assertRaisesMessage(Exception, "read-only transaction"):
                query("CREATE TEMPORARY SEQUENCE s; CREATE TABLE t ()", using="reader")

    class Alike(TestCase):
        def test_it(self): pass
"""
SET = [
    *('search_path = "$user", public', "statement_timeout = '9s'", "lock_timeout = '9s'"),
    *("idle_in_transaction_session_timeout = '30s'", "idle_session_timeout = '1500ms'"),
]


def test_defaults_of_a_role(owned: Project) -> None:
    """Tests get them as under stock Django.

    The runner's own sessions are not subject to timeouts.
    """
    reader = f"{owned.name}_reader"
    mirror(owned, "reader", reader)
    owned.tests(DEFAULTS)
    with roles(owned, **{reader: ""}):
        for option in SET:
            alter(owned, f"SET {option}")
        alter(owned, "SET default_transaction_read_only = on", "reader")
        for mode in (SERIAL, PARALLEL):
            owned.run(*mode).passed()
            assert owned.databases() == []
        for option, code, said in (
            ("default_transaction_read_only = on", 2, "CREATE DATABASE in a read-only transac"),
            ("search_path = nowhere", 1, "no schema has been selected to create in"),
        ):
            alter(owned, "RESET ALL")
            alter(owned, f"SET {option}")
            result = owned.run(*PARALLEL)
            assert (result.code, said in result.stderr) == (code, True), result.stderr


def test_names_of_databases_and_roles(project: Project) -> None:
    """Any character works. Stock Django cannot handle double quotes in NAME and TEST NAME."""
    odd = "'Ü%s %(x)s\\ C"
    user, name = f'{project.name} "{odd}"', f'"{project.name} ""{odd}"'
    project.migration("0002_own", "0001_initial", "migrations.RunSQL('SELECT 1')")
    project.tests(TWICE)
    with roles(project, **{user: "CREATEDB"}):
        project.configure(f'DATABASES["default"] |= {{"USER": {user!r}, "NAME": {name!r}}}')
        for mode in (SERIAL, PARALLEL):
            project.run(*mode).passed()
            assert project.databases() == []
        project.configure(f'DATABASES["default"]["TEST"] = {{"NAME": {name!r}}}')
        project.migration("0003_audit", "0002_own", AUDIT)
        result = project.run(*PARALLEL).passed()
        assert "uses clone databases" in result.stdout


def test_a_schema_with_the_name_of_the_role(project: Project) -> None:
    """The default search_path puts it before `public`, so tables are created there."""
    user = f'{project.name} "Ü%s'
    project.configure(f'DATABASES["default"]["USER"] = {user!r}')
    path = project.folder / "library/migrations/0001_initial.py"
    created = 'operations = [migrations.RunSQL("CREATE SCHEMA AUTHORIZATION CURRENT_USER"),'
    path.write_text(path.read_text().replace("operations = [", created))
    project.tests(TWICE)
    with roles(project, **{user: "CREATEDB"}):
        for mode in (SERIAL, PARALLEL):
            result = run(project, mode).passed()
            assert " comes first on the project's own search_path" in result.stdout


LONG = """
    import subprocess

    class Nested(TestCase):
        def test_it(self):
            ((name,),) = query("SELECT current_database()")
            self.assertLessEqual(len(name.encode()), 63)
            if "NESTED" not in os.environ:
                run = [sys.executable, "manage.py", "test", "--parallel", "2"]
                env = {**os.environ, "NESTED": "1"}
                result = subprocess.run(run, capture_output=True, text=True, env=env)
                self.assertEqual(result.returncode, 0, result.stderr)

    class Alike(TestCase):
        def test_it(self): Author.objects.create(name="a")
"""


@pytest.mark.parametrize("clones", [False, True], ids=["schemas", "clones"])
def test_the_longest_names(project: Project, clones: bool) -> None:
    """Two concurrent runs, also with clones.

    Stock Django truncates the name, or its clones collide.
    """
    name = f"{project.name} €".ljust(61, "x")
    assert len(name.encode()) == 63
    project.tests(LONG)
    if clones:
        project.migration("0002_audit", "0001_initial", AUDIT)
    settings = {"TEST": {"NAME": name}} if clones else {"NAME": name}
    project.configure(f'DATABASES["default"] |= {settings}')
    result = project.run(*PARALLEL).passed()
    assert ("uses clone databases" in result.stdout) == clones
    assert project.databases() == []


SECRET = "s3kr1t-ünd-lang"
# A worker looks for the secret in all places that others can read.
LOOKING = """
    SECRET = Path("secret").read_text()

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
            for process, text in processes():
                self.assertNotIn(SECRET.encode(), text, process)
        def test_server(self):
            shown = '''SELECT concat(query, application_name, datname) FROM pg_stat_activity
                       UNION ALL SELECT description FROM pg_description
                       UNION ALL SELECT description FROM pg_shdescription'''
            self.assertNotIn(SECRET, str(query(shown)))

        def test_failure(self):
            if "FAIL" in os.environ:
                Author.objects.create(name="a")
                query("SELECT no_such_column FROM library_author")
    class Alike(Looking): pass
"""


@pytest.fixture
def secretive(owned: Project) -> Iterator[Project]:
    """A project with a password, whose tests look for it."""
    alter(owned, f"PASSWORD '{SECRET}'")
    owned.tests(LOOKING)
    owned.write("secret", SECRET)
    owned.write("passfile", f"*:*:*:*:{SECRET}\n")
    (owned.folder / "passfile").chmod(0o600)
    owned.write("temporary/empty", "")
    owned.configure("from pathlib import Path\nSECRET = Path('secret').read_text()")
    yield owned
    holders = {"secret", "passfile"}
    for path in owned.folder.rglob("*"):
        if path.is_file() and path.name not in holders:
            assert SECRET.encode() not in path.read_bytes(), path


PASSWORD_SOURCES = {
    "setting": 'DATABASES["default"]["PASSWORD"] = SECRET',
    "option": 'DATABASES["default"]["OPTIONS"] = {"password": SECRET}',
    "passfile": 'DATABASES["default"]["OPTIONS"] = {"passfile": str(Path("passfile").absolute())}',
    "key": 'DATABASES["default"]["OPTIONS"] = {"password": SECRET, "sslpassword": SECRET}',
    "environment": "",
}


def outcome(project: Project, *arguments: str, **env: str) -> str:
    """Return the output of a failing run; check that the password is not in it."""
    temporary = {"TMPDIR": str(project.folder / "temporary")}
    result = project.run(*arguments, env={**temporary, **env})
    assert result.code != 0
    assert SECRET not in result.output
    return result.output


@pytest.mark.parametrize("way", PASSWORD_SOURCES)
def test_the_password_is_not_shown(secretive: Project, way: str) -> None:
    """It is not in the output, in processes, files or the server, also with spawned workers."""
    secretive.configure(PASSWORD_SOURCES[way])
    env = {"FAIL": "1", "START_METHOD": "spawn"}
    env |= {"PGPASSWORD": SECRET} if way == "environment" else {}
    said = outcome(secretive, "--debug-sql", "-v", "3", *PARALLEL, **env)
    assert "FAILED (errors=2)" in said
    # A fallback, for instance because pg_dump could not log in.
    assert "because" not in said


def test_the_password_is_not_shown_in_errors(secretive: Project) -> None:
    """Failures of a migration, a worker or a connection do not show it either."""
    secretive.configure(PASSWORD_SOURCES["setting"])
    assert "FAILED (errors=2)" in outcome(secretive, *PARALLEL, FAIL="1")
    secretive.migration("0002_broken", "0001_initial", "migrations.RunSQL('SELECT 1/0')")
    assert "division by zero" in outcome(secretive, "-v", "3")
    secretive.configure('SCHEMA_RUNNER = {"WORKER_SETUP": ["library.setup.fail"]}')
    secretive.write("library/setup.py", "def fail(worker):\n    1 / 0\n")
    (secretive.folder / "library/migrations/0002_broken.py").unlink()
    assert "division by zero" in outcome(secretive, *PARALLEL, START_METHOD="spawn")
    alter(secretive, "NOCREATEDB")
    assert "permission denied" in outcome(secretive)
    secretive.configure('DATABASES["default"]["PORT"] = "1"')
    assert "CommandError: Cannot connect" in outcome(secretive, *PARALLEL)
    assert "CommandError: Cannot connect" in outcome(secretive, "--isolation", "database")


# Model name: table and column. Stock Django fails with quotes or percent signs in other places.
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
NAMED = """
    from library import models

    def seed(using):
        for model in (NAMES):
            model.objects.using(using).create(id=20, number=1)

    class Odd(TestCase):
        def test_it(self):
            for model in (NAMES):
                seeded = model.objects.first()
                one = model.objects.create(number=7)
                self.assertGreater(one.pk, seeded.pk if seeded else 0)
                one.others.add(Author.objects.create(name=model.__name__))
                found = model.objects.get(number=7, others__name=model.__name__)
                self.assertEqual(found, one)

    # Stock Django's flush skips tables whose names include `public`.
    class Committed(FLUSHED):
        def test_it(self): Odd.test_it(self)
        def test_again(self): Odd.test_it(self)
"""


@pytest.mark.parametrize("names", [ODD, IN_PUBLIC], ids=["odd", "in public"])
def test_names_of_tables_and_columns(project: Project, names: dict[str, tuple[str, str]]) -> None:
    """Names that work in stock Django work. Models that name `public` get clone databases."""
    with (project.folder / "library/models.py").open("a") as models:
        for name, (table, column) in names.items():
            models.write(MODEL.format(name=name, table=table, column=column))
    listed = ", ".join(f"models.{name}" for name in names)
    path = project.folder / "library/migrations/0001_initial.py"
    path.write_text(
        "from helpers.migrations import created\nfrom library import models as library\n"
        + path.read_text()
        + f"    operations += created({listed.replace('models', 'library')})\n"
    )
    project.configure('SCHEMA_RUNNER = {"SEEDERS": ["library.test_generated.seed"]}')
    flushed = "TransactionTestCase" if names is ODD else "TestCase"
    project.tests(NAMED.replace("NAMES", listed).replace("FLUSHED", flushed))
    for mode in (WITH_STOCK, SERIAL, PARALLEL):
        result = project.run(*mode).passed()
        expected = names is IN_PUBLIC and mode != WITH_STOCK
        assert ("uses clone databases" in result.stdout) == expected


FULL = """
    from contextlib import suppress
    from django.db import OperationalError

    class A(TransactionTestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            cls.others = []
            with suppress(OperationalError):
                while True:
                    cls.others.append(connection.copy())
                    cls.addClassCleanup(cls.others[-1].close)
                    cls.others[-1].ensure_connection()
            # Leave one for Django, and one for a closed session that still counts.
            for other in cls.others[-3:]:
                other.close()

        def setUp(self):
            connection.close()
            with self.others[0].cursor() as cursor:
                sessions = "SELECT 1 FROM pg_stat_activity WHERE usename = current_user"
                wait_until(lambda: len(cursor.execute(sessions).fetchall()) <= 3)

        def test_a(self):
            self.assertEqual(Author.objects.count(), 0)
            Author.objects.create(name="x")
        test_b = test_c = test_a
"""


def test_resets_without_a_second_connection(owned: Project) -> None:
    """The role's CONNECTION LIMIT leaves no room for another connection."""
    alter(owned, "CONNECTION LIMIT 5")
    owned.tests(FULL)
    owned.run().passed()


SECURED = """
    migrations.RunSQL(
        "ALTER TABLE library_author ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        "CREATE POLICY own ON library_author USING (name LIKE 'own%') WITH CHECK (true)"
    )
"""


@pytest.mark.parametrize("reset", ["selective", "reference"])
def test_row_security_hides_nothing_from_resets(owned: Project, reset: str) -> None:
    """Resets see all rows, even if row security is forced for the table's owner."""
    owned.migration("0002_security", "0001_initial", SECURED)
    settings = {"SEEDERS": ["library.test_generated.seed"], "RESET": reset}
    owned.configure(f"SCHEMA_RUNNER = {settings}")
    tests = """
        def seed(using):
            query("INSERT INTO library_author (name) VALUES ('own'), ('hidden')", using=using)

        class A(TransactionTestCase):
            def check(self):
                meet()
                query("ALTER TABLE library_author NO FORCE ROW LEVEL SECURITY")
                names = sorted(Author.objects.values_list("name", flat=True))
                query("ALTER TABLE library_author FORCE ROW LEVEL SECURITY")
                self.assertEqual(names, ["hidden", "own"])
                for name in ("own too", "other"):
                    query("INSERT INTO library_author (name) VALUES (%s)", name)
                Author.objects.filter(name="own").delete()
            test_a = test_b = test_c = check
        class B(A): pass
    """
    owned.tests(tests)
    for mode in (SERIAL, PARALLEL):
        run(owned, mode).passed()
