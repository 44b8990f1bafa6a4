"""Any sequence of writes, then a reset: every table has the expected rows."""

from contextlib import ExitStack, closing, suppress

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg import Error

from schema_runner.postgres import rows, structure
from schema_runner.postgres.names import Marker, MarkerState
from schema_runner.postgres.reset.changes import Scope
from schema_runner.postgres.reset.reset import Reset
from schema_runner.postgres.row_copies import Copies
from schema_runner.postgres.server import Connection, Server
from schema_runner.postgres.template import Template

from ..digest import digest

TABLES = """
    CREATE SCHEMA w; CREATE SCHEMA scratch; SET search_path = w, public;
    CREATE TYPE mood AS ENUM ('glad', 'sad');
    CREATE SEQUENCE shared;
    CREATE TABLE kind (id int PRIMARY KEY DEFAULT nextval('shared'), name text UNIQUE, mood mood);
    CREATE TABLE thing (id int PRIMARY KEY DEFAULT nextval('shared'),
                        kind int REFERENCES kind ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
                        other int REFERENCES thing,
                        n int, twice int GENERATED ALWAYS AS (n * 2) STORED);
    CREATE TABLE tree (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                       parent bigint REFERENCES tree ON DELETE SET NULL, kind int REFERENCES kind);
    CREATE TABLE part (id serial, n int, PRIMARY KEY (id, n)) PARTITION BY LIST (n);
    CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
    CREATE TABLE part_x PARTITION OF part DEFAULT;
    CREATE TABLE heir (more text) INHERITS (tree);
    CREATE UNLOGGED TABLE loose (n int, body text);
    CREATE TABLE secure (id serial PRIMARY KEY, n int);
    CREATE TABLE log (id serial PRIMARY KEY, what text);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO log (what) VALUES (TG_TABLE_NAME); RETURN NULL; END';
    CREATE TRIGGER n AFTER INSERT OR DELETE OR UPDATE ON secure FOR EACH ROW
        EXECUTE FUNCTION note();
    CREATE TRIGGER n AFTER INSERT OR DELETE OR UPDATE ON part FOR EACH ROW EXECUTE FUNCTION note();
    CREATE RULE quiet AS ON DELETE TO secure DO INSTEAD NOTHING;
    INSERT INTO kind (name, mood) SELECT 'kind ' || n, 'glad' FROM generate_series(1, 5) n;
    INSERT INTO thing (kind, n) SELECT id, id FROM kind;
    INSERT INTO tree (kind) VALUES (1), (2);
    INSERT INTO part (n) VALUES (1), (2);
    INSERT INTO loose VALUES (1, 'x'), (1, 'x');
    INSERT INTO secure (n) VALUES (1), (2);
    CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM thing
"""
_SEQUENCES = ["shared", "tree_id_seq", "part_id_seq", "secure_id_seq", "log_id_seq"]
# Errors (a key that exists or is referred to) do not matter: nothing is written then.
WRITES = [
    "INSERT INTO kind (name) VALUES ('new {n}')",
    "INSERT INTO kind (id, name) VALUES ({n}, 'kind {n}')",
    "UPDATE kind SET name = name || '{n}', mood = 'sad' WHERE id % 5 = {n} % 5",
    "DELETE FROM kind WHERE id = {n} % 7",
    "DELETE FROM kind WHERE id = 3; INSERT INTO kind VALUES (3, 'kind 3', 'glad')",
    "INSERT INTO thing (kind, n) VALUES ({n} % 5 + 1, {n})",
    "UPDATE thing SET other = (SELECT max(id) FROM thing) WHERE id % 3 = {n} % 3",
    "DELETE FROM thing WHERE id = {n} % 11", "INSERT INTO tree (parent, kind) VALUES ({n} % 3, 1)",
    "DELETE FROM tree WHERE id = {n} % 3", "INSERT INTO heir (kind, more) VALUES (2, 'more')",
    "INSERT INTO part (n) VALUES ({n} % 3)", "UPDATE part SET n = {n} % 4",
    "DELETE FROM part WHERE n = 1", "INSERT INTO loose VALUES ({n}, 'y')", "DELETE FROM loose",
    "INSERT INTO secure (n) VALUES ({n})", "UPDATE secure SET n = {n} WHERE id = 1",
    "TRUNCATE kind CASCADE", "TRUNCATE loose, part RESTART IDENTITY",
    "INSERT INTO loose SELECT {n}, repeat('x', 500) FROM generate_series(1, 3000)",
    "SELECT nextval('shared')", "SELECT setval('tree_id_seq', {n} + 1)",
    "REFRESH MATERIALIZED VIEW counted", "VACUUM",
]  # fmt: skip
# Which of three connections executes a write, and how it ends: autocommit, or a transaction that
# is committed or rolled back later, after a reset or before.
WRITE = st.tuples(
    st.sampled_from(WRITES),
    st.integers(0, 20),
    st.integers(0, 2),
    st.sampled_from(["", "", "", "BEGIN", "COMMIT", "ROLLBACK", "reset"]),
)


class World:
    """A schema, three connections to it, and its expected state."""

    def __init__(self, connection: Connection, server: Server, stack: ExitStack) -> None:
        connection.execute("DROP SCHEMA IF EXISTS w, scratch CASCADE")
        connection.execute(TABLES)
        self.connection = connection
        ready = Marker(1, MarkerState.READY)
        self.template = Template.create_rows_only(connection, "w", ready, ["public"])
        self.reset = Reset("w", ["public"])
        self.promised = self.now
        self.writers = []
        for _ in range(3):
            writer = stack.enter_context(closing(server.connect(connection.info.dbname)))
            writer.execute("SET search_path = w, public; SET lock_timeout = '50ms'")
            self.writers.append(writer)

    @property
    def now(self) -> object:
        _, found = digest(self.connection, "w")
        for name in _SEQUENCES:
            # Without the number of values logged in advance.
            query = f"SELECT last_value, is_called FROM w.{name}"
            found[name] = [str(row) for row in self.connection.execute(query)]
        views = self.connection.execute("SELECT * FROM w.counted").fetchall()
        return found, views, structure.version(self.connection, "w")

    def write(self, writes: list[tuple[str, int, int, str]]) -> None:
        for statement, n, which, what in writes:
            if what == "reset":
                self.end(commits=n % 2 == 0)
                self.reset.restore(self.connection, self.template)
                continue
            for one in (what, statement.format(n=n)):
                with suppress(Error):
                    self.writers[which].execute(one)
        self.end(commits=True)

    def end(self, *, commits: bool) -> None:
        """End open transactions, as a run does; all connections then see their effects."""
        for writer in self.writers:
            commits_it = commits and writer.info.transaction_status.name != "INERROR"
            with suppress(Error):
                writer.execute("COMMIT" if commits_it else "ROLLBACK")


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(writes=st.lists(WRITE, min_size=1, max_size=12))
def test_any_writes_are_undone(
    connection: Connection, server: Server, writes: list[tuple[str, int, int, str]]
) -> None:
    """Rows, sequences, materialized views; and a second time, with another target."""
    with ExitStack() as stack:
        world = World(connection, server, stack)
        world.write(writes)
        world.reset.restore(connection, world.template)
        assert world.now == world.promised
        world.write(writes)
        world.reset.clear(connection, Scope(), {})
        assert rows.read_tables(connection, "w", []) == []
        kept = Copies(world.template.name, world.template.contents.tables).rows
        world.reset.clear(connection, Scope(), kept)
        world.reset.restore(connection, world.template)
        assert world.now == world.promised
