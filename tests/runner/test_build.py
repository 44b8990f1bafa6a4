"""Migrations that work with stock Django work here."""

from textwrap import dedent, indent

import pytest

from ..project import PARALLEL, SERIAL, WITH_STOCK, Mode, Project, Result, each_runner

# Case name: operations of a migration, and the body of a test. Extensions are in test_extensions,
# and other kinds of objects in test_objects.
Cases = dict[str, tuple[str, str]]


def sql(*statements: str) -> str:
    """Return migration operations that execute these statements."""
    return "".join(f"migrations.RunSQL({statement!r})," for statement in statements)


def parse_cases(table: str) -> Cases:
    """Parse cases: after `--` a name and statements, after `=>` the body of the test."""
    cases = (case.split("    =>") for case in table.split("    -- ")[1:])
    named = ((*made.split("\n", 1), body) for made, body in cases)
    return {name: (sql(*map(str.strip, made.split("    &"))), body) for name, made, body in named}


# The first build is alone in its database, as in stock Django, so catalog queries may use bare
# names or name `public`. The order matters: rows come before the trigger that logs them.
MIGRATIONS: Cases = {
    "rows": ("""
        migrations.RunPython(
            lambda apps, editor: apps.get_model("library", "Author").objects.create(name="first")
        ),
        """, """
        self.assertEqual(Author.objects.get().id, 1)
        self.assertGreater(Author.objects.create(name="second").id, 1)
        """),
    "index_built_concurrently": ("""
        __import__("django.contrib.postgres.operations", fromlist=["x"]).AddIndexConcurrently(
            "book", models.Index(fields=["title"], name="by_title")
        ),
        """, """
        with connection.cursor() as cursor:
            found = connection.introspection.get_constraints(cursor, "library_book")
        self.assertIn("by_title", found)
        """),
} | parse_cases("""
    -- catalog_by_bare_name
    DO $$ BEGIN
        EXECUTE (SELECT 'ALTER TABLE ' || conrelid::regclass || ' DROP CONSTRAINT ' || conname
                 FROM pg_constraint WHERE conname = 'library_author_name_key');
    END $$
    => for _ in range(2): Author.objects.create(name="twice")
    -- catalog_by_the_name_public
    DO $$ BEGIN
        ASSERT EXISTS (SELECT FROM pg_indexes WHERE schemaname = 'public'
                       AND tablename = 'library_author');
        EXECUTE (SELECT 'CREATE TABLE found_' || count(*) || '()' FROM pg_tables
                 WHERE schemaname = 'public' AND tablename LIKE 'library%');
    END $$
    => query("SELECT * FROM found_2")
    -- tables_named_with_public
    CREATE TABLE "public"."extra" (id serial PRIMARY KEY)
    & INSERT INTO public.extra DEFAULT VALUES
    => self.assertEqual(query("SELECT id FROM extra"), [(1,)])
    -- functions_and_triggers
    CREATE TABLE log (entry text);
    CREATE FUNCTION log_it() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS
    $$ BEGIN INSERT INTO log VALUES (NEW.name); RETURN NEW; END $$;
    CREATE TRIGGER logs AFTER INSERT ON library_author FOR EACH ROW EXECUTE FUNCTION log_it()
    =>
    Author.objects.create(name="logged")
    self.assertEqual(query("SELECT entry FROM log"), [("logged",)])
    -- grants_on_public
    SELECT 1
    =>
    found = query("SELECT has_schema_privilege('pg_monitor', current_schema(), 'USAGE')")
    self.assertEqual(found, [(True,)])
""")  # fmt: skip


def write_cases(project: Project, cases: Cases, *methods: str) -> None:
    """Write a migration for each case, and two classes with a test for each."""
    texts = ["def setUp(self):\n    meet()\n", *methods]
    after = "0001_initial"
    for number, (name, (operations, body)) in enumerate(cases.items(), start=2):
        project.migration(f"{number:04}_{name}", after, operations)
        after = f"{number:04}_{name}"
        texts.append(f"def test_{name}(self):\n{indent(dedent(body).strip(), '    ')}\n")
        if "Concurrently" in operations:
            with (project.folder / f"library/migrations/{after}.py").open("a") as migration:
                migration.write("    atomic = False\n")
    body = indent("\n".join(texts), "    ")
    project.tests(f"class Uses(TestCase):\n{body}\n\nclass Again(Uses): pass\n")


def run(project: Project, mode: Mode, *arguments: str, method: str = "fork") -> Result:
    """Run tests that must pass; check that no database is left."""
    project.forget()
    env = {"START_METHOD": method, "MEET": "2" if mode == PARALLEL else "0"}
    result = project.run(*mode, *arguments, env=env).passed()
    assert project.databases() == []
    return result


@pytest.mark.versions
@each_runner
def test_migrations(project: Project, mode: Mode) -> None:
    """Objects of migrations are usable in every worker's schema, as in stock Django."""
    write_cases(project, MIGRATIONS)
    result = run(project, mode)
    assert f"Ran {2 * len(MIGRATIONS)} tests" in result.stderr
    assert "because" not in result.output


@pytest.mark.versions
def test_introspection_sees_the_current_schema_only(project: Project) -> None:
    """Tables of `public` are invisible, and a flush does not change them."""
    tests = """
        from django.core.management import call_command
        from django.db.migrations.recorder import MigrationRecorder

        class Introspection(TransactionTestCase):
            def setUp(self):
                query(
                    "CREATE TABLE public.decoy (id serial PRIMARY KEY,"
                    " other int REFERENCES public.decoy);"
                    "CREATE TABLE public.library_book (id serial PRIMARY KEY, trap text);"
                    "INSERT INTO public.library_book (trap) VALUES ('precious');"
                    "CREATE TABLE public.django_migrations (app text, name text);"
                )
                tables = "public.decoy, public.library_book, public.django_migrations"
                self.addCleanup(query, f"DROP TABLE {tables}")

            def test_tables(self):
                names = connection.introspection.table_names()
                self.assertNotIn("decoy", names)
                self.assertEqual(names.count("library_book"), 1)
            def test_details(self):
                see = connection.introspection
                with connection.cursor() as cursor:
                    columns = {c.name for c in see.get_table_description(cursor, "library_book")}
                    self.assertEqual(columns, {"id", "title", "author_id"})
                    self.assertEqual(set(see.get_relations(cursor, "library_book")), {"author_id"})
                    for look in (see.get_sequences, see.get_relations, see.get_constraints):
                        self.assertFalse(look(cursor, "decoy"))

            def test_one_query_each(self):
                with self.assertNumQueries(1), connection.cursor() as cursor:
                    connection.introspection.get_table_list(cursor)
            def test_flush(self):
                call_command("flush", interactive=False, verbosity=0)
                self.assertEqual(query("SELECT trap FROM public.library_book"), [("precious",)])
            def test_migrations_are_those_of_the_schema(self):
                applied = MigrationRecorder(connection).applied_migrations()
                self.assertIn(("library", "0001_initial"), applied)
    """
    project.tests(tests)
    run(project, SERIAL)


BACKEND = """
    from django.db.backends.postgresql import base, introspection

    class Introspection(introspection.DatabaseIntrospection):
        def rows(self, cursor, statement, *parameters):
            cursor.execute(statement, parameters)
            return cursor.fetchall()
        def indexes(self, cursor, table):
            return self.rows(cursor, "SELECT indexname FROM pg_indexes"
                " WHERE tablename = %s", table)
        def partitioned(self, cursor):
            return self.rows(cursor, "SELECT pg_class.relname FROM pg_partitioned_table JOIN\\n"
                " pg_class ON pg_class.oid = partrelid")
        def partitions(self, cursor, table):
            return self.rows(cursor, "SELECT child.relname, nspname = current_schema()"
                " FROM pg_inherits, pg_catalog.pg_class parent, pg_class AS child"
                " LEFT JOIN pg_namespace n ON n.oid = child.relnamespace"
                " WHERE inhparent = parent.oid AND inhrelid = child.oid AND parent.relname = %s",
                table)
        def columns(self, cursor, table):
            return self.rows(cursor, "SELECT count(*) FROM information_schema.COLUMNS col"
                " JOIN pg_class c ON relname = table_name WHERE col.table_name = %s", table)
        def toasts(self, cursor):
            return self.rows(cursor, "SELECT count(*) > 0 FROM pg_class"
                " WHERE relnamespace = 'pg_toast'::regnamespace")
        def get_constraints(self, cursor, table):
            return {name for name in super().get_constraints(cursor, table)}

    class DatabaseWrapper(base.DatabaseWrapper):
        introspection_class = Introspection
"""


@each_runner
def test_introspection_of_a_third_party_backend(project: Project, mode: Mode) -> None:
    """Its queries that use bare names find relations of the worker only."""
    project.write("backend/__init__.py", "")
    project.write("backend/base.py", BACKEND)
    project.configure('DATABASES["default"]["ENGINE"] = "backend"')
    tables = """
        CREATE TABLE library_reading (at date, note text) PARTITION BY RANGE (at);
        CREATE TABLE library_reading_rest PARTITION OF library_reading DEFAULT;
        CREATE INDEX by_at ON library_reading (at);
    """
    project.migration("0002_reading", "0001_initial", f"migrations.RunSQL({tables!r})")
    tests = """
        from backend.base import Introspection

        class Finds(TestCase):
            def test_each(self):
                if os.environ["MEET"]: meet()
                with connection.cursor() as cursor:
                    # The schema editor of psqlextra creates its own instance.
                    for see in (connection.introspection, Introspection(connection)):
                        self.assertEqual(see.indexes(cursor, "library_reading"), [("by_at",)])
                        self.assertEqual(see.partitioned(cursor), [("library_reading",)])
                        self.assertEqual(see.partitions(cursor, "library_reading"),
                                         [("library_reading_rest", True)])
                        self.assertEqual(see.columns(cursor, "library_book"), [(3,)])
                        self.assertEqual(see.toasts(cursor), [(True,)])
                        self.assertIn("library_book_pkey",
                                      see.get_constraints(cursor, "library_book"))
        class FindsToo(Finds): pass
    """
    project.tests(tests)
    project.run(*mode, env={"MEET": "2" if mode == PARALLEL else ""}).passed("Ran 2 tests")


# Objects that a schema cannot hold, by the name in the message, which lists up to three.
OBSTACLES = [parse_cases(table) for table in ("""
    -- schema audit
    CREATE SCHEMA audit; CREATE TABLE audit.log (name text);
    CREATE FUNCTION audit.logs() RETURNS trigger LANGUAGE plpgsql SET search_path = audit, public
    AS 'BEGIN INSERT INTO audit.log SELECT name FROM public.library_author WHERE id = NEW.id;
     RETURN NULL; END';
    CREATE TRIGGER logs AFTER INSERT ON library_author FOR EACH ROW EXECUTE FUNCTION audit.logs()
    =>
    Author.objects.create(name="a")
    self.assertEqual(query("SELECT name FROM audit.log"), [("a",)])
    -- function public.authors()
    CREATE FUNCTION authors() RETURNS bigint LANGUAGE plpgsql AS
    $$ DECLARE n bigint; BEGIN
        EXECUTE 'SELECT count(*) FROM public.library_author' INTO n; RETURN n;
    END $$
    =>
    Author.objects.create(name="a")
    self.assertEqual(query("SELECT authors()"), [(1,)])
    -- type public.hollow
    CREATE TYPE hollow
    => self.assertTrue(query("SELECT 1 FROM pg_type WHERE typname = 'hollow'"))
""", """
    -- event trigger no_tables
    CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE 'not by %', TG_TAG; END $$;
    CREATE EVENT TRIGGER no_tables ON ddl_command_start WHEN TAG IN ('CREATE TABLE AS')
    EXECUTE FUNCTION forbid()
    =>
    with self.assertRaisesMessage(Exception, "not by CREATE TABLE AS"):
        query("CREATE TABLE t AS SELECT 1")
    -- publication news
    CREATE PUBLICATION news FOR TABLE library_author
    =>
    found = query("SELECT tablename FROM pg_publication_tables")
    self.assertEqual(found, [("library_author",)])
    -- cast (pg_catalog.text AS pg_catalog.cidr)
    CREATE CAST (text AS cidr) WITH INOUT AS ASSIGNMENT
    => self.assertEqual(query("SELECT 1 FROM pg_cast WHERE oid >= 16384"), [(1,)])
""", """
    -- foreign-data wrapper far, server there
    CREATE FOREIGN DATA WRAPPER far; CREATE SERVER there FOREIGN DATA WRAPPER far
    => self.assertEqual(query("SELECT srvname FROM pg_foreign_server"), [("there",)])
    -- DROP EXTENSION IF EXISTS hstore CASCADE
    DROP EXTENSION IF EXISTS hstore CASCADE
    & CREATE EXTENSION hstore; ALTER TABLE library_book ADD COLUMN tags hstore
    => self.assertEqual(query("SELECT count(tags) FROM library_book"), [(0,)])
""")]  # fmt: skip
AUDIT, _ = OBSTACLES[0]["schema audit"]


@each_runner
@pytest.mark.parametrize("obstacles", OBSTACLES, ids=lambda obstacles: next(iter(obstacles)))
def test_what_a_schema_cannot_hold(project: Project, obstacles: Cases, mode: Mode) -> None:
    """Workers get clone databases, one line names the objects, and tests pass."""
    write_cases(
        project,
        {f"case_{number}": case for number, case in enumerate(obstacles.values())},
        f"""
def test_the_worker_knows_where_it_is(self):
    ((database, schema),) = query("SELECT current_database(), current_schema()")
    if worker := schema_runner.current_worker():
        self.assertEqual((worker.database, worker.schema), (database, schema))
        clone = f"_{{worker.number}}" if os.environ["MEET"] == "2" else ""
        self.assertEqual((database, schema), ({project.test_name!r} + clone, "public"))
""",
    )
    result = run(project, mode)
    lines = [line for line in result.stdout.splitlines() if "uses clone databases" in line]
    assert len(lines) == (mode != WITH_STOCK)
    for line in lines:
        assert all(part in line for name in obstacles for part in name.split(", "))
        assert "(migration library.0002_case_0)" in line
        assert ". To use schemas, remove that from migrations" in line
    if lines and "schema audit" in obstacles:
        assert "uses clone databases" not in run(project, mode, "-v", "0").output


# Workers started by forkserver receive the same configuration.
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_clone_databases_of_several_aliases(project: Project, method: str) -> None:
    """Workers use their own clone of each alias, and mirrors that of their primary."""
    project.migration("0002_audit", "0001_initial", AUDIT)
    for alias, changed in (
        ("other", {"NAME": f"{project.name}_o"}),
        ("mirror", {"TEST": {"MIRROR": "default"}}),
    ):
        project.configure(f'DATABASES[{alias!r}] = DATABASES["default"] | {changed}')
    tests = """
        class Apart(TransactionTestCase):
            databases = {"default", "other", "mirror"}
            def test_it(self):
                meet()
                Author.objects.create(name="a")
                self.assertEqual(Author.objects.using("mirror").count(), 1)
                self.assertEqual(Author.objects.using("other").count(), 0)
                number = schema_runner.current_worker().number
                for alias in self.databases:
                    ((database,),) = query("SELECT current_database()", using=alias)
                    self.assertTrue(database.endswith(f"_{number}"))
        class Alike(Apart): pass
    """
    project.tests(tests)
    run(project, PARALLEL, method=method)


# Statements that find objects of the first worker's schema by bare name.
BARE = """
    DO $$ BEGIN
        ASSERT (SELECT count(*) = 1 FROM pg_class WHERE relname = 'library_author');
    END $$;
    CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = public
    AS 'SELECT count(*)::int FROM library_author';
"""
# Statements that do less if the first worker's objects exist.
ONCE = """
    DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_constraint WHERE conname = 'no_empty_name') THEN
            ALTER TABLE library_author ADD CONSTRAINT no_empty_name CHECK (name <> '');
        END IF;
    END $$;
    CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2';
"""
FAILED = "because a second schema cannot be built: "
FORESEEN = "migrations cannot build a second schema: library/migrations"


# The lint finds the problem beforehand, or the second build fails, or its result differs.
SECOND_BUILDS = {
    "foreseen": (BARE, [], "spawn", FORESEEN),
    "fails-fork": (BARE, ["library.0002_bare"], "fork", FAILED),
    "fails-spawn": (BARE, ["library.0002_bare"], "spawn", FAILED),
    "different": (ONCE, ["library.0002_bare"], "fork", "no_empty_name"),
}


@pytest.mark.parametrize(
    ("statements", "trusted", "method", "saying"), SECOND_BUILDS.values(), ids=SECOND_BUILDS
)
def test_a_second_build_that_cannot_be_kept_apart(
    project: Project, statements: str, trusted: list[str], method: str, saying: str
) -> None:
    """The other workers get clone databases, as in stock Django."""
    project.migration("0002_bare", "0001_initial", sql(statements))
    settings = {"SEEDERS": ["helpers.counting.seed"], "TRUSTED_MIGRATIONS": trusted}
    project.configure(f"SCHEMA_RUNNER = {settings | {'STRATEGY': 'migrate'}}")
    tests = f"""
        class Any(TestCase):
            def test_it(self):
                meet()
                Author.objects.create(name="another")
                self.assertEqual(Author.objects.count(), 2)
                found = query("SELECT f(), current_schema(), current_database()")
                ((count, schema, database),) = found
                self.assertEqual(count, 2)
                number = schema_runner.current_worker().number
                if number == 1:
                    self.assertTrue(schema.startswith("test_w1_"))
                else:
                    self.assertEqual(schema, "public")
                    self.assertTrue(database.endswith(f"_{{number}}"))
                if {statements is ONCE}:
                    with self.assertRaisesMessage(Exception, "no_empty_name"):
                        Author.objects.create(name="")
        class Alike(Any): pass
    """
    project.tests(tests)
    assert saying in run(project, PARALLEL, method=method).stdout


def test_a_database_template_with_objects(project: Project) -> None:
    """Objects that TEST TEMPLATE has in `public` exist for every worker."""
    template = f"{project.name}_template"
    project.create_database(template)
    prepares = "CREATE TABLE prepared (n int); INSERT INTO prepared VALUES (7)"
    project.query(prepares, database=template)
    project.configure(f'DATABASES["default"]["TEST"] = {{"TEMPLATE": {template!r}}}')
    tests = """
        class Any(TestCase):
            def test_it(self): self.assertEqual(query("SELECT n FROM prepared"), [(7,)])
        class Alike(Any): pass
    """
    project.tests(tests)
    for mode in (SERIAL, PARALLEL):
        assert "table public.prepared" in project.run(*mode).passed().stdout
        assert project.databases() == [template]
    project.drop_database(template)
