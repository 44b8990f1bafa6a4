import py_compile
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import django
import pytest
from django.db.migrations.loader import MigrationLoader
from django.test import override_settings

from schema_runner.backend.review import Finding, review
from schema_runner.backend.statements import Kind

# Lines 1 to 6; the operations begin at line 7.
HEAD = """\
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = []
    operations = [
"""
Write = Callable[[str, str], None]
Lines = Callable[[str], list[tuple[int, str]]]


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty package of migrations, of the app contenttypes, which is the only one."""
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
        yield name
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


@pytest.fixture
def write(tmp_path: Path, package: str) -> Write:
    """Write a migration."""

    def write(name: str, source: str) -> None:
        (tmp_path / package / f"{name}.py").write_text(source, encoding="utf-8")

    return write


@pytest.fixture
def lines(write: Write) -> Lines:
    """Write a migration of the given source and return the lines and texts that are found."""

    def lines(source: str) -> list[tuple[int, str]]:
        write("0001_initial", source)
        return [(finding.line, finding.text) for finding in review()]

    return lines


@pytest.fixture
def in_operations(lines: Lines) -> Lines:
    """The same of the given operations, whose first line is line 7."""

    def in_operations(operations: str) -> list[tuple[int, str]]:
        assert operations.startswith("\n"), "they begin with the line after the quotes"
        return lines(f"{HEAD}{dedent(operations)[1:]}]\n")

    return in_operations


def in_function(body: str) -> str:
    """A migration that runs Python; the body begins at line 5."""
    indented = "".join(f"    {line}\n" for line in dedent(body)[1:].splitlines())
    return (
        "from django.db import migrations, models\n\n\n"
        f"def forwards(apps, schema_editor):\n{indented}\n\n"
        "class Migration(migrations.Migration):\n"
        "    dependencies = []\n"
        "    operations = [migrations.RunPython(forwards)]\n"
    )


def test_a_finding_says_where_and_what(write: Write, package: str) -> None:
    """The file as an editor or a terminal opens it, from the current directory."""
    write("0001_initial", f"{HEAD}migrations.RunSQL('DELETE FROM public.extra')]\n")
    (finding,) = review()
    file = f"{package}/0001_initial.py"
    assert finding == Finding(Kind.PUBLIC, "contenttypes.0001_initial", file, 7, "public.extra")
    assert str(finding) == f"{file}:7: names the schema public (public.extra)"


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("CREATE EVENT TRIGGER x", "is about the whole database (CREATE EVENT TRIGGER)"),
        ("SELECT 1 FROM pg_indexes", "looks into the catalog without a schema (pg_indexes)"),
    ],
)
def test_each_kind_has_its_own_words(write: Write, sql: str, message: str) -> None:
    """They follow the place."""
    write("0001_initial", f"{HEAD}migrations.RunSQL('{sql}')]\n")
    assert [str(finding).partition(": ")[2] for finding in review()] == [message]


def test_a_file_elsewhere_has_its_whole_path(
    write: Write, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with an installed package."""
    write("0001_initial", f"{HEAD}migrations.RunSQL('DROP SCHEMA x')]\n")
    monkeypatch.chdir("/")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert [finding.file for finding in review()] == [f"{tmp_path}/{package}/0001_initial.py"]


def test_findings_are_sorted(write: Write) -> None:
    """By file and line, whatever the order of the migrations in the graph."""
    for name in ("0003_c", "0001_a", "0002_b"):
        write(
            name,
            f"{HEAD}migrations.RunSQL('DROP SCHEMA y'),\n\n\n"
            "migrations.RunSQL('DROP ROLE y; TABLE public.y')]\n",
        )
    places = [(finding.migration[-1], finding.line, finding.text) for finding in review()]
    assert places == [
        (name, line, text)
        for name in "abc"
        for line, text in [(7, "DROP SCHEMA"), (10, "DROP ROLE"), (10, "public.y")]
    ]


@pytest.mark.parametrize(
    ("operations", "found"),
    [
        (
            """
            migrations.RunSQL(
                "SELECT 1",
            ),
            migrations.RunSQL(
                "DELETE FROM public.extra",
            ),
            """,
            [(11, "public.extra")],
        ),
        (
            '''
            migrations.RunSQL("""
                CREATE TABLE t (id int);

                CREATE SCHEMA reports;
            """),
            ''',
            [(10, "CREATE SCHEMA")],
        ),
        (
            # A statement that reaches over lines is at the first of them.
            '''
            migrations.RunSQL(
                r"""\\d
                CREATE
                SCHEMA reports; SELECT 1
                FROM public.extra, public.extra
                JOIN
                public.other;
            """),
            ''',
            [(9, "CREATE SCHEMA"), (11, "public.extra"), (13, "public.other")],
        ),
        (
            # Escapes count for what they stand for, and a continued line is one.
            '''
            migrations.RunSQL("""\\
                -- public.extra \\n
                SELECT \\
                '\\n\\n\\x41é' FROM public.extra\\n;
                DROP ROLE x"""),
            ''',
            [(10, "public.extra"), (11, "DROP ROLE")],
        ),
        (
            # The parts of one constant.
            """
            migrations.RunSQL(
                "DELETE "
                # Not FROM public.extra,
                "FROM public.extra "
                'WHERE id IN (SELECT id FROM public.extra_2'
                " WHERE public.f(id))"
            ),
            """,
            [(10, "public.extra"), (11, "public.extra_2"), (12, "public.f")],
        ),
        (
            """
            migrations.RunSQL(["SELECT 1", ("UPDATE public.extra SET a = %s", [1]),
                "DROP ROLE x"]), migrations.RunSQL(
                sql=[("UPDATE t SET a = %s",
                ["public.data"])])
            """,
            [(7, "public.extra"), (8, "DROP ROLE")],
        ),
        (
            """
            migrations.SeparateDatabaseAndState(
                database_operations=[
                    migrations.RunSQL("DROP ROLE x")]),
            """,
            [(9, "DROP ROLE")],
        ),
        (
            # In what is known to be SQL the first word does not matter.
            """
            migrations.RunSQL(
                "start transaction; drop role x")
            """,
            [(8, "drop role")],
        ),
        (
            """
            migrations.AddField("contenttype", "x", models.IntegerField(
                db_default=models.expressions.RawSQL(
                    "(SELECT public.f())", [])))
            """,
            [(9, "public.f")],
        ),
    ],
)
def test_the_line_is_that_of_the_match(
    in_operations: Lines, operations: str, found: list[tuple[int, str]]
) -> None:
    """Inside of long strings as well."""
    assert in_operations(operations) == found


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (
            '''
            """Delete from public.extra."""
            schema_editor.execute("DELETE FROM t")
            "select * from public.extra"
            with schema_editor.connection.cursor() as cursor:
                cursor.execute("delete from public.extra")
            ''',
            [(9, "public.extra")],
        ),
        (
            """
            for table in ("a", "b"):
                schema_editor.execute(
                    f"DROP TABLE public.{table};"
                    f"DROP ROLE {table}"
                )
            """,
            [(7, "public.{}"), (8, "DROP ROLE")],
        ),
        (
            '''
            width = 1
            schema_editor.execute(f"""
                SELECT {width} {width + 1:>{width}}, '{{public}}'
                FROM public.extra, public.{
                    width}, public.{"a" + "b"}
            """)
            ''',
            [(8, "public.extra"), (8, "public.{}"), (9, "public.{}")],
        ),
        (
            """
            schema = "public"
            schema_editor.execute("DROP TABLE " + schema + ".extra; " +
                "DROP TABLE " + "public." + schema)
            """,
            [(7, "public.{}")],
        ),
        (
            """
            schema_editor.execute("DROP TABLE public.%s" % "x")
            schema_editor.execute("DROP TABLE public.{name}".format(name="x"))
            """,
            [(5, "public.%s"), (6, "public.{name}")],
        ),
        (
            """
            ä = "é"; sql = "é"; sql = "SELECT 'é' FROM public.extra"; sql = '''
                SELECT public.f()'''
            """,
            [(5, "public.extra"), (6, "public.f")],
        ),
        (
            """
            schema_editor.execute(
                "-- a\\n/* b */ ("
                "SELECT * FROM public.extra)")
            """,
            [(7, "public.extra")],
        ),
    ],
)
def test_strings_that_python_runs_are_found(
    lines: Lines, body: str, found: list[tuple[int, str]]
) -> None:
    """RunPython has the same means as RunSQL; what only a run knows is shown as {}."""
    assert lines(in_function(body)) == found


@pytest.mark.parametrize(
    "operations",
    [
        """
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
        """,
        """
        migrations.AlterModelTable("contenttype", "public.book"),
        migrations.RunSQL("SELECT 1", "DROP SCHEMA x"),
        migrations.RunSQL("SELECT 1", reverse_sql="DROP SCHEMA x"),
        migrations.RunSQL("SELECT 1", ["DROP SCHEMA x"]),
        migrations.RunSQL("UPDATE book SET access = 'public'"),
        migrations.RunSQL("CREATE EXTENSION IF NOT EXISTS hstore WITH SCHEMA public"),
        migrations.RunSQL("INSERT INTO t VALUES (%s)", hints={"public.x": "public.x"}),
        """,
    ],
)
def test_words_for_people_are_no_sql(in_operations: Lines, operations: str) -> None:
    """Neither are names of models and data; and nothing goes backwards."""
    assert in_operations(operations) == []


def test_documentation_and_errors_are_no_sql(lines: Lines) -> None:
    """Of the module, of its functions and classes, and what is raised."""
    source = '''\
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
'''
    assert lines(source) == []


def test_what_only_goes_backwards_is_not_read(lines: Lines) -> None:
    """A fresh schema has no way back; a name that is used both ways is read."""
    source = """\
from django.db import migrations

CREATE = "CREATE ROLE a"
DROP = "DROP ROLE a"
BOTH = "ALTER ROLE a"


def back(apps, schema_editor):
    schema_editor.execute("DROP SCHEMA a")


def forth(apps, schema_editor):
    schema_editor.execute("CREATE SCHEMA a")


class Migration(migrations.Migration):
    operations = [
        migrations.RunSQL(CREATE, DROP),
        migrations.RunSQL(sql=BOTH, reverse_sql=[DROP, BOTH]),
        migrations.RunPython(forth, back),
        migrations.RunPython(forth, reverse_code=back),
    ]
"""
    assert lines(source) == [(3, "CREATE ROLE"), (5, "ALTER ROLE"), (13, "CREATE SCHEMA")]


@pytest.mark.parametrize("table", ['public"."book', '"public"."book"', '"public".book'])
def test_a_table_with_a_schema_in_its_name_is_found(in_operations: Lines, table: str) -> None:
    """Django has no other way to say where a table is; it puts such a name into quotes."""
    found = in_operations(
        f"""
        migrations.CreateModel("book", [("id", models.AutoField(primary_key=True))],
            options={{"db_table": '{table}'}}),
        migrations.AlterModelTable("book",
            table='{table}'),
        """
    )
    assert found == [(8, table), (10, table)]


def test_sql_from_a_file_is_found_at_the_operation(
    lines: Lines, tmp_path: Path, package: str
) -> None:
    """Its own lines are nowhere in the source."""
    (tmp_path / package / "a.sql").write_text("SELECT 1;\n\nDROP ROLE a;\nDROP ROLE b;\n")
    (tmp_path / package / "b.sql").write_text("CREATE SCHEMA x;\nDELETE FROM public.extra;")
    source = """\
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
"""
    assert lines(source) == [(8, "DROP ROLE"), (11, "CREATE SCHEMA"), (11, "public.extra")]


@pytest.mark.parametrize(
    ("operations", "line"),
    [
        ("[\n\n    migrations.RunSQL(one) for one in STATEMENTS]", 8),
        ("[\n\n    Own(one) for one in STATEMENTS]", 8),
        ("[migrations.RunSQL('SELECT 1'),\n  *map(Own, STATEMENTS)]", 5),
        ("list(map(migrations.RunSQL, STATEMENTS))", 5),
        ("OPERATIONS", 5),
    ],
)
def test_sql_from_another_module_is_found(
    write: Write, lines: Lines, operations: str, line: int
) -> None:
    """At the one call that makes all such operations, else at the class."""
    write(
        "_elsewhere",
        "from django.db import migrations\n"
        "class Own(migrations.RunSQL): pass\n"
        "STATEMENTS = ['DROP ROLE a', 'TABLE public.a', 'DROP ROLE b']\n"
        "OPERATIONS = [Own(one) for one in STATEMENTS]\n",
    )
    source = f"""\
from django.db import migrations
from ._elsewhere import OPERATIONS, STATEMENTS, Own


class Migration(migrations.Migration):
    operations = {operations}
"""
    assert lines(source) == [(line, "DROP ROLE"), (line, "public.a")]


def test_what_the_source_shows_is_not_told_again(lines: Lines) -> None:
    """However the operation puts it together."""
    source = """\
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
"""
    assert lines(source) == [
        (3, "public.{}"),
        (4, "public.%s"),
        (5, "public.{name}"),
        (10, "DROP ROLE"),
        (13, "DROP SCHEMA"),
    ]


def test_an_imported_migration_is_found(write: Write) -> None:
    """Its operations run, though its source is not that of the file."""
    write("_elsewhere", f"{HEAD}migrations.RunSQL('DROP ROLE a')]\n")
    write("0001_initial", "\n\nfrom ._elsewhere import Migration\n")
    assert [(finding.line, finding.text) for finding in review()] == [(1, "DROP ROLE")]


def test_a_migration_without_source_is_found(write: Write, package: str, tmp_path: Path) -> None:
    """Some packages are compiled only."""
    write("0001_initial", f"{HEAD}migrations.RunSQL('DROP ROLE a')]\n")
    source = tmp_path / package / "0001_initial.py"
    py_compile.compile(str(source), cfile=str(source.with_suffix(".pyc")), doraise=True)
    source.unlink()
    assert [(finding.line, finding.text) for finding in review()] == [(1, "DROP ROLE")]


def test_migrations_that_were_squashed_are_not_read(write: Write) -> None:
    """An empty schema gets what replaces them."""
    for name in ("0001_a", "0002_b"):
        write(name, f"{HEAD}migrations.RunSQL('DROP ROLE {name}')]\n")
    write(
        "0001_squashed",
        f"{HEAD}migrations.RunSQL('DROP ROLE c')]\n"
        "    replaces = [('contenttypes', '0001_a'), ('contenttypes', '0002_b')]\n",
    )
    assert [finding.migration for finding in review()] == ["contenttypes.0001_squashed"]


@pytest.mark.parametrize("module", [None, "no.such.module"])
def test_an_app_without_migrations_has_no_findings(write: Write, module: str | None) -> None:
    """Its tables are made from the models."""
    write("0001_initial", f"{HEAD}migrations.RunSQL('DROP ROLE a')]\n")
    assert review() != []
    with override_settings(MIGRATION_MODULES={"contenttypes": module}):
        assert review() == []


@pytest.mark.filterwarnings("error")
def test_what_the_compiler_warns_of_is_no_error(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was said when the module was compiled; with -W error it would end the run."""
    source = f"{HEAD}migrations.RunSQL('SELECT 1 ~ \\d; DROP ROLE a')]\n"
    write("0001_initial", source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MigrationLoader(None)
    assert [finding.text for finding in review()] == ["DROP ROLE"]


def test_django_s_own_migrations_have_no_findings() -> None:
    """None of them needs more than a schema."""
    folder = Path(django.__file__).parent / "contrib"
    apps = sorted(path.parent.parent for path in folder.glob("*/migrations/__init__.py"))
    labels = {app.name for app in apps} | {"postgres"}
    assert labels >= {"admin", "auth", "contenttypes", "sites"}
    with override_settings(
        INSTALLED_APPS=[f"django.contrib.{label}" for label in sorted(labels)],
        MIGRATION_MODULES={},
    ):
        assert MigrationLoader(None).graph.nodes.keys() >= {("auth", "0001_initial")}
        assert review() == []
