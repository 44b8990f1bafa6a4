"""Replication and event triggers in the project's own database, and the vacuuming of catalogs."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from schema_runner import embedded
from schema_runner.errors import SchemaRunnerError
from schema_runner.postgres import obstacles
from schema_runner.postgres.reset import vacuum
from schema_runner.postgres.server import Connection, Server

from ..builds import BUILD
from ..project import address, connect

FUNCTION = "CREATE FUNCTION told() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
TRIGGER = FUNCTION + "CREATE EVENT TRIGGER log ON {} EXECUTE FUNCTION told();"
SLOT = "SELECT pg_create_logical_replication_slot('s', '{}')"


@pytest.fixture(scope="module")
def replicating() -> Iterator[Connection]:
    """A connection to a server that can have replication slots."""
    cache = Path(tempfile.mkdtemp(prefix="schema-runner-tests-"))
    cache.chmod(0o755)
    settings = {"wal_level": "logical", "max_replication_slots": 2, "max_wal_senders": 2}
    running = embedded.start(
        bin_dir=BUILD.bin_dir, settings={**(BUILD.settings or {}), **settings}, cache_dir=cache
    )
    try:
        with closing(connect(address(running), "postgres")) as connection:
            yield connection
    finally:
        embedded.stop(running)
        shutil.rmtree(cache)


REFUSED = {
    "CREATE PUBLICATION p FOR ALL TABLES": "publication p is FOR ALL TABLES",
    SLOT.format("test_decoding"): r"replication slot s \(test_decoding\)",
    TRIGGER.format("ddl_command_end"): r"event trigger log would call (public\.)?told\(\)",
    TRIGGER.format("sql_drop WHEN TAG IN ('DROP TABLE', 'DROP VIEW')"): "event trigger log",
    TRIGGER.format("ddl_command_start")
    + "ALTER EVENT TRIGGER log ENABLE ALWAYS": "event trigger log",
}
ALLOWED = [
    "CREATE TABLE t (); CREATE PUBLICATION p FOR TABLE t",
    "CREATE PUBLICATION p FOR TABLES IN SCHEMA public",
    SLOT.format("pgoutput"),
    TRIGGER.format("sql_drop") + "ALTER EVENT TRIGGER log DISABLE",
    TRIGGER.format("sql_drop") + "ALTER EVENT TRIGGER log ENABLE REPLICA",
    TRIGGER.format("ddl_command_end WHEN TAG IN ('CREATE PUBLICATION', 'CREATE SERVER')"),
    TRIGGER.format("ddl_command_end") + "ALTER EXTENSION plpgsql ADD EVENT TRIGGER log",
]
UNDO = """
    DROP PUBLICATION IF EXISTS p; DROP TABLE IF EXISTS t; DROP EVENT TRIGGER IF EXISTS log;
    DROP FUNCTION IF EXISTS told;
    SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
"""


@pytest.mark.parametrize("made", [*REFUSED, *ALLOWED])
def test_observers_are_named(replicating: Connection, made: str) -> None:
    """Those that receive all tables or all DDL are named; others are not."""
    replicating.execute(made)
    try:
        if made in REFUSED:
            with pytest.raises(SchemaRunnerError, match=REFUSED[made]):
                obstacles.refuse_observers(replicating)
        else:
            obstacles.refuse_observers(replicating)
    finally:
        if "ALTER EXTENSION" in made:
            replicating.execute("ALTER EXTENSION plpgsql DROP EVENT TRIGGER log")
        replicating.execute(UNDO)


def test_catalogs_do_not_grow(server: Server, connection: Connection) -> None:
    """However many tables are created and dropped; another VACUUM is not waited for."""
    tables = "".join(f"CREATE TABLE t{n} (a int, b int);" for n in range(150))
    sizes = []
    with connect(server, connection.info.dbname) as other, other.transaction():
        # Locked as by another VACUUM.
        other.execute("LOCK pg_catalog.pg_type IN SHARE UPDATE EXCLUSIVE MODE")
        for _ in range(5):
            connection.execute("CREATE SCHEMA many; SET search_path = many")
            connection.execute(tables)
            connection.execute("DROP SCHEMA many CASCADE; SET search_path = pg_catalog")
            vacuum.vacuum_catalogs(connection)
            size = "SELECT pg_relation_size('pg_attribute')"
            sizes.append(connection.execute(size).fetchall())
    assert sizes[1] == sizes[-1]


def test_small_runs_do_not_vacuum_catalogs(connection: Connection) -> None:
    """A small run does not vacuum catalogs, nor does a role that may not."""
    counted = "SELECT vacuum_count FROM pg_stat_sys_tables WHERE relname = 'pg_attribute'"
    tables = "".join(f"CREATE TABLE t{n} (a int, b int);" for n in range(150))
    dropped = "CREATE SCHEMA few; SET search_path = few;"
    role = connection.info.dbname
    connection.execute(f"{dropped} CREATE TABLE t (a int); DROP SCHEMA few CASCADE")
    vacuum.vacuum_catalogs(connection)
    connection.execute(f"CREATE ROLE {role}; {dropped} {tables} DROP SCHEMA few CASCADE")
    notices: list[object] = []
    connection.add_notice_handler(notices.append)
    connection.execute(f"SET ROLE {role}")
    vacuum.vacuum_catalogs(connection)
    connection.execute(f"RESET ROLE; DROP ROLE {role}")
    assert connection.execute(counted).fetchall() == [(0,)]
    assert notices == []


def test_large_objects_are_not_vacuumed(connection: Connection) -> None:
    """They are the project's data, and VACUUM of all of them may take hours."""
    made = "SELECT count(lo_from_bytea(0, 'x')) FROM generate_series(1, 1500)"
    connection.execute(made)
    connection.execute("SELECT count(lo_unlink(oid)) FROM pg_largeobject_metadata")
    vacuum.vacuum_catalogs(connection)
    counted = "SELECT sum(vacuum_count) FROM pg_stat_sys_tables WHERE relname ~ '^pg_largeobject'"
    assert connection.execute(counted).fetchall() == [(0,)]
