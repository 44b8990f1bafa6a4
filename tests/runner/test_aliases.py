"""What DATABASES can say of its aliases, and the ways to connect to them."""

from collections.abc import Iterator
from textwrap import dedent

import pytest
from psycopg import sql

from ..project import STOCK, Project

MODES = [("--testrunner", STOCK), (), ("--parallel", "2")]
IDS = ["stock", "serial", "parallel"]
METHODS = ["fork", "spawn", "forkserver"]

# Two databases of PostgreSQL with an app each, a third with one table of two, a second alias and a
# mirror, a database that no test uses, and SQLite.
DATABASES = """
    NAME = DATABASES["default"]["NAME"]
    INSTALLED_APPS = ["library", "shop"]
    DATABASE_ROUTERS = ["routers.Router"]
    server = dict(DATABASES["default"])
    DATABASES["default"]["TEST"] = {"DEPENDENCIES": ["other"]}
    DATABASES |= {
        "again": DATABASES["default"],
        "unused": {**server, "NAME": f"{NAME}_unused"},
        "small": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": "small.sqlite3",
            "TEST": {"DEPENDENCIES": ["third"]},
        },
        "third": {**server, "NAME": f"{NAME}_third"},
        "mirror": {**server, "NAME": f"{NAME}_other", "TEST": {"MIRROR": "other"}},
        "other": {**server, "NAME": f"{NAME}_other", "TEST": {"DEPENDENCIES": []}},
    }
"""
POOLS = """
    DATABASES["default"]["OPTIONS"] = {"pool": True}
    for alias in ("other", "mirror", "third"):
        DATABASES[alias]["OPTIONS"] = {"pool": {"min_size": 1, "max_size": 2}}
"""
ROUTER = """
    class Router:
        def db_for_read(self, model, **hints):
            return "other" if model._meta.app_label == "shop" else None

        db_for_write = db_for_read

        def allow_migrate(self, db, app_label, model_name=None, **hints):
            if app_label == "shop":
                return db == "other"
            return db == "default" or db in {"third", "small"} and model_name in {"author", None}
"""
SHOP = """
    from django.db import models


    class Item(models.Model):
        name = models.CharField(max_length=100)
"""
SHOP_MIGRATION = """
    from django.db import migrations, models


    def insert(apps, editor):
        if editor.connection.alias == "other":
            apps.get_model("shop", "Item").objects.create(name="migrated")


    class Migration(migrations.Migration):
        dependencies = []
        operations = [
            migrations.CreateModel(
                name="Item",
                fields=[
                    ("id", models.BigAutoField(primary_key=True, serialize=False)),
                    ("name", models.CharField(max_length=100)),
                ],
            ),
            migrations.RunPython(insert),
        ]
"""
AUTHOR_MIGRATION = """
    migrations.RunPython(
        lambda apps, editor: editor.connection.alias == "default"
        and apps.get_model("library", "Author").objects.create(name="migrated")
    ),
"""
SEVERAL = """
    from shop.models import Item

    ALIASES = {"default", "again", "other", "mirror", "third", "small"}
    TABLES = {
        "default": ["django_migrations", "library_author", "library_book"],
        "again": ["django_migrations", "library_author", "library_book"],
        "other": ["django_migrations", "shop_item"],
        "mirror": ["django_migrations", "shop_item"],
        "third": ["django_migrations", "library_author"],
        "small": ["django_migrations", "library_author"],
    }


    def names(alias, model=Author):
        return sorted(model.objects.using(alias).values_list("name", flat=True))


    class Restored(TransactionTestCase):
        databases = {"default", "other"}
        serialized_rollback = True

        def test_rows_of_migrations_are_there(self):
            self.assertEqual(names("default"), ["migrated"])
            self.assertEqual(names("other", Item), ["migrated"])
            Author.objects.create(name="new")
            Item.objects.all().delete()

        def test_they_come_back(self):
            self.test_rows_of_migrations_are_there()


    class RestoredToo(Restored):
        pass


    class Shared(TransactionTestCase):
        databases = ALIASES

        def test_who_sees_whose_rows(self):
            for alias in ("default", "third", "small"):
                Author.objects.using(alias).create(name=alias)
            Item.objects.create(name="bought")
            self.assertEqual(names("again"), names("default"))
            self.assertIn("default", names("again"))
            self.assertEqual([names("third"), names("small")], [["third"], ["small"]])
            self.assertIn("bought", names("mirror", Item))

        def test_again(self):
            self.test_who_sees_whose_rows()


    class SharedToo(Shared):
        pass


    class Tables(TestCase):
        databases = ALIASES

        def test_tables(self):
            for alias, tables in TABLES.items():
                see = connections[alias].introspection
                self.assertEqual(sorted(see.table_names()), tables, alias)

        def test_the_database_that_no_test_uses(self):
            with connection.cursor() as cursor:
                cursor.execute("SELECT FROM pg_database WHERE datname ~ 'p[0-9]+_unused'")
                self.assertEqual(cursor.rowcount, 0)

        def test_creation_can_be_asked(self):
            signatures = {
                connections[alias].creation.test_db_signature()
                for alias in ALIASES - {"again", "mirror", "small"}
            }
            self.assertEqual(len(signatures), 3)
            self.assertEqual({len(one) for one in signatures}, {4})


    class TablesToo(Tables):
        pass
"""


@pytest.fixture
def several(project: Project) -> Project:
    """A project with the DATABASES above."""
    project.configure(DATABASES)
    project.write("routers.py", ROUTER)
    project.write("shop/__init__.py", "")
    project.write("shop/models.py", SHOP)
    project.write("shop/migrations/__init__.py", "")
    project.write("shop/migrations/0001_initial.py", SHOP_MIGRATION)
    project.migration("0002_rows", "0001_initial", AUTHOR_MIGRATION)
    project.tests(SEVERAL)
    return project


def created(output: str) -> list[str]:
    """Return the aliases in the order in which their databases were created."""
    start, end = "Creating test database for alias '", "'..."
    return [
        line.removeprefix(start).removesuffix(end)
        for line in output.splitlines()
        if line.startswith(start)
    ]


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_several_databases(several: Project, mode: tuple[str, ...]) -> None:
    """Each has the tables that routers allow, in the order of DEPENDENCIES, and its own rows."""
    result = several.run(*mode).passed()
    assert created(result.stderr) == ["other", "default", "third", "small"]


@pytest.mark.parametrize("method", [None, *METHODS])
def test_several_pools(several: Project, method: str | None) -> None:
    """Workers open pools of their own, however they are started, and so does a serial run.

    Stock Django's hang when they are forked, for they inherit their parent's pools; that of 5.2
    cannot clone SQLite under forkserver.
    """
    several.configure(POOLS)
    if method is None:
        several.run().passed()
    else:
        several.run("--parallel", "2", env={"START_METHOD": method}).passed()


@pytest.mark.parametrize("runner", [STOCK, "schema_runner.SchemaDiscoverRunner"])
def test_dependencies_that_go_in_a_circle(several: Project, runner: str) -> None:
    """No order can be found, which is said before anything is created."""
    several.configure('DATABASES["other"]["TEST"] = {"DEPENDENCIES": ["third"]}')
    several.configure('DATABASES["third"]["TEST"] = {"DEPENDENCIES": ["other"]}')
    result = several.run("--parallel", "2", "--testrunner", runner)
    assert result.code == 1
    error = (
        "django.core.exceptions.ImproperlyConfigured: Circular dependency in TEST[DEPENDENCIES]"
    )
    assert result.stderr.splitlines()[-1] == error
    assert created(result.stderr) == []


@pytest.mark.parametrize("mode", MODES[1:], ids=IDS[1:])
def test_one_database_by_two_names_of_its_server(
    project: Project, tmp_path_factory: pytest.TempPathFactory, mode: tuple[str, ...]
) -> None:
    """Django takes them for two databases, so each alias gets schemas of its own.

    Stock Django's runner fails, for the second database has the name of the first.
    """
    link = tmp_path_factory.mktemp("s") / "s"
    link.symlink_to(project.server.params["host"])
    project.configure(f'DATABASES["again"] = {{**DATABASES["default"], "HOST": {str(link)!r}}}')
    project.tests(
        """
        class Apart(TransactionTestCase):
            databases = {"default", "again"}

            def test_each_sees_its_own(self):
                Author.objects.create(name="a")
                self.assertEqual(Author.objects.using("again").count(), 0)


        class More(Apart):
            pass
        """
    )
    project.run(*mode).passed()


# An alias for each group of settings that go together.
OPTIONS = """
    from psycopg import IsolationLevel

    NAME = DATABASES["default"]["NAME"]
    INSTALLED_APPS = ["library"]
    ROOT_URLCONF = "urls"
    SCHEMA_RUNNER = {"SEEDERS": ["library.seeds.seed"]}
    server = dict(DATABASES["default"])
    DATABASES["default"] |= {
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": True,
        "ATOMIC_REQUESTS": True,
        "OPTIONS": {
            "options": "-c statement_timeout=54321 -c my.words=two\\\\ words",
            "isolation_level": IsolationLevel.SERIALIZABLE,
            "server_side_binding": True,
        },
    }
    DATABASES |= {
        "role": {
            **server,
            "NAME": f"{NAME}_role",
            "USER": f"{NAME}_user",
            "CONN_MAX_AGE": 600,
            "DISABLE_SERVER_SIDE_CURSORS": True,
            "OPTIONS": {"assume_role": f"{NAME}_owner"},
        },
        "ascii": {
            **server,
            "NAME": f"{NAME}_ascii",
            "TEST": {"CHARSET": "SQL_ASCII", "TEMPLATE": "template0", "NAME": f"{NAME} Ascii"},
        },
        "unmigrated": {
            **server,
            "NAME": f"{NAME}_unmigrated",
            "TEST": {"CHARSET": "UTF8", "TEMPLATE": "template0", "MIGRATE": False},
        },
    }
"""
URLS = """
    from django.http import HttpResponse
    from django.urls import path
    from library.models import Author


    def read(request):
        return HttpResponse(Author.objects.get(name="committed").name)


    def fail(request):
        Author.objects.create(name="half a request")
        raise ValueError


    async def read_later(request):
        author = await Author.objects.aget(name="committed")
        return HttpResponse(author.name)


    urlpatterns = [path("", read), path("fail", fail), path("later", read_later)]
"""
SEEDS = """
    from library.models import Author


    def seed(using):
        Author.objects.using(using).create(id=50, name="seeded")
"""
# How tests reach the database by other connections than the one that their thread has.
ELSEWHERE = """
    import threading


    def here(function):
        return function(connections)


    def in_a_thread(function):
        def run():
            try:
                answers.append(function(connections))
            finally:
                connections.close_all()

        answers = []
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return answers[0]


    def with_copies(function):
        copies = {alias: connections[alias].copy() for alias in connections}
        try:
            return function(copies)
        finally:
            for copy in copies.values():
                copy.close()


    WAYS = here, in_a_thread, with_copies


    def ask(connection, query):
        with connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0]
"""
OPTIONS_TESTS = """
    import sys

    ALIASES = {"default", "role", "ascii", "unmigrated"}
    LEFT_OPEN = []


    class Sessions(TransactionTestCase):
        databases = ALIASES

        def assert_everywhere(self, alias, query, expected):
            for way in WAYS:
                with self.subTest(way=way.__name__, query=query):
                    self.assertEqual(way(lambda them: ask(them[alias], query)), expected)

        def test_options(self):
            self.assert_everywhere("default", "SHOW statement_timeout", "54321ms")
            self.assert_everywhere("default", "SHOW my.words", "two words")

        def test_what_the_environment_says(self):
            for alias in ("role", "ascii", "unmigrated"):
                self.assert_everywhere(alias, "SHOW lock_timeout", "12345ms")

        def test_role(self):
            owner, user = f"{NAME}_owner", f"{NAME}_user"
            self.assert_everywhere("role", "SELECT current_user", owner)
            self.assert_everywhere("role", "SELECT session_user", user)
            query = "SELECT tableowner FROM pg_tables WHERE tablename = 'library_author'"
            self.assert_everywhere("role", query, owner)

        def test_a_connection_of_that_role_is_left_open(self):
            # Stock Django could not drop the database.
            if "--testrunner" not in sys.argv:
                LEFT_OPEN.append(connections["role"].copy())
                LEFT_OPEN[-1].ensure_connection()

        def test_isolation_level(self):
            for way in WAYS:
                self.assertEqual(way(self.serializable), "serializable")

        def serializable(self, them):
            connection = them["default"]
            connection.set_autocommit(False)
            try:
                return ask(connection, "SHOW transaction_isolation")
            finally:
                connection.rollback()
                connection.set_autocommit(True)

        def test_binding(self):
            # The server is told the type of a bound parameter, and of an interpolated one not.
            bound = "SELECT pg_typeof(%s)"
            for alias, expected in (("default", "smallint"), ("role", "integer")):
                with connections[alias].cursor() as cursor:
                    cursor.execute(bound, [1])
                    self.assertEqual(cursor.fetchone(), (expected,))

        def test_encodings(self):
            for alias, expected in (("ascii", "SQL_ASCII"), ("unmigrated", "UTF8")):
                self.assert_everywhere(alias, "SHOW server_encoding", expected)
                Author.objects.using(alias).create(name="Žofie")
                self.assertEqual(Author.objects.using(alias).get(name="Žofie").name, "Žofie")

        def test_which_migrations_have_run(self):
            for alias in ALIASES:
                see = connections[alias].introspection
                self.assertEqual(
                    [name for name in see.table_names() if not name.startswith("library_")],
                    [] if alias == "unmigrated" else ["django_migrations", "extra"],
                )

        def test_sequences(self):
            for alias in ALIASES:
                Author.objects.using(alias).create(name="any")

        def test_requests(self):
            self.client.raise_request_exception = False
            self.assertEqual(self.client.get("/fail").status_code, 500)
            self.assertFalse(Author.objects.filter(name="half a request").exists())


    class SessionsToo(Sessions):
        pass


    class Cursors(TestCase):
        databases = ALIASES

        def test_server_side_cursors(self):
            for alias in ALIASES:
                for name in ("a", "b", "c"):
                    Author.objects.using(alias).create(name=name)
                authors = Author.objects.using(alias).exclude(name="seeded").order_by("name")
                rows = authors.iterator(chunk_size=1)
                self.assertEqual(next(rows).name, "a")
                cursors = ask(connections[alias], "SELECT count(*) FROM pg_cursors")
                self.assertEqual(cursors, 0 if alias == "role" else 1)
                self.assertEqual([row.name for row in rows], ["b", "c"])


    class CursorsToo(Cursors):
        pass
"""


@pytest.fixture
def roles(project: Project) -> Iterator[None]:
    """A role that owns databases and one that may take it on."""
    owner, user = (sql.Identifier(f"{project.name}_{one}") for one in ("owner", "user"))
    with project.maintenance() as connection:
        connection.execute(sql.SQL("CREATE ROLE {} CREATEDB").format(owner))
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN IN ROLE {}").format(user, owner))
    yield
    with project.maintenance() as connection:
        connection.execute(sql.SQL("DROP ROLE {}, {}").format(user, owner))


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_options(project: Project, mode: tuple[str, ...]) -> None:
    """What DATABASES says of connections and of test databases holds in every worker."""
    project.configure(OPTIONS)
    project.write("urls.py", URLS)
    project.write("library/seeds.py", SEEDS)
    project.migration(
        "0002_extra",
        "0001_initial",
        """
        migrations.RunSQL("CREATE EXTENSION IF NOT EXISTS hstore"),
        migrations.RunSQL("CREATE TABLE extra (tags hstore)"),
        """,
    )
    project.tests(f"NAME = {project.name!r}\n{dedent(ELSEWHERE)}\n{dedent(OPTIONS_TESTS)}")
    project.run(*mode, env={"PGOPTIONS": "-c lock_timeout=12345"}).passed()


SERVICES = """
    [environment]
    host={host}
    port={port}
    user={user}
    options=-c lock_timeout=12345

    [settings]
    host={host}
    port={port}
    user={other}
    dbname={name}
    options=-c statement_timeout=54321
"""
SERVICE_TESTS = """
    class Service(TransactionTestCase):
        databases = {"default", "named"}

        def test_sessions(self):
            for way in WAYS:
                for alias in self.databases:
                    with self.subTest(way=way.__name__, alias=alias):
                        self.assertEqual(way(lambda them: self.session(them[alias])), EXPECTED)

        def session(self, connection):
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT session_user::text, current_setting('statement_timeout'),"
                    " current_setting('lock_timeout')"
                )
                return cursor.fetchone()


    class ServiceToo(Service):
        pass
"""


def use_services(project: Project, *expected: str) -> dict[str, str]:
    """Have a project use a service without a NAME and with one; return the environment."""
    where = {key: project.server.params[key] for key in ("host", "port", "user")}
    services = SERVICES.format(**where, other=f"{project.name}_user", name=project.name)
    project.write("pg_service.conf", services)
    project.configure(
        """
        service = {"ENGINE": DATABASES["default"]["ENGINE"], "OPTIONS": {"service": "settings"}}
        DATABASES = {
            "named": {**service, "NAME": DATABASES["default"]["NAME"]},
            "default": {**service, "NAME": ""},
        }
        """
    )
    project.tests(f"EXPECTED = {expected}\n{dedent(ELSEWHERE)}\n{dedent(SERVICE_TESTS)}")
    path = str(project.folder / "pg_service.conf")
    return {"PGSERVICEFILE": path, "PGSERVICE": "environment"}


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_services(project: Project, mode: tuple[str, ...]) -> None:
    """One in OPTIONS counts for nothing once a test database is made, as under stock Django.

    What it falls back on is what the environment says, here another service.
    """
    user = project.server.params["user"]
    env = use_services(project, user, "0", "12345ms")
    project.run(*mode, env=env).passed()
    with project.maintenance() as connection:
        row = connection.execute("SELECT FROM pg_database WHERE datname = 'test_'").fetchone()
    assert row is None


@pytest.mark.usefixtures("roles")
def test_services_of_the_project_s_own_database(project: Project) -> None:
    """There the service in OPTIONS counts, with its options, and names the database."""
    project.create_database()
    user = f"{project.name}_user"
    with project.maintenance() as connection:
        connection.execute(f"GRANT CREATE ON DATABASE {project.name} TO {user}")
    env = use_services(project, user, "54321ms", "0")
    project.run("--parallel", "2", "--host-database", "current", env=env).passed()
    with project.host(project.name) as connection:
        left = connection.execute("SELECT FROM pg_namespace WHERE nspname LIKE 'test\\_%'")
        assert left.rowcount == 0
    project.drop_database()


CONCURRENT_TESTS = """
    from urllib.request import urlopen
    from asgiref.sync import sync_to_async
    from django.test import LiveServerTestCase


    class Live(LiveServerTestCase):
        def test_server(self):
            Author.objects.create(name="committed")
            for path in ("", "/later"):
                with urlopen(self.live_server_url + path) as response:
                    self.assertEqual(response.read(), b"committed")


    class Elsewhere(TransactionTestCase):
        def test_what_is_committed_shows_elsewhere(self):
            Author.objects.create(name="committed")
            for way in WAYS:
                with self.subTest(way=way.__name__):
                    query = "SELECT name FROM library_author"
                    self.assertEqual(way(lambda them: ask(them["default"], query)), "committed")

        async def test_other_threads(self):
            await Author.objects.acreate(name="committed")

            def look():
                try:
                    return Author.objects.get().name
                finally:
                    connection.close()

            for sensitive in (True, False):
                found = await sync_to_async(look, thread_sensitive=sensitive)()
                self.assertEqual(found, "committed")


    class Async(TestCase):
        @classmethod
        def setUpTestData(cls):
            cls.author = Author.objects.create(name="committed")

        async def test_managers(self):
            book = await Book.objects.acreate(title="t", author=self.author)
            self.assertEqual(await Book.objects.acount(), 1)
            self.assertEqual([found async for found in Book.objects.all()], [book])
            await book.adelete()
            self.assertFalse(await Book.objects.aexists())

        async def test_client(self):
            for path in ("/", "/later"):
                response = await self.async_client.get(path)
                self.assertEqual(response.content, b"committed")

        async def test_sync_to_async(self):
            await sync_to_async(self.author.delete)()
            self.assertFalse(await Author.objects.aexists())


    class AsyncToo(Async):
        pass
"""


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_threads_live_servers_and_coroutines(project: Project, mode: tuple[str, ...]) -> None:
    """Connections that are opened anew find the worker's tables without being told."""
    project.configure('INSTALLED_APPS = ["library"]; ROOT_URLCONF = "urls"; ALLOWED_HOSTS = ["*"]')
    project.write("urls.py", URLS)
    project.tests(f"{dedent(ELSEWHERE)}\n{dedent(CONCURRENT_TESTS)}")
    project.run(*mode).passed()
