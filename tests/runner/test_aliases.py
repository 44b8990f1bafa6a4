"""Options of DATABASES, several aliases, and ways to connect to them."""

import re
from collections.abc import Iterator
from textwrap import dedent

import pytest

from ..project import METHODS, PARALLEL, SERIAL, WITH_STOCK, Mode, Project, each_mode, each_runner
from .test_roles import roles as created_roles

# Two PostgreSQL databases with an app each, a third with one of the tables, a second alias of the
# default, a mirror, a database that no test uses, and SQLite.
DATABASES = """
    NAME = DATABASES["default"]["NAME"]
    INSTALLED_APPS = ["library", "shop"]
    DATABASE_ROUTERS = ["settings.Router"]
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

    class Router:
        def db_for_read(self, model, **hints):
            return "other" if model._meta.app_label == "shop" else None

        db_for_write = db_for_read
        def allow_migrate(self, db, app_label, model_name=None, **hints):
            if app_label == "shop":
                return db == "other"
            return db == "default" or db in {"third", "small"} and model_name in {"author", None}
"""
POOLS = """
    DATABASES["default"]["OPTIONS"] = {"pool": True}
    for alias in ("other", "mirror", "third"):
        DATABASES[alias]["OPTIONS"] = {"pool": {"min_size": 1, "max_size": 2}}
"""

SHOP = """
    from django.db import models

    class Item(models.Model):
        name = models.CharField(max_length=100)
"""
SHOP_MIGRATION = """
    from django.db import migrations
    from helpers.migrations import created
    from shop.models import Item

    def insert(apps, editor):
        if editor.connection.alias == "other":
            apps.get_model("shop", "Item").objects.create(name="migrated")

    class Migration(migrations.Migration):
        operations = [*created(Item), migrations.RunPython(insert)]
"""
AUTHOR_MIGRATION = """
    migrations.RunPython(
        lambda apps, editor: editor.connection.alias == "default"
        and apps.get_model("library", "Author").objects.create(name="migrated")
    ),
"""
SEVERAL = """
    from shop.models import Item

    LIBRARY = ["django_migrations", "library_author", "library_book"]
    TABLES = {
        **dict.fromkeys(["default", "again"], LIBRARY),
        **dict.fromkeys(["other", "mirror"], ["django_migrations", "shop_item"]),
        **dict.fromkeys(["third", "small"], LIBRARY[:2]),
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
        test_they_come_back = test_rows_of_migrations_are_there
    class RestoredToo(Restored): pass

    class Shared(TransactionTestCase):
        databases = {*TABLES}
        def test_who_sees_whose_rows(self):
            for alias in ("default", "third", "small"):
                Author.objects.using(alias).create(name=alias)
            Item.objects.create(name="bought")
            self.assertEqual(names("again"), names("default"))
            self.assertIn("default", names("again"))
            self.assertEqual([names("third"), names("small")], [["third"], ["small"]])
            self.assertIn("bought", names("mirror", Item))
        test_again = test_who_sees_whose_rows
    class SharedToo(Shared): pass

    class Tables(TestCase):
        databases = {*TABLES}
        def test_tables(self):
            for alias, tables in TABLES.items():
                see = connections[alias].introspection
                self.assertEqual(sorted(see.table_names()), tables, alias)
        def test_the_database_that_no_test_uses(self):
            rows = query("SELECT datname FROM pg_database WHERE datname ~ 'p[0-9]+_unused'")
            self.assertEqual(rows, [])
        def test_creation_can_be_asked(self):
            aliases = ("default", "other", "third")
            signatures = {connections[alias].creation.test_db_signature() for alias in aliases}
            self.assertEqual([len(one) for one in signatures], [4] * 3)
    class TablesToo(Tables): pass
"""


def use_several(project: Project) -> None:
    """Give a project the DATABASES above, and the app `shop`."""
    project.configure(DATABASES)
    for package in ("shop", "shop/migrations"):
        project.write(f"{package}/__init__.py", "")
    project.write("shop/models.py", SHOP)
    project.write("shop/migrations/0001_initial.py", SHOP_MIGRATION)


def created(output: str) -> list[str]:
    """Return the aliases in the order in which their databases were created."""
    return re.findall(r"^Creating test database for alias '(\w+)'\.\.\.$", output, re.MULTILINE)


# Workers open their own connection pools with any start method. Stock Django's forked workers
# inherit their parent's pools and hang, and Django 5.2 cannot clone SQLite with forkserver.
RUNS = {
    "stock": ("", WITH_STOCK, "fork"),
    "serial": ("", SERIAL, "fork"),
    "parallel": ("", PARALLEL, "fork"),
    "pools": (POOLS, SERIAL, "fork"),
    **{f"pools-{method}": (POOLS, PARALLEL, method) for method in METHODS},
}


@pytest.mark.parametrize(("options", "mode", "method"), RUNS.values(), ids=RUNS)
def test_several_databases(project: Project, options: str, mode: Mode, method: str) -> None:
    """Each has the tables that routers allow, and its own rows, in the order of DEPENDENCIES."""
    use_several(project)
    project.configure(options)
    project.migration("0002_rows", "0001_initial", AUTHOR_MIGRATION)
    project.tests(SEVERAL)
    result = project.run(*mode, env={"START_METHOD": method}).passed()
    assert created(result.stderr) == ["other", "default", "third", "small"]


def test_circular_dependencies(project: Project) -> None:
    """The run fails before it creates anything, with the error of stock Django."""
    use_several(project)
    project.configure('DATABASES["other"]["TEST"] = {"DEPENDENCIES": ["third"]}')
    project.configure('DATABASES["third"]["TEST"] = {"DEPENDENCIES": ["other"]}')
    project.tests(SEVERAL)
    said = "ImproperlyConfigured: Circular dependency in TEST[DEPENDENCIES]\n"
    for arguments in (PARALLEL, (*PARALLEL, *WITH_STOCK)):
        result = project.run(*arguments).failed()
        assert result.stderr.endswith(f"django.core.exceptions.{said}")
        assert created(result.stderr) == []


# One alias for each group of related settings.
OPTIONS = """
    from psycopg import IsolationLevel

    NAME = DATABASES["default"]["NAME"]
    INSTALLED_APPS = ["library"]
    ROOT_URLCONF = "urls"
    SCHEMA_RUNNER = {"SEEDERS": ["library.test_generated.seed"]}
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
    encoded = {"CHARSET": "UTF8", "TEMPLATE": "template0"}
    DATABASES |= {
        "role": {
            **server, "NAME": f"{NAME}_role", "USER": f"{NAME}_user", "CONN_MAX_AGE": 600,
            "DISABLE_SERVER_SIDE_CURSORS": True, "OPTIONS": {"assume_role": f"{NAME}_owner"},
        },
        "ascii": {
            **server, "NAME": f"{NAME}_ascii",
            "TEST": {**encoded, "CHARSET": "SQL_ASCII", "NAME": f"{NAME} Ascii"},
        },
        "unmigrated": {
            **server, "NAME": f"{NAME}_unmigrated", "TEST": {**encoded, "MIGRATE": False}
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
        return HttpResponse((await Author.objects.aget(name="committed")).name)

    urlpatterns = [path("", read), path("fail", fail), path("later", read_later)]
"""
OPTIONS_TESTS = """
    from helpers.elsewhere import answers

    def seed(using): Author.objects.using(using).create(id=50, name="seeded")

    ALIASES = {"default", "role", "ascii", "unmigrated"}
    LEFT_OPEN = []
    SESSIONS = [
        ("default", "SHOW statement_timeout", "54321ms"),
        ("default", "SHOW my.words", "two words"),
        ("default", "SHOW transaction_isolation", "serializable"),
        # From PGOPTIONS.
        *((alias, "SHOW lock_timeout", "12345ms") for alias in ("role", "ascii", "unmigrated")),
        ("role", "SELECT current_user", f"{NAME}_owner"),
        ("role", "SELECT session_user", f"{NAME}_user"),
        ("role", "SELECT tableowner FROM pg_tables WHERE tablename = 'library_author'",
         f"{NAME}_owner"),
        ("ascii", "SHOW server_encoding", "SQL_ASCII"),
        ("unmigrated", "SHOW server_encoding", "UTF8"),
    ]

    class Sessions(TransactionTestCase):
        databases = ALIASES
        def test_sessions(self):
            for alias, statement, expected in SESSIONS:
                with self.subTest(alias=alias, statement=statement):
                    self.assertEqual(answers(alias, statement), [expected] * 3)
        def test_a_connection_of_that_role_is_left_open(self):
            # With this connection, stock Django could not drop the database.
            if "--testrunner" not in sys.argv:
                LEFT_OPEN.append(connections["role"].copy())
                LEFT_OPEN[-1].ensure_connection()

        def test_binding(self):
            # Only server-side binding sends the type of a parameter.
            for alias, expected in (("default", "smallint"), ("role", "integer")):
                self.assertEqual(query("SELECT pg_typeof(%s)", 1, using=alias), [(expected,)])
        def test_encodings(self):
            for alias in ("ascii", "unmigrated"):
                Author.objects.using(alias).create(name="Žofie")
                self.assertEqual(Author.objects.using(alias).get(name="Žofie").name, "Žofie")
        def test_which_migrations_have_run(self):
            for alias in ALIASES:
                tables = connections[alias].introspection.table_names()
                found = [name for name in tables if not name.startswith("library_")]
                expected = [] if alias == "unmigrated" else ["django_migrations", "extra"]
                self.assertEqual(found, expected)

        def test_sequences(self):
            for alias in ALIASES:
                Author.objects.using(alias).create(name="any")
        def test_requests(self):
            self.client.raise_request_exception = False
            self.assertEqual(self.client.get("/fail").status_code, 500)
            self.assertFalse(Author.objects.filter(name="half a request").exists())
    class SessionsToo(Sessions): pass

    class Cursors(TestCase):
        databases = ALIASES
        def test_server_side_cursors(self):
            for alias in ALIASES:
                for name in ("a", "b", "c"):
                    Author.objects.using(alias).create(name=name)
                authors = Author.objects.using(alias).exclude(name="seeded").order_by("name")
                rows = authors.iterator(chunk_size=1)
                self.assertEqual(next(rows).name, "a")
                cursors = query("SELECT name FROM pg_cursors", using=alias)
                self.assertEqual(len(cursors), 0 if alias == "role" else 1)
                self.assertEqual([row.name for row in rows], ["b", "c"])
    class CursorsToo(Cursors): pass
"""


@pytest.fixture
def roles(project: Project) -> Iterator[None]:
    """A role that owns databases, and a member of it."""
    owner, user = f"{project.name}_owner", f"{project.name}_user"
    with created_roles(project, **{owner: "CREATEDB", user: f"IN ROLE {owner}"}):
        yield


@pytest.mark.usefixtures("roles")
@each_runner
def test_options(project: Project, mode: Mode) -> None:
    """Settings of connections and of test databases apply in every worker."""
    project.configure(OPTIONS)
    project.write("urls.py", URLS)
    extra = "CREATE EXTENSION IF NOT EXISTS hstore; CREATE TABLE extra (tags hstore)"
    project.migration("0002_extra", "0001_initial", f"migrations.RunSQL({extra!r})")
    project.tests(f"NAME = {project.name!r}\n{dedent(OPTIONS_TESTS)}")
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
SERVICE_SETTINGS = """
    service = {"ENGINE": DATABASES["default"]["ENGINE"], "OPTIONS": {"service": "settings"}}
    DATABASES = {
        "named": {**service, "NAME": DATABASES["default"]["NAME"]},
        "default": {**service, "NAME": ""},
    }
"""
SERVICE_TESTS = """
    from helpers.elsewhere import answers

    SESSION = '''SELECT (session_user, current_setting('statement_timeout'),
                         current_setting('lock_timeout'))::text'''

    class Service(TransactionTestCase):
        databases = {"default", "named"}
        def test_sessions(self):
            for alias in self.databases:
                self.assertEqual(answers(alias, SESSION), [EXPECTED] * 3, alias)
    class ServiceToo(Service): pass
"""


# With the project's own database, the service in OPTIONS decides, otherwise PGSERVICE does.
SESSIONS = {
    "stock": (WITH_STOCK, "({user},0,12345ms)"),
    "serial": (SERIAL, "({user},0,12345ms)"),
    "parallel": (PARALLEL, "({user},0,12345ms)"),
    "current": ((*PARALLEL, "--host-database", "current"), "({other},54321ms,0)"),
}


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize(("arguments", "session"), SESSIONS.values(), ids=SESSIONS)
def test_services(project: Project, arguments: Mode, session: str) -> None:
    """A service in OPTIONS does not apply to a test database, as in stock Django."""
    where = {key: project.server.params[key] for key in ("host", "port", "user")}
    where |= {"name": project.name, "other": f"{project.name}_user"}
    project.write("pg_service.conf", SERVICES.format(**where))
    project.configure(SERVICE_SETTINGS)
    expected = session.format(**where)
    project.tests(f"EXPECTED = {expected!r}\n{dedent(SERVICE_TESTS)}")
    project.create_database()
    grant = "GRANT CREATE ON DATABASE {name} TO {other}".format(**where)
    project.query(grant, database=project.name)
    path = str(project.folder / "pg_service.conf")
    env = {"PGSERVICEFILE": path, "PGSERVICE": "environment"}
    project.run(*arguments, env=env).passed()
    left = r"""SELECT nspname FROM pg_namespace WHERE nspname LIKE 'test\_%'
               UNION ALL SELECT datname FROM pg_database WHERE datname = 'test_'"""
    assert project.query(left, database=project.name) == []
    project.drop_database()


CONCURRENT_TESTS = """
    from contextlib import closing
    from urllib.request import urlopen
    from asgiref.sync import sync_to_async
    from django.test import LiveServerTestCase
    from helpers.elsewhere import answers

    class Live(LiveServerTestCase):
        def test_server(self):
            Author.objects.create(name="committed")
            for path in ("", "/later"):
                with urlopen(self.live_server_url + path) as response:
                    self.assertEqual(response.read(), b"committed")

    class Elsewhere(TransactionTestCase):
        def test_what_is_committed_shows_elsewhere(self):
            Author.objects.create(name="committed")
            found = answers("default", "SELECT name FROM library_author")
            self.assertEqual(found, ["committed"] * 3)
        async def test_other_threads(self):
            await Author.objects.acreate(name="committed")
            def look():
                with closing(connection):
                    return Author.objects.get().name

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
    class AsyncToo(Async): pass

    class Apart(TransactionTestCase):
        databases = {"default", "again"}
        def test_each_sees_its_own(self):
            Author.objects.create(name="a")
            self.assertEqual(Author.objects.using("again").count(), 0)
    class ApartToo(Apart): pass
"""


@each_mode
def test_threads_live_servers_and_coroutines(
    project: Project, tmp_path_factory: pytest.TempPathFactory, mode: Mode
) -> None:
    """New connections of threads, live servers and coroutines use the worker's schema."""
    # Two HOST values reach the same server, so each alias gets its own schemas. Stock Django
    # fails, because both test databases have the same name.
    link = tmp_path_factory.mktemp("s") / "s"
    link.symlink_to(project.server.params["host"])
    project.configure('INSTALLED_APPS = ["library"]; ROOT_URLCONF = "urls"; ALLOWED_HOSTS = ["*"]')
    project.configure(f'DATABASES["again"] = {{**DATABASES["default"], "HOST": {str(link)!r}}}')
    project.write("urls.py", URLS)
    project.tests(CONCURRENT_TESTS)
    project.run(*mode).passed()
