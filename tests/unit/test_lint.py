import py_compile
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import Any

import django
import pytest
from django.db.migrations.loader import MigrationLoader
from django.test import override_settings

from schema_runner.migration_lint.lint import Finding, lint_migrations
from schema_runner.migration_lint.sql import Kind

HEAD = """\
from django.db import migrations, models

class Migration(migrations.Migration):
    operations = [
"""
FUNCTION = """\
from django.db import migrations, models

def forwards(apps, schema_editor):
"""
AFTER_FUNCTION = """
class Migration(migrations.Migration):
    operations = [migrations.RunPython(forwards)]
"""


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of migrations, empty at first, of the app contenttypes."""
    django.setup()
    name = f"generated_{time.monotonic_ns()}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    installed = override_settings(
        INSTALLED_APPS=["django.contrib.contenttypes"],
        MIGRATION_MODULES={"contenttypes": name},
    )
    with installed:
        yield tmp_path / name
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


def write(package: Path, source: str, name: str = "0001_initial") -> None:
    (package / f"{name}.py").write_text(source, encoding="utf-8")


def running(sql: str) -> str:
    """Return a migration that executes SQL at line 5."""
    return f"{HEAD}migrations.RunSQL('{sql}')]\n"


def found() -> list[tuple[int, str]]:
    return [(finding.line, finding.text) for finding in lint_migrations()]


def test_a_finding_has_a_location_and_a_text(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path in the current directory, otherwise an absolute one."""
    write(package, running("DELETE FROM public.extra"))
    file = f"{package.name}/0001_initial.py"
    finding = Finding(Kind.PUBLIC, "contenttypes.0001_initial", file, 5, "public.extra")
    assert lint_migrations() == [finding]
    assert str(finding) == f"{file}:5: names the schema public (public.extra)"
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert [one.file for one in lint_migrations()] == [str(package / "0001_initial.py")]


def test_each_kind_has_a_message(package: Path) -> None:
    write(package, running("CREATE EVENT TRIGGER x; SELECT 1 FROM pg_indexes"))
    assert [str(finding).partition(": ")[2] for finding in lint_migrations()] == [
        "queries the catalog without a schema (pg_indexes)",
        "affects the whole database (CREATE EVENT TRIGGER)",
    ]


def test_findings_are_sorted(package: Path) -> None:
    """By file and line, regardless of the order in the migration graph."""
    second = "migrations.RunSQL('DROP ROLE y; TABLE public.y')]\n"
    for name in ("0003_c", "0001_a", "0002_b"):
        write(package, f"{HEAD}migrations.RunSQL('DROP SCHEMA y'),\n\n\n{second}", name)
    assert [(one.migration[-1], one.line, one.text) for one in lint_migrations()] == [
        (name, line, text)
        for name in "abc"
        for line, text in [(5, "DROP SCHEMA"), (8, "DROP ROLE"), (8, "public.y")]
    ]


# Each case starts with the expected lines and texts, and the reason.
OPERATIONS = r'''
=== 4 public.extra
migrations.RunSQL("SELECT 1",
),
migrations.RunSQL(
    "DELETE FROM public.extra",
),
=== 4 CREATE SCHEMA
migrations.RunSQL("""
    CREATE TABLE t (id int);

    CREATE SCHEMA reports;
"""),
=== 3 CREATE SCHEMA, 5 public.extra, 7 public.other # at the first of the lines of a statement
migrations.RunSQL(
    r"""\d
    CREATE
    SCHEMA reports; SELECT 1
    FROM public.extra, public.extra
    JOIN
    public.other;
"""),
=== 4 public.extra, 5 DROP ROLE # escapes count for what they stand for, a continued line is one
migrations.RunSQL("""\
    -- public.extra \n
    SELECT \
    '\n\n\x41é' FROM public.extra\n;
    DROP ROLE x"""),
=== 4 public.extra, 5 public.extra_2, 6 public.f
migrations.RunSQL(
    "DELETE "
    # Not FROM public.extra,
    "FROM public.extra "
    'WHERE id IN (SELECT id FROM public.extra_2'
    " WHERE public.f(id))"
),
=== 1 public.extra, 2 DROP ROLE
migrations.RunSQL(["SELECT 1", ("UPDATE public.extra SET a = %s", [1]),
    "DROP ROLE x"]), migrations.RunSQL(
    sql=[("UPDATE t SET a = %s",
    ["public.data"])])
=== 3 DROP ROLE
migrations.SeparateDatabaseAndState(
    database_operations=[
        migrations.RunSQL("DROP ROLE x")]),
=== 2 drop role # in what is known to be SQL the first word does not matter
migrations.RunSQL(
    "start transaction; drop role x")
=== 3 public.f
migrations.AddField("contenttype", "x", models.IntegerField(
    db_default=models.expressions.RawSQL(
        "(SELECT public.f())", [])))
=== # words for people, and names of models and data, are no SQL
migrations.CreateModel("x", [
    ("a", models.CharField(
        "Select public.x", default="public", max_length=9, help_text="set public.x",
        choices=[("public", "Public"), ("create role", "Create role")])),
    ("b", models.FileField(upload_to="public/", help_text="Select the public.")),
    ("c", models.BooleanField(verbose_name="create user", default="drop role")),
    ("public", models.BooleanField(error_messages={"invalid": "create user first"})),
    ("d", models.CharField(help_text=f"select from public.{1}", max_length=9)),
    ("e", models.ForeignKey("public.Book", models.CASCADE)),
    ("f", models.IntegerField(help_text="Update or make public. Select one.")),
], options={
    "verbose_name": "create role",
    "verbose_name_plural": "create role",
    "permissions": [("create_user", "create user"), ("public.view", "Can create user")],
    "db_table": "public",
}),
=== # nothing goes backwards
migrations.AlterModelTable("contenttype", "public.book"),
migrations.RunSQL("SELECT 1", "DROP SCHEMA x"),
migrations.RunSQL("SELECT 1", reverse_sql="DROP SCHEMA x"),
migrations.RunSQL("SELECT 1", ["DROP SCHEMA x"]),
migrations.RunSQL("UPDATE book SET access = 'public'"),
migrations.RunSQL("CREATE EXTENSION IF NOT EXISTS hstore WITH SCHEMA public"),
migrations.RunSQL("INSERT INTO t VALUES (%s)", hints={"public.x": "public.x"}),
'''
FUNCTIONS = r'''
=== 5 public.extra
"""Delete from public.extra."""
schema_editor.execute("DELETE FROM t")
"select * from public.extra"
with schema_editor.connection.cursor() as cursor:
    cursor.execute("delete from public.extra")
=== 3 public.{}, 4 DROP ROLE
for table in ("a", "b"):
    schema_editor.execute(
        f"DROP TABLE public.{table};"
        f"DROP ROLE {table}"
    )
=== 4 public.extra, 4 public.{}, 5 public.{}
width = 1
schema_editor.execute(f"""
    SELECT {width} {width + 1:>{width}}, '{{public}}'
    FROM public.extra, public.{
        width}, public.{"a" + "b"}
""")
=== 3 public.{}
schema = "public"
schema_editor.execute("DROP TABLE " + schema + ".extra; " +
    "DROP TABLE " + "public." + schema)
=== 1 public.%s, 2 public.{name}
schema_editor.execute("DROP TABLE public.%s" % "x")
schema_editor.execute("DROP TABLE public.{name}".format(name="x"))
=== 1 public.extra, 2 public.f
ä = "é"; sql = "é"; sql = "SELECT 'é' FROM public.extra"; sql = """
    SELECT public.f()"""
=== 3 public.extra
schema_editor.execute(
    "-- a\n/* b */ ("
    "SELECT * FROM public.extra)")
'''
MODULES = r'''
=== # neither are documentation and errors
"""create schema x"""
from django.db import migrations

def forwards(apps, schema_editor):
    """select from public.extra"""
    if schema_editor is None:
        raise ValueError("create role x, please")
    print("Create schema x")
    print("The table public.extra is gone")

class Migration(migrations.Migration):
    "drop role x"
    operations = [migrations.RunPython(forwards)]
=== 2 CREATE ROLE, 4 ALTER ROLE, 8 CREATE SCHEMA # a name that is used both ways is read
from django.db import migrations
CREATE = "CREATE ROLE a"
DROP = "DROP ROLE a"
BOTH = "ALTER ROLE a"

def back(apps, schema_editor): schema_editor.execute("DROP SCHEMA a")

def forth(apps, schema_editor): schema_editor.execute("CREATE SCHEMA a")

class Migration(migrations.Migration):
    operations = [
        migrations.RunSQL(CREATE, DROP),
        migrations.RunSQL(sql=BOTH, reverse_sql=[DROP, BOTH]),
        migrations.RunPython(forth, back),
        migrations.RunPython(forth, reverse_code=back),
    ]
=== 2 public.{}, 3 public.%s, 4 public.{name}, 8 DROP ROLE, 11 DROP SCHEMA # each once
from django.db import migrations
A = f"DROP TABLE public.{'a'};"
B = "DROP TABLE public.%s; "
C = "DROP TABLE public.{name} ;"

class Migration(migrations.Migration):
    operations = [
        migrations.RunSQL(A + "DROP ROLE x"),
        migrations.RunSQL((B % "b").split(";")),
        migrations.RunSQL(C.format(name="c").strip()),
        migrations.RunSQL("; ".join(["DROP", "SCHEMA d"]).replace(";", "")),
    ]
=== 7 DROP ROLE, 10 CREATE SCHEMA, 10 public.extra # from files
from pathlib import Path
from django.db import migrations

class Migration(migrations.Migration):
    operations = [
        migrations.RunSQL("DELETE FROM t"),
        migrations.RunSQL(
            Path(__file__).with_name("a.sql").read_text()),
        migrations.SeparateDatabaseAndState([
            migrations.RunSQL([(Path(__file__).with_name("b.sql").read_text(), None)]),
        ])
    ]
'''


def cases(table: str, head: str = "", tail: str = "", margin: str = "") -> list[Any]:
    """Return the cases of a table as sources of migrations, with the expected lines and texts."""
    made = []
    for case in table.split("\n===")[1:]:
        title, _, source = case.partition("\n")
        places = [one.partition(" ") for one in title.partition("#")[0].strip().split(", ") if one]
        expected = [(head.count("\n") + int(line), text) for line, _, text in places]
        source = f"{head}{indent(source, margin)}\n{tail}"
        made.append(pytest.param(source, expected, id=title.strip()))
    return made


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        *cases(OPERATIONS, HEAD, "]\n"),
        *cases(FUNCTIONS, FUNCTION, AFTER_FUNCTION, margin="    "),
        *cases(MODULES),
    ],
)
def test_sql_is_found_in_operations(
    package: Path, source: str, expected: list[tuple[int, str]]
) -> None:
    """In every operation that executes SQL; parts known only at run time are shown as {}."""
    (package / "a.sql").write_text("SELECT 1;\n\nDROP ROLE a;\nDROP ROLE b;\n")
    (package / "b.sql").write_text("CREATE SCHEMA x;\nDELETE FROM public.extra;")
    write(package, source)
    assert found() == expected


@pytest.mark.parametrize("table", ['public"."book', '"public"."book"', '"public".book'])
def test_a_db_table_with_a_schema_is_found(package: Path, table: str) -> None:
    """A db_table with a quoted schema in it is found."""
    create = f"""migrations.CreateModel("book", [], options={{\n"db_table": '{table}'}})"""
    alter = f"""migrations.AlterModelTable("book",\ntable='{table}')"""
    write(package, f"{HEAD}{create},\n{alter}]\n")
    assert found() == [(6, table), (8, table)]


@pytest.mark.parametrize(
    ("operations", "line"),
    [
        ("[\n\n    migrations.RunSQL(one) for one in STATEMENTS]", 7),
        ("[\n\n    Own(one) for one in STATEMENTS]", 7),
        ("[migrations.RunSQL('SELECT 1'),\n  *map(Own, STATEMENTS)]", 4),
        ("list(map(migrations.RunSQL, STATEMENTS))", 4),
        ("OPERATIONS", 4),
    ],
)
def test_sql_from_another_module_is_found(package: Path, operations: str, line: int) -> None:
    """At the call, if one call creates all such operations, otherwise at the class."""
    elsewhere = """\
from django.db import migrations
class Own(migrations.RunSQL): pass
STATEMENTS = ['DROP ROLE a', 'TABLE public.a', 'DROP ROLE b']
OPERATIONS = [Own(one) for one in STATEMENTS]
"""
    source = f"""\
from django.db import migrations
from ._elsewhere import OPERATIONS, STATEMENTS, Own

class Migration(migrations.Migration):
    operations = {operations}
"""
    write(package, elsewhere, "_elsewhere")
    write(package, source)
    assert found() == [(line, "DROP ROLE"), (line, "public.a")]


def test_a_migration_without_source_is_found(package: Path) -> None:
    """Its operations run, so it is checked as imported or compiled."""
    write(package, running("DROP ROLE a"), "_elsewhere")
    write(package, "\n\nfrom ._elsewhere import Migration\n", "0002_imported")
    assert found() == [(1, "DROP ROLE")]
    (package / "0002_imported.py").unlink()
    write(package, running("DROP ROLE a"))
    source = package / "0001_initial.py"
    py_compile.compile(str(source), cfile=str(source.with_suffix(".pyc")), doraise=True)
    source.unlink()
    assert found() == [(1, "DROP ROLE")]


def test_replaced_migrations_are_not_checked(package: Path) -> None:
    """An empty schema runs the squashed migration instead."""
    for name in ("0001_a", "0002_b"):
        write(package, running(f"DROP ROLE {name}"), name)
    replaces = "    replaces = [('contenttypes', '0001_a'), ('contenttypes', '0002_b')]\n"
    write(package, running("DROP ROLE c") + replaces, "0001_squashed")
    assert [finding.migration for finding in lint_migrations()] == ["contenttypes.0001_squashed"]


def test_an_app_without_migrations_has_no_findings(package: Path) -> None:
    """Its tables are created from the models."""
    write(package, running("DROP ROLE a"))
    assert lint_migrations() != []
    for module in (None, "no.such.module"):
        with override_settings(MIGRATION_MODULES={"contenttypes": module}):
            assert lint_migrations() == []


@pytest.mark.filterwarnings("error")
def test_compiler_warnings_are_ignored(package: Path) -> None:
    """Warnings of the compiler are ignored; with -W error they would end the run."""
    write(package, running("SELECT 1 ~ \\d; DROP ROLE a"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MigrationLoader(None)
    assert [finding.text for finding in lint_migrations()] == ["DROP ROLE"]


def test_django_s_own_migrations_have_no_findings() -> None:
    """Django's own migrations have no findings."""
    folder = Path(django.__file__).parent / "contrib"
    apps = sorted(path.parent.parent for path in folder.glob("*/migrations/__init__.py"))
    labels = {app.name for app in apps} | {"postgres"}
    assert labels >= {"admin", "auth", "contenttypes", "sites"}
    with override_settings(
        INSTALLED_APPS=[f"django.contrib.{label}" for label in sorted(labels)],
        MIGRATION_MODULES={},
    ):
        assert MigrationLoader(None).graph.nodes.keys() >= {("auth", "0001_initial")}
        assert lint_migrations() == []
