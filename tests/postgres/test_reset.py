"""A reset restores the target rows, whatever was done to the schema."""

import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from psycopg import Cursor, errors, sql
from psycopg.rows import TupleRow

from schema_runner.errors import SchemaRunnerError
from schema_runner.postgres import lock_waits, rows, structure
from schema_runner.postgres.names import Marker, MarkerState
from schema_runner.postgres.reset.changes import Scope
from schema_runner.postgres.reset.reset import Reset
from schema_runner.postgres.row_copies import Copies, WantedRows
from schema_runner.postgres.server import Connection, Server
from schema_runner.postgres.template import Template

from ..apps import catalog
from ..digest import digest
from ..project import connect


@pytest.fixture(scope="module")
def database(module_database: str) -> str:
    return module_database


@pytest.fixture
def connection(server: Server, database: str) -> Iterator[Connection]:
    """A connection to a database that is emptied, except for `public`, between tests."""
    with connect(server, database) as connected:
        yield connected
        schemas = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_|^information_|^public$'"
        for (name,) in connected.execute(schemas).fetchall():
            connected.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))


class ResetSchema:
    """A schema `w`, created with some SQL, and copies of its rows."""

    def __init__(self, connection: Connection, statements: str) -> None:
        self.connection = connection
        connection.execute("CREATE SCHEMA w; CREATE SCHEMA scratch")
        self.execute(statements)
        self.reset = Reset("w", ["public"])
        self.kept = self.copy("scratch")
        self.before = self.now

    def execute(self, statement: str) -> Cursor[TupleRow]:
        """Execute statements as users of the schema do, with their search_path."""
        self.connection.execute("SET search_path = w, public")
        return self.connection.execute(statement)

    def copy(self, name: str) -> dict[str, WantedRows]:
        tables = rows.read_tables(self.connection, "w", ["public"])
        return Copies(name, tables).create(self.connection, "w", ["public"]).rows

    def select(self, query: str) -> list[Any]:
        return self.execute(f"SELECT {query}").fetchall()

    @property
    def now(self) -> tuple[object, ...]:
        """Return all rows except sequences, and the structure."""
        _, found = digest(self.connection, "w")
        for (name,) in self.select("sequencename FROM pg_sequences WHERE schemaname = 'w'"):
            del found[name]
        version = structure.version(self.connection, "w")
        return found, version, catalog.digest(self.connection, "w")

    def clear(self) -> None:
        self.reset.clear(self.connection, Scope(), self.kept)

    def change(self, statements: str) -> None:
        """Change rows and reset; twice, because the second time the stamps are known."""
        for _ in range(2):
            self.execute(statements)
            self.clear()
            assert self.now == self.before, statements


TABLES = """
    CREATE TABLE kind (id int PRIMARY KEY, name text);
    CREATE TABLE thing (id serial PRIMARY KEY, kind int REFERENCES kind);
    INSERT INTO kind VALUES (1, 'one'), (2, 'two')
"""


@pytest.fixture
def reset_schema(connection: Connection) -> ResetSchema:
    return ResetSchema(connection, TABLES)


FORBID = """
    CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN RAISE EXCEPTION ''forbidden''; END';
"""
# A name is followed by statements, and an arrow by the statements that change rows.
WRITTEN = """
    -- insert: TABLES => INSERT INTO kind VALUES (3, 'new')
    -- update: TABLES => UPDATE kind SET name = 'other' WHERE id = 1
    -- delete: TABLES => DELETE FROM kind WHERE id = 2
    -- replace: TABLES => DELETE FROM kind WHERE id = 2; INSERT INTO kind VALUES (2, 'two')
    -- truncate: TABLES => TRUNCATE kind CASCADE
    -- copy: TABLES => COPY kind FROM PROGRAM 'echo 9,nine' CSV
    -- swap keys: TABLES => UPDATE kind SET name = CASE name WHEN 'one' THEN 'two' ELSE 'one' END
    -- another table: TABLES => INSERT INTO thing (kind) VALUES (1), (2), (1)
    -- rolled back: TABLES => BEGIN; INSERT INTO kind VALUES (4, 'four'); ROLLBACK
    -- triggers that raise
    TABLES FORBID
    CREATE TABLE log (id serial PRIMARY KEY, what text);
    CREATE TRIGGER a BEFORE INSERT OR DELETE OR UPDATE ON kind FOR EACH ROW
        EXECUTE FUNCTION forbid();
    CREATE TRIGGER b AFTER INSERT OR DELETE ON kind FOR EACH STATEMENT EXECUTE FUNCTION forbid();
    CREATE TRIGGER c BEFORE TRUNCATE ON kind FOR EACH STATEMENT EXECUTE FUNCTION forbid();
    CREATE TRIGGER d AFTER DELETE ON thing FOR EACH ROW EXECUTE FUNCTION forbid();
    CREATE CONSTRAINT TRIGGER e AFTER DELETE ON thing DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION forbid();
    ALTER TABLE kind ENABLE ALWAYS TRIGGER b; ALTER TABLE kind ENABLE REPLICA TRIGGER c;
    ALTER TABLE thing DISABLE TRIGGER d;
    => ALTER TABLE kind DISABLE TRIGGER a, DISABLE TRIGGER b;
    INSERT INTO kind VALUES (3, 'three'); DELETE FROM kind WHERE id = 1;
    ALTER TABLE kind ENABLE TRIGGER a, ENABLE ALWAYS TRIGGER b;
    INSERT INTO thing (kind) VALUES (2)
    -- triggers that write
    TABLES CREATE TABLE log (id serial PRIMARY KEY, what text);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO log (what) VALUES (TG_OP); RETURN NULL; END';
    CREATE TRIGGER a AFTER INSERT OR DELETE OR UPDATE ON kind FOR EACH ROW EXECUTE FUNCTION note();
    => UPDATE kind SET name = 'x'
    -- rules
    TABLES CREATE RULE no_delete AS ON DELETE TO kind DO INSTEAD NOTHING;
    CREATE RULE no_insert AS ON INSERT TO thing WHERE NEW.kind = 1 DO INSTEAD NOTHING;
    => INSERT INTO kind VALUES (5, 'five'); INSERT INTO thing (kind) VALUES (5), (1)
    -- immediate keys
    CREATE TABLE a (id int PRIMARY KEY, name text);
    CREATE TABLE b (id int PRIMARY KEY, a int NOT NULL REFERENCES a ON DELETE CASCADE);
    CREATE TABLE c (id int PRIMARY KEY, b int REFERENCES b ON DELETE SET NULL, n int);
    CREATE TABLE d (id int PRIMARY KEY, c int REFERENCES c ON DELETE RESTRICT);
    CREATE TABLE e (id int PRIMARY KEY, d int REFERENCES d);
    INSERT INTO a VALUES (1, 'a'), (2, 'b'); INSERT INTO b VALUES (1, 1), (2, 2);
    INSERT INTO c VALUES (1, 1), (2, 2); INSERT INTO d VALUES (1, 1), (2, 2);
    => UPDATE a SET name = 'x' WHERE id = 1; INSERT INTO e VALUES (1, 2);
    INSERT INTO a VALUES (3, 'c'); INSERT INTO b VALUES (3, 3); INSERT INTO c VALUES (3, 3)
    -- deferrable keys
    CREATE TABLE a (id int PRIMARY KEY, name text);
    CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a DEFERRABLE);
    INSERT INTO a VALUES (1, 'a'), (2, 'b'); INSERT INTO b VALUES (1, 1), (2, 2);
    => UPDATE a SET name = 'x' WHERE id = 1
    -- self-references
    CREATE TABLE tree (id int PRIMARY KEY, name text,
                       parent int REFERENCES tree ON DELETE RESTRICT);
    CREATE TABLE ring (id int PRIMARY KEY, next int REFERENCES ring);
    INSERT INTO tree VALUES (1, 'root', NULL), (2, 'leaf', 1);
    => UPDATE tree SET name = 'x' WHERE id = 1; INSERT INTO tree VALUES (3, 'n', 2);
    INSERT INTO ring VALUES (1, 2), (2, 1)
    -- circular references
    CREATE TABLE a (id int PRIMARY KEY, b int, name text);
    CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);
    ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b;
    INSERT INTO a VALUES (1, NULL, 'x'); INSERT INTO b VALUES (1, 1); UPDATE a SET b = 1;
    => UPDATE a SET name = 'y'; INSERT INTO b VALUES (2, 1); INSERT INTO a VALUES (2, 2, 'z')
    -- partitions
    FORBID CREATE TABLE p (id int, part int, name text, PRIMARY KEY (id, part))
        PARTITION BY LIST (part);
    CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
    CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2) PARTITION BY RANGE (id);
    CREATE TABLE p2a PARTITION OF p2 FOR VALUES FROM (0) TO (10);
    CREATE TABLE p2b PARTITION OF p2 DEFAULT;
    CREATE TABLE q (id int PRIMARY KEY, p int, part int, FOREIGN KEY (p, part) REFERENCES p);
    CREATE TRIGGER a AFTER DELETE ON p FOR EACH ROW EXECUTE FUNCTION forbid();
    INSERT INTO p VALUES (1, 1, 'a'), (2, 2, 'b'), (20, 2, 'c'); INSERT INTO q VALUES (1, 2, 2);
    => UPDATE p SET name = 'x'; INSERT INTO p VALUES (3, 1, 'n'), (21, 2, 'n');
    INSERT INTO q VALUES (2, 21, 2)
    -- inheritance
    CREATE TABLE parent (id serial PRIMARY KEY, name text);
    CREATE TABLE heir (more int) INHERITS (parent);
    INSERT INTO parent (name) VALUES ('p'); INSERT INTO heir (name, more) VALUES ('h', 1);
    => UPDATE parent SET name = 'x'; INSERT INTO heir (name) VALUES ('n')
    -- generated columns
    CREATE TABLE g (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int,
                    double int GENERATED ALWAYS AS (n * 2) STORED);
    CREATE TABLE "only" (one int GENERATED ALWAYS AS (1) STORED);
    INSERT INTO g (n) VALUES (1), (2); INSERT INTO "only" DEFAULT VALUES;
    => UPDATE g SET n = 5 WHERE id = 1; DELETE FROM "only"; INSERT INTO g (n) VALUES (3)
    -- user-defined types
    CREATE TYPE mood AS ENUM ('glad', 'sad'); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE TYPE pair AS (one mood, two positive);
    CREATE TABLE "My %s 'table' ☃" (id int PRIMARY KEY, m mood, "a b" positive, p pair,
                                    many mood[], c regclass);
    INSERT INTO "My %s 'table' ☃" VALUES (2, 'sad', 2, NULL, NULL, NULL),
        (1, 'glad', 1, ROW('sad', 2), '{glad,sad}', 'pg_class');
    => UPDATE "My %s 'table' ☃" SET m = 'sad'
    -- duplicate rows
    CREATE TABLE loose (n int, body text); INSERT INTO loose VALUES (1, 'x'), (1, 'x')
    => INSERT INTO loose VALUES (1, 'x')
    -- unlogged tables
    CREATE UNLOGGED TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1);
    CREATE UNLOGGED TABLE v (id int)
    => INSERT INTO u VALUES (2); INSERT INTO v VALUES (2)
    -- large tables with references from kept ones
    CREATE TABLE large (id int PRIMARY KEY, body text);
    CREATE TABLE kept (id int PRIMARY KEY, large int REFERENCES large);
    INSERT INTO kept VALUES (1, NULL);
    => INSERT INTO large SELECT n, repeat('x', 1000) FROM generate_series(1, 5000) n;
    INSERT INTO kept SELECT n, n FROM generate_series(2, 10) n
""".replace("TABLES", f"{TABLES};").replace("FORBID", FORBID)
CASES = dict(re.split(r":|\n", case, maxsplit=1) for case in WRITTEN.split("    -- ")[1:])


@pytest.mark.parametrize("name", CASES)
def test_any_change_is_undone(connection: Connection, name: str) -> None:
    """In tables of all kinds, whether or not the reset knows a table's stamp."""
    statements, change = CASES[name].split("=> ")
    ResetSchema(connection, statements).change(change)


def test_nothing_is_written_where_nothing_has_changed(reset_schema: ResetSchema) -> None:
    """The rows keep their versions."""
    reset_schema.clear()
    versions = reset_schema.select("ctid, xmin FROM kind")
    reset_schema.clear()
    assert reset_schema.select("ctid, xmin FROM kind") == versions


def test_equal_rows_stay(connection: Connection) -> None:
    """In a table with changes, also if a column is named like an alias."""
    reset_schema = ResetSchema(
        connection,
        "CREATE TABLE seat (id int PRIMARY KEY, row int); INSERT INTO seat VALUES (1, 1), (2, 2)",
    )
    versions = reset_schema.select("ctid, xmin FROM seat WHERE id = 2")
    reset_schema.change("UPDATE seat SET row = 3 WHERE id = 1")
    assert reset_schema.select("ctid, xmin FROM seat WHERE id = 2") == versions


def test_an_older_transaction_that_commits_later_is_found(
    reset_schema: ResetSchema, server: Server, database: str
) -> None:
    """Its transaction id is lower than that of the last reset."""
    with closing(server.connect(database)) as other:
        other.execute("BEGIN; UPDATE w.kind SET name = 'older' WHERE id = 1")
        reset_schema.execute("INSERT INTO kind VALUES (3, 'new')")
        reset_schema.clear()
        other.execute("COMMIT")
    assert reset_schema.now != reset_schema.before
    reset_schema.clear()
    assert reset_schema.now == reset_schema.before


def test_each_target_has_its_own_stamps(reset_schema: ResetSchema) -> None:
    """A table as one reset left it may need other rows for the next target."""
    reset_schema.execute("CREATE SCHEMA other; UPDATE kind SET name = 'three'")
    others = reset_schema.copy("other")
    for kept, name in ((reset_schema.kept, "one"), (others, "three"), (reset_schema.kept, "one")):
        reset_schema.reset.clear(reset_schema.connection, Scope(), kept)
        assert reset_schema.select("name FROM kind WHERE id = 1") == [(name,)]


def test_large_tables_are_truncated(connection: Connection) -> None:
    """They get a new file, and small ones keep theirs."""
    reset_schema = ResetSchema(
        connection,
        "CREATE TABLE alone (n int, b text); CREATE TABLE large (id int PRIMARY KEY, body text);"
        "CREATE TABLE small (id int PRIMARY KEY, large int REFERENCES large, kind int);"
        "CREATE TABLE kept (id int PRIMARY KEY, body text); INSERT INTO kept VALUES (1, 'x')",
    )
    query = "relname, relfilenode FROM pg_class WHERE relname IN ('large', 'alone', 'kept')"
    before = dict(reset_schema.select(query))
    filled = "SELECT n, repeat('x', 1000) FROM generate_series"
    reset_schema.change(
        f"INSERT INTO large {filled}(1, 5000) n; INSERT INTO alone {filled}(1, 5000) n;"
        f"INSERT INTO kept {filled}(2, 2000) n;"
        "INSERT INTO small SELECT n, n FROM generate_series(1, 10) n"
    )
    changed = {name for name, file in reset_schema.select(query) if file != before[name]}
    assert changed == {"large", "alone"}


@pytest.fixture
def unprivileged(connection: Connection, server: Server, database: str) -> Iterator[Connection]:
    """A connection as a role that may only create schemas here."""
    role = f"owner_{database}"
    connection.execute(f"CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {database} TO {role}")
    with closing(Server({**server.params, "user": role}).connect(database)) as connected:
        yield connected
    connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_row_security_hides_nothing(connection: Connection, unprivileged: Connection) -> None:
    """Even if it is forced upon the owner, as whom tests connect."""
    reset_schema = ResetSchema(unprivileged, TABLES)
    for table in ("thing", "kind"):
        unprivileged.execute(
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
        )
    unprivileged.execute("CREATE POLICY few ON thing USING (kind = 1) WITH CHECK (true)")
    altered = structure.version(connection, "w"), catalog.digest(connection, "w")
    for _ in range(2):
        unprivileged.execute("SET row_security = on; INSERT INTO thing (kind) VALUES (1), (2)")
        reset_schema.clear()
        assert connection.execute("TABLE w.thing").fetchall() == []
        found = connection.execute("SELECT id, name FROM w.kind ORDER BY id").fetchall()
        assert found == [(1, "one"), (2, "two")]
        assert (structure.version(connection, "w"), catalog.digest(connection, "w")) == altered


def test_tables_that_come_and_go(reset_schema: ResetSchema) -> None:
    """New tables are cleared, dropped ones ignored, and recreated ones filled."""
    reset_schema.execute("CREATE TABLE new (n int); INSERT INTO new VALUES (1); DROP TABLE thing")
    reset_schema.clear()
    assert reset_schema.select("FROM new") == []
    reset_schema.execute("DROP TABLE kind; CREATE TABLE kind (id int PRIMARY KEY, name text)")
    reset_schema.clear()
    assert reset_schema.select("id FROM kind ORDER BY id") == [(1,), (2,)]
    reset_schema.execute("DROP TABLE kind")
    reset_schema.clear()


def test_columns_that_come_and_go(reset_schema: ResetSchema) -> None:
    """Values are restored in columns that are new, although the rows have no new versions."""
    for altered in (
        "DROP name, ADD name text",
        "ADD other text, DROP name; ALTER TABLE kind RENAME other TO name",
    ):
        reset_schema.clear()
        reset_schema.execute(f"ALTER TABLE kind {altered}")
        reset_schema.clear()
        assert reset_schema.select("id, name FROM kind ORDER BY id") == [(1, "one"), (2, "two")]


def test_checked_tables_can_be_dropped(connection: Connection) -> None:
    """The reset checks several tables in one query; if some are dropped, it clears the others."""
    reset_schema = ResetSchema(
        connection, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)"
    )
    for n in range(40):
        connection.execute(f"CREATE TABLE t{n} (n int); INSERT INTO t{n} VALUES (1)")
    reset_schema.clear()
    for n in range(40):
        connection.execute(f"INSERT INTO t{n} VALUES (1)" if n % 2 else f"DROP TABLE t{n}")
    reset_schema.clear()
    assert [table.name for table in rows.read_tables(connection, "w", [])] == ["kept"]


def test_tables_outside_the_scope_stay(connection: Connection) -> None:
    """A table outside the scope is never reached by a TRUNCATE."""
    reset_schema = ResetSchema(
        connection,
        "CREATE TABLE large (id int PRIMARY KEY, body text);"
        "CREATE TABLE beside (id int, large int REFERENCES large); INSERT INTO beside VALUES (1)",
    )
    connection.execute(
        "INSERT INTO large SELECT n, repeat('x', 1000) FROM generate_series(1, 5000) n"
    )
    reset_schema.reset.clear(connection, Scope(frozenset(["large"])), {})
    assert reset_schema.now == reset_schema.before


FAMILY = """
    CREATE TABLE a (id int PRIMARY KEY);
    CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);
    CREATE TABLE c (id int PRIMARY KEY, b int REFERENCES b) PARTITION BY LIST (id);
    CREATE TABLE c1 PARTITION OF c DEFAULT;
    CREATE TABLE heir (more int) INHERITS (a);
    CREATE TABLE apart (id int)
"""
FILL = """
    INSERT INTO a VALUES (1); INSERT INTO b VALUES (1, 1); INSERT INTO c VALUES (1, 1);
    INSERT INTO heir VALUES (2); INSERT INTO apart VALUES (1)
"""


@pytest.mark.parametrize("cascades", [True, False])
@pytest.mark.parametrize("name", ["a", "b", "c", "heir", "apart"])
def test_the_scope_is_that_of_truncate(connection: Connection, name: str, cascades: bool) -> None:
    """The named tables with their partitions and, if requested, the tables that refer to them."""
    reset_schema = ResetSchema(connection, FAMILY)
    connection.execute(FILL)
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(f"TRUNCATE {name} {'CASCADE' if cascades else ''}")
            promised = reset_schema.now[0]
    except errors.FeatureNotSupported:
        # It refuses tables that others refer to, with rows or without.
        with pytest.raises(SchemaRunnerError, match="available_apps"):
            reset_schema.reset.clear(connection, Scope(frozenset([name])), {})
        return
    reset_schema.reset.clear(connection, Scope(frozenset([name]), cascades), {})
    assert reset_schema.now[0] == promised


def test_locks_of_other_sessions_are_reported(
    reset_schema: ResetSchema, server: Server, database: str
) -> None:
    """After a timeout, the error names the process that holds them."""
    with closing(server.connect(database, "a stranger")) as other:
        other.execute("BEGIN; UPDATE w.kind SET name = 'mine' WHERE id = 1")
        reset_schema.execute("INSERT INTO kind VALUES (3, 'new'); INSERT INTO thing VALUES (1, 1)")
        reset_schema.execute("UPDATE kind SET name = 'x' WHERE id = 2")
        reset_schema.reset.forget()
        reset_schema.kept.pop("kind")
        with (
            pytest.raises(SchemaRunnerError, match="a stranger") as raised,
            lock_waits.lock_timeout_explained(reset_schema.connection, "w", "reset"),
        ):
            reset_schema.clear()
        assert str(other.info.backend_pid) in str(raised.value)
        other.execute("COMMIT")  # It is still alive.


def test_dead_rows_are_vacuumed(reset_schema: ResetSchema) -> None:
    """Tables that grew in rolled-back tests are small again."""
    reset_schema.execute(
        "BEGIN; INSERT INTO thing (kind) SELECT 1 FROM generate_series(1, 50000); ROLLBACK"
    )
    for _ in range(2):
        reset_schema.clear()
    assert reset_schema.select("pg_relation_size('thing')") == [(0,)]


VIEWS = """
    CREATE SEQUENCE shared;
    CREATE TABLE a (id int PRIMARY KEY DEFAULT nextval('shared'));
    CREATE TABLE b (id int PRIMARY KEY DEFAULT nextval('shared'), s serial);
    INSERT INTO a DEFAULT VALUES; INSERT INTO b DEFAULT VALUES;
    CREATE MATERIALIZED VIEW one AS SELECT id FROM a;
    CREATE UNIQUE INDEX ON one (id);
    CREATE MATERIALIZED VIEW two AS SELECT count(*) FROM one;
    CREATE MATERIALIZED VIEW empty AS SELECT id FROM b WITH NO DATA
"""
REFRESHED = ["one; REFRESH MATERIALIZED VIEW two", "CONCURRENTLY one", "two WITH NO DATA", "empty"]
REFRESHES = ["SELECT 1", *(f"REFRESH MATERIALIZED VIEW {view}" for view in REFRESHED)]


@pytest.mark.parametrize("exactly", [True, False])
@pytest.mark.parametrize("refresh", REFRESHES)
def test_a_template_restores_everything(
    connection: Connection, refresh: str, exactly: bool
) -> None:
    """Including sequences, one of them for two tables, and materialized views."""
    reset_schema = ResetSchema(connection, VIEWS)
    template = Template.create_rows_only(
        connection, "w", Marker(4714, MarkerState.READY), ["public"]
    )
    queries = [
        "relname, relispopulated FROM pg_class WHERE relkind = 'm' ORDER BY 1",
        "(SELECT array_agg(id) FROM one), (SELECT array_agg(count) FROM two)",
        *(f"last_value, is_called FROM {name}" for name in ("shared", "b_s_seq")),
    ]

    def all_there_is() -> list[object]:
        return [*reset_schema.now, *map(reset_schema.select, queries)]

    before = all_there_is()
    for _ in range(2):
        connection.execute("INSERT INTO a DEFAULT VALUES; INSERT INTO b DEFAULT VALUES")
        connection.execute(refresh)
        reset_schema.reset.restore(connection, template, sequences_exactly=exactly)
        assert all_there_is() == before


def test_a_dropped_view_does_not_prevent_a_reset(connection: Connection) -> None:
    """As with dropped tables, the schema is replaced before the next class."""
    reset_schema = ResetSchema(connection, VIEWS)
    template = Template.create_rows_only(
        connection, "w", Marker(4714, MarkerState.READY), ["public"]
    )
    for _ in range(2):
        reset_schema.execute("INSERT INTO a DEFAULT VALUES; DROP MATERIALIZED VIEW IF EXISTS two")
        reset_schema.reset.restore(connection, template)
        assert reset_schema.select("id FROM a") == [(1,)]
