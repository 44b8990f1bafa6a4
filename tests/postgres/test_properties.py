"""Whatever is made of all kinds of objects can be moved into another schema, and copied."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from psycopg import sql

from schema_runner.postgres import catalog, relocation, schemas
from schema_runner.postgres.marker import Marker, State
from schema_runner.postgres.pg_dump import PgDump
from schema_runner.postgres.server import Connection, Server
from schema_runner.postgres.template import Contents, CopyError, Template

from ..digest import digest

EXTENSIONS = ["citext", "hstore", "pg_trgm", "btree_gist"]
TARGETS = ["target", 'My "target" %s', "ü" * 31]
STYLES = [
    "{}",
    "Capitals {}",
    'quo"ted {}',
    "per%s cent % {}",
    "Ünïcöde ☃ {}",
    "select {}",
    "{}.public",
    "dollar$ \\ 'single' {}",
]


@dataclass
class World:
    """What has been made so far, for the next to refer to, by `pick`."""

    tables: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    style: str = "{}"
    seed: int = 0
    made: int = 0

    def name(self, part: str) -> str:
        """Return a quoted identifier in the current style, which no other object has."""
        name = self.style.format(f"{part}{self.made}")
        if self.seed % 5 == 4:
            while len((name + "x").encode()) <= 63:
                name += "x"
        return '"' + name.replace('"', '""') + '"'

    def pick(self, made: list[str], which: int = 0) -> str:
        return made[(self.seed + which) % len(made)]


def table(w: World) -> str:
    t, type_ = w.name("t"), w.pick(w.types)
    w.tables.append(t)
    return f"""
        CREATE TABLE {t} (id serial PRIMARY KEY, n int DEFAULT 1 CHECK (n > 0), body text NOT NULL
                          DEFAULT 'x', c citext UNIQUE, h hstore, {w.name("v")} {type_},
                          many {type_}[]) WITH (fillfactor = 70);
        INSERT INTO {t} (n, c, h) VALUES (1, 'One', 'a=>1'), (2, 'two', 'a=>2');
        ALTER TABLE {t} ALTER body SET STATISTICS 7, ALTER body SET STORAGE EXTERNAL;
    """


def table_with_generated_columns(w: World) -> str:
    t = w.name("g")
    w.tables.append(t)
    return f"""
        CREATE TABLE {t} (id bigint GENERATED ALWAYS AS IDENTITY (START 5) PRIMARY KEY, n int,
                          body text, c citext,
                          g int GENERATED ALWAYS AS ({w.pick(w.functions)}(n)) STORED);
        INSERT INTO {t} (n, body, c) VALUES (7, 'g', 'G');
    """


def partitioned(w: World) -> str:
    t = w.name("p")
    w.tables.append(t)
    first, second, rest = w.name("p_a"), w.name("p_b"), w.name("p_c")
    return f"""
        CREATE TABLE {t} (id int PRIMARY KEY, n int, body text, c citext) PARTITION BY RANGE (id);
        CREATE TABLE {first} PARTITION OF {t} FOR VALUES FROM (0) TO (10);
        CREATE TABLE {second} PARTITION OF {t} FOR VALUES FROM (10) TO (20) PARTITION BY HASH (id);
        CREATE TABLE {rest} PARTITION OF {t} DEFAULT;
        INSERT INTO {t} (id, n) VALUES (1, 1), (77, 2);
    """


def heir(w: World) -> str:
    return f"""
        CREATE TABLE {w.name("h")} (extra {w.pick(w.types)}) INHERITS ({w.tables[0]});
        INSERT INTO {w.name("h")} (n) VALUES (3);
    """


def loose_tables(w: World) -> str:
    return f"""
        CREATE TYPE {w.name("y")} AS (n int);
        CREATE UNLOGGED TABLE {w.name("u")} (n int) WITH (autovacuum_enabled = false);
        CREATE TABLE {w.name("f")} (n int UNIQUE NOT NULL, m {w.pick(w.types)});
        ALTER TABLE {w.name("f")} REPLICA IDENTITY FULL;
        INSERT INTO {w.name("f")} (n) VALUES (1);
        CREATE TABLE {w.name("o")} OF {w.name("y")};
    """


def circular_keys(w: World) -> str:
    one, two = w.pick(w.tables), w.pick(w.tables, 1)
    return "".join(
        f"""
        ALTER TABLE {a} ADD {w.name(column)} int CONSTRAINT {w.name("fk" + column)}
            REFERENCES {b} ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED;
        """
        for column, a, b in (("r", one, two), ("s", two, one))
    )


def constraints(w: World) -> str:
    return f"""
        ALTER TABLE {w.pick(w.tables)}
            ADD CONSTRAINT {w.name("k")} CHECK ({w.pick(w.functions)}(n) < 1000) NOT VALID;
        CREATE TABLE {w.name("x")} (n int, s int4range, EXCLUDE USING gist (n WITH =, s WITH &&)
                                    WHERE (n > 0) DEFERRABLE, UNIQUE (n, s) DEFERRABLE);
        INSERT INTO {w.name("x")} VALUES (1, '[1,3)'), (1, '[3,4)');
    """


def indexes(w: World) -> str:
    t = w.pick(w.tables)
    return f"""
        CREATE INDEX {w.name("i_a")} ON {t} (n DESC NULLS LAST) INCLUDE (body) WHERE n > 0;
        CREATE INDEX {w.name("i_b")} ON {t} ({w.pick(w.functions)}(n), lower(body));
        CREATE INDEX {w.name("i_c")} ON {t} USING gin (body gin_trgm_ops);
        CREATE INDEX {w.name("i_d")} ON {t} (body text_pattern_ops, c) WHERE c = 'a'::citext;
        ALTER INDEX {w.name("i_b")} ALTER 2 SET STATISTICS 7;
        CREATE STATISTICS {w.name("s")} (mcv) ON n, (lower(body)) FROM {t};
    """


def views(w: World) -> str:
    return f"""
        CREATE VIEW {w.name("v_a")} WITH (security_barrier) AS
            SELECT id, {w.pick(w.functions)}(n) AS m, c FROM {w.pick(w.tables)}
            WHERE c = 'one' AND body % 'x' AND id IN (SELECT id FROM {w.pick(w.tables, 1)});
        CREATE VIEW {w.name("v_b")} AS SELECT *, ('a=>1'::hstore) -> 'a' AS a FROM {w.name("v_a")};
        ALTER VIEW {w.name("v_b")} ALTER m SET DEFAULT 5;
        CREATE MATERIALIZED VIEW {w.name("m")} AS SELECT id, c FROM {w.pick(w.tables, 1)};
        CREATE UNIQUE INDEX {w.name("m_i")} ON {w.name("m")} (id);
    """


def enum(w: World) -> str:
    w.types.append(w.name("e"))
    return f"""
        CREATE TYPE {w.name("e")} AS ENUM ('one', 'Two''s', 'drei');
        CREATE TABLE {w.name("e_t")} (e {w.name("e")} DEFAULT 'drei', f {w.name("e")}[]);
        INSERT INTO {w.name("e_t")} VALUES ('one', '{{one,drei}}');
    """


def domain(w: World) -> str:
    w.types.append(w.name("d"))
    return f"""
        CREATE DOMAIN {w.name("d")} AS int DEFAULT {w.pick(w.functions)}(1)
            CONSTRAINT {w.name("d_c")} CHECK ({w.pick(w.functions)}(VALUE) > 0);
        CREATE DOMAIN {w.name("d_d")} AS citext COLLATE "C" NOT NULL;
    """


def composite(w: World) -> str:
    written = f"CREATE TYPE {w.name('c')} AS (a {w.pick(w.types)}, b citext, c hstore[]);"
    w.types.append(w.name("c"))
    return written


def range_(w: World) -> str:
    w.types += [w.name("r_m"), w.name("r")]
    return f"""
        CREATE FUNCTION {w.name("r_f")}(float8, float8) RETURNS float8 IMMUTABLE LANGUAGE sql
            AS 'SELECT $1 - $2';
        CREATE TYPE {w.name("r")} AS RANGE (subtype = float8, subtype_diff = {w.name("r_f")},
                                            multirange_type_name = {w.name("r_m")});
        CREATE TABLE {w.name("r_t")} (r {w.name("r")}, m {w.name("r_m")});
        INSERT INTO {w.name("r_t")} VALUES ('[1,2)', '{{[1,2), [3,4)}}');
    """


def operators(w: World) -> str:
    t, f, compare = w.name("o_t"), w.name("o_f"), w.name("o_p")
    return f"""
        CREATE TYPE {t} AS (n int);
        CREATE FUNCTION {f}({t}, {t}) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1.n < $2.n';
        CREATE FUNCTION {compare}({t}, {t}) RETURNS int IMMUTABLE LANGUAGE sql
            AS 'SELECT $1.n - $2.n';
        CREATE OPERATOR <<< (LEFTARG = {t}, RIGHTARG = {t}, FUNCTION = {f}, COMMUTATOR = >>>);
        CREATE OPERATOR >>> (LEFTARG = {t}, RIGHTARG = {t}, FUNCTION = {f}, COMMUTATOR = <<<);
        CREATE OPERATOR CLASS {w.name("o_c")} DEFAULT FOR TYPE {t} USING btree AS
            OPERATOR 1 <<<, FUNCTION 1 {compare}({t}, {t});
        CREATE OPERATOR FAMILY {w.name("o_y")} USING hash;
        CREATE TABLE {w.name("o_z")} (t {t}, CHECK (t <<< '(9)'));
        CREATE INDEX ON {w.name("o_z")} (t);
        INSERT INTO {w.name("o_z")} VALUES ('(1)'), ('(2)');
        CREATE CAST ({t} AS {w.pick(w.types)}[]) WITH INOUT AS ASSIGNMENT;
    """


def text_search(w: World) -> str:
    return f"""
        CREATE TEXT SEARCH TEMPLATE {w.name("s_t")} (LEXIZE = dsimple_lexize, INIT = dsimple_init);
        CREATE TEXT SEARCH DICTIONARY {w.name("s_d")} (TEMPLATE = {w.name("s_t")});
        CREATE TEXT SEARCH PARSER {w.name("s_p")} (START = prsd_start, GETTOKEN = prsd_nexttoken,
            END = prsd_end, LEXTYPES = prsd_lextype, HEADLINE = prsd_headline);
        CREATE TEXT SEARCH CONFIGURATION {w.name("s_c")} (PARSER = {w.name("s_p")});
        ALTER TEXT SEARCH CONFIGURATION {w.name("s_c")}
            ADD MAPPING FOR asciiword, word WITH {w.name("s_d")}, english_stem;
        CREATE TABLE {w.name("s_z")} (body text, v tsvector GENERATED ALWAYS AS
            (to_tsvector('{w.name("s_c").replace("'", "''")}'::regconfig, body)) STORED);
        CREATE INDEX ON {w.name("s_z")} USING gin (v);
        INSERT INTO {w.name("s_z")} VALUES ('Some words');
    """


def collation(w: World) -> str:
    return f"""
        CREATE COLLATION {w.name("l")} (LOCALE = 'C');
        CREATE TABLE {w.name("l_t")} (body text COLLATE {w.name("l")} PRIMARY KEY);
        CREATE CONVERSION {w.name("l_c")} FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
    """


def row_security(w: World) -> str:
    t = w.pick(w.tables)
    return f"""
        ALTER TABLE {t} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE POLICY {w.name("y")} ON {t} AS RESTRICTIVE FOR UPDATE TO "A role", PUBLIC
            USING (n IN (SELECT id FROM {w.pick(w.tables, 1)}))
            WITH CHECK ({w.pick(w.functions)}(n) > 0);
    """


def triggers(w: World) -> str:
    t, f = w.pick(w.tables), w.name("t_f")
    return f"""
        CREATE FUNCTION {f}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER {w.name("t_a")} BEFORE INSERT OR UPDATE OF n ON {t} FOR EACH ROW
            WHEN ({w.pick(w.functions)}(NEW.n) > 3) EXECUTE FUNCTION {f}('arg', 'public');
        CREATE CONSTRAINT TRIGGER {w.name("t_b")} AFTER DELETE ON {t} DEFERRABLE
            FOR EACH ROW EXECUTE FUNCTION {f}();
        CREATE TRIGGER {w.name("t_c")} AFTER INSERT ON {t} REFERENCING NEW TABLE AS added
            FOR EACH STATEMENT EXECUTE FUNCTION {f}();
        ALTER TABLE {t} DISABLE TRIGGER {w.name("t_a")}, ENABLE ALWAYS TRIGGER {w.name("t_c")};
    """


def rule(w: World) -> str:
    t = w.pick(w.tables)
    return f"""
        CREATE RULE {w.name("u_a")} AS ON DELETE TO {t} WHERE OLD.n = 5 DO ALSO
            UPDATE {w.pick(w.tables, 1)} SET body = 'deleted' WHERE n = OLD.n;
        ALTER TABLE {t} DISABLE RULE {w.name("u_a")};
    """


def routines(w: World) -> str:
    t = w.pick(w.tables)
    written = f"""
        CREATE FUNCTION {w.name("f_a")}(n int DEFAULT 4) RETURNS int IMMUTABLE STRICT PARALLEL SAFE
            COST 7 LANGUAGE sql RETURN {w.pick(w.functions)}(n) + 1;
        CREATE FUNCTION {w.name("f_b")}({t}, VARIADIC {w.pick(w.types)}[]) RETURNS SETOF {t}
            LANGUAGE sql STABLE BEGIN ATOMIC SELECT * FROM {t} WHERE n = ($1).n; END;
        CREATE FUNCTION {w.name("f_c")}(OUT a {w.pick(w.types)}, OUT b citext) LANGUAGE plpgsql
            SET work_mem = '1MB' AS 'BEGIN END';
        CREATE FUNCTION {w.name("f_d")}() RETURNS TABLE (c citext) LANGUAGE plpgsql
            SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS
            'BEGIN RETURN QUERY SELECT 1; END';
        CREATE PROCEDURE {w.name("f_e")}(INOUT {w.pick(w.types)}) LANGUAGE sql
            SET search_path = public AS 'SELECT $1';
        CREATE AGGREGATE {w.name("f_g")}(int) (SFUNC = int4pl, STYPE = int, FINALFUNC =
            {w.pick(w.functions)}, INITCOND = '0');
    """
    w.functions.append(w.name("f_a"))
    return written


def sequences(w: World) -> str:
    t = w.pick(w.tables)
    return f"""
        CREATE SEQUENCE {w.name("q_a")} AS smallint INCREMENT -2 MAXVALUE 500 START 100 CYCLE;
        SELECT nextval('{w.name("q_a").replace("'", "''")}');
        CREATE SEQUENCE {w.name("q_b")} OWNED BY {t}.body;
        ALTER TABLE {t} ADD {w.name("q_c")} int;
        ALTER TABLE {t} ALTER {w.name("q_c")}
            SET DEFAULT nextval('{w.name("q_b").replace("'", "''")}');
    """


def comments(w: World) -> str:
    t = w.pick(w.tables)
    return f"""
        COMMENT ON TABLE {t} IS 'The table''s "comment"';
        COMMENT ON COLUMN {t}.n IS 'public and more';
        COMMENT ON TYPE {w.types[-1]} IS 'type';
        COMMENT ON FUNCTION {w.pick(w.functions)}(int) IS 'function';
    """


def grants(w: World) -> str:
    t = w.pick(w.tables)
    return f"""
        GRANT SELECT, UPDATE (n) ON {t} TO "A role" WITH GRANT OPTION;
        GRANT INSERT ON {t} TO PUBLIC;
        REVOKE ALL ON FUNCTION {w.pick(w.functions)}(int) FROM PUBLIC;
        REVOKE USAGE ON TYPE {w.types[-1]} FROM PUBLIC;
        GRANT CREATE ON SCHEMA public TO "A role";
        ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO "A role";
        ALTER DEFAULT PRIVILEGES FOR ROLE "A role" IN SCHEMA public
            GRANT ALL ON ROUTINES TO PUBLIC;
    """


def other_owners(w: World) -> str:
    return f"""
        GRANT CREATE ON SCHEMA public TO "A role";
        CREATE TABLE {w.name("w")} (id serial PRIMARY KEY, t {w.pick(w.types)});
        ALTER TABLE {w.name("w")} OWNER TO "A role";
        CREATE TYPE {w.name("w_t")} AS ENUM ();
        ALTER TYPE {w.name("w_t")} OWNER TO "A role";
    """


SNIPPETS: list[Callable[[World], str]] = [
    table, table_with_generated_columns, partitioned, heir, loose_tables, circular_keys,
    constraints, indexes, views, enum, domain, composite, range_, operators, text_search,
    collation, row_security, triggers, rule, routines, sequences, comments, grants, other_owners,
]  # fmt: skip
FOUNDATION = """
    CREATE ROLE "A role";
    CREATE TYPE start AS ENUM ('a', 'b');
    CREATE FUNCTION double(n int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT n * 2';
"""
RUN = 1
# What an example has left in `public`, and what it has been given, besides the extensions.
RESTORED = """
    DROP OWNED BY "A role" CASCADE;
    DROP ROLE "A role";
"""
EXAMPLE = st.lists(
    st.tuples(st.sampled_from(SNIPPETS), st.sampled_from(STYLES), st.integers(0, 9)),
    min_size=1,
    max_size=12,
)


def written(example: list[tuple[Callable[[World], str], str, int]]) -> str:
    """Write the SQL of an example; what is made refers to what was made before."""
    world = World(types=["start"], functions=["double"])
    statements = [FOUNDATION, table(world)]
    for snippet, style, seed in example:
        world.made += 1
        world.style, world.seed = style, seed
        statements.append(snippet(world))
    return "".join(statements) + "SET CONSTRAINTS ALL IMMEDIATE;"


@pytest.fixture(scope="module")
def extended(server: Server) -> Iterator[Connection]:
    """A database whose `public` has extensions alone."""
    with server.maintenance() as maintenance:
        maintenance.execute("CREATE DATABASE properties")
        with server.connect("properties") as connection:
            for extension in EXTENSIONS:
                connection.execute(f"CREATE EXTENSION {extension}")
            yield connection
        maintenance.execute("DROP DATABASE properties")


_MEMBERS = """
    SELECT coalesce(quote_ident(proname), quote_ident(typname), quote_ident(opcname), oprname)
    FROM pg_depend d
    LEFT JOIN pg_proc p ON classid = 'pg_proc'::regclass AND p.oid = objid
    LEFT JOIN pg_type t ON classid = 'pg_type'::regclass AND t.oid = objid
    LEFT JOIN pg_opclass c ON classid = 'pg_opclass'::regclass AND c.oid = objid
    LEFT JOIN pg_operator o ON classid = 'pg_operator'::regclass AND o.oid = objid
    WHERE deptype = 'e' AND coalesce(proname, typname, opcname, oprname) IS NOT NULL
"""


@pytest.fixture(scope="module")
def of_extensions(extended: Connection) -> re.Pattern[str]:
    """Where the facts about `public` name what an extension has there."""
    names = "|".join({re.escape(name) for (name,) in extended.execute(_MEMBERS)})
    return re.compile(rf"\{{schema\}}\.(?=(?:{names})(?:[](), \[]|$))")


def expected_in_target(facts: list[str], of_extensions: re.Pattern[str]) -> list[str]:
    """Tell what the facts are where extensions stay in `public`, and a path leads there too."""
    path = re.compile(r"(search_path=.*?)\{schema\}\.")
    return sorted(
        path.sub(r"\1{schema}., public.", of_extensions.sub("public.", fact)) for fact in facts
    )


@settings(
    max_examples=50,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    print_blob=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(example=EXAMPLE, batch=st.integers(1, 60), target=st.sampled_from(TARGETS))
def test_anything_moves_there_and_back(
    extended: Connection,
    of_extensions: re.Pattern[str],
    example: list[tuple[Callable[[World], str], str, int]],
    batch: int,
    target: str,
) -> None:
    """Structure and rows are the same in the other schema, and again in `public`."""
    statements = written(example)
    note(statements)
    with extended.transaction(force_rollback=True):
        empty = relocation.contents(extended, "public")
        extended.execute(statements)
        structure = sorted(catalog.describe(extended, "public"))
        _, rows = digest(extended, "public")

        extended.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(target)))
        assert relocation.move(extended, "public", target, batch=batch) == []
        relocation.repoint_routines(extended, "public", target)
        relocation.copy_grants(extended, "public", target)
        assert sorted(catalog.describe(extended, target)) == expected_in_target(
            structure, of_extensions
        )
        assert digest(extended, target)[1] == rows
        assert relocation.contents(extended, "public") == empty == []


@pytest.fixture(scope="module")
def pg_dump(extended: Connection) -> PgDump:
    return PgDump.find(extended.info.server_version)


# pg_dump makes heirs anew: inherited columns come first, and constraints are as the parent's.
_ALTERED_HEIRS = """
    SELECT FROM pg_inherits i
    JOIN pg_class h ON h.oid = inhrelid AND NOT relispartition AND relnamespace = %s::regnamespace
    WHERE EXISTS (SELECT FROM pg_attribute a JOIN pg_attribute o USING (attrelid)
                  WHERE attrelid = inhrelid AND a.attinhcount = 0 AND o.attinhcount > 0
                    AND a.attnum BETWEEN 1 AND o.attnum)
       OR EXISTS (SELECT FROM pg_constraint c JOIN pg_constraint p USING (conname, contype)
                  WHERE c.conrelid = inhrelid AND p.conrelid = inhparent
                    AND c.coninhcount > 0 AND c.convalidated <> p.convalidated)
"""


def rows_of(connection: Connection, schema: str) -> dict[str, list[str]]:
    """Return the rows of tables and materialized views, and where sequences are."""
    connection.execute(sql.SQL("SET search_path = {}, public").format(sql.Identifier(schema)))
    relations = connection.execute(
        "SELECT relname, relkind FROM pg_class WHERE relkind IN ('r', 'S', 'm')"
        " AND relnamespace = %s::regnamespace",
        [schema],
    ).fetchall()
    queries = {"S": "SELECT last_value, is_called FROM {}"}
    return {
        name: sorted(
            map(
                str,
                connection.execute(
                    sql.SQL(queries.get(kind, "SELECT r::text FROM ONLY {} r")).format(
                        sql.Identifier(schema, name)
                    )
                ),
            )
        )
        for name, kind in relations
    }


def materialized_views(connection: Connection, schema: str) -> list[str]:
    rows = connection.execute(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'm'"
        " AND relnamespace = %s::regnamespace ORDER BY oid",
        [schema],
    )
    return [name for (name,) in rows]


@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    print_blob=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(example=EXAMPLE, batch=st.integers(1, 20))
def test_anything_that_is_built_can_be_copied(
    server: Server,
    extended: Connection,
    pg_dump: PgDump,
    example: list[tuple[Callable[[World], str], str, int]],
    batch: int,
) -> None:
    """A copy has the structure and the rows of what was built, moved and dumped.

    Where it cannot have the same structure, that is noticed.
    """
    statements = written(example)
    note(statements)
    with extended.transaction():
        extended.execute(statements)
    try:
        model, copy = (schemas.create(extended, worker, RUN) for worker in (1, 2))
        assert relocation.move(extended, "public", model, batch=batch) == []
        relocation.repoint_routines(extended, "public", model)
        relocation.copy_grants(extended, "public", model)

        altered_heirs = extended.execute(_ALTERED_HEIRS, [model]).fetchall()
        for view in materialized_views(extended, model):
            extended.execute(f"REFRESH MATERIALIZED VIEW {view}")
        with closing(pg_dump.start(server, "properties", model)) as dump:
            contents = Contents.of(extended, model, dump, ["public"])
        marker = Marker(RUN, State.READY)
        template = Template.create(extended, contents, marker, ["public"])
        read = Template.read(extended, template.name, ["public"])
        contents = read.contents._replace(script=read.script(extended))
        assert read._replace(contents=contents) == template
        with server.connect("properties") as connection:
            template.copy(connection, copy, batch=batch)
            with pytest.raises(CopyError) if altered_heirs else nullcontext():
                template.prove(connection, copy)
        if not altered_heirs:
            assert catalog.differences(extended, model, copy) == []
            assert rows_of(extended, copy) == rows_of(extended, model)
    finally:
        extended.execute("RESET search_path")
        schemas.drop_rest(extended, RUN, batch=100)
        extended.execute(RESTORED)
