"""The proof that a copy is faithful, and the version that changes with the structure."""

import re
from collections.abc import Iterator, Mapping
from contextlib import closing

import pytest
from psycopg import sql

from schema_runner.postgres import structure
from schema_runner.postgres.pg_dump import PgDump
from schema_runner.postgres.server import Connection, Server
from schema_runner.postgres.structure_script import Script

from ..project import connect
from .test_move import EVERYTHING

ONE = "test_w1_1"
CREATE = """
    CREATE SCHEMA {0}; SET search_path = {0}, public; GRANT USAGE ON SCHEMA {0} TO "A reader";
    ALTER DEFAULT PRIVILEGES IN SCHEMA {0} GRANT EXECUTE ON ROUTINES TO "A reader"
"""
# Objects that EVERYTHING lacks, to be changed.
MORE = """
    CREATE TABLE book (
        id int PRIMARY KEY, title text NOT NULL DEFAULT 'x', pages int CHECK (pages > 0),
        parent int CONSTRAINT descent REFERENCES parent DEFERRABLE INITIALLY DEFERRED,
        doubled int GENERATED ALWAYS AS (pages * 2) STORED
    );
    CREATE INDEX book_title ON book (title);
    CREATE INDEX book_lower ON book (lower(title));
    CREATE STATISTICS book_stats ON title, pages FROM book;
    CREATE TABLE vacant (a int, b int);
    CREATE VIEW books AS SELECT id, title FROM book;
    CREATE FUNCTION answer(n int DEFAULT 42) RETURNS int LANGUAGE sql AS 'SELECT n';
    CREATE FUNCTION pathed() RETURNS int LANGUAGE sql SET search_path = pg_catalog AS 'SELECT 1';
    CREATE CAST (pair AS mood) WITH INOUT;
    COMMENT ON TABLE vacant IS 'old';
"""
# Changes to one of two schemas, and the differences that are reported.
CHANGES = {
    "table t": ["CREATE TABLE t ()"],
    "table column empty.a, table column empty.b, table column vacant.a, table column vacant.b,"
    " table empty, table vacant": [
        "ALTER TABLE vacant RENAME TO empty"],
    "table column vacant.c": ["ALTER TABLE vacant ADD c int"],
    "table column vacant.b": ["ALTER TABLE vacant DROP b"],
    "table column vacant.a, table column vacant.b": ["ALTER TABLE vacant DROP a, ADD a int"],
    "table column vacant.a": ["ALTER TABLE vacant ALTER a TYPE bigint"],
    "table vacant": [
        "ALTER TABLE vacant ALTER a SET STATISTICS 7",
        "ALTER TABLE vacant ALTER a SET (n_distinct = 5)", "ALTER TABLE vacant SET UNLOGGED",
        "ALTER TABLE vacant SET (fillfactor = 50)", "ALTER TABLE vacant REPLICA IDENTITY FULL",
        'ALTER TABLE vacant OWNER TO "A reader"', 'GRANT SELECT ON vacant TO "A reader"'],
    "comment COLUMN vacant.a": ["COMMENT ON COLUMN vacant.a IS 'new'"],
    "acl COLUMN vacant.a": ['GRANT SELECT (a) ON vacant TO "A reader"'],
    "table book": [
        "ALTER TABLE book ALTER title SET STORAGE EXTERNAL",
        "ALTER TABLE book ALTER title SET DEFAULT 'y'",
        "ALTER TABLE book ALTER title DROP DEFAULT"],
    "table heir": ['ALTER TABLE heir ALTER extra TYPE text COLLATE "C"'],
    "table column book.doubled": ["ALTER TABLE book ALTER doubled DROP EXPRESSION"],
    "table column child.id": ["ALTER TABLE child ALTER id SET GENERATED ALWAYS"],
    "sequence child_id_seq, table column child.id": ["ALTER TABLE child ALTER id DROP IDENTITY"],
    "row security vacant": ["ALTER TABLE vacant ENABLE ROW LEVEL SECURITY"],
    "comment TABLE vacant": ["COMMENT ON TABLE vacant IS 'new'"],
    "table parent": ["ALTER TABLE parent FORCE ROW LEVEL SECURITY"],
    "default heir id, table heir": ["ALTER TABLE heir NO INHERIT parent"],
    "index attach part1_pkey, table attach part1": ["ALTER TABLE part DETACH PARTITION part1"],
    "constraint part2_pkey on part2, index part2_pkey, table column part2.n, table part2": [
        "CREATE TABLE part2 PARTITION OF part DEFAULT"],
    "table column book.title": ["ALTER TABLE book ALTER title DROP NOT NULL"],
    "constraint book_pages_key on book, index book_pages_key": [
        "ALTER TABLE book ADD UNIQUE (pages)"],
    "constraint few on book": ["ALTER TABLE book ADD CONSTRAINT few CHECK (pages < 9) NOT VALID"],
    "constraint descent on book": [
        "ALTER TABLE book ALTER CONSTRAINT descent NOT DEFERRABLE",
        "ALTER TABLE book DROP CONSTRAINT descent"],
    "fk constraint book descent": [
        "ALTER TABLE book DROP CONSTRAINT descent, ADD CONSTRAINT descent FOREIGN KEY (parent)"
        " REFERENCES parent ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED"],
    "trigger descent on book": ["ALTER TABLE book DISABLE TRIGGER ALL"],
    "comment CONSTRAINT descent ON book": ["COMMENT ON CONSTRAINT descent ON book IS 'new'"],
    "domain positive": [
        "ALTER DOMAIN positive ADD CHECK (VALUE < 9)", "ALTER DOMAIN positive SET DEFAULT 7"],
    "index book_title": [
        "DROP INDEX book_title",
        "DROP INDEX book_title; CREATE INDEX book_title ON book (title DESC)",
        "DROP INDEX book_title; CREATE INDEX book_title ON book (title) WHERE pages > 1",
        "CLUSTER book USING book_title"],
    "comment INDEX book_title": ["COMMENT ON INDEX book_title IS 'new'"],
    "index book_lower": ["ALTER INDEX book_lower ALTER 1 SET STATISTICS 7"],
    "trigger touch on parent": ["ALTER TABLE parent DISABLE TRIGGER touch"],
    "trigger parent touch": [
        "CREATE OR REPLACE TRIGGER touch BEFORE INSERT ON parent FOR EACH ROW WHEN (NEW.id >"
        " 1) EXECUTE FUNCTION touched()"],
    "comment TRIGGER touch ON parent": ["COMMENT ON TRIGGER touch ON parent IS 'new'"],
    "trigger touch on parent, trigger touched on parent": [
        "ALTER TRIGGER touch ON parent RENAME TO touched"],
    "rule silent on fleeting": ["ALTER TABLE fleeting DISABLE RULE silent"],
    "rule fleeting silent": [
        "CREATE OR REPLACE RULE silent AS ON DELETE TO fleeting DO ALSO NOTHING"],
    "policy parent everybody": [
        "ALTER POLICY everybody ON parent USING (false)",
        'ALTER POLICY everybody ON parent TO "A reader"'],
    "view books": [
        "CREATE OR REPLACE VIEW books AS SELECT id, title FROM book LIMIT 1",
        "ALTER VIEW books SET (security_barrier)"],
    "default books title": ["ALTER VIEW books ALTER title SET DEFAULT 'z'"],
    "materialized view stored": ["REFRESH MATERIALIZED VIEW stored WITH NO DATA"],
    "sequence free": ["ALTER SEQUENCE free INCREMENT 2 CYCLE"],
    "default uses_free n, sequence owned by free, table uses_free": [
        "ALTER SEQUENCE free OWNED BY uses_free.n"],
    "default parent id, sequence owned by parent_id_seq, table parent": [
        "ALTER SEQUENCE parent_id_seq OWNED BY NONE"],
    "type mood": [
        "ALTER TYPE mood RENAME VALUE 'bad' TO 'sad'",
        "ALTER TYPE mood ADD VALUE 'best' BEFORE 'good'",
        'ALTER TYPE mood OWNER TO "A reader"', "REVOKE ALL ON TYPE mood FROM PUBLIC"],
    "comment TYPE mood": ["COMMENT ON TYPE mood IS 'new'"],
    "table column pair.c": ["ALTER TYPE pair ADD ATTRIBUTE c int"],
    "cast from pair to mood": ["DROP CAST (pair AS mood)"],
    "cast from mood to pair": ["CREATE CAST (mood AS pair) WITH INOUT"],
    "function answer(integer)": [
        "CREATE OR REPLACE FUNCTION answer(n int DEFAULT 43) RETURNS int LANGUAGE sql AS"
        " 'SELECT n'",
        "CREATE OR REPLACE FUNCTION answer(n int DEFAULT 42) RETURNS int LANGUAGE sql AS"
        " 'SELECT 1'", "ALTER FUNCTION answer IMMUTABLE",
        "ALTER FUNCTION answer SET work_mem = '1MB'",
        "ALTER FUNCTION answer DEPENDS ON EXTENSION citext"],
    "routine answer(integer)": ["REVOKE ALL ON FUNCTION answer FROM PUBLIC"],
    "function newest(parent)": [
        "CREATE OR REPLACE FUNCTION newest(parent) RETURNS SETOF parent LANGUAGE sql STABLE"
        " BEGIN ATOMIC SELECT * FROM parent LIMIT 1; END"],
    "function pathed()": ["ALTER FUNCTION pathed SET search_path = pg_catalog, one"],
    "procedure proceed()": ["ALTER PROCEDURE proceed SECURITY DEFINER"],
    "aggregate total(integer)": [
        "DROP AGGREGATE total(int); CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int,"
        " INITCOND = 1)"],
    "operator ===": ["ALTER OPERATOR === (mood, mood) SET (RESTRICT = eqsel)"],
    "operator family lonely": [
        "ALTER OPERATOR FAMILY lonely USING hash ADD FUNCTION 1 (int) hashint4(int)"],
    "operator class ops USING btree, operator class own_ops USING btree": [
        "ALTER OPERATOR CLASS own_ops USING btree RENAME TO ops"],
    "text search configuration simply": [
        "ALTER TEXT SEARCH CONFIGURATION simply DROP MAPPING FOR email",
        "ALTER TEXT SEARCH CONFIGURATION simply ALTER MAPPING FOR email WITH plain"],
    "text search dictionary plain": ["ALTER TEXT SEARCH DICTIONARY plain (ACCEPT = false)"],
    "text search parser parse": ["DROP TEXT SEARCH PARSER parse"],
    "text search template t, text search template templ": [
        "ALTER TEXT SEARCH TEMPLATE templ RENAME TO t"],
    "collation plainly": ["DROP COLLATION plainly; CREATE COLLATION plainly (LOCALE = 'POSIX')"],
    "conversion conv": [
        "DROP CONVERSION conv; CREATE DEFAULT CONVERSION conv FOR 'LATIN1' TO 'UTF8' FROM"
        " iso8859_1_to_utf8"],
    "statistics book_stats": [
        "ALTER STATISTICS book_stats SET STATISTICS 7",
        "DROP STATISTICS book_stats; CREATE STATISTICS book_stats (mcv) ON title, pages FROM"
        " book"],
    "comment OPERATOR CLASS own_ops USING btree": [
        "COMMENT ON OPERATOR CLASS own_ops USING btree IS 'new'"],
    "schema privileges": [
        "GRANT USAGE ON SCHEMA one TO PUBLIC",
        'GRANT ALL ON SCHEMA one TO "A reader" WITH GRANT OPTION'],
    "default privileges": [
        "ALTER DEFAULT PRIVILEGES IN SCHEMA one GRANT SELECT ON TABLES TO PUBLIC"],
}  # fmt: skip
# Changes that make no difference and do not count as an alteration.
UNCHANGING = [
    "INSERT INTO vacant SELECT n, n FROM generate_series(1, 1000) n; ANALYZE vacant",
    "SELECT nextval('free'), setval('free', 77); ALTER SEQUENCE free RESTART",
    "CREATE INDEX i ON vacant (a); DROP INDEX i",
    "CREATE TABLE t (n int REFERENCES book); DROP TABLE t",
    "COMMENT ON SCHEMA one IS 'ours'; COMMENT ON TABLE vacant IS 'old'",
    "TRUNCATE vacant, uses_free, parent CASCADE",
    "CREATE TEMPORARY TABLE brief () ON COMMIT DROP",
    "ALTER TABLE parent DISABLE TRIGGER touch; ALTER TABLE parent ENABLE TRIGGER touch",
    "ALTER TABLE fleeting DISABLE RULE silent; ALTER TABLE fleeting ENABLE RULE silent",
]
# Objects that pg_dump restores differently in a copy, although they are equivalent.
ALIKE = [
    "ALTER TABLE vacant ADD c int; ALTER TABLE vacant DROP c",
    "REINDEX TABLE book",
    "CLUSTER part1 USING part1_pkey; ALTER TABLE part1 SET WITHOUT CLUSTER",
]
EVERY_CHANGE = [change for changes in CHANGES.values() for change in changes]


def create_schema(connection: Connection, schema: str, change: str = "") -> None:
    """Create a schema with one of each kind of object, and apply the change."""
    connection.execute(sql.SQL(CREATE).format(sql.Identifier(schema)))
    connection.execute(EVERYTHING + MORE)
    connection.execute(re.sub(r"\bone\b", schema, change))


@pytest.fixture(scope="module")
def structures(server: Server, module_database: str) -> Iterator[Connection]:
    """A database with a schema of one of each kind of object."""
    with connect(server, module_database) as connection:
        connection.execute('CREATE ROLE "A reader"; CREATE EXTENSION citext')
        connection.execute("CREATE EXTENSION hstore")
        create_schema(connection, ONE)
        yield connection
        connection.execute('DROP OWNED BY "A reader" CASCADE; DROP ROLE "A reader"')


@pytest.fixture(scope="module")
def reported(server: Server, structures: Connection) -> Mapping[str, list[str]]:
    """The differences from the first schema, by the change that was made."""
    changes = dict(enumerate(["", *EVERY_CHANGE, *UNCHANGING, *ALIKE], start=2))
    for number, change in changes.items():
        create_schema(structures, f"test_w{number}_1", change)
    structures.execute("RESET search_path")
    program, host = PgDump.find(structures.info.server_version), structures.info.dbname
    # A single dump of all takes a twentieth of the time.
    with closing(program.start(server, host, "test_w*")) as dump:
        whole = dump.result()
    entries = re.split(r"^(?=--\n-- Name: )", whole, flags=re.MULTILINE)
    end = whole[whole.rindex("\n--\n-- PostgreSQL database dump complete") :]
    dumps: dict[str, str] = {}
    for entry in entries[1:]:
        for schema in set(re.findall(r"test_w\d+_1\b", entry)):
            dumps[schema] = dumps.get(schema, "") + entry.removesuffix(end)
    inventories, scripts = {}, {}
    for number in (1, *changes):
        schema = f"test_w{number}_1"
        inventories[number] = structure.inventory(structures, schema)
        scripts[number] = Script.parse(dumps[schema] + end, schema, owner="postgres")
    return {
        change: structure.differences(inventories[1], inventories[number])
        or scripts[1].differences(scripts[number])
        for number, change in changes.items()
    }


@pytest.mark.parametrize(
    ("change", "names"),
    [(change, names) for names, changes in CHANGES.items() for change in changes],
)
def test_a_difference_is_named(reported: Mapping[str, list[str]], change: str, names: str) -> None:
    """Each change is detected, by the inventory or else by the dump."""
    assert ", ".join(reported[change]) == names


@pytest.mark.parametrize("change", ["", *UNCHANGING, *ALIKE])
def test_other_changes_make_no_difference(reported: Mapping[str, list[str]], change: str) -> None:
    """Rows, values of sequences, and changes that were reverted."""
    assert reported[change] == []


@pytest.fixture
def altered(structures: Connection) -> Iterator[Connection]:
    """The same database in a transaction that is rolled back."""
    with structures.transaction(force_rollback=True):
        structures.execute(f"SET LOCAL search_path = {ONE}, public")
        yield structures


@pytest.mark.parametrize("change", EVERY_CHANGE)
def test_every_change_changes_the_version(altered: Connection, change: str) -> None:
    before = structure.version(altered, ONE)
    altered.execute(re.sub(r"\bone\b", ONE, change))
    assert structure.version(altered, ONE) != before


@pytest.mark.parametrize("change", UNCHANGING)
def test_other_changes_keep_the_version(altered: Connection, change: str) -> None:
    before = structure.version(altered, ONE)
    altered.execute(re.sub(r"\bone\b", ONE, change))
    assert structure.version(altered, ONE) == before


def test_labels_are_compared(altered: Connection) -> None:
    """Security labels need a provider, so this one is inserted into the catalog."""
    before = structure.version(altered, ONE)
    altered.execute(
        "SET LOCAL allow_system_table_mods = on; INSERT INTO pg_seclabel VALUES"
        " ('vacant'::regclass, 'pg_class'::regclass, 0, 'anon', 'MASKED')"
    )
    assert structure.version(altered, ONE) != before
