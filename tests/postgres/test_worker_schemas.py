"""Worker schemas, made from a picklable description only."""

import pytest

from schema_runner.errors import SchemaRunnerError
from schema_runner.postgres import move, names, schemas, structure
from schema_runner.postgres.names import MarkerState
from schema_runner.postgres.server import Connection, Server
from schema_runner.postgres.worker_schemas import SchemaSource

RUN = 4713
TABLES = "CREATE TABLE {}.book (id serial PRIMARY KEY, title text NOT NULL)"


@pytest.fixture
def source(server: Server, connection: Connection) -> SchemaSource:
    """The source schema: that of a run whose worker 1 has a table."""
    source_schema = schemas.create(connection, 1, RUN)
    move.copy_grants(connection, "public", source_schema)
    connection.execute(TABLES.format(source_schema))
    host, inventory = connection.info.dbname, structure.inventory(connection, source_schema)
    about = {
        "host": host,
        "request": host,
        "run": RUN,
        "source_schema": source_schema,
        "inventory": inventory,
    }
    return SchemaSource(server=server, **about, path=("public",), shims_path=(), batch=10)


def states(connection: Connection) -> dict[str, MarkerState]:
    return {one.name: one.marker.state for one in schemas.list_own(connection)}


def test_a_schema_like_the_source_is_ready(source: SchemaSource, connection: Connection) -> None:
    """It is named after the worker, marked as the run's, and dropped or kept as requested."""
    schema = source.create_schema(2)
    assert names.worker_of_schema(schema) == 2
    assert states(connection)[schema] == MarkerState.BUILDING
    connection.execute(TABLES.format(schema))
    source.mark_built(schema)
    assert states(connection)[schema] == MarkerState.READY
    source.keep(schema)
    assert states(connection)[schema] == MarkerState.KEPT
    source.drop(schema)
    assert list(states(connection)) == [source.source_schema]


def test_a_schema_that_differs_is_refused(source: SchemaSource, connection: Connection) -> None:
    """The error names what differs from the source schema."""
    schema = source.create_schema(2)
    connection.execute(TABLES.format(schema).replace(" NOT NULL", ""))
    with pytest.raises(SchemaRunnerError, match=r"table column book\.title"):
        source.mark_built(schema)
    assert states(connection)[schema] == MarkerState.BUILDING


def test_schemas_of_a_dead_worker_are_dropped(
    source: SchemaSource, connection: Connection
) -> None:
    """Schemas and statements of a dead worker go, even if it holds locks; all others stay."""
    left, of_another = source.create_schema(1), source.create_schema(2)
    with source.connect(1) as busy, source.connect(2) as another:
        busy.execute(f"BEGIN; CREATE TABLE {left}.half_made ()")
        another.execute(f"BEGIN; CREATE TABLE {of_another}.half_made ()")
        source.drop_leftovers(1)
        assert set(states(connection)) == {source.source_schema, of_another}
        another.execute("COMMIT")
        with pytest.raises(Exception, match=r"terminat|closed"):
            busy.execute("COMMIT")
    with pytest.raises(Exception, match="does not exist"):
        connection.execute(f"SELECT FROM {left}.half_made")


def test_passwords_are_not_shown(source: SchemaSource) -> None:
    """Tracebacks with local variables may show the description."""
    assert "host" in source.server.params
    assert str(source.server.params["host"]) not in repr(source)


def test_a_database_of_others_stays(source: SchemaSource, server: Server) -> None:
    """It has the name of the database that clones are made from, but another owner."""
    clone_source = source.clone_source
    with server.maintenance() as maintenance:
        maintenance.execute(f"CREATE DATABASE {clone_source.name}")
        with pytest.raises(SchemaRunnerError, match="that no run created"):
            clone_source.creation().__enter__()
        maintenance.execute(f"DROP DATABASE {clone_source.name}")
