import re
import time

import pytest

from schema_runner.migration_lint.sql import Kind, find_matches

BODY = "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $body$ BEGIN {} END $body$"
# Statements with marks around the expected match; "FROM" stands for a query, and "BODY" for the
# body of a function, with the text that follows.
PUBLIC = r"""
FROM «public.extra» | FROM «PUBLIC.extra» | FROM «"public"."extra"» | FROM «"public".extra»
FROM «public."extra"» | FROM «public . extra» | FROM «public\n\t.extra»
FROM «public/**/./* */extra» | FROM «public."the extra"» | FROM project.«public.extra»
SELECT «public.f»(1) | SELECT 1::«public.amount» | INSERT INTO «public.extra» VALUES (1)
CREATE TABLE t (id int REFERENCES «public.extra» (id))
CREATE INDEX i ON t USING gin (name «public.gin_trgm_ops») | SELECT a OPERATOR(«public.%%») b
SELECT a OPERATOR(«public.===») b | SELECT a OPERATOR («public.<->») b ORDER BY c
CREATE FUNCTION f() RETURNS bool LANGUAGE sql AS 'SELECT 1 OPERATOR(«public.@>») 2'
FROM «public.{}» | FROM «public.%s»
# Where the grammar has a schema.
CREATE TABLE t (); ALTER TABLE t SET «SCHEMA public» | ALTER TABLE t SET «SCHEMA "public"»
GRANT USAGE ON «SCHEMA public» TO PUBLIC | GRANT SELECT ON ALL TABLES IN «SCHEMA public» TO reader
GRANT SELECT ON ALL TABLES IN «SCHEMA reports, public» TO r | CREATE «SCHEMA IF NOT EXISTS public»
DROP «SCHEMA if exists public» | SET «SCHEMA 'public'» | REINDEX «SCHEMA  PUBLIC»
SET «search_path = public» | SET «search_path=public» | SET LOCAL «search_path TO reports, public»
SET «search_path TO "$user", public» | set «search_path to 'public'»
SET «search_path = 'reports', 'public'» | SET search_path = «'reports, public'»
ALTER FUNCTION f() SET «search_path = public», pg_temp
# In a string literal.
FROM pg_indexes WHERE schemaname = «'public'»
FROM pg_indexes WHERE schemaname IN ('x', «'public'»)
FROM information_schema.tables t WHERE «'public'» = t.table_schema
FROM pg_namespace WHERE nspname=«'public'»
FROM pg_class WHERE relnamespace = «'public'»::regnamespace
SELECT has_schema_privilege(«'public'», 'CREATE')
SELECT set_config('search_path', «'public'», false)
SELECT set_config('search_path', «'reports,public'», false)
SELECT AddGeometryColumn(«'public'», 't', 'c', 4326, 'POINT', 2)
SELECT to_regclass('«public.extra»') | SELECT nextval('«public.extra_id_seq»'::regclass)
SELECT setval('«"public"."extra_id_seq"»', 1) | SELECT to_regprocedure('«public.f»(int)')
SELECT E'«public.extra»'::regclass | FROM crosstab('SELECT a, b FROM «public.extra»')
# In bodies, whose quotes may be dollars or apostrophes.
DO $$ BEGIN DELETE FROM «public.extra»; END $$
DO LANGUAGE plpgsql $x$ BEGIN DELETE FROM «public.extra»; END $x$
DO 'BEGIN DELETE FROM «public.extra»; END'
CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'TABLE «public.extra»'
BODY EXECUTE 'DROP TABLE «public.extra»'; | BODY EXECUTE 'DROP TABLE ' || '«public.»' || name;
BODY EXECUTE 'DROP TABLE «public.»' || name; | BODY EXECUTE format('DROP TABLE «public.%I»', name);
BODY EXECUTE format('DROP TABLE %I.%I', «'public'», name);
BODY SELECT count_rows(format('%I.%I', «'public'», name));
BODY EXECUTE $$DROP TABLE «public.extra»$$; | BODY EXECUTE 'SELECT ''«public.extra»''::regclass';
BODY PERFORM 1 FROM pg_tables WHERE schemaname = «'public'»; | BODY BODY SET «search_path = public»
# After comments, strings and quotes, which count for positions.
/* public.a -- */ SELECT 'it''s; public', "a;b" FROM «public.extra»
DO $$ BEGIN PERFORM 'x'; /* public.a */ DELETE FROM «public.extra»; END $$; SELECT 1
SELECT 1; -- it's\nSELECT '☃'; SELECT 1 FROM «public.extra»
SELECT E'\'; public.a' FROM «public.extra» | SELECT '\' FROM «public.extra» WHERE a = 'b'
COMMENT ON TABLE t IS 'public.a'; SELECT 1 FROM «public.extra»
DO $a$ BEGIN EXECUTE $b$ SELECT 1; TABLE «public.extra» $b$; END $a$
# Other names.
FROM publication.extra | FROM my_public.extra | FROM public_library.extra | FROM public$1.extra
FROM "Public".extra | FROM "public.extra" | FROM "a public".extra | FROM reports."public"
ALTER TABLE t SET SCHEMA public_2 | ALTER TABLE t SET SCHEMA republic
SET search_path = reports, publications | SELECT to_regclass('republic.extra')
# The role PUBLIC, and columns.
GRANT SELECT ON t TO PUBLIC | GRANT USAGE ON SCHEMA reports TO reader, public
REVOKE ALL ON FUNCTION f() FROM PUBLIC | SELECT public FROM t | SELECT t.public FROM t WHERE public
UPDATE t SET public = true | ALTER TABLE "t" ADD COLUMN "public" boolean DEFAULT false NOT NULL
CREATE TABLE t (public boolean)
# Data.
UPDATE t SET access = 'public'
UPDATE t SET access = 'public' WHERE access IN ('public', 'private')
INSERT INTO t (access) VALUES ('public') | INSERT INTO t VALUES ('public, private')
INSERT INTO t VALUES ('See public.extra for more') | INSERT INTO t VALUES ('It''s public.extra')
INSERT INTO t VALUES (E'It\'s public.extra') | INSERT INTO t VALUES ('Select public.extra')
INSERT INTO t VALUES ('public.example.com')
INSERT INTO t VALUES ('update this; SET search_path = public')
ALTER TABLE t ALTER COLUMN access SET DEFAULT 'public'
ALTER TABLE t ADD CHECK (access IN ('public', 'private'))
COMMENT ON TABLE t IS 'select it from public.extra' | COMMENT ON TABLE t IS\n'public.extra'
BODY RAISE EXCEPTION 'create public.extra first'; | BODY UPDATE t SET access = 'public';
FROM pg_indexes WHERE schemaname = 'a'; UPDATE t SET access = 'public'
# Comments.
SELECT 1 -- FROM public.extra | -- It's in public.extra\nSELECT 1
SELECT /* FROM public.extra */ 1 | SELECT /* /* FROM */ public.extra */ 1
SELECT /* FROM public.extra | DO $$ BEGIN\n-- public.extra\nPERFORM 1; /* public.extra */ END $$
DO $$ BEGIN\n-- don't\nPERFORM 1; END $$; -- it's public.extra
# Extensions, which are handled elsewhere.
CREATE EXTENSION hstore SCHEMA public
CREATE EXTENSION IF NOT EXISTS "uuid-ossp" WITH SCHEMA "public" VERSION '1.1'
"""
DATABASE = r"""
«create schema» if not exists reports | «CREATE  EVENT\n  TRIGGER» x | «CREATE /* a */ SCHEMA» x
«CREATE OR REPLACE TRANSFORM» FOR x | «ALTER SYSTEM» SET work_mem = '1MB'
«ALTER DEFAULT PRIVILEGES» GRANT SELECT ON TABLES TO x | «DROP EXTENSION» IF EXISTS hstore
«ALTER EXTENSION» hstore UPDATE | «COMMENT ON EXTENSION» hstore IS 'x'
«ALTER LARGE OBJECT» 1 OWNER TO x | «REASSIGN OWNED» BY a TO b | «DROP OWNED» BY a
«IMPORT FOREIGN SCHEMA» a FROM SERVER b INTO c | «GRANT CONNECT ON DATABASE» x TO y
«GRANT USAGE, CREATE ON SCHEMA» x TO y | «REVOKE ALL ON FOREIGN SERVER» x FROM y
SELECT «lo_create»(0) | SELECT pg_catalog.«lo_import» ('/x')
DO $$ BEGIN «CREATE ROLE» reader; END $$ | DO 'BEGIN «CREATE ROLE» reader; END'
CREATE FUNCTION f() RETURNS void LANGUAGE sql AS '«CREATE ROLE» x'
CREATE TABLE t (); ALTER TABLE t ADD x int; «CREATE SCHEMA» x
BODY EXECUTE '«CREATE SCHEMA» ' || name; | BODY EXECUTE '«create schema» ' || name;
BODY EXECUTE format('«CREATE SCHEMA» %I', name);
# Objects that are dropped with the schema, and text that is not SQL.
CREATE TABLE t (id int) | CREATE TRIGGER x BEFORE INSERT ON t EXECUTE FUNCTION f()
CREATE EXTENSION IF NOT EXISTS hstore | CREATE TABLE schema (id int) | DROP TABLE user_group
CREATE INDEX role ON t (id) | DROP TABLE "user" | CREATE VIEW v AS SELECT a AS "Create user" FROM t
# Without the optional word COLUMN.
ALTER TABLE t DROP role, DROP language, ALTER server TYPE text
ALTER TABLE ONLY t ALTER COLUMN a SET DEFAULT 'x;y', DROP role | ALTER FOREIGN TABLE t DROP server
CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1' | GRANT SELECT ON t TO x
GRANT CREATE ON t TO x; SELECT 1 FROM a JOIN t ON language = role | SELECT flo_create(1)
SELECT lo_create FROM t | INSERT INTO auth_permission (name) VALUES ('Create user')
INSERT INTO auth_permission (name) VALUES ('create user')
INSERT INTO t VALUES ('Run CREATE SCHEMA first') | COMMENT ON TABLE t IS 'CREATE USER'
BODY RAISE NOTICE 'create role % first', name; | BODY PERFORM note('Create role');
SELECT 1 -- CREATE SCHEMA x | SELECT 1 /* CREATE SCHEMA x */
/* CREATE\n-- */ SELECT 1 /* SCHEMA */
"""
CATALOG = r"""
SELECT indexname FROM «pg_indexes» WHERE tablename = 't'
FROM pg_catalog.«pg_class» WHERE relname = 't' | FROM «PG_TABLES»
FROM «information_schema.columns» | FROM "«information_schema"."tables»"
SELECT schemaname FROM «pg_stat_user_tables»
FROM «pg_tables» WHERE schemaname NOT IN ('pg_catalog')
FROM «pg_tables» WHERE schemaname <> 'pg_catalog'
FROM «pg_tables» a, pg_views b WHERE a.schemaname = b.schemaname
FROM «pg_class» c JOIN pg_constraint d ON d.conrelid = c.oid
SELECT current_schema(); SELECT 1 FROM «pg_type» | DO $$ BEGIN PERFORM 1 FROM «pg_proc»; END $$
FROM «pg_class» -- current_schema() | FROM «pg_attribute» | FROM «pg_constraint» | FROM «pg_enum»
FROM «pg_index» | FROM «pg_matviews» | FROM «pg_sequence» | FROM «pg_sequences» | FROM «pg_trigger»
FROM «pg_views»
# Queries of one schema.
FROM pg_indexes WHERE schemaname = current_schema()
FROM pg_indexes WHERE schemaname = CURRENT_SCHEMA
FROM pg_indexes WHERE schemaname = ANY (current_schemas(false))
FROM pg_class c WHERE pg_catalog.pg_table_is_visible(c.oid)
FROM pg_type t WHERE pg_type_is_visible(t.oid) | FROM pg_constraint WHERE conrelid = 't'::regclass
FROM pg_constraint WHERE conrelid = CAST('t' AS regclass)
FROM pg_enum WHERE enumtypid = to_regtype('mood') | FROM pg_indexes WHERE schemaname = 'public'
FROM pg_indexes WHERE schemaname = 'reports' | FROM pg_indexes WHERE schemaname IN ('reports')
FROM pg_indexes WHERE schemaname = %s
FROM information_schema.tables WHERE table_schema = %(schema)s
FROM information_schema.schemata WHERE schema_name = 'reports'
FROM pg_class c, pg_namespace n WHERE n.nspname LIKE 'reports%%'
# Catalogs and functions that do not list objects of a schema.
FROM pg_extension WHERE extname = 'hstore'
SELECT pg_typeof(1), pg_trigger_depth(), pg_get_serial_sequence('t', 'id')
SELECT pg_advisory_xact_lock(1) FROM my_pg_class | CREATE EXTENSION pg_trgm
INSERT INTO t VALUES ('pg_class') | SELECT 1 -- FROM pg_class
"""
WHOLE = """
SCHEMA | EVENT TRIGGER | PUBLICATION | SUBSCRIPTION | CAST | SERVER | FOREIGN DATA WRAPPER
USER MAPPING | LANGUAGE | TRUSTED PROCEDURAL LANGUAGE | TRANSFORM | ACCESS METHOD | ROLE | USER
GROUP | DATABASE | TABLESPACE
"""


def listed(table: str) -> list[str]:
    lines = [line for line in table.strip().splitlines() if not line.startswith("#")]
    return [case for line in lines for case in line.split(" | ")]


def whole(case: str) -> str:
    """Return the statement of a case, with its marks."""
    if case.startswith("BODY"):
        body, _, after = case.removeprefix("BODY").partition(" BODY")
        case = BODY.format(body.strip()) + after
    elif case.startswith("FROM"):
        case = f"SELECT 1 {case}"
    return case.replace(r"\n", "\n").replace(r"\t", "\t")


VERBS = ("CREATE", "ALTER", "DROP", "COMMENT ON")
TABLES = {
    Kind.PUBLIC: listed(PUBLIC),
    Kind.DATABASE: listed(DATABASE)
    + [f"«{v} {thing}» x" for v in VERBS for thing in listed(WHOLE)],
    Kind.CATALOG: listed(CATALOG),
}
CASES = [(kind, case) for kind, cases in TABLES.items() for case in (*cases, "", "SELECT 1")]


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_names_outside_the_schema_are_found(kind: Kind, case: str) -> None:
    """In any syntax that PostgreSQL accepts; other names, data and comments do not match."""
    sql, *parts = re.split("«(.*?)»", whole(case), flags=re.DOTALL)
    expected = []
    for text, after in zip(parts[::2], parts[1::2], strict=True):
        expected.append((len(sql), " ".join(text.split())))
        sql += text + after
    assert [(one.offset, one.text) for one in find_matches(sql) if one.kind == kind] == expected


def test_matches_come_in_order() -> None:
    sql = "SELECT 1 FROM pg_class, public.a; CREATE SCHEMA x; SELECT 1 FROM public.b, pg_class"
    matches = find_matches(sql)
    kinds = [match.kind.name for match in matches]
    assert kinds == ["CATALOG", "PUBLIC", "DATABASE", "PUBLIC", "CATALOG"]
    texts = [match.text for match in matches]
    assert texts == ["pg_class", "public.a", "CREATE SCHEMA", "public.b", "pg_class"]
    assert [match.offset for match in matches] == sorted(match.offset for match in matches)


@pytest.mark.parametrize(
    "sql",
    [
        *("'" * 20_001, "/*" * 20_000, "$$" * 20_001, "$a$" * 20_001, "GRANT " * 20_000),
        *("ALTER TABLE " * 20_000, "SCHEMA " * 20_000, "'a', " * 20_000, "( " * 20_000),
        *("search_path = " + "a, " * 20_000, "SELECT '" + "a," * 20_000 + "'"),
        "DO $$ BEGIN EXECUTE 'SELECT " + "public. " * 20_000,
    ],
    ids=lambda sql: sql[:12],
)
def test_no_text_takes_long(sql: str) -> None:
    """Every statement of every migration is checked, so no input may take long."""
    before = time.process_time()
    find_matches(sql)
    assert time.process_time() - before < 2
