"""Any combination of objects can be moved into another schema, and copied."""

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, nullcontext
from string import Formatter

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from psycopg import sql

from schema_runner.postgres import move, schemas
from schema_runner.postgres.names import Marker, MarkerState
from schema_runner.postgres.pg_dump import PgDump
from schema_runner.postgres.server import Connection, Server
from schema_runner.postgres.structure_script import CopyError
from schema_runner.postgres.template import Template, TemplateContents

from ..apps import catalog
from ..digest import digest
from ..project import connect

EXTENSIONS = ["citext", "hstore", "pg_trgm", "btree_gist"]
TARGETS = ["target", 'My "target" %s', "ü" * 31]
STYLES = [
    "{}", "Capitals {}", 'quo"ted {}', "per%s cent % {}", "Ünïcöde ☃ {}", "select {}",
    "{}.public", "dollar$ \\ 'single' {}",
]  # fmt: skip
# Each snippet starts with a comment. In it, `{table}`, `{table2}`, `{type}` and `{function}` are
# replaced by objects of earlier snippets, `{first_table}` and `{last_type}` by the first and last;
# any other field is a new name, and one like `{t:table}` keeps the chosen object for later use.
SNIPPETS = re.split(
    r"\n(?=    -- )",
    """
    -- table
    CREATE TABLE {t:table} (id serial PRIMARY KEY, n int DEFAULT 1 CHECK (n > 0), body text
                            NOT NULL DEFAULT 'x', c citext UNIQUE, h hstore, {v} {type},
                            many {type}[]) WITH (fillfactor = 70);
    INSERT INTO {t} (n, c, h) VALUES (1, 'One', 'a=>1'), (2, 'two', 'a=>2');
    ALTER TABLE {t} ALTER body SET STATISTICS 7, ALTER body SET STORAGE EXTERNAL;
    -- table with generated columns
    CREATE TABLE {g:table} (id bigint GENERATED ALWAYS AS IDENTITY (START 5) PRIMARY KEY, n int,
                            body text, c citext, g int GENERATED ALWAYS AS ({function}(n)) STORED);
    INSERT INTO {g} (n, body, c) VALUES (7, 'g', 'G');
    -- partitioned
    CREATE TABLE {p:table} (id int PRIMARY KEY, n int, body text, c citext)
        PARTITION BY RANGE (id);
    CREATE TABLE {p_a} PARTITION OF {p} FOR VALUES FROM (0) TO (10);
    CREATE TABLE {p_b} PARTITION OF {p} FOR VALUES FROM (10) TO (20) PARTITION BY HASH (id);
    CREATE TABLE {p_c} PARTITION OF {p} DEFAULT;
    INSERT INTO {p} (id, n) VALUES (1, 1), (77, 2);
    -- inheritance
    CREATE TABLE {h} (extra {type}) INHERITS ({first_table});
    INSERT INTO {h} (n) VALUES (3);
    -- loose tables
    CREATE TYPE {y} AS (n int);
    CREATE UNLOGGED TABLE {u} (n int) WITH (autovacuum_enabled = false);
    CREATE TABLE {f} (n int UNIQUE NOT NULL, m {type});
    ALTER TABLE {f} REPLICA IDENTITY FULL;
    INSERT INTO {f} (n) VALUES (1);
    CREATE TABLE {o} OF {y};
    -- circular keys
    ALTER TABLE {table} ADD {r} int CONSTRAINT {fkr}
        REFERENCES {table2} ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED;
    ALTER TABLE {table2} ADD {s} int CONSTRAINT {fks}
        REFERENCES {table} ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED;
    -- constraints
    ALTER TABLE {table} ADD CONSTRAINT {k} CHECK ({function}(n) < 1000) NOT VALID;
    CREATE TABLE {x} (n int, s int4range, EXCLUDE USING gist (n WITH =, s WITH &&)
                      WHERE (n > 0) DEFERRABLE, UNIQUE (n, s) DEFERRABLE);
    INSERT INTO {x} VALUES (1, '[1,3)'), (1, '[3,4)');
    -- indexes
    CREATE INDEX {i_a} ON {table} (n DESC NULLS LAST) INCLUDE (body) WHERE n > 0;
    CREATE INDEX {i_b} ON {table} ({function}(n), lower(body));
    CREATE INDEX {i_c} ON {table} USING gin (body gin_trgm_ops);
    CREATE INDEX {i_d} ON {table} (body text_pattern_ops, c) WHERE c = 'a'::citext;
    ALTER INDEX {i_b} ALTER 2 SET STATISTICS 7;
    CREATE STATISTICS {s} (mcv) ON n, (lower(body)) FROM {table};
    -- views
    CREATE VIEW {v_a} WITH (security_barrier) AS SELECT id, {function}(n) AS m, c FROM {table}
        WHERE c = 'one' AND body % 'x' AND id IN (SELECT id FROM {table2});
    CREATE VIEW {v_b} AS SELECT *, ('a=>1'::hstore) -> 'a' AS a FROM {v_a};
    ALTER VIEW {v_b} ALTER m SET DEFAULT 5;
    CREATE MATERIALIZED VIEW {m} AS SELECT id, c FROM {table2};
    CREATE UNIQUE INDEX {m_i} ON {m} (id);
    -- enum
    CREATE TYPE {e:type} AS ENUM ('one', 'Two''s', 'drei');
    CREATE TABLE {e_t} (e {e} DEFAULT 'drei', f {e}[]);
    INSERT INTO {e_t} VALUES ('one', '{{one,drei}}');
    -- domain
    CREATE DOMAIN {d:type} AS int DEFAULT {function}(1)
        CONSTRAINT {d_c} CHECK ({function}(VALUE) > 0);
    CREATE DOMAIN {d_d} AS citext COLLATE "C" NOT NULL;
    -- composite
    CREATE TYPE {c:type} AS (a {type}, b citext, c hstore[]);
    -- range
    CREATE FUNCTION {r_f}(float8, float8) RETURNS float8 IMMUTABLE LANGUAGE sql
        AS 'SELECT $1 - $2';
    CREATE TYPE {r} AS RANGE (subtype = float8, subtype_diff = {r_f},
                              multirange_type_name = {r_m});
    CREATE TABLE {r_t} (m {r_m:type}, r {r:type});
    INSERT INTO {r_t} VALUES ('{{[1,2), [3,4)}}', '[1,2)');
    -- operators
    CREATE TYPE {o_t} AS (n int);
    CREATE FUNCTION {o_f}({o_t}, {o_t}) RETURNS bool IMMUTABLE LANGUAGE sql
        AS 'SELECT $1.n < $2.n';
    CREATE FUNCTION {o_p}({o_t}, {o_t}) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1.n - $2.n';
    CREATE OPERATOR <<< (LEFTARG = {o_t}, RIGHTARG = {o_t}, FUNCTION = {o_f}, COMMUTATOR = >>>);
    CREATE OPERATOR >>> (LEFTARG = {o_t}, RIGHTARG = {o_t}, FUNCTION = {o_f}, COMMUTATOR = <<<);
    CREATE OPERATOR CLASS {o_c} DEFAULT FOR TYPE {o_t} USING btree AS
        OPERATOR 1 <<<, FUNCTION 1 {o_p}({o_t}, {o_t});
    CREATE OPERATOR FAMILY {o_y} USING hash;
    CREATE TABLE {o_z} (t {o_t}, CHECK (t <<< '(9)'));
    CREATE INDEX ON {o_z} (t);
    INSERT INTO {o_z} VALUES ('(1)'), ('(2)');
    CREATE CAST ({o_t} AS {type}[]) WITH INOUT AS ASSIGNMENT;
    -- text search
    CREATE TEXT SEARCH TEMPLATE {s_t} (LEXIZE = dsimple_lexize, INIT = dsimple_init);
    CREATE TEXT SEARCH DICTIONARY {s_d} (TEMPLATE = {s_t});
    CREATE TEXT SEARCH PARSER {s_p} (START = prsd_start, GETTOKEN = prsd_nexttoken,
        END = prsd_end, LEXTYPES = prsd_lextype, HEADLINE = prsd_headline);
    CREATE TEXT SEARCH CONFIGURATION {s_c} (PARSER = {s_p});
    ALTER TEXT SEARCH CONFIGURATION {s_c}
        ADD MAPPING FOR asciiword, word WITH {s_d}, english_stem;
    CREATE TABLE {s_z} (body text, v tsvector GENERATED ALWAYS AS
        (to_tsvector('{s_c:literal}'::regconfig, body)) STORED);
    CREATE INDEX ON {s_z} USING gin (v);
    INSERT INTO {s_z} VALUES ('Some words');
    -- collation
    CREATE COLLATION {l} (LOCALE = 'C');
    CREATE TABLE {l_t} (body text COLLATE {l} PRIMARY KEY);
    CREATE CONVERSION {l_c} FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
    -- row security
    ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE POLICY {y} ON {table} AS RESTRICTIVE FOR UPDATE TO "A role", PUBLIC
        USING (n IN (SELECT id FROM {table2})) WITH CHECK ({function}(n) > 0);
    -- triggers
    CREATE FUNCTION {t_f}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER {t_a} BEFORE INSERT OR UPDATE OF n ON {table} FOR EACH ROW
        WHEN ({function}(NEW.n) > 3) EXECUTE FUNCTION {t_f}('arg', 'public');
    CREATE CONSTRAINT TRIGGER {t_b} AFTER DELETE ON {table} DEFERRABLE
        FOR EACH ROW EXECUTE FUNCTION {t_f}();
    CREATE TRIGGER {t_c} AFTER INSERT ON {table} REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT EXECUTE FUNCTION {t_f}();
    ALTER TABLE {table} DISABLE TRIGGER {t_a}, ENABLE ALWAYS TRIGGER {t_c};
    -- rule
    CREATE RULE {u_a} AS ON DELETE TO {table} WHERE OLD.n = 5 DO ALSO
        UPDATE {table2} SET body = 'deleted' WHERE n = OLD.n;
    ALTER TABLE {table} DISABLE RULE {u_a};
    -- routines
    CREATE FUNCTION {f_a:function}(n int DEFAULT 4) RETURNS int IMMUTABLE STRICT PARALLEL SAFE
        COST 7 LANGUAGE sql RETURN {function}(n) + 1;
    CREATE FUNCTION {f_b}({table}, VARIADIC {type}[]) RETURNS SETOF {table}
        LANGUAGE sql STABLE BEGIN ATOMIC SELECT * FROM {table} WHERE n = ($1).n; END;
    CREATE FUNCTION {f_c}(OUT a {type}, OUT b citext) LANGUAGE plpgsql
        SET work_mem = '1MB' AS 'BEGIN END';
    CREATE FUNCTION {f_d}() RETURNS TABLE (c citext) LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, public, pg_temp AS 'BEGIN RETURN QUERY SELECT 1; END';
    CREATE PROCEDURE {f_e}(INOUT {type}) LANGUAGE sql SET search_path = public AS 'SELECT $1';
    CREATE AGGREGATE {f_g}(int) (SFUNC = int4pl, STYPE = int, FINALFUNC = {function},
                                 INITCOND = '0');
    -- sequences
    CREATE SEQUENCE {q_a} AS smallint INCREMENT -2 MAXVALUE 500 START 100 CYCLE;
    SELECT nextval('{q_a:literal}');
    CREATE SEQUENCE {q_b} OWNED BY {table}.body;
    ALTER TABLE {table} ADD {q_c} int;
    ALTER TABLE {table} ALTER {q_c} SET DEFAULT nextval('{q_b:literal}');
    -- comments
    COMMENT ON TABLE {table} IS 'The table''s "comment"';
    COMMENT ON COLUMN {table}.n IS 'public and more';
    COMMENT ON TYPE {last_type} IS 'type';
    COMMENT ON FUNCTION {function}(int) IS 'function';
    -- grants
    GRANT SELECT, UPDATE (n) ON {table} TO "A role" WITH GRANT OPTION;
    GRANT INSERT ON {table} TO PUBLIC;
    REVOKE ALL ON FUNCTION {function}(int) FROM PUBLIC;
    REVOKE USAGE ON TYPE {last_type} FROM PUBLIC;
    GRANT CREATE ON SCHEMA public TO "A role";
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO "A role";
    ALTER DEFAULT PRIVILEGES FOR ROLE "A role" IN SCHEMA public GRANT ALL ON ROUTINES TO PUBLIC;
    -- other owners
    GRANT CREATE ON SCHEMA public TO "A role";
    CREATE TABLE {w} (id serial PRIMARY KEY, t {type});
    ALTER TABLE {w} OWNER TO "A role";
    CREATE TYPE {w_t} AS ENUM ();
    ALTER TYPE {w_t} OWNER TO "A role";
    """.strip("\n"),
)
FOUNDATION = """
    CREATE ROLE "A role";
    CREATE TYPE start AS ENUM ('a', 'b');
    CREATE FUNCTION double(n int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT n * 2';
"""
RUN = 1
# Drops everything that an example left in `public`, and its privileges, except the extensions.
RESTORE = 'DROP OWNED BY "A role" CASCADE; DROP ROLE "A role"'
Example = list[tuple[str, str, int]]
EXAMPLE = st.lists(
    st.tuples(st.sampled_from(SNIPPETS), st.sampled_from(STYLES), st.integers(0, 9)),
    min_size=1,
    max_size=12,
)
exploring = settings(
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    print_blob=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


class World(Formatter):
    """Writes snippets, and keeps track of the objects that they create, by kind."""

    def __init__(self) -> None:
        self.made = defaultdict(list, type=["start"], function=["double"])
        self.style, self.seed, self.snippets = "{}", 0, 0

    def write(self, snippet: str) -> str:
        self.new: list[tuple[str, str]] = []
        text = self.vformat(snippet, (), self)
        for kind, name in self.new:
            self.made[kind].append(name)
        self.snippets += 1
        return text

    def __getitem__(self, key: str) -> str:
        picked = {
            "table": ("table", self.seed), "table2": ("table", self.seed + 1),
            "first_table": ("table", 0), "type": ("type", self.seed),
            "last_type": ("type", -1), "function": ("function", self.seed),
        }  # fmt: skip
        if key not in picked:
            return self._name(key)
        kind, which = picked[key]
        return self.made[kind][which % len(self.made[kind])]

    def format_field(self, name: str, spec: str) -> str:
        if spec == "literal":
            return name.replace("'", "''")
        if spec:
            self.new.append((spec, name))
        return name

    def _name(self, part: str) -> str:
        """Return a new quoted identifier in the current style."""
        name = self.style.format(f"{part}{self.snippets}")
        if self.seed % 5 == 4:
            while len((name + "x").encode()) <= 63:
                name += "x"
        return '"' + name.replace('"', '""') + '"'


def written(example: Example) -> str:
    """Return the SQL of an example, and note it for a failure."""
    world = World()
    statements = [FOUNDATION, world.write(SNIPPETS[0])]
    for snippet, world.style, world.seed in example:
        statements.append(world.write(snippet))
    text = "\n".join([*statements, "SET CONSTRAINTS ALL IMMEDIATE"])
    note(text)
    return text


@pytest.fixture(scope="module")
def extended(server: Server, module_database: str) -> Iterator[Connection]:
    """A database whose `public` has only extensions."""
    with connect(server, module_database) as connection:
        connection.execute("".join(f"CREATE EXTENSION {name};" for name in EXTENSIONS))
        yield connection


def move_schema(connection: Connection, target: str, batch: int) -> None:
    assert move.move(connection, "public", target, batch=batch) == []
    move.extend_search_paths(connection, "public", target)
    move.copy_grants(connection, "public", target)


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
    """Return where the facts about `public` name objects of an extension there."""
    names = "|".join({re.escape(name) for (name,) in extended.execute(_MEMBERS)})
    return re.compile(rf"\{{schema\}}\.(?=(?:{names})(?:[](), \[]|$))")


def expected_in_target(fact: str, of_extensions: re.Pattern[str]) -> str:
    """Return the expected fact in the target; extensions stay in `public`, also on the path."""
    fact = of_extensions.sub("public.", fact)
    return re.sub(r"(search_path=.*?)\{schema\}\.", r"\1{schema}., public.", fact)


@settings(exploring, max_examples=50)
@given(example=EXAMPLE, batch=st.integers(1, 60), target=st.sampled_from(TARGETS))
def test_anything_moves(
    extended: Connection, of_extensions: re.Pattern[str], example: Example, batch: int, target: str
) -> None:
    """Structure and rows are the same in the other schema, and only extensions stay."""
    with extended.transaction(force_rollback=True):
        empty = move.list_objects(extended, "public")
        extended.execute(written(example))
        structure = catalog.describe(extended, "public")
        _, rows = digest(extended, "public")

        extended.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(target)))
        move_schema(extended, target, batch)
        expected = sorted(expected_in_target(fact, of_extensions) for fact in structure)
        assert sorted(catalog.describe(extended, target)) == expected
        assert digest(extended, target)[1] == rows
        assert move.list_objects(extended, "public") == empty == []


# pg_dump creates inheriting tables anew: inherited columns come first, and constraints are the
# parent's.
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
    """Return the rows of tables and materialized views, and the values of sequences."""
    connection.execute(sql.SQL("SET search_path = {}, public").format(sql.Identifier(schema)))
    queries = connection.execute(
        "SELECT relname, CASE relkind WHEN 'S' THEN 'SELECT last_value, is_called FROM '"
        " ELSE 'SELECT r::text FROM ONLY ' END || oid::regclass || ' AS r' FROM pg_class"
        " WHERE relkind IN ('r', 'S', 'm') AND relnamespace = %s::regnamespace",
        [schema],
    ).fetchall()
    return {name: sorted(map(str, connection.execute(query))) for name, query in queries}


@settings(exploring, max_examples=40)
@given(example=EXAMPLE, batch=st.integers(1, 20))
def test_any_build_can_be_copied_or_is_refused(
    server: Server, extended: Connection, example: Example, batch: int
) -> None:
    """A copy has the same structure and rows as the original, or is refused."""
    host = extended.info.dbname
    with extended.transaction():
        extended.execute(written(example))
    try:
        model, copy = (schemas.create(extended, worker, RUN) for worker in (1, 2))
        move_schema(extended, model, batch)
        altered_heirs = extended.execute(_ALTERED_HEIRS, [model]).fetchall()
        views = extended.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'm'"
            " AND relnamespace = %s::regnamespace ORDER BY oid",
            [model],
        )
        for (view,) in views.fetchall():
            extended.execute(f"REFRESH MATERIALIZED VIEW {view}")
        program = PgDump.find(extended.info.server_version)
        with closing(program.start(server, host, model)) as dump:
            contents = TemplateContents.read(extended, model, dump, ["public"])
        template = Template.create(extended, contents, Marker(RUN, MarkerState.READY), ["public"])
        read = Template.read(extended, template.name, ["public"])
        assert read._replace(contents=read.read_contents(extended)) == template
        with connect(server, host) as connection:
            template.copy(connection, copy, batch=batch)
            with pytest.raises(CopyError) if altered_heirs else nullcontext():
                template.verify(connection, copy, lambda: program.start(server, host, copy))
        if not altered_heirs:
            assert catalog.differences(extended, model, copy) == []
            assert rows_of(extended, copy) == rows_of(extended, model)
    finally:
        extended.execute("RESET search_path")
        schemas.drop_remaining(extended, RUN, batch=100)
        extended.execute(RESTORE)
