from collections.abc import Iterator

import pytest

from schema_runner.postgres import schemas
from schema_runner.postgres.obstacles import find_obstacles
from schema_runner.postgres.server import Connection, Server

from ..project import connect
from .test_move import EVERYTHING

TABLE = "CREATE TABLE library_book (id int, c citext);"
BODY = "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN %s END $$"
CAST = "CREATE FUNCTION f(int) RETURNS point LANGUAGE sql AS 'SELECT point(1, 1)';"
SERVER = "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER far FOREIGN DATA WRAPPER w;"

OBSTACLES = {
    "shell type": ("CREATE TYPE hollow", "type public.hollow"),
    "schema": ('CREATE SCHEMA reports; CREATE SCHEMA "My %"', 'schema "My %"', "schema reports"),
    "event trigger": ("CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
        "CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION f()",
        "event trigger watch"),
    "publication": (f"{TABLE} CREATE PUBLICATION news FOR TABLE library_book",
        "publication news"),
    "subscription": ("CREATE SUBSCRIPTION reader CONNECTION 'dbname=nowhere' PUBLICATION news"
        " WITH (connect = false, slot_name = NONE)", "subscription reader"),
    "foreign data wrapper": ("CREATE FOREIGN DATA WRAPPER w", "foreign-data wrapper w"),
    "server": (SERVER, "foreign-data wrapper w", "server far"),
    "user mapping": (f"{SERVER} CREATE USER MAPPING FOR PUBLIC SERVER far",
        "foreign-data wrapper w", "server far", "user mapping public on server far"),
    "foreign table": (f"{SERVER} CREATE FOREIGN TABLE afar (n int) SERVER far",
        "foreign table public.afar", "foreign-data wrapper w", "server far"),
    "language": ("CREATE LANGUAGE own HANDLER plpgsql_call_handler", "language own"),
    "access method": ("CREATE ACCESS METHOD own TYPE TABLE HANDLER heap_tableam_handler",
        "access method own"),
    "transform": ("CREATE FUNCTION f(internal) RETURNS internal IMMUTABLE LANGUAGE internal"
        " AS 'timestamp_support'; CREATE TRANSFORM FOR int LANGUAGE plpgsql"
        " (FROM SQL WITH FUNCTION f(internal))", "transform for integer language plpgsql"),
    "large object": ("SELECT lo_create(20000)", "large object 20000"),
    "cast without a function": ("CREATE CAST (int AS point) WITH INOUT",
        "cast (integer AS pg_catalog.point)"),
    "cast by a function in public": (f"{CAST} CREATE CAST (int AS point) WITH FUNCTION f(int)",
        "cast (integer AS pg_catalog.point)"),
    "default operator class of a type of all": ("CREATE OPERATOR CLASS own DEFAULT FOR TYPE point"
        " USING btree AS FUNCTION 1 f(point, point)", "operator class public.own USING btree"),
    "argument of a trigger": ("CREATE TEXT SEARCH CONFIGURATION simply (COPY = simple);"
        "CREATE TABLE t (body text, vector tsvector); CREATE TRIGGER search BEFORE INSERT ON t"
        " FOR EACH ROW EXECUTE FUNCTION"
        " tsvector_update_trigger('vector', 'public.simply', 'body')",
        "trigger search on public.t"),
    "option of a dictionary": ("CREATE TEXT SEARCH DICTIONARY own (TEMPLATE = simple);"
        "CREATE TEXT SEARCH DICTIONARY thesaurus (TEMPLATE = thesaurus,"
        " DictFile = thesaurus_sample, Dictionary = 'public.own')",
        "text search dictionary public.thesaurus"),
    "literals that name relations": ("""CREATE SEQUENCE s; CREATE TABLE "T" (
        a bigint DEFAULT nextval('public.s'::text::regclass),
        b text CONSTRAINT named CHECK (b <> pg_get_serial_sequence('public."T"', 'a')));
        CREATE VIEW v AS SELECT to_regclass('public.s')""",
        'default value for public."T".a', 'table constraint named on public."T"', "view public.v"),
    **{
        name: (TABLE + BODY % body, "function public.f()")
        for name, body in {
            "body that makes SQL": "EXECUTE format('DELETE FROM public.%I', 'x');",
            "body that puts names together": "EXECUTE 'DELETE FROM public.' || 'x';",
            "body that sets its path": "SET search_path = a, public;",
        }.items()
    },
}  # fmt: skip
ORDINARY = {
    "nothing": "",
    "Django's own kind of tables": TABLE,
    "everything that moves": EVERYTHING,
    "body that names an extension's":
        BODY % """RETURN 'a'::public.citext = ' '::"public"."hstore";""",
    "body that calls an extension's": BODY % "RETURN public.hstore('a', 'b') -> 'a';",
    "another schema's name": BODY % "DELETE FROM republic.x; DELETE FROM public_x.y;",
    "body": BODY % 'DELETE FROM PUBLIC.Library_Book; DELETE FROM "public" . "library_book";',
    "body with comments": BODY % "-- public.x, 'public\n/* DELETE FROM public.library_book */",
    "body with both": BODY % "RETURN 'a'::public.citext = (SELECT c FROM public.library_book);",
    "procedure": "CREATE PROCEDURE p() LANGUAGE sql SET check_function_bodies = off"
                 " AS 'DELETE FROM public.library_book'",
    "body of SQL": TABLE + "CREATE FUNCTION f() RETURNS int LANGUAGE sql"
                           " BEGIN ATOMIC SELECT id FROM public.library_book; END",
    "path of a function": "CREATE FUNCTION f() RETURNS int LANGUAGE sql"
                          " SET search_path = public AS 'SELECT 1'",
    "literals that follow, and data": """CREATE TABLE t (id serial,
        a text DEFAULT 'public.t.example' CHECK (a <> 'public.x'));
        CREATE VIEW v AS SELECT 'public.t'::regclass, nextval('public.t_id_seq')""",
    "cast of an own type": "CREATE TYPE mood AS ENUM ('good');"
                           "CREATE CAST (mood AS int[]) WITH INOUT;"
                           "CREATE CAST (mood AS citext) WITH INOUT",
    "default operator class of an own type": "CREATE TYPE pair AS (a int);"
        "CREATE FUNCTION f(pair, pair) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 0';"
        "CREATE OPERATOR CLASS own DEFAULT FOR TYPE pair USING btree AS FUNCTION 1 f(pair, pair)",
    "trigger": "CREATE TABLE t (body text, vector tsvector); CREATE TRIGGER search"
               " BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION"
               " tsvector_update_trigger('vector', 'pg_catalog.english', 'body')",
}  # fmt: skip


@pytest.fixture(scope="module")
def host(server: Server, module_database: str) -> Iterator[Connection]:
    """A database with extensions in `public`: types with casts, a foreign data wrapper."""
    with connect(server, module_database) as connection:
        connection.execute(
            "CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE EXTENSION postgres_fdw;"
            "CREATE FUNCTION f(point, point) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 0'"
        )
        yield connection


@pytest.fixture
def extended(host: Connection) -> Iterator[Connection]:
    """The same database in a transaction that is rolled back."""
    with host.transaction(force_rollback=True):
        yield host


def found(connection: Connection, schema: str = "public") -> list[str]:
    # PostgreSQL 15 says "on language".
    return [
        str(one).replace(" on language", " language") for one in find_obstacles(connection, schema)
    ]


@pytest.mark.parametrize("name", OBSTACLES)
def test_an_obstacle_is_named(extended: Connection, name: str) -> None:
    """An object that a move cannot carry is reported by kind and name."""
    statements, *expected = OBSTACLES[name]
    extended.execute(statements)
    assert found(extended) == expected


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_objects_are_no_obstacles(extended: Connection, name: str) -> None:
    """Objects that projects have in `public` can be moved, and extensions stay."""
    schemas.create(extended, 1, 4711)
    extended.execute(ORDINARY[name])
    assert found(extended) == []


def test_obstacles_of_other_databases_do_not_count(host: Connection, server: Server) -> None:
    """Subscriptions are global objects, and each is reported for its own database only."""
    create, *expected = OBSTACLES["subscription"]
    host.execute(create)
    try:
        with server.connect("postgres") as other:
            assert (found(host), found(other)) == (expected, [])
    finally:
        host.execute("DROP SUBSCRIPTION reader")


def test_an_ordinary_role_can_search(extended: Connection) -> None:
    """The query needs no privileges of a superuser."""
    (create, *subscription), (map_user, *others) = (
        OBSTACLES[name] for name in ("subscription", "user mapping")
    )
    extended.execute(f"{create}; {map_user}; CREATE ROLE ordinary; SET LOCAL ROLE ordinary")
    assert sorted(found(extended)) == sorted([*subscription, *others])


def test_objects_in_another_schema_are_found(extended: Connection) -> None:
    """The schema can have any name."""
    extended.execute(
        'CREATE SCHEMA "My (schema"; SET LOCAL search_path = "My (schema";'
        "CREATE TYPE hollow;" + (BODY % "EXECUTE 'DELETE FROM My (schema.t';")
    )
    name = '"My (schema"'
    expected = [f"type {name}.hollow", f"schema {name}", f"function {name}.f()"]
    assert found(extended, "My (schema") == expected
