"""Handlers of post_migrate are connected and called as in stock Django."""

import pytest

from ..project import PARALLEL, SERIAL, WITH_STOCK, Mode, Project

MANAGEMENT = """
    from django.db.models.signals import post_migrate

    def make(sender, using, **kwargs):
        if sender.label == "library":
            sender.get_model("Author").objects.using(using).get_or_create(name="made")

    post_migrate.connect(make, dispatch_uid="make")
"""
# The second app is installed by tests only.
IMPORTED = """
    from django.test import modify_settings

    class Before(TestCase):
        def test_it(self): self.assertIn("library.management", sys.modules)

    class Made(TransactionTestCase):
        def check(self):
            self.assertEqual([one.name for one in Author.objects.all()], ["made"])
            Author.objects.create(name="x")
        test_a = test_b = test_c = check

    @modify_settings(INSTALLED_APPS={"append": "later"})
    class Other(Made):
        def test_c(self):
            self.check()
            self.assertIn("later.management", sys.modules)
"""


@pytest.mark.parametrize(
    ("mode", "method"),
    [(PARALLEL, "spawn"), (("--keepdb",), "fork"), (("--snapshot-dir", "kept"), "fork")],
    ids=["spawn", "keepdb", "snapshot"],
)
def test_management_packages_are_imported(project: Project, mode: Mode, method: str) -> None:
    """Also if `migrate` does not run, and if a reset replaces `flush`."""
    project.write("library/management/__init__.py", MANAGEMENT)
    project.write("later/management/__init__.py", "")
    project.write("later/__init__.py", "")
    project.tests(IMPORTED)
    # Discovery in the app's folder would import its packages.
    for _ in range(1 if method == "spawn" else 2):
        run = project.run(*mode, "library.test_generated", env={"START_METHOD": method})
        run.passed()
    if "--keepdb" in mode:
        project.drop_database(project.test_name)


# The first handler creates a row, a trigger and an entry in memory. The second depends on the rows
# that Django's own handlers have created so far, as its app is between theirs.
HANDLERS = """
    from django.apps import AppConfig
    from django.db.models.signals import post_migrate
    from helpers import os, query, record

    CACHE = {}
    TRIGGER = [
        "CREATE OR REPLACE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN NEW.title := upper(NEW.title); RETURN NEW; END $$",
        "CREATE OR REPLACE TRIGGER shout BEFORE INSERT ON library_book"
        " FOR EACH ROW EXECUTE FUNCTION shout()",
    ]

    def make(sender, using, signal, app_config, **named):
        authors = sender.get_model("Author").objects.using(using)
        record("make", sees=list(authors.values_list("pk", "name")), named=sorted(named))
        CACHE["author"] = authors.get_or_create(name="made")[0].name
        for statement in TRIGGER: query(statement, using=using)

    def grant(sender, using, signal, app_config, **named):
        from django.contrib.auth.models import Group, Permission

        permissions = Permission.objects.using(using)
        record("grant", sees=permissions.count(), sender=sender.label, named=sorted(named))
        group, _ = Group.objects.using(using).get_or_create(name="readers")
        group.permissions.set(permissions.all())

    HANDLERS = [globals()[name] for name in os.environ["HANDLERS"].split()]

    class Library(AppConfig):
        name = "library"
        def ready(self):
            for handler in HANDLERS: post_migrate.connect(handler, sender=self)
"""
SETTINGS = """
    INSTALLED_APPS = [INSTALLED_APPS[0], "library.apps.Library", INSTALLED_APPS[1]]
"""
SEEN = """
    from django.contrib.auth.models import Group, Permission
    from django.contrib.contenttypes.models import ContentType
    from django.core.management import call_command
    from library.apps import CACHE

    class Deserialized(TransactionTestCase):
        serialized_rollback = True
        def check(self):
            authors = list(Author.objects.values_list("pk", "name"))
            granted = Permission.objects.filter(group__name="readers").count()
            kinds = ContentType.objects.count(), Permission.objects.count()
            book = Book(title="x", author=Author(name="x"))
            try:
                book.author.save()
            except Exception as error: record("failed", error=type(error).__name__)
            else:
                book.save()
                book.refresh_from_db()
            values = {"authors": authors, "granted": granted, "kinds": kinds, "title": book.title}
            record("seen", test=self.id(), cached=list(CACHE), **values, new=book.author.pk)
            Permission.objects.all().delete()
            query("DROP FUNCTION IF EXISTS shout CASCADE")
            CACHE.clear()

        test_a = test_b = test_c = test_d = check

    class Simple(Deserialized): serialized_rollback = False
    class Sequences(Simple): reset_sequences = True
    class SomeApps(Simple):
        available_apps = ["library", "django.contrib.contenttypes", "django.contrib.auth"]
    class OwnTeardown(Simple):
        def _fixture_teardown(self):
            call_command("flush", interactive=False, verbosity=0, allow_cascade=True)

    class ZAtLast(Simple): pass
"""


def with_handlers(project: Project) -> Project:
    project.write("library/apps.py", HANDLERS)
    project.configure(SETTINGS)
    return project


@pytest.mark.versions
@pytest.mark.parametrize("handlers", ["make", "make grant"])
def test_handlers_are_called_as_in_stock_django(project: Project, handlers: str) -> None:
    """The same number of calls, with the same state and effects."""
    with_handlers(project).tests(SEEN)
    recorded = []
    for mode in (WITH_STOCK, SERIAL):
        project.run(*mode, "library.test_generated", env={"HANDLERS": handlers}).passed()
        lines = project.records()
        for line in lines:
            del line["process"], line["worker"], line["schema"]
        recorded.append(lines)
        project.forget()
    stock, ours = recorded
    assert stock == ours


MADE = """
    from library.apps import CACHE

    class A(TransactionTestCase):
        is_first = True
        def check(self):
            self.assertEqual([one.name for one in Author.objects.all()], ["made"])
            # As in stock Django, a spawned worker has nothing in memory at first.
            if not (A.is_first and os.environ["START_METHOD"] == "spawn"):
                self.assertEqual(CACHE, {"author": "made"})
            A.is_first = False
            book = Book.objects.create(title="x", author=Author.objects.create(name="x"))
            book.refresh_from_db()
            self.assertEqual(book.title, "X")
            query("DROP FUNCTION shout CASCADE")
            CACHE.clear()

        test_a = test_b = test_c = test_d = check
    class B(A): pass
    class C(A): pass
"""
STRATEGIES = {
    "migrate": 'SCHEMA_RUNNER = {"STRATEGY": "migrate"}',
    "reference": 'SCHEMA_RUNNER = {"RESET": "reference"}',
}


@pytest.mark.parametrize(
    "place", ["serial", "parallel", "spawn", "kept", "clones", "current", *STRATEGIES]
)
def test_effects_of_handlers_are_restored(project: Project, place: str) -> None:
    """Rows, triggers and objects in memory are restored in every isolation mode."""
    with_handlers(project).tests(MADE)
    mode = {"serial": SERIAL, "current": (*PARALLEL, "--host-database", "current")}.get(place)
    mode = PARALLEL if mode is None else mode
    project.configure(STRATEGIES.get(place, ""))
    if place == "clones":
        statement = 'migrations.RunSQL("CREATE SCHEMA beside")'
        project.migration("0002_schema", "0001_initial", statement)
    if place == "current":
        project.create_database()
    env = {"HANDLERS": "make", "START_METHOD": "spawn" if place == "spawn" else "fork"}
    for _ in range(2 if place == "kept" else 1):
        keep = ["--keepdb"] if place == "kept" else []
        project.run(*mode, *keep, "library.test_generated", env=env).passed()
    if place in ("kept", "current"):
        project.drop_database(project.test_name if place == "kept" else None)


ALTERING = """
    from django.apps import AppConfig
    from django.db.models.signals import post_migrate
    from helpers import query, times

    def alter(using, **named):
        query(f"CREATE OR REPLACE VIEW calls AS SELECT {times('calls')} AS number", using=using)

    class Library(AppConfig):
        name = "library"
        def ready(self): post_migrate.connect(alter, sender=self)
"""
ALTERED = """
    class A(TransactionTestCase):
        def check(self):
            tests = times("tests")
            record("told", tests=tests, number=query("SELECT number FROM calls")[0][0])
            Author.objects.create(name="x")
        test_a = test_b = check
    class B(A): pass
    class C(A):
        def test_z(self): query("ALTER TABLE library_book RENAME title TO heading")
    class D(A): pass
"""


def test_changes_of_handlers_to_the_structure_stay(project: Project) -> None:
    """A schema that a test has altered is replaced before the next class."""
    project.write("library/apps.py", ALTERING)
    project.configure(SETTINGS)
    project.tests(ALTERED)
    project.run("--keepdb", "library.test_generated").passed()
    told = [line["number"] - line["tests"] for line in project.records("told")]
    # Class C runs an additional test, and the handler is called once more for the new schema.
    assert told == [0, 0, 0, 0, 0, 0, 2, 2]
    project.drop_database(project.test_name)


REPEATED = """
    from django.apps import AppConfig
    from django.db.models.signals import post_migrate
    from helpers import times

    CALLS = []

    def repeat(sender, using, plan, apps, **named):
        CALLS.append(times("calls"))
        sender.get_model("Author").objects.using(using).create(name=f"made in call {CALLS}")
        if CALLS == [3]: raise RuntimeError("once too often")

    class Library(AppConfig):
        name = "library"
        def ready(self): post_migrate.connect(repeat, sender=self)
"""


def test_handlers_do_not_change_a_pool(project: Project) -> None:
    """They are called, but their writes are rolled back, and their errors do not fail the run."""
    project.write("library/apps.py", REPEATED)
    project.configure(SETTINGS)
    tests = """
        from library.apps import CALLS

        class A(TestCase):
            def test_it(self):
                self.assertEqual(len(CALLS), 1)
                self.assertEqual(Author.objects.get().name, "made in call [1]")
    """
    project.tests(tests)
    for said in ("", "", "a post_migrate handler failed"):
        assert said in project.run("--keepdb", "library.test_generated").passed().output
    assert (project.folder / "calls").stat().st_size == 3
    project.drop_database(project.test_name)


CONNECTED = """
    from django.apps import AppConfig
    from django.db.models.signals import post_migrate

    class Library(AppConfig):
        name = "library"
        def ready(self): post_migrate.connect(make, sender=self)

    def make(sender, using, **named):
        sender.get_model("Author").objects.using(using).create(name="made")
"""


@pytest.mark.parametrize("place", ["library/apps.py", "library/management/__init__.py"])
def test_a_pool_lacks_the_rows_of_a_new_handler(project: Project, place: str) -> None:
    project.write(
        "library/apps.py", CONNECTED.replace("post_migrate.connect(make, sender=self)", "pass")
    )
    project.configure(SETTINGS)
    project.tests("""
        class A(TestCase):
            def test_it(self):
                names = [one.name for one in Author.objects.all()]
                self.assertEqual(names, os.environ["NAMES"].split())
    """)
    project.run("--keepdb", "library.test_generated", env={"NAMES": ""}).passed()
    project.write(place, MANAGEMENT if "management" in place else CONNECTED)
    run = project.run("--keepdb", "library.test_generated", env={"NAMES": "made"})
    run.passed("Building anew: handlers of pre_migrate and post_migrate changed")
    for name in project.databases():
        if name != project.name:
            project.drop_database(name)
