import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg import errors

from schema_runner.postgres import locks, names, schemas
from schema_runner.postgres.lease import Lease
from schema_runner.postgres.names import Marker, MarkerState
from schema_runner.postgres.server import Connection, Server

from ..digest import digest

RUN = 4711


def present(connection: Connection) -> set[str]:
    rows = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'test_%'")
    return {name for (name,) in rows}


def filled(connection: Connection, tables: str, run: int = RUN) -> str:
    """Create a schema of a run with some tables, and return its name."""
    name = schemas.create(connection, 1, run)
    connection.execute(f"SET search_path = {name}; {tables}; RESET search_path")
    return name


def test_a_new_schema_is_named_and_marked(connection: Connection) -> None:
    """Name and comment together prove ownership."""
    before = time.time_ns() // 1_000_000
    name = schemas.create(connection, 3, RUN)
    prefix, milliseconds = name.rsplit("_", 1)
    assert prefix == "test_w3"
    assert before <= int(milliseconds) <= time.time_ns() // 1_000_000 + 1
    assert schemas.list_own(connection) == [
        schemas.OwnSchema(name, Marker(RUN, MarkerState.BUILDING))
    ]


def test_schemas_of_one_millisecond_get_different_names(
    server: Server, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For two aliases, or for two sessions that cannot see each other's schema."""
    monkeypatch.setattr(time, "time_ns", lambda: 5_000_000)
    assert [schemas.create(connection, 1, RUN) for _ in range(2)] == ["test_w1_5", "test_w1_6"]
    with server.connect(connection.info.dbname) as other, ThreadPoolExecutor() as pool:
        with connection.transaction():
            assert schemas.create(connection, 1, RUN) == "test_w1_7"
            made = pool.submit(schemas.create, other, 1, RUN + 1)
            while not connection.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall():
                assert not made.done()
        assert made.result() == "test_w1_8"


def test_a_schema_is_closed_to_other_roles(connection: Connection) -> None:
    """Whatever the default privileges are; later grants are detected."""
    connection.execute(
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO pg_monitor;"
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO PUBLIC"
    )
    for name in (
        schemas.create_template(connection, RUN),
        schemas.create_shims_schema(connection, RUN),
    ):
        rights = "SELECT FROM pg_namespace, aclexplode(nspacl) WHERE nspname = %s"
        assert (
            len(connection.execute(rights, [name]).fetchall()) == 2
        )  # Only the owner's privileges.
        assert schemas.is_private(connection, name)
        connection.execute(f"GRANT CREATE ON SCHEMA {name} TO pg_monitor")
        assert not schemas.is_private(connection, name)
    template = schemas.create_template(connection, RUN)
    connection.execute(
        f"CREATE TABLE {template}.t (); ALTER TABLE {template}.t OWNER TO pg_monitor"
    )
    assert not schemas.is_private(connection, template)


def test_only_schemas_of_the_run_are_found_and_dropped(connection: Connection) -> None:
    """A name alone, or a comment alone, proves nothing, and another run's schema stays."""
    connection.execute("CREATE SCHEMA test_w1_1; CREATE SCHEMA mine")
    schemas.mark(connection, "mine", Marker(RUN, MarkerState.READY))
    assert schemas.list_own(connection) == []
    name = schemas.create(connection, 2, RUN)
    for schema, run in (("test_w1_1", RUN), (name, RUN + 1), ("test_w9_9", RUN)):
        assert schemas.drop(connection, schema, run, batch=10) is False
    assert present(connection) == {"test_w1_1", name}


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_drop_removes_everything_in_batches(connection: Connection, batch: int) -> None:
    """With any batch size, including partitions, references and views."""
    before = digest(connection)
    name = filled(
        connection,
        "CREATE TABLE a (id serial PRIMARY KEY); CREATE TABLE b (id int REFERENCES a);"
        "CREATE TABLE zparent (n int) PARTITION BY RANGE (n);"
        "CREATE TABLE child1 PARTITION OF zparent FOR VALUES FROM (0) TO (9);"
        "CREATE TABLE child2 PARTITION OF zparent FOR VALUES FROM (9) TO (99);"
        "CREATE VIEW v AS SELECT * FROM a; CREATE TYPE mood AS ENUM ('good');"
        "CREATE TABLE moods (m mood)",
    )
    assert schemas.drop(connection, name, RUN, batch=batch) is True
    assert present(connection) == set()
    assert digest(connection) == before


def test_300_tables_with_indexes_are_dropped_within_the_budget(connection: Connection) -> None:
    """One DROP SCHEMA for all would need more locks than a default server has."""
    columns = ", ".join(f"c{number} int UNIQUE" for number in range(24))
    name = schemas.create(connection, 1, RUN)
    for number in range(300):
        connection.execute(f"CREATE TABLE {name}.t{number} (id serial PRIMARY KEY, {columns})")
    batch = locks.tables_per_transaction(connection, 8)
    assert schemas.drop(connection, name, RUN, batch=batch)
    assert present(connection) == set()


def test_drop_ends_a_blocking_backend_of_its_own_run(
    server: Server, connection: Connection
) -> None:
    """A test that left a transaction open does not block the run."""
    name = filled(connection, "CREATE TABLE t ()")
    with server.connect(connection.info.dbname, names.application_name(RUN, 1)) as idle:
        # The second table is invisible to others, but blocks the drop of the schema.
        idle.execute(f"BEGIN; LOCK TABLE {name}.t; CREATE TABLE {name}.unseen ()")
        assert schemas.drop(connection, name, RUN, batch=10)
        with pytest.raises(errors.AdminShutdown):
            idle.execute("SELECT 1")


def test_the_sweep_drops_schemas_of_dead_runs_only(server: Server, connection: Connection) -> None:
    """Schemas of a live run, unmarked ones and the user's own stay."""
    alive = schemas.create(connection, 1, RUN)
    dead = {schemas.create(connection, worker, RUN + 1) for worker in (1, 2)}
    kept = schemas.create(connection, 1, RUN + 2)
    schemas.mark(connection, kept, Marker(RUN + 2, MarkerState.KEPT))
    connection.execute("CREATE SCHEMA test_w1_1; CREATE SCHEMA test_mine")
    lease = Lease(server.connect(connection.info.dbname), RUN)
    assert set(schemas.sweep(connection, batch=10)) == {*dead, kept}
    assert present(connection) == {alive, "test_w1_1", "test_mine"}
    lease.close()


def test_the_sweep_skips_schemas_that_it_cannot_drop(
    server: Server, connection: Connection
) -> None:
    """A session that uses the schema keeps it; the batches before its table are dropped."""
    tables = "; ".join(f"CREATE TABLE t{number} ()" for number in range(6))
    seen, other = (filled(connection, tables, RUN + number) for number in (1, 2))
    query = "SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1"
    with server.connect(connection.info.dbname) as psql, psql.transaction(force_rollback=True):
        psql.execute(f"LOCK TABLE {seen}.t4")
        assert schemas.sweep(connection, batch=2) == [other]
        assert connection.execute(query, [seen]).fetchall() == [("t4",), ("t5",)]
        psql.execute("SELECT 1")  # It is still alive.
    assert schemas.sweep(connection, batch=10) == [seen]


def test_concurrent_sweeps(server: Server, connection: Connection) -> None:
    """Each schema is dropped by one of them, and neither fails because of the other."""
    made = {schemas.create(connection, worker, RUN + worker) for worker in range(1, 21)}

    def run_sweep(_: int) -> list[str]:
        with server.connect(connection.info.dbname) as own:
            return schemas.sweep(own, batch=10)

    with ThreadPoolExecutor(4) as pool:
        dropped = [name for one in pool.map(run_sweep, range(4)) for name in one]
    assert sorted(dropped) == sorted(made)
    assert present(connection) == set()
