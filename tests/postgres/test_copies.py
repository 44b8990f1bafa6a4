"""A build in `public`, moved into a worker schema, and the copy of it for another worker."""

from contextlib import closing

from psycopg import sql

from schema_runner.postgres import function_bodies, move, schemas
from schema_runner.postgres.names import Marker, MarkerState
from schema_runner.postgres.obstacles import find_obstacles
from schema_runner.postgres.pg_dump import Dump, PgDump
from schema_runner.postgres.server import Connection, Server
from schema_runner.postgres.template import Template, TemplateContents

RUN = 4714


def move_and_copy(server: Server, connection: Connection, ddl: str) -> list[str]:
    """Execute DDL in `public`; return the schemas of two workers."""
    connection.execute(f"SET search_path = public; {ddl}; SET search_path = pg_catalog")
    assert find_obstacles(connection) == []
    built, copied = (schemas.create(connection, worker, RUN) for worker in (1, 2))
    move.move(connection, "public", built, batch=50)
    move.extend_search_paths(connection, "public", built)
    function_bodies.rewrite_functions(connection, "public", built)
    program = PgDump.find(connection.info.server_version)

    def start_dump(schema: str) -> Dump:
        return program.start(server, connection.info.dbname, schema)

    with closing(start_dump(built)) as dump:
        contents = TemplateContents.read(connection, built, dump, ["public"])
    template = Template.create(connection, contents, Marker(RUN, MarkerState.READY), ["public"])
    template.copy(connection, copied, batch=50)
    template.verify(connection, copied, lambda: start_dump(copied))
    return [built, copied]


# PostgreSQL 17 and later evaluate indexes and materialized views with search_path = pg_catalog.
BODIES = """
    CREATE TABLE book (title text);
    CREATE FUNCTION lower(text, int) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)';
    CREATE FUNCTION normal(text) RETURNS text LANGUAGE sql IMMUTABLE
        AS 'SELECT public.lower($1, 1)';
    CREATE FUNCTION count_books() RETURNS bigint LANGUAGE plpgsql STABLE
        AS 'BEGIN RETURN (SELECT count(*) FROM "public".Book); END';
    CREATE FUNCTION last_book() RETURNS text LANGUAGE sql SET search_path = '' AS
        'WITH book AS (SELECT 1) SELECT max(book.title) FROM public.book';
    CREATE FUNCTION same(text, text) RETURNS bool LANGUAGE sql AS 'SELECT lower($1) = lower($2)';
    CREATE OPERATOR === (LEFTARG = text, RIGHTARG = text, FUNCTION = same);
    CREATE FUNCTION is_book(text) RETURNS bool LANGUAGE sql
        AS 'SELECT $1 OPERATOR ( public . === ) title FROM public.book ORDER BY title LIMIT 1';
    CREATE INDEX book_normal ON book (normal(title));
    INSERT INTO book VALUES ('A'), ('B');
    CREATE MATERIALIZED VIEW counted AS SELECT count_books() AS books
"""


def test_bodies_that_name_public(server: Server, connection: Connection) -> None:
    """Functions find the objects of their schema, wherever they are used."""
    for schema in move_and_copy(server, connection, BODIES):
        query = sql.SQL(
            "SELECT {0}.last_book(), {0}.normal('X'), {0}.is_book('a'), books FROM {0}.counted"
        )
        found = connection.execute(query.format(sql.Identifier(schema))).fetchone()
        assert found == ("B", "x", True, 2)


def test_tablespaces(server: Server, connection: Connection) -> None:
    """Tables are in the same tablespaces, including the first one of the dump."""
    connection.execute("SET allow_in_place_tablespaces = on")
    connection.execute("CREATE TABLESPACE fast LOCATION ''")
    try:
        ddl = "CREATE TABLE a () TABLESPACE fast; CREATE TABLE b ()"
        query = (
            "SELECT relname, spcname FROM pg_class c"
            " LEFT JOIN pg_tablespace t ON t.oid = reltablespace"
            " WHERE relnamespace = %s::regnamespace ORDER BY relname"
        )
        for schema in move_and_copy(server, connection, ddl):
            found = connection.execute(query, [schema]).fetchall()
            assert found == [("a", "fast"), ("b", None)]
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
    finally:
        connection.execute("DROP TABLESPACE fast")
