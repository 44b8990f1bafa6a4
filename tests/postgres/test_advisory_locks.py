from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import product
from typing import Any, TypeAlias

import psycopg
import pytest
from psycopg import errors

from schema_runner.postgres import advisory_locks
from schema_runner.postgres.server import Connection, Server

Session: TypeAlias = Callable[[str | None], Connection]

PARTS = product(("", "try_"), ("", "xact_"), ("", "_shared"))
LOCKING = [f"pg_{attempt}advisory_{scope}lock{mode}" for attempt, scope, mode in PARTS]
FORMS = ["7", "7, 8"]
each_form = pytest.mark.parametrize("arguments", FORMS)
each_lock = pytest.mark.parametrize("function", LOCKING)


@pytest.fixture(scope="module")
def shared(server: Server, module_database: str) -> str:
    """A database for all these tests: most only hold locks, or roll back what they create."""
    with server.connect(module_database) as connection:
        connection.execute("CREATE SCHEMA one; CREATE SCHEMA two; CREATE SCHEMA shims")
        advisory_locks.create_shims(connection, "shims")
    return module_database


@pytest.fixture
def session(server: Server, shared: str) -> Iterator[Session]:
    """Open sessions of workers whose schemas are `one` and `two`; without a schema, of others."""
    with ExitStack() as opened:

        def connect(schema: str | None) -> Connection:
            made = opened.enter_context(server.connect(shared))
            # The server may take a moment to notice that a connection is closed.
            opened.callback(made.execute, "SELECT pg_advisory_unlock_all()")
            return prepare(made, schema)

        yield connect


def prepare(connection: Connection, schema: str | None) -> Connection:
    connection.execute("SET lock_timeout = '100ms'")
    if schema is not None:
        connection.execute(f"SET search_path = {schema}, shims, pg_catalog, public")
    return connection


def call(connection: Connection, function: str, arguments: str) -> Any:
    (value,) = connection.execute(f"SELECT {function}({arguments})").fetchone() or ()
    return value


def is_free(connection: Connection, arguments: str, mode: str = "") -> bool:
    """Whether the session could acquire the lock."""
    with connection.transaction():
        return call(connection, f"pg_try_advisory_xact_lock{mode}", arguments) is True


def held(connection: Connection) -> int:
    """Count the advisory locks of a session."""
    locks = "pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
    return len(connection.execute(f"SELECT FROM {locks}").fetchall())


def outcome(connection: Connection, statement: str) -> Any:
    """Return the rows of a statement, or the code of its error."""
    try:
        with connection.transaction():
            return connection.execute(statement).fetchall()
    except psycopg.Error as error:
        return error.sqlstate


def test_every_lock_function_has_a_shim_like_it(session: Session) -> None:
    """Names, arguments, results and properties are the server's, except unlock_all's."""
    signature = (
        "SELECT proname, pg_get_function_arguments(oid), prorettype, proisstrict, provolatile,"
        " proparallel, proretset, prosecdef FROM pg_proc"
        " WHERE pronamespace = %s::regnamespace AND proname ~ 'advisory'"
        " AND proname <> 'pg_advisory_unlock_all' ORDER BY 1, 2"
    )
    plain = session(None)
    made = plain.execute(signature, ["shims"]).fetchall()
    assert made == plain.execute(signature, ["pg_catalog"]).fetchall()
    assert len(made) == (len(LOCKING) + 2) * len(FORMS)


@each_lock
@pytest.mark.parametrize("schema", ["two", None])
def test_workers_do_not_block_each_other(
    session: Session, function: str, schema: str | None
) -> None:
    """Another worker, or a session without shims such as a run's lease, finds each lock free."""
    one, two = session("one"), session(schema)
    for arguments in FORMS:
        with one.transaction(), two.transaction():
            assert call(one, function, arguments) is not False
            assert all(call(two, other, arguments) is not False for other in LOCKING)


@each_lock
@pytest.mark.parametrize("ending", [None, psycopg.Rollback])
def test_sessions_of_one_worker_block_each_other(
    session: Session, function: str, ending: type[Exception] | None
) -> None:
    """Threads of a worker lock each other out, shared or exclusive, by session or transaction."""
    holder, other = session("one"), session("one")
    for arguments in FORMS:
        with holder.transaction():
            assert call(holder, function, arguments) is not False
            assert not is_free(other, arguments)
            assert is_free(other, arguments, "_shared") == function.endswith("_shared")
            if ending is not None:
                raise ending
        assert is_free(other, arguments) == ("xact" in function)


@each_lock
def test_waiting_for_a_held_lock(session: Session, function: str) -> None:
    """Only the functions with "try" in their names return at once."""
    holder, other = session("one"), session("one")
    for arguments in FORMS:
        call(holder, "pg_advisory_lock", arguments)
        expected = [(False,)] if "try" in function else errors.LockNotAvailable.sqlstate
        assert outcome(other, f"SELECT {function}({arguments})") == expected


@each_form
@pytest.mark.parametrize("mode", ["", "_shared"])
def test_unlocking(session: Session, arguments: str, mode: str) -> None:
    """Each lock is released once; one more unlock returns false, with the server's warning."""
    worker = session("one")
    warnings: list[str | None] = []
    worker.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
    for _ in range(2):
        call(worker, f"pg_advisory_lock{mode}", arguments)
    assert [call(worker, f"pg_advisory_unlock{mode}", arguments) for _ in range(2)] == [True] * 2
    assert (held(worker), warnings) == (0, [])
    assert call(worker, f"pg_advisory_unlock{mode}", arguments) is False
    assert warnings == [f"you don't own a lock of type {'ShareLock' if mode else 'ExclusiveLock'}"]


def test_unlocking_everything(session: Session) -> None:
    """PostgreSQL's own pg_advisory_unlock_all releases locks taken through the shims."""
    worker = session("one")
    for arguments in FORMS:
        call(worker, "pg_advisory_lock", arguments)
        call(worker, "pg_advisory_lock_shared", arguments)
    assert held(worker) == 4
    call(worker, "pg_advisory_unlock_all", "")
    assert held(worker) == 0


def test_keys_stay_distinct(session: Session) -> None:
    """Different keys of a worker stay different, even forms with the same bits."""
    keys = ["0", "1", "-1", f"{2**32}", f"{2**32 + 1}", "0, 0", "0, 1", "1, 0", "1, 1", "-1, -1"]
    with ExitStack() as transactions:
        for key in keys:
            one = session("one")
            transactions.enter_context(one.transaction())
            assert call(one, "pg_try_advisory_xact_lock", key) is True, key


TAKEN = {
    "1": "1", "1::smallint": "1", "'5'": "5", "' 5 '": "5", "(SELECT 3)": "3",
    "hashtext('x')": "hashtext('x')::bigint",
    "hashtextextended('x', 0)": "hashtextextended('x', 0)",
    f"{2**63 - 1}": f"'{2**63 - 1}'", f"({-(2**63)})": f"'{-(2**63)}'",
    "1, 2": "1, 2", "1::smallint, 2::smallint": "1, 2", "1, 2::smallint": "1, 2",
    "'5', '6'": "5, 6", "hashtext('x'), 6": "hashtext('x'), 6",
    f"{2**31 - 1}, ({-(2**31)})": f"'{2**31 - 1}', '{-(2**31)}'",
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "same"), TAKEN.items())
def test_arguments_are_converted_as_by_the_server(
    session: Session, arguments: str, same: str
) -> None:
    """Arguments are converted as they are for PostgreSQL's own functions."""
    holder, other = session("one"), session("one")
    call(holder, "pg_advisory_lock", arguments)
    assert held(holder) == 1
    connections = (other, session("two"), session(None))
    assert [is_free(connection, same) for connection in connections] == [False, True, True]
    assert call(holder, "pg_advisory_unlock", same) is True


@pytest.mark.parametrize(
    "arguments",
    ["1.5", f"{2**63}", "'x'", "true", "1, 2::bigint", f"1, {2**31}", "'1', '2.5'", "1, 2, 3", ""],
)
def test_arguments_are_rejected_as_by_the_server(session: Session, arguments: str) -> None:
    """Invalid arguments raise the same errors."""
    statement = f"SELECT pg_advisory_lock({arguments})"
    refusal = outcome(session(None), statement)
    assert isinstance(refusal, str)
    assert outcome(session("one"), statement) == refusal


@pytest.mark.parametrize("cursor", [psycopg.Cursor, psycopg.ClientCursor])
@pytest.mark.parametrize("placeholder", ["%s", "%b", "%t"])
@pytest.mark.parametrize("keys", [[1], [-40_000], [2**31], [-(2**62)], [3, 4], [-40_000, 2**30]])
def test_parameters(
    session: Session, cursor: type[psycopg.Cursor[Any]], placeholder: str, keys: list[int]
) -> None:
    """psycopg picks an integer type by the size of a number, and the shims accept each."""
    worker = session("one")
    placeholders = ", ".join([placeholder] * len(keys))
    for function in ("pg_advisory_lock", "pg_advisory_unlock"):
        for prepare in (False, True):
            execute = cursor(worker).execute
            execute(f"SELECT {function}({placeholders})", keys, prepare=prepare)
        assert held(worker) == (function == "pg_advisory_lock")
    assert outcome(worker, f"SELECT pg_advisory_unlock({', '.join(map(str, keys))})") == [(False,)]


@pytest.mark.parametrize("function", [*LOCKING, "pg_advisory_unlock", "pg_advisory_unlock_shared"])
def test_null_locks_nothing(session: Session, function: str) -> None:
    """The shims return NULL for it, as PostgreSQL's functions do."""
    worker, plain = session("one"), session(None)
    for arguments in ("NULL", "NULL, 1", "1, NULL", "NULL, NULL"):
        with worker.transaction():
            assert call(worker, function, arguments) == call(plain, function, arguments)
            assert held(worker) == 0


def test_calls_in_code_use_the_shims(session: Session) -> None:
    """Functions and blocks resolve names at run time, by the current path."""
    one, two, plain = session("one"), session("two"), session(None)
    plain.execute(
        "CREATE FUNCTION by_sql(int) RETURNS void LANGUAGE sql AS 'SELECT pg_advisory_lock($1)';"
        "CREATE FUNCTION by_plpgsql(int) RETURNS void LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_advisory_lock($1); END'"
    )
    one.execute(
        "SELECT by_sql(1), by_plpgsql(2); DO 'BEGIN PERFORM pg_advisory_lock(3); END';"
        "SELECT FROM pg_advisory_lock(4);"
        "SELECT pg_advisory_lock(n) FROM generate_series(5, 6) AS n;"
        "PREPARE again AS SELECT pg_advisory_lock($1); EXECUTE again (7)"
    )
    assert held(one) == 7
    other = session("one")
    for key in range(1, 8):
        found = [is_free(connection, f"{key}") for connection in (other, two, plain)]
        assert found == [False, True, True]


def test_a_session_that_changes_its_path_changes_its_keys(session: Session) -> None:
    """Cached plans, in PL/pgSQL or prepared, follow the path."""
    worker = session("one")
    worker.execute(
        "CREATE FUNCTION public.lock() RETURNS bool LANGUAGE plpgsql AS"
        " 'BEGIN RETURN pg_try_advisory_lock(1); END'"
    )
    for path in ("one, shims, pg_catalog, public", "two, shims, pg_catalog, public", "public"):
        worker.execute(f"SET search_path = {path}")
        assert call(worker, "public.lock", "") is True
    assert held(worker) == 3


def test_the_server_inlines_the_shims(session: Session) -> None:
    """The server inlines the shims into queries, which makes them cheap."""
    for arguments in FORMS:
        plan = session("one").execute(f"EXPLAIN VERBOSE SELECT pg_advisory_lock({arguments})")
        text = str(plan.fetchall())
        assert "pg_catalog.pg_advisory_lock(" in text
        assert "shims" not in text


def test_a_role_without_privileges_can_lock(server: Server, connection: Connection) -> None:
    """Tests may switch to a second role, and a project may have revoked privileges."""
    database = connection.info.dbname
    role = f"shims_{database}"
    connection.execute(
        "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;"
        "CREATE SCHEMA one; CREATE SCHEMA two; CREATE SCHEMA shims;"
        f"GRANT USAGE ON SCHEMA one, two TO PUBLIC; CREATE ROLE {role}"
    )
    advisory_locks.create_shims(connection, "shims")
    with server.connect(database) as one, server.connect(database) as two:
        call(prepare(one, "one"), "pg_advisory_lock", "6")
        for limited in (one, prepare(two, "two")):
            limited.execute(f"SET ROLE {role}")
            for arguments in FORMS:
                call(limited, "pg_advisory_lock", arguments)
        # The key is the worker's, regardless of the caller.
        assert call(one, "pg_advisory_unlock", "6") is True
    connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_schema_that_needs_quoting(session: Session) -> None:
    """The shims' schema can have any name."""
    worker = session(None)
    with worker.transaction(force_rollback=True):
        worker.execute('CREATE SCHEMA "Sch%s ""1"""')
        advisory_locks.create_shims(worker, 'Sch%s "1"')
        worker.execute('SET search_path = public, "Sch%s ""1""", pg_catalog')
        for arguments in FORMS:
            call(worker, "pg_advisory_lock", arguments)
            assert is_free(session(None), arguments)
        assert held(worker) == 2


FUNCTION = "CREATE FUNCTION {} RETURNS text RETURN 'own'"
# The created objects, a query whose result they change, and the expected report.
COLLISIONS = {
    "table": ("CREATE TABLE date (n int)", "SELECT '2020-02-02'::date::text", "type date"),
    "array": ("CREATE TABLE date (n int)", "SELECT '{2020-02-02}'::_date::text", "type date"),
    "enum": ("CREATE TYPE money AS ENUM ('1')", "SELECT '1'::money::text", "type money"),
    "domain": ("CREATE DOMAIN path AS int[]", "SELECT '{1}'::path::text", "type path"),
    "shell": ("CREATE TYPE inet", "SELECT '::1'::inet::text", "type inet"),
    "named as an array": ("CREATE TYPE _date AS (n int)", "SELECT '{}'::_date", "type _date"),
    "view": ("CREATE VIEW pg_tables AS SELECT 1 AS n", "TABLE pg_tables",
        "relation pg_tables, type pg_tables"),
    "sequence": ("CREATE SEQUENCE pg_class", "SELECT 'pg_class'::regclass::oid",
        "relation pg_class"),
    "index": ("CREATE TABLE t (n int); CREATE INDEX pg_class_oid_index ON t (n)",
        "SELECT 'pg_class_oid_index'::regclass::oid", "relation pg_class_oid_index"),
    "function": (FUNCTION.format("lower(text)"), "SELECT lower('A')", "function lower(text)"),
    "no arguments": (FUNCTION.format("now()"), "SELECT now() = 'own'", "function now()"),
    "own defaults": (FUNCTION.format("lower(text, int DEFAULT 1)"), "SELECT lower('A'::text)",
        "function lower(text, integer)"),
    "all defaults": (FUNCTION.format("now(int DEFAULT 1)"), "SELECT now() = 'own'",
        "function now(integer)"),
    "the server's defaults": (FUNCTION.format("jsonb_set(jsonb, text[], jsonb)"),
        "SELECT jsonb_set('{}'::jsonb, '{a}'::text[], '1'::jsonb)::text",
        "function jsonb_set(jsonb, text[], jsonb)"),
    "own variadic": (FUNCTION.format("mod(VARIADIC int[])"), "SELECT mod(5, 3)::text",
        "function mod(integer[])"),
    "the server's variadic": (FUNCTION.format("json_extract_path(json, text, text)"),
        "SELECT json_extract_path('{}'::json, 'a'::text, 'b'::text)",
        "function json_extract_path(json, text, text)"),
    "array for a variadic": (FUNCTION.format("json_extract_path(json, text[])"),
        "SELECT json_extract_path('{}'::json, VARIADIC '{a}'::text[])",
        "function json_extract_path(json, text[])"),
    "aggregate": ("CREATE AGGREGATE max(int) (SFUNC = int4smaller, STYPE = int)",
        "SELECT max(n) FROM generate_series(1, 2) AS n", "function max(integer)"),
    "operator": ("CREATE OPERATOR + (LEFTARG = int, RIGHTARG = int, FUNCTION = int4mi)",
        "SELECT 2 + 1", "operator +"),
    "prefix operator": ("CREATE OPERATOR - (RIGHTARG = int, FUNCTION = int4abs)",
        "SELECT - n FROM generate_series(1, 1) AS n", "operator -"),
    "operator class": (
        "CREATE OPERATOR CLASS text_pattern_ops FOR TYPE text USING btree AS FUNCTION 1 bttextcmp",
        "SELECT opcnamespace FROM pg_opclass"
        " WHERE opcname = 'text_pattern_ops' AND pg_opclass_is_visible(oid) ORDER BY 1",
        "operator class text_pattern_ops, operator family text_pattern_ops"),
    "operator family": ("CREATE OPERATOR FAMILY text_ops USING btree",
        "SELECT opfnamespace FROM pg_opfamily WHERE opfname = 'text_ops' AND opfmethod ="
        " (SELECT oid FROM pg_am WHERE amname = 'btree') AND pg_opfamily_is_visible(oid)",
        "operator family text_ops"),
    "collation": ('CREATE COLLATION "C" (LOCALE = "POSIX")',
        "SELECT '\"C\"'::regcollation::oid", "collation C"),
    "conversion": (
        "CREATE CONVERSION iso_8859_1_to_utf8 FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8",
        "SELECT connamespace FROM pg_conversion WHERE conname = 'iso_8859_1_to_utf8'"
        " AND pg_conversion_is_visible(oid)", "conversion iso_8859_1_to_utf8"),
    "text search configuration": ("CREATE TEXT SEARCH CONFIGURATION english (COPY = simple)",
        "SELECT to_tsvector('english', 'horses')", "text search configuration english"),
    "text search dictionary": ("CREATE TEXT SEARCH DICTIONARY english_stem (TEMPLATE = simple)",
        "SELECT ts_lexize('english_stem', 'horses')", "text search dictionary english_stem"),
    "text search parser": (
        'CREATE TEXT SEARCH PARSER "default" (START = prsd_start, GETTOKEN = prsd_nexttoken,'
        " END = prsd_end, LEXTYPES = prsd_lextype)",
        "SELECT prsnamespace FROM pg_ts_parser WHERE pg_ts_parser_is_visible(oid)",
        "text search parser default"),
    "text search template": ("CREATE TEXT SEARCH TEMPLATE simple (LEXIZE = dsynonym_lexize)",
        "SELECT tmplnamespace FROM pg_ts_template WHERE tmplname = 'simple'"
        " AND pg_ts_template_is_visible(oid)", "text search template simple"),
}  # fmt: skip
OVERLOADS = [
    "lower(own)", "lower(int)", "lower(text, text)", "lower(text, VARIADIC int[])",
    "format(text, text)", "date(text)",
]  # fmt: skip
# Objects that reuse the server's names for other things, and a query whose result stays.
COEXISTENCE = {
    "tables": ('CREATE TABLE "Date" (n int); CREATE TABLE lower (n int);'
        "CREATE TABLE integer (n int);"
        "CREATE TABLE english (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY)",
        "SELECT '2020-02-02'::date::text, lower('A'), 1::integer, to_tsvector('english', 'cats')"),
    "overloads": ("CREATE TYPE own AS (n int); CREATE FUNCTION coalesced(own, own) RETURNS own"
        " RETURN $1; CREATE AGGREGATE max(own) (SFUNC = coalesced, STYPE = own);"
        + ";".join(map(FUNCTION.format, OVERLOADS)),
        "SELECT lower('A'), lower('A'::varchar), lower(1), lower(ROW(1)::own), lower('a', 'b'),"
        " lower('a', 1, 2), format('1'), format('%s', 1), format('%s', 'a'), date('2020-02-02'),"
        " date(timestamp '2020-02-02')"),
    "operators": (
        "CREATE TYPE own AS (n int); CREATE FUNCTION joined(own, own) RETURNS text RETURN 'own';"
        "CREATE OPERATOR || (LEFTARG = own, RIGHTARG = own, FUNCTION = joined)",
        "SELECT 'a' || 'b', ROW(1)::own || ROW(2)::own"),
    "operator classes": ("CREATE OPERATOR FAMILY jsonb_path_ops USING btree",
        "SELECT count(*) FROM pg_opfamily WHERE pg_opfamily_is_visible(oid)"),
    "types": ("CREATE TYPE max AS ENUM ('a'); CREATE DOMAIN pg_tables_ AS text;"
        "CREATE TYPE span AS RANGE (subtype = int); CREATE TYPE array_agg AS (n date[])",
        "SELECT max(1), '[1,2]'::span::text, array_agg(1)"),
    "conversions": ("CREATE CONVERSION own FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8",
        "SELECT convert_from('abc', 'LATIN1')"),
    "collations": ('CREATE COLLATION c (LOCALE = "C")', "SELECT '\"C\"'::regcollation::oid"),
}  # fmt: skip


@pytest.fixture
def owner(server: Server, shared: str) -> Iterator[Connection]:
    """A connection that creates objects in the schema `own`, after `pg_catalog` on the path."""
    with server.connect(shared) as connection, connection.transaction(force_rollback=True):
        connection.execute("CREATE SCHEMA own; SET search_path = own, public")
        yield connection


@pytest.mark.parametrize("kind", [*COLLISIONS, *COEXISTENCE])
def test_collisions(owner: Connection, kind: str) -> None:
    """Exactly the objects that would change the meaning of a name are reported."""
    statement, query, *reported = COLLISIONS.get(kind) or COEXISTENCE[kind]
    owner.execute(statement)
    before = outcome(owner, query)
    assert reported or isinstance(before, list)
    assert ", ".join(advisory_locks.find_collisions(owner, "own")) == "".join(reported)
    owner.execute("SET search_path = own, pg_catalog, public")
    assert (outcome(owner, query) != before) == bool(reported)


def test_a_default_conversion_collides_by_its_encodings(owner: Connection) -> None:
    """No query names it: the server uses the first default conversion on the path."""
    owner.execute("CREATE DEFAULT CONVERSION c FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8")
    assert advisory_locks.find_collisions(owner, "own") == ["conversion c"]


def test_collisions_are_those_of_one_schema(owner: Connection) -> None:
    owner.execute("CREATE SCHEMA other; CREATE TABLE other.date (n int)")
    assert advisory_locks.find_collisions(owner, "own") == []
    owner.execute("CREATE TABLE point (n int); CREATE TABLE date (n int)")
    assert advisory_locks.find_collisions(owner, "own") == ["type date", "type point"]
    assert advisory_locks.find_collisions(owner, "other") == ["type date"]
