import time

import pytest

from schema_runner.backend.statements import Kind, find

BODY = "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $body$ BEGIN {} END $body$"


def texts(sql: str, kind: Kind) -> list[str]:
    return [match.text for match in find(sql) if match.kind == kind]


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("SELECT * FROM public.extra", "public.extra"),
        ("SELECT * FROM PUBLIC.extra", "PUBLIC.extra"),
        ('SELECT * FROM "public"."extra"', '"public"."extra"'),
        ('SELECT * FROM "public".extra', '"public".extra'),
        ('SELECT * FROM public."extra"', 'public."extra"'),
        ("SELECT * FROM public . extra", "public . extra"),
        ("SELECT * FROM public\n\t.extra", "public .extra"),
        ("SELECT * FROM public/**/./* */extra", "public/**/./* */extra"),
        ('SELECT * FROM public."the extra"', 'public."the extra"'),
        ("SELECT * FROM project.public.extra", "public.extra"),
        ("SELECT public.f(1)", "public.f"),
        ("SELECT 1::public.amount", "public.amount"),
        ("INSERT INTO public.extra VALUES (1)", "public.extra"),
        ("CREATE TABLE t (id int REFERENCES public.extra (id))", "public.extra"),
        ("CREATE INDEX i ON t USING gin (name public.gin_trgm_ops)", "public.gin_trgm_ops"),
        ("SELECT a OPERATOR(public.%%) b", "public.%%"),
        ("SELECT * FROM public.{}", "public.{}"),
        ("SELECT * FROM public.%s", "public.%s"),
        # Where a schema is expected.
        ("CREATE TABLE t (); ALTER TABLE t SET SCHEMA public", "SCHEMA public"),
        ('ALTER TABLE t SET SCHEMA "public"', 'SCHEMA "public"'),
        ("GRANT USAGE ON SCHEMA public TO PUBLIC", "SCHEMA public"),
        ("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", "SCHEMA public"),
        ("GRANT SELECT ON ALL TABLES IN SCHEMA reports, public TO r", "SCHEMA reports, public"),
        ("CREATE SCHEMA IF NOT EXISTS public", "SCHEMA IF NOT EXISTS public"),
        ("DROP SCHEMA if exists public", "SCHEMA if exists public"),
        ("SET SCHEMA 'public'", "SCHEMA 'public'"),
        ("REINDEX SCHEMA  PUBLIC", "SCHEMA PUBLIC"),
        ("SET search_path = public", "search_path = public"),
        ("SET search_path=public", "search_path=public"),
        ("SET LOCAL search_path TO reports, public", "search_path TO reports, public"),
        ('SET search_path TO "$user", public', 'search_path TO "$user", public'),
        ("set search_path to 'public'", "search_path to 'public'"),
        ("SET search_path = 'reports', 'public'", "search_path = 'reports', 'public'"),
        ("SET search_path = 'reports, public'", "'reports, public'"),
        ("ALTER FUNCTION f() SET search_path = public, pg_temp", "search_path = public"),
        # As a literal.
        ("SELECT 1 FROM pg_indexes WHERE schemaname = 'public'", "'public'"),
        ("SELECT 1 FROM pg_indexes WHERE schemaname IN ('x', 'public')", "'public'"),
        ("SELECT 1 FROM information_schema.tables t WHERE 'public' = t.table_schema", "'public'"),
        ("SELECT 1 FROM pg_namespace WHERE nspname='public'", "'public'"),
        ("SELECT 1 FROM pg_class WHERE relnamespace = 'public'::regnamespace", "'public'"),
        ("SELECT has_schema_privilege('public', 'CREATE')", "'public'"),
        ("SELECT set_config('search_path', 'public', false)", "'public'"),
        ("SELECT set_config('search_path', 'reports,public', false)", "'reports,public'"),
        ("SELECT AddGeometryColumn('public', 't', 'c', 4326, 'POINT', 2)", "'public'"),
        ("SELECT to_regclass('public.extra')", "public.extra"),
        ("SELECT nextval('public.extra_id_seq'::regclass)", "public.extra_id_seq"),
        ("""SELECT setval('"public"."extra_id_seq"', 1)""", '"public"."extra_id_seq"'),
        ("SELECT to_regprocedure('public.f(int)')", "public.f"),
        ("SELECT E'public.extra'::regclass", "public.extra"),
        ("SELECT * FROM crosstab('SELECT a, b FROM public.extra')", "public.extra"),
        # In bodies, whose quotes may be dollars or apostrophes.
        ("DO $$ BEGIN DELETE FROM public.extra; END $$", "public.extra"),
        ("DO LANGUAGE plpgsql $x$ BEGIN DELETE FROM public.extra; END $x$", "public.extra"),
        ("DO 'BEGIN DELETE FROM public.extra; END'", "public.extra"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'TABLE public.extra'", "public.extra"),
        (BODY.format("EXECUTE 'DROP TABLE public.extra';"), "public.extra"),
        (BODY.format("EXECUTE 'DROP TABLE ' || 'public.' || name;"), "public."),
        (BODY.format("EXECUTE 'DROP TABLE public.' || name;"), "public."),
        (BODY.format("EXECUTE format('DROP TABLE public.%I', name);"), "public.%I"),
        (BODY.format("EXECUTE format('DROP TABLE %I.%I', 'public', name);"), "'public'"),
        (BODY.format("SELECT count_rows(format('%I.%I', 'public', name));"), "'public'"),
        (BODY.format("EXECUTE $$DROP TABLE public.extra$$;"), "public.extra"),
        (BODY.format("EXECUTE 'SELECT ''public.extra''::regclass';"), "public.extra"),
        (BODY.format("PERFORM 1 FROM pg_tables WHERE schemaname = 'public';"), "'public'"),
        (BODY.format("") + " SET search_path = public", "search_path = public"),
    ],
)
def test_the_schema_public_is_found(sql: str, found: str) -> None:
    """Under any of the forms that PostgreSQL takes, and in whatever runs as SQL."""
    assert texts(sql, Kind.PUBLIC) == [found]


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "SELECT 1",
        # Other names.
        "SELECT * FROM publication.extra",
        "SELECT * FROM my_public.extra",
        "SELECT * FROM public_library.extra",
        "SELECT * FROM public$1.extra",
        'SELECT * FROM "Public".extra',
        'SELECT * FROM "public.extra"',
        'SELECT * FROM "a public".extra',
        'SELECT * FROM reports."public"',
        "ALTER TABLE t SET SCHEMA public_2",
        "ALTER TABLE t SET SCHEMA republic",
        "SET search_path = reports, publications",
        "SELECT to_regclass('republic.extra')",
        # The role, and columns.
        "GRANT SELECT ON t TO PUBLIC",
        "GRANT USAGE ON SCHEMA reports TO reader, public",
        "REVOKE ALL ON FUNCTION f() FROM PUBLIC",
        "SELECT public FROM t",
        "SELECT t.public FROM t WHERE public",
        "UPDATE t SET public = true",
        'ALTER TABLE "t" ADD COLUMN "public" boolean DEFAULT false NOT NULL',
        "CREATE TABLE t (public boolean)",
        # Data.
        "UPDATE t SET access = 'public'",
        "UPDATE t SET access = 'public' WHERE access IN ('public', 'private')",
        "INSERT INTO t (access) VALUES ('public')",
        "INSERT INTO t VALUES ('public, private')",
        "INSERT INTO t VALUES ('See public.extra for more')",
        "INSERT INTO t VALUES ('It''s public.extra')",
        r"INSERT INTO t VALUES (E'It\'s public.extra')",
        "INSERT INTO t VALUES ('Select public.extra')",
        "INSERT INTO t VALUES ('public.example.com')",
        "INSERT INTO t VALUES ('update this; SET search_path = public')",
        "ALTER TABLE t ALTER COLUMN access SET DEFAULT 'public'",
        "ALTER TABLE t ADD CHECK (access IN ('public', 'private'))",
        "COMMENT ON TABLE t IS 'select it from public.extra'",
        "COMMENT ON TABLE t IS\n'public.extra'",
        BODY.format("RAISE EXCEPTION 'create public.extra first';"),
        BODY.format("UPDATE t SET access = 'public';"),
        "SELECT 1 FROM pg_indexes WHERE schemaname = 'a'; UPDATE t SET access = 'public'",
        # Comments.
        "SELECT 1 -- FROM public.extra",
        "-- It's in public.extra\nSELECT 1",
        "SELECT /* FROM public.extra */ 1",
        "SELECT /* /* FROM */ public.extra */ 1",
        "SELECT /* FROM public.extra",
        "DO $$ BEGIN\n-- public.extra\nPERFORM 1; /* public.extra */ END $$",
        "DO $$ BEGIN\n-- don't\nPERFORM 1; END $$; -- it's public.extra",
        # Extensions are dealt with elsewhere.
        "CREATE EXTENSION hstore SCHEMA public",
        'CREATE EXTENSION IF NOT EXISTS "uuid-ossp" WITH SCHEMA "public" VERSION \'1.1\'',
    ],
)
def test_what_is_not_the_schema_public(sql: str) -> None:
    """A refusal without cause could not be lived with: columns, roles and data have that name."""
    assert texts(sql, Kind.PUBLIC) == []


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        *[
            (f"{verb} {thing} x", f"{verb} {thing}")
            for verb in ("CREATE", "ALTER", "DROP", "COMMENT ON")
            for thing in (
                "SCHEMA",
                "EVENT TRIGGER",
                "PUBLICATION",
                "SUBSCRIPTION",
                "CAST",
                "SERVER",
                "FOREIGN DATA WRAPPER",
                "USER MAPPING",
                "LANGUAGE",
                "TRUSTED PROCEDURAL LANGUAGE",
                "TRANSFORM",
                "ACCESS METHOD",
                "ROLE",
                "USER",
                "GROUP",
                "DATABASE",
                "TABLESPACE",
            )
        ],
        ("create schema if not exists reports", "create schema"),
        ("CREATE  EVENT\n  TRIGGER x", "CREATE EVENT TRIGGER"),
        ("CREATE /* a */ SCHEMA x", "CREATE /* a */ SCHEMA"),
        ("CREATE OR REPLACE TRANSFORM FOR x", "CREATE OR REPLACE TRANSFORM"),
        ("ALTER SYSTEM SET work_mem = '1MB'", "ALTER SYSTEM"),
        ("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO x", "ALTER DEFAULT PRIVILEGES"),
        ("DROP EXTENSION IF EXISTS hstore", "DROP EXTENSION"),
        ("ALTER EXTENSION hstore UPDATE", "ALTER EXTENSION"),
        ("COMMENT ON EXTENSION hstore IS 'x'", "COMMENT ON EXTENSION"),
        ("ALTER LARGE OBJECT 1 OWNER TO x", "ALTER LARGE OBJECT"),
        ("REASSIGN OWNED BY a TO b", "REASSIGN OWNED"),
        ("DROP OWNED BY a", "DROP OWNED"),
        ("IMPORT FOREIGN SCHEMA a FROM SERVER b INTO c", "IMPORT FOREIGN SCHEMA"),
        ("GRANT CONNECT ON DATABASE x TO y", "GRANT CONNECT ON DATABASE"),
        ("GRANT USAGE, CREATE ON SCHEMA x TO y", "GRANT USAGE, CREATE ON SCHEMA"),
        ("REVOKE ALL ON FOREIGN SERVER x FROM y", "REVOKE ALL ON FOREIGN SERVER"),
        ("SELECT lo_create(0)", "lo_create"),
        ("SELECT pg_catalog.lo_import ('/x')", "lo_import"),
        ("DO $$ BEGIN CREATE ROLE reader; END $$", "CREATE ROLE"),
        ("DO 'BEGIN CREATE ROLE reader; END'", "CREATE ROLE"),
        ("CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'CREATE ROLE x'", "CREATE ROLE"),
        ("CREATE TABLE t (); ALTER TABLE t ADD x int; CREATE SCHEMA x", "CREATE SCHEMA"),
        (BODY.format("EXECUTE 'CREATE SCHEMA ' || name;"), "CREATE SCHEMA"),
        (BODY.format("EXECUTE 'create schema ' || name;"), "create schema"),
        (BODY.format("EXECUTE format('CREATE SCHEMA %I', name);"), "CREATE SCHEMA"),
    ],
)
def test_what_is_about_the_whole_database_is_found(sql: str, found: str) -> None:
    """None of these would go with the worker schema."""
    assert texts(sql, Kind.DATABASE) == [found]


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE t (id int)",
        "CREATE TRIGGER x BEFORE INSERT ON t EXECUTE FUNCTION f()",
        "CREATE EXTENSION IF NOT EXISTS hstore",
        "CREATE TABLE schema (id int)",
        "DROP TABLE user_group",
        "CREATE INDEX role ON t (id)",
        'DROP TABLE "user"',
        'CREATE VIEW v AS SELECT a AS "Create user" FROM t',
        # The word COLUMN may be left out.
        "ALTER TABLE t DROP role, DROP language, ALTER server TYPE text",
        "ALTER TABLE ONLY t ALTER COLUMN a SET DEFAULT 'x;y', DROP role",
        "ALTER FOREIGN TABLE t DROP server",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "GRANT SELECT ON t TO x",
        "GRANT CREATE ON t TO x; SELECT 1 FROM a JOIN t ON language = role",
        "SELECT flo_create(1)",
        "SELECT lo_create FROM t",
        "INSERT INTO auth_permission (name) VALUES ('Create user')",
        "INSERT INTO auth_permission (name) VALUES ('create user')",
        "INSERT INTO t VALUES ('Run CREATE SCHEMA first')",
        "COMMENT ON TABLE t IS 'CREATE USER'",
        BODY.format("RAISE NOTICE 'create role % first', name;"),
        BODY.format("PERFORM note('Create role');"),
        "SELECT 1 -- CREATE SCHEMA x",
        "SELECT 1 /* CREATE SCHEMA x */",
        "/* CREATE\n-- */ SELECT 1 /* SCHEMA */",
    ],
)
def test_what_stays_in_the_schema(sql: str) -> None:
    """It is dropped with it; or it is no SQL at all."""
    assert texts(sql, Kind.DATABASE) == []


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("SELECT indexname FROM pg_indexes WHERE tablename = 't'", "pg_indexes"),
        ("SELECT 1 FROM pg_catalog.pg_class WHERE relname = 't'", "pg_class"),
        ("SELECT 1 FROM PG_TABLES", "PG_TABLES"),
        ("SELECT 1 FROM information_schema.columns", "information_schema.columns"),
        ('SELECT 1 FROM "information_schema"."tables"', 'information_schema"."tables'),
        ("SELECT schemaname FROM pg_stat_user_tables", "pg_stat_user_tables"),
        ("SELECT 1 FROM pg_tables WHERE schemaname NOT IN ('pg_catalog')", "pg_tables"),
        ("SELECT 1 FROM pg_tables WHERE schemaname <> 'pg_catalog'", "pg_tables"),
        ("SELECT 1 FROM pg_tables a, pg_views b WHERE a.schemaname = b.schemaname", "pg_tables"),
        ("SELECT 1 FROM pg_class c JOIN pg_constraint d ON d.conrelid = c.oid", "pg_class"),
        ("SELECT current_schema(); SELECT 1 FROM pg_type", "pg_type"),
        ("DO $$ BEGIN PERFORM 1 FROM pg_proc; END $$", "pg_proc"),
        ("SELECT 1 FROM pg_class -- current_schema()", "pg_class"),
        *[
            (f"SELECT 1 FROM {name}", name)
            for name in (
                "pg_attribute",
                "pg_constraint",
                "pg_enum",
                "pg_index",
                "pg_matviews",
                "pg_sequence",
                "pg_sequences",
                "pg_trigger",
                "pg_views",
            )
        ],
    ],
)
def test_looking_into_the_catalog_is_found_once_a_statement(sql: str, found: str) -> None:
    """Such a query sees the user's own objects, and those of other workers."""
    assert texts(sql, Kind.CATALOG) == [found]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 FROM pg_indexes WHERE schemaname = current_schema()",
        "SELECT 1 FROM pg_indexes WHERE schemaname = CURRENT_SCHEMA",
        "SELECT 1 FROM pg_indexes WHERE schemaname = ANY (current_schemas(false))",
        "SELECT 1 FROM pg_class c WHERE pg_catalog.pg_table_is_visible(c.oid)",
        "SELECT 1 FROM pg_type t WHERE pg_type_is_visible(t.oid)",
        "SELECT 1 FROM pg_constraint WHERE conrelid = 't'::regclass",
        "SELECT 1 FROM pg_constraint WHERE conrelid = CAST('t' AS regclass)",
        "SELECT 1 FROM pg_enum WHERE enumtypid = to_regtype('mood')",
        "SELECT 1 FROM pg_indexes WHERE schemaname = 'public'",
        "SELECT 1 FROM pg_indexes WHERE schemaname = 'reports'",
        "SELECT 1 FROM pg_indexes WHERE schemaname IN ('reports')",
        "SELECT 1 FROM pg_indexes WHERE schemaname = %s",
        "SELECT 1 FROM information_schema.tables WHERE table_schema = %(schema)s",
        "SELECT 1 FROM information_schema.schemata WHERE schema_name = 'reports'",
        "SELECT 1 FROM pg_class c, pg_namespace n WHERE n.nspname LIKE 'reports%%'",
        # Neither do these show the objects of a schema.
        "SELECT 1 FROM pg_extension WHERE extname = 'hstore'",
        "SELECT pg_typeof(1), pg_trigger_depth(), pg_get_serial_sequence('t', 'id')",
        "SELECT pg_advisory_xact_lock(1) FROM my_pg_class",
        "CREATE EXTENSION pg_trgm",
        "INSERT INTO t VALUES ('pg_class')",
        "SELECT 1 -- FROM pg_class",
    ],
)
def test_asking_for_one_schema_is_all_right(sql: str) -> None:
    """Or for none."""
    assert texts(sql, Kind.CATALOG) == []


@pytest.mark.parametrize(
    "sql",
    [
        "/* public.a -- */ SELECT 'it''s; public', \"a;b\" FROM public.extra",
        "DO $$ BEGIN PERFORM 'x'; /* public.a */ DELETE FROM public.extra; END $$; SELECT 1",
        "SELECT 1; -- it's\nSELECT '\N{SNOWMAN}'; SELECT 1 FROM public.extra",
        r"SELECT E'\'; public.a' FROM public.extra",
        "COMMENT ON TABLE t IS 'public.a'; SELECT 1 FROM public.extra",
        "DO $a$ BEGIN EXECUTE $b$ SELECT 1; TABLE public.extra $b$; END $a$",
    ],
)
def test_the_offset_is_that_in_the_given_text(sql: str) -> None:
    """Whatever was left out of account before."""
    (match,) = find(sql)
    assert match.offset == sql.index("public.extra")


def test_matches_come_in_order() -> None:
    """Of all kinds, over all statements."""
    sql = "SELECT 1 FROM pg_class, public.a; CREATE SCHEMA x; SELECT 1 FROM public.b, pg_class"
    matches = find(sql)
    assert [(match.kind.name, match.text) for match in matches] == [
        ("CATALOG", "pg_class"),
        ("PUBLIC", "public.a"),
        ("DATABASE", "CREATE SCHEMA"),
        ("PUBLIC", "public.b"),
        ("CATALOG", "pg_class"),
    ]
    assert [match.offset for match in matches] == sorted(match.offset for match in matches)


@pytest.mark.parametrize(
    "sql",
    [
        "'" * 20_001,
        "/*" * 20_000,
        "$$" * 20_001,
        "$a$" * 20_001,
        "GRANT " * 20_000,
        "ALTER TABLE " * 20_000,
        "search_path = " + "a, " * 20_000,
        "SELECT '" + "a," * 20_000 + "'",
        "SCHEMA " * 20_000,
        "'a', " * 20_000,
        "( " * 20_000,
        "DO $$ BEGIN EXECUTE 'SELECT " + "public. " * 20_000,
    ],
    ids=lambda sql: sql[:12],
)
def test_no_text_takes_long(sql: str) -> None:
    """Every statement of every migration is looked at, however it is made."""
    before = time.process_time()
    find(sql)
    assert time.process_time() - before < 2
