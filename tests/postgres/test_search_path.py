"""Objects that others put on a search_path do not change the meaning of our SQL."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from schema_runner.database import extensions, introspection, write_guard
from schema_runner.fingerprint import fingerprint
from schema_runner.flush.post_migrate import reuse_keys
from schema_runner.postgres import capacity, locks, sessions
from schema_runner.postgres.host import Host
from schema_runner.postgres.host_request import HostRequest, PoolCriteria
from schema_runner.postgres.host_reservation import Reservation
from schema_runner.postgres.pg_dump import PgDump
from schema_runner.postgres.project_host import ProjectDatabase
from schema_runner.postgres.removal import clear_schemas
from schema_runner.postgres.reset.changes import (
    current_transaction,
    tables_written_since,
)
from schema_runner.postgres.reset.reset import Reset
from schema_runner.postgres.server import Server
from schema_runner.postgres.template import Template
from schema_runner.postgres.test_host import HostDatabase
from schema_runner.postgres.worker_schemas import SchemaSource

from ..project import connect
from . import hostile

WANTED = PoolCriteria(
    "f" * 8, lambda _: True, now=2, oldest=1, max_others=1, report_nearest=lambda *_: None
)
# Created and written by a project whose own SQL names everything in full.
MODEL = """
    CREATE TYPE {0}.mood AS ENUM ('glad', 'sad');
    CREATE TABLE {0}.country (code varchar(2) PRIMARY KEY, mood {0}.mood UNIQUE);
    CREATE TABLE {0}.town (
        id serial PRIMARY KEY, country varchar(2) REFERENCES {0}.country, place regclass,
        mood {0}.mood REFERENCES {0}.country (mood),
        label text GENERATED ALWAYS AS (country::text OPERATOR(pg_catalog.||) '!'::text) STORED,
        CHECK (pg_catalog.length(country::text) OPERATOR(pg_catalog.>) 1)
    );
    CREATE TABLE {0}.part (n int) PARTITION BY LIST (n);
    CREATE TABLE {0}.part_1 PARTITION OF {0}.part FOR VALUES IN (1);
    CREATE FUNCTION {0}.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER nothing AFTER UPDATE ON {0}.town EXECUTE FUNCTION {0}.nothing();
    ALTER TABLE {0}.town ENABLE ROW LEVEL SECURITY;
    CREATE SEQUENCE {0}.numbers; CREATE SEQUENCE {0}."of others" START 7;
    SELECT pg_catalog.nextval('{0}.numbers');
    INSERT INTO {0}.country VALUES ('DE', 'glad'), ('FR', 'sad');
    CREATE MATERIALIZED VIEW {0}.codes AS SELECT code FROM {0}.country;
    GRANT SELECT ON {0}.town TO PUBLIC;
"""
ROWS = "INSERT INTO {0}.town (country, place, mood) VALUES ('FR', '{0}.town', 'sad')"
WRITTEN = """
    INSERT INTO {0}.town (country) VALUES ('DE'); UPDATE {0}.town SET mood = 'glad';
    INSERT INTO {0}.part VALUES (1); DELETE FROM {0}.town WHERE country IS NOT DISTINCT FROM 'FR';
    REFRESH MATERIALIZED VIEW {0}.codes; SELECT pg_catalog.nextval('{0}.numbers')
"""


@pytest.fixture
def hostile_database(server: Server, database: str) -> Iterator[str]:
    """A database whose default search_path starts with another role's schema, never called."""
    with connect(server, database) as connection:
        hostile.fill(connection)
        connection.execute(_settings(database))
    yield database
    with connect(server, database) as connection:
        assert not hostile.calls(connection)


def _settings(database: str) -> str:
    return f"ALTER DATABASE {database} SET search_path = {hostile.SCHEMA}, pg_catalog, public"


def _request(server: Server, name: str, *, is_projects_own: bool) -> HostRequest:
    return HostRequest(server, name, is_projects_own, 2, 140000, [].append, wanted=WANTED)


def _build(server: Server, host: Host, schema: str, *, moved: bool = False) -> str:
    """Fill a schema, and create a template of it, or of the schema it is moved to."""
    with server.connect(host.name) as connection:
        connection.execute(MODEL.format(schema))
        if moved:
            assert host.obstacles() == [f"schema {hostile.SCHEMA}"]
        schema = host.finish_build(1)
        host.path = (*host.path, hostile.SCHEMA)
        assert host.add_shims(schema) == []
        since = current_transaction(connection.cursor())
        host.start_dump(schema, PgDump.find(connection.info.server_version))
        connection.execute(ROWS.format(schema))
        assert tables_written_since(connection, schema, ["town"], since)
        host.create_template(schema, {}, since)
    return schema


def _use(server: Server, host: Host, source: SchemaSource, schema: str) -> None:
    """Do what tests do in a schema."""
    with server.connect(host.name) as connection, server.connect(host.name) as user:
        template = Template.read(connection, source.template or "", host.path)
        reset = Reset(schema, [*host.shims_path, *host.path])
        for _ in range(2):
            user.execute(WRITTEN.format(schema))
            reset.restore(connection, template)
        rows = f"SELECT country, place::text, mood::text FROM {schema}.town"
        assert user.execute(rows).fetchall() == [("FR", f"{schema}.town", "sad")]
        scratch = source.create_schema(3)
        with reuse_keys(connection, schema, scratch, template.copies.rows.values()):
            path = ", ".join([schema, *host.shims_path, *host.path])
            user.execute(f"SET search_path = {path}; DELETE FROM town")
            user.execute(ROWS.format(schema))
            assert user.execute("SELECT id FROM town").fetchall() == [(1,)]
        reset.restore(connection, template)
        source.drop(scratch)
        assert sessions.end_open_transactions(connection, schema, source.run, 2) == []
        with user.transaction(force_rollback=True):
            user.execute(f"LOCK {schema}.town")
            assert len(sessions.lock_holders(connection, schema)) == 1
            pid = user.info.backend_pid
            assert write_guard.changed_elsewhere(connection, pid, []) == [f"table {schema}.town"]
        assert capacity.connections_left(connection) > 0
        assert fingerprint.server_facts(connection)


def test_nothing_of_others_is_called_in_the_project_s_database(
    server: Server, hostile_database: str
) -> None:
    """Nothing is called while schemas are built, copied, reset, kept and leased again."""
    for is_leased in (False, True):
        request = _request(server, hostile_database, is_projects_own=True)
        with ExitStack() as turn:
            host = ProjectDatabase.open(request, turn)
            if is_leased:
                host.path = (*host.path, hostile.SCHEMA)
                schema = host.own_schema or ""
            else:
                schema = _build(server, host, host.begin_build(1) or "")
        source = host.schema_source(schema)
        other = source.lease_or_copy(2)
        for one in (schema, other):
            _use(server, host, source, one)
        source.recreate(other)
        snapshot = host.snapshot(WANTED.fingerprint, now=2)
        host.restore(snapshot)()
        host.template = source.template
        host.keep_schema(schema, source)
        source.keep(other)
        host.release(keep=True)
    with ExitStack() as turn:
        host = ProjectDatabase.open(request._replace(wanted=None), turn)
    host.release(keep=False)
    assert clear_schemas(request) == {"pool": 1, "schema": 2}
    with server.connect(hostile_database) as connection:
        left = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '^test_'")
        assert left.fetchall() == []


# Including the replaced parts of Django's queries, and those of other packages.
NARROWED = [
    introspection.narrow_to_schema(f"SELECT 1 FROM {relation}")
    for relation in (
        *("pg_class", "pg_indexes", "information_schema.columns"),
        "pg_catalog.pg_class c WHERE pg_catalog.pg_table_is_visible(c.oid)",
    )
]


def test_nothing_of_others_is_called_on_django_s_connections(
    server: Server, hostile_database: str
) -> None:
    """Wherever the other role's schema is on a worker's path."""
    with server.connect(hostile_database) as connection:
        for path in (f"{hostile.SCHEMA}, pg_catalog", f"pg_catalog, {hostile.SCHEMA}"):
            connection.execute(f"SET search_path = {path}")
            for query in NARROWED:
                connection.execute(query)
            connection.execute(extensions._INSTALLED)
            for query in (extensions._FIXED, extensions._NEEDED):
                connection.execute(query, [["plpgsql"]])
            with connection.transaction():
                locks.acquire_until_commit(connection, 1)


@pytest.fixture
def host_request(server: Server, hostile_database: str) -> Iterator[HostRequest]:
    """A request for a host database like that one, in which nothing is called either."""
    request = _request(server, f"{hostile_database}_host", is_projects_own=False)
    yield request
    with server.maintenance() as maintenance:
        maintenance.execute(f"DROP DATABASE IF EXISTS {request.name} WITH (FORCE)")


def _claim(request: HostRequest, template: str) -> HostDatabase:
    def create() -> None:
        with request.server.maintenance() as maintenance:
            maintenance.execute(f"CREATE DATABASE {request.name} TEMPLATE {template}")
            maintenance.execute(_settings(request.name))

    with ExitStack() as turn:
        reservation = Reservation(request, turn)
        return reservation.kept or reservation.create_host(create)


def test_nothing_of_others_is_called_in_a_host_database(
    host_request: HostRequest, hostile_database: str
) -> None:
    """The same if the objects built in `public` are moved."""
    server = host_request.server
    host = _claim(host_request, hostile_database)
    schema = _build(server, host, "public", moved=True)
    host.keep_schema(schema, host.schema_source(schema))
    host.release(keep=True)
    host = _claim(host_request, hostile_database)
    assert host.own_schema
    source = host.schema_source(host.own_schema)
    _use(server, host, source, host.own_schema)
    host.keep_schema(host.own_schema, source)
    with connect(server, host.name) as connection:
        assert not hostile.calls(connection)
    host._request = host_request._replace(wanted=None)
    host.release(keep=False)


def test_nothing_of_others_is_called_in_clones(
    host_request: HostRequest, hostile_database: str
) -> None:
    """Including their comparison with the database they were cloned from."""
    server = host_request.server
    host = _claim(host_request, hostile_database)
    host.begin_build(1)
    with server.connect(host.name) as connection:
        connection.execute(MODEL.format("public"))
    host.create_reference("public", None)
    host.prepare_clones({"why": ""})
    with server.maintenance() as maintenance, host.clones.creation(2):
        clone = host.clones.names[2]
        maintenance.execute(f"CREATE DATABASE {clone} TEMPLATE {host.name}")
        maintenance.execute(_settings(clone))
    assert host.keep_clone(clone)
    for name in (host.name, clone):
        with connect(server, name) as connection:
            assert not hostile.calls(connection)
    host.clones.drop(clone)
    host.release(keep=False)
