from collections.abc import Iterator

import pytest
from psycopg import sql

from schema_runner.postgres.catalog import describe, differences
from schema_runner.postgres.server import Connection, Server

from .test_relocation import EVERYTHING

ONE, OTHER = "one", 'The other "%s" schéma'
CREATE = """
    CREATE SCHEMA {0}; SET search_path = {0}, public; GRANT USAGE ON SCHEMA {0} TO "A reader";
    ALTER DEFAULT PRIVILEGES IN SCHEMA {0} GRANT EXECUTE ON ROUTINES TO "A reader"
"""
# What EVERYTHING lacks, to be changed.
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
# What is told to differ after each of some changes to one of two schemas.
CHANGES = {
    "table t": ["CREATE TABLE t ()"],
    "table column empty.a, table column empty.b, table column vacant.a, table column vacant.b,"
    " table empty, table vacant": [
        "ALTER TABLE vacant RENAME TO empty"],
    "table column vacant.c": ["ALTER TABLE vacant ADD c int"],
    "table column vacant.b": ["ALTER TABLE vacant DROP b"],
    "table column vacant.a, table column vacant.b": ["ALTER TABLE vacant DROP a, ADD a int"],
    "table column vacant.a": [
        "ALTER TABLE vacant ALTER a TYPE bigint", "ALTER TABLE vacant ALTER a SET STATISTICS 7",
        "ALTER TABLE vacant ALTER a SET (n_distinct = 5)", "COMMENT ON COLUMN vacant.a IS 'new'",
        'GRANT SELECT (a) ON vacant TO "A reader"'],
    "index column book_title.title, table column book.title": [
        "ALTER TABLE book ALTER title SET STORAGE EXTERNAL"],
    "table column heir.extra": ['ALTER TABLE heir ALTER extra TYPE text COLLATE "C"'],
    "default value for book.title": ["ALTER TABLE book ALTER title SET DEFAULT 'y'"],
    "default value for book.title, table column book.title": [
        "ALTER TABLE book ALTER title DROP DEFAULT"],
    "default value for book.doubled, table column book.doubled": [
        "ALTER TABLE book ALTER doubled DROP EXPRESSION"],
    "table column child.id": ["ALTER TABLE child ALTER id SET GENERATED ALWAYS"],
    "sequence child_id_seq, sequence column child_id_seq.is_called, sequence column"
    " child_id_seq.last_value, sequence column child_id_seq.log_cnt, table column child.id": [
        "ALTER TABLE child ALTER id DROP IDENTITY"],
    "table vacant": [
        "ALTER TABLE vacant SET UNLOGGED", "ALTER TABLE vacant SET (fillfactor = 50)",
        "ALTER TABLE vacant REPLICA IDENTITY FULL", 'ALTER TABLE vacant OWNER TO "A reader"',
        "ALTER TABLE vacant ENABLE ROW LEVEL SECURITY", "COMMENT ON TABLE vacant IS 'new'",
        'GRANT SELECT ON vacant TO "A reader"'],
    "table parent": ["ALTER TABLE parent FORCE ROW LEVEL SECURITY"],
    "table column heir.c, table column heir.id, table column heir.m, table column heir.p, table"
    " heir": [
        "ALTER TABLE heir NO INHERIT parent"],
    "index part1_pkey, table column part1.n, table constraint part1_pkey on part1, table part1": [
        "ALTER TABLE part DETACH PARTITION part1"],
    "index column part2_pkey.n, index part2_pkey, table column part2.n, table constraint"
    " part2_pkey on part2, table part, table part2": [
        "CREATE TABLE part2 PARTITION OF part DEFAULT"],
    "table column book.title": ["ALTER TABLE book ALTER title DROP NOT NULL"],
    "index book_pages_key, index column book_pages_key.pages, table constraint book_pages_key"
    " on book": [
        "ALTER TABLE book ADD UNIQUE (pages)"],
    "table book, table constraint few on book": [
        "ALTER TABLE book ADD CONSTRAINT few CHECK (pages < 9) NOT VALID"],
    "table constraint descent on book": [
        "ALTER TABLE book ALTER CONSTRAINT descent NOT DEFERRABLE",
        "ALTER TABLE book DROP CONSTRAINT descent",
        "ALTER TABLE book DROP CONSTRAINT descent, ADD CONSTRAINT descent FOREIGN KEY (parent)"
        " REFERENCES parent ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED",
        "ALTER TABLE book DISABLE TRIGGER ALL", "COMMENT ON CONSTRAINT descent ON book IS 'new'"],
    "domain constraint positive_check1 on positive": [
        "ALTER DOMAIN positive ADD CHECK (VALUE < 9)"],
    "type positive": ["ALTER DOMAIN positive SET DEFAULT 7"],
    "index book_title, index column book_title.title": ["DROP INDEX book_title"],
    "index book_title": [
        "DROP INDEX book_title; CREATE INDEX book_title ON book (title DESC)",
        "DROP INDEX book_title; CREATE INDEX book_title ON book (title) WHERE pages > 1",
        "CLUSTER book USING book_title", "COMMENT ON INDEX book_title IS 'new'"],
    "index column book_lower.lower": ["ALTER INDEX book_lower ALTER 1 SET STATISTICS 7"],
    "trigger touch on parent": [
        "ALTER TABLE parent DISABLE TRIGGER touch",
        "CREATE OR REPLACE TRIGGER touch BEFORE INSERT ON parent FOR EACH ROW WHEN (NEW.id > 1)"
        " EXECUTE FUNCTION touched()", "COMMENT ON TRIGGER touch ON parent IS 'new'"],
    "trigger touch on parent, trigger touched on parent": [
        "ALTER TRIGGER touch ON parent RENAME TO touched"],
    "rule silent on fleeting": [
        "ALTER TABLE fleeting DISABLE RULE silent",
        "CREATE OR REPLACE RULE silent AS ON DELETE TO fleeting DO ALSO NOTHING"],
    "policy everybody on parent": [
        "ALTER POLICY everybody ON parent USING (false)",
        'ALTER POLICY everybody ON parent TO "A reader"'],
    'rule "_RETURN" on books': [
        "CREATE OR REPLACE VIEW books AS SELECT id, title FROM book LIMIT 1"],
    "view books": ["ALTER VIEW books SET (security_barrier)"],
    "default value for books.title, view column books.title": [
        "ALTER VIEW books ALTER title SET DEFAULT 'z'"],
    "materialized view stored": ["REFRESH MATERIALIZED VIEW stored WITH NO DATA"],
    "sequence free": [
        "ALTER SEQUENCE free INCREMENT 2 CYCLE", "ALTER SEQUENCE free OWNED BY uses_free.n"],
    "sequence parent_id_seq": ["ALTER SEQUENCE parent_id_seq OWNED BY NONE"],
    "type mood": [
        "ALTER TYPE mood RENAME VALUE 'bad' TO 'sad'",
        "ALTER TYPE mood ADD VALUE 'best' BEFORE 'good'", 'ALTER TYPE mood OWNER TO "A reader"',
        "COMMENT ON TYPE mood IS 'new'", "REVOKE ALL ON TYPE mood FROM PUBLIC"],
    "composite type column pair.c": ["ALTER TYPE pair ADD ATTRIBUTE c int"],
    "cast (pair AS mood)": ["DROP CAST (pair AS mood)"],
    "cast (mood AS pair)": ["CREATE CAST (mood AS pair) WITH INOUT"],
    "function answer(integer)": [
        "CREATE OR REPLACE FUNCTION answer(n int DEFAULT 43) RETURNS int LANGUAGE sql"
        " AS 'SELECT n'",
        "CREATE OR REPLACE FUNCTION answer(n int DEFAULT 42) RETURNS int LANGUAGE sql"
        " AS 'SELECT 1'",
        "ALTER FUNCTION answer IMMUTABLE", "ALTER FUNCTION answer SET work_mem = '1MB'",
        "ALTER FUNCTION answer DEPENDS ON EXTENSION citext",
        "REVOKE ALL ON FUNCTION answer FROM PUBLIC"],
    "function newest(parent)": [
        "CREATE OR REPLACE FUNCTION newest(parent) RETURNS SETOF parent LANGUAGE sql STABLE"
        " BEGIN ATOMIC SELECT * FROM parent LIMIT 1; END"],
    "function pathed()": ["ALTER FUNCTION pathed SET search_path = pg_catalog, one"],
    "procedure proceed()": ["ALTER PROCEDURE proceed SECURITY DEFINER"],
    "aggregate total(integer)": [
        "DROP AGGREGATE total(int); CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int,"
        " INITCOND = 1)"],
    "operator ===(mood,mood)": ["ALTER OPERATOR === (mood, mood) SET (RESTRICT = eqsel)"],
    "function of access method function 1 (integer, integer) of lonely USING hash": [
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
    "statistics object book_stats": [
        "ALTER STATISTICS book_stats SET STATISTICS 7",
        "DROP STATISTICS book_stats; CREATE STATISTICS book_stats (mcv) ON title, pages FROM"
        " book"],
    "operator class own_ops USING btree": [
        "COMMENT ON OPERATOR CLASS own_ops USING btree IS 'new'"],
    "schema privileges": [
        "GRANT USAGE ON SCHEMA one TO PUBLIC",
        'GRANT ALL ON SCHEMA one TO "A reader" WITH GRANT OPTION'],
    "schema default privileges": [
        "ALTER DEFAULT PRIVILEGES IN SCHEMA one GRANT SELECT ON TABLES TO PUBLIC"],
}  # fmt: skip
# What makes no difference.
UNCHANGING = [
    "INSERT INTO vacant SELECT n, n FROM generate_series(1, 1000) n; ANALYZE vacant",
    "SELECT nextval('free')",
    "ALTER TABLE vacant ADD c int; ALTER TABLE vacant DROP c",
    "CREATE INDEX i ON vacant (a); DROP INDEX i",
    "REINDEX TABLE book",
    "COMMENT ON SCHEMA one IS 'ours'",
    "TRUNCATE vacant; CLUSTER part1 USING part1_pkey; ALTER TABLE part1 SET WITHOUT CLUSTER",
    "CREATE TEMPORARY TABLE book ()",
    "SET LOCAL quote_all_identifiers = on",
]


@pytest.fixture(scope="module")
def structures(server: Server, module_database: str) -> Iterator[Connection]:
    """A database with two schemas of the same structure, whose names are not alike."""
    with server.connect(module_database) as connection:
        connection.execute('CREATE ROLE "A reader"; CREATE EXTENSION citext')
        connection.execute("CREATE EXTENSION hstore")
        for schema in (OTHER, ONE):
            connection.execute(sql.SQL(CREATE).format(sql.Identifier(schema)))
            connection.execute(EVERYTHING + MORE)
        yield connection
        connection.execute('DROP OWNED BY "A reader"; DROP ROLE "A reader"')


@pytest.fixture
def twins(structures: Connection) -> Iterator[Connection]:
    """The same, with what a test changes rolled back."""
    with structures.transaction(force_rollback=True):
        yield structures


@pytest.fixture(scope="module")
def unchanged(structures: Connection) -> frozenset[str]:
    return describe(structures, OTHER)


def test_the_same_structure_is_described_alike(twins: Connection) -> None:
    """No name of a schema and no OID is in it, nor what a superuser alone may read."""
    described = describe(twins, ONE)
    assert described == describe(twins, OTHER)
    assert differences(twins, ONE, OTHER) == []
    assert not any("one." in fact for fact in described)
    twins.execute('SET LOCAL ROLE "A reader"')
    assert describe(twins, ONE) == described


@pytest.mark.parametrize(
    ("change", "told"), [(change, told) for told, changes in CHANGES.items() for change in changes]
)
def test_a_change_is_told_by_what_it_changes(
    twins: Connection, unchanged: frozenset[str], change: str, told: str
) -> None:
    """Each single difference is seen and named."""
    twins.execute(change)
    found = {fact.split(":")[0] for fact in describe(twins, ONE) ^ unchanged}
    # From PostgreSQL 18 a NOT NULL is a constraint as well.
    names = (fact.replace("{schema}.", "") for fact in found if "_not_null" not in fact)
    assert ", ".join(sorted(names)) == told


@pytest.mark.parametrize("change", UNCHANGING)
def test_what_is_no_structure_makes_no_difference(
    twins: Connection, unchanged: frozenset[str], change: str
) -> None:
    """Rows, statistics, what is dropped again, and the settings of a session."""
    twins.execute(change)
    assert describe(twins, ONE) == unchanged


@pytest.mark.parametrize("schemas", [(ONE, OTHER), (OTHER, ONE)])
def test_differences_are_named_once(twins: Connection, schemas: tuple[str, str]) -> None:
    """What only one of the schemas has counts as what they have unlike."""
    twins.execute("DROP VIEW books; ALTER TABLE book ALTER title DROP DEFAULT")
    assert ", ".join(differences(twins, *schemas)) == (
        'default value for book.title, rule "_RETURN" on books, table column book.title,'
        " view books, view column books.id, view column books.title"
    )


@pytest.mark.parametrize("condition", ["s IN ('a', 'it''s, b')", "s NOT IN ('a]', ')', '')"])
def test_what_is_read_from_a_dump_makes_no_difference(twins: Connection, condition: str) -> None:
    """The server writes the same condition out otherwise once it has read what it had written."""
    twins.execute("".join(f"CREATE SCHEMA {n}; CREATE TABLE {n}.t (s varchar(9));" for n in "ab"))
    twins.execute(f"ALTER TABLE a.t ADD CONSTRAINT known CHECK ({condition})")
    written = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'known'"
    (first,) = twins.execute(written).fetchone() or ("",)
    twins.execute(f"ALTER TABLE b.t ADD CONSTRAINT known {first}")
    assert len(set(twins.execute(written))) == 2
    assert differences(twins, "a", "b") == []
    other = condition.replace("'a", "'x")
    twins.execute(f"ALTER TABLE b.t DROP CONSTRAINT known, ADD CONSTRAINT known CHECK ({other})")
    assert differences(twins, "a", "b") == ["table constraint known on t"]


def test_generated_names_of_types_make_no_difference(twins: Connection) -> None:
    """An array type is named after its element, unless another type has that name."""
    twins.execute(
        "CREATE SCHEMA a; CREATE TABLE a.t (n int); CREATE TABLE a._t (n int);"
        "CREATE SCHEMA b; CREATE TABLE b._t (n int); CREATE TABLE b.t (n int)"
    )
    array = "SELECT typname FROM pg_type WHERE typelem = %s::regtype"
    first, second = (twins.execute(array, [f"{schema}.t"]).fetchone() for schema in "ab")
    assert first != second
    assert differences(twins, "a", "b") == []


def test_members_of_extensions_are_left_out(twins: Connection) -> None:
    """They stay where they are, whatever moves."""
    before = describe(twins, "public")
    twins.execute("CREATE EXTENSION earthdistance SCHEMA public CASCADE")
    assert describe(twins, "public") == before
    assert {fact.split(":")[0] for fact in before} == {"schema privileges"}


def test_a_label_is_a_difference(twins: Connection) -> None:
    """Security labels need a provider, so here one is written where the server keeps it."""
    twins.execute(
        "SET LOCAL allow_system_table_mods = on; INSERT INTO pg_seclabel VALUES"
        " ('one.vacant'::regclass, 'pg_class'::regclass, 0, 'anon', 'MASKED')"
    )
    assert differences(twins, ONE, OTHER) == ["table vacant"]


def test_the_search_path_stays(server: Server, module_database: str) -> None:
    """Neither a session nor a transaction finds its settings changed."""
    with server.connect(module_database) as connection:
        connection.execute("SET search_path = pg_catalog, public")
        describe(connection, "public")
        assert connection.execute("SHOW search_path").fetchone() == ("pg_catalog, public",)
        with connection.transaction():
            connection.execute("SET LOCAL search_path = public")
            describe(connection, "public")
            assert connection.execute("SHOW search_path").fetchone() == ("public",)
