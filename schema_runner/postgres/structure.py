"""A schema's structure as one short value: another one after whatever has altered it."""

from typing import TypeAlias

from .server import Connection

Version: TypeAlias = tuple[object, ...]

# Rows of catalogs are never changed in place but for statistics, so that what names all row
# versions tells of every alteration. Some catalogs are told by what is in them: TRUNCATE alters
# that of tables, and a reset those of triggers and rules, which it takes out of the way for a
# while. Much of what a schema can have besides is left out; `catalog` has it, and takes 20 times
# as long.
_VERSION = """
    WITH ours AS MATERIALIZED (
        SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s
    ), tables AS MATERIALIZED (
        SELECT array_agg(oid) AS oids FROM pg_catalog.pg_class
        WHERE relnamespace = (SELECT oid FROM ours) AND relkind IN ('r', 'p', 'v', 'm', 'c', 'f')
    ), types AS MATERIALIZED (
        SELECT oid, xmin AS version FROM pg_catalog.pg_type
        WHERE typnamespace = (SELECT oid FROM ours)
    )
    SELECT
        (SELECT bit_xor(hash_record_extended(
             ROW(oid, relname, relkind, relowner, relnatts, relchecks, relhasrules, relpersistence,
                 relreplident, relrowsecurity, relforcerowsecurity, relam, reltablespace,
                 reloptions), 0))
         FROM pg_catalog.pg_class WHERE relnamespace = (SELECT oid FROM ours)),
        (SELECT bit_xor(hashint8extended(attrelid::int8 * 2048 + attnum, xmin::text::int8))
         FROM pg_catalog.pg_attribute
         WHERE attrelid = ANY((SELECT oids FROM tables)::oid[]) AND attnum > 0),
        (SELECT bit_xor(hashint8extended(oid::int8, xmin::text::int8))
         FROM pg_catalog.pg_attrdef WHERE adrelid = ANY((SELECT oids FROM tables)::oid[])),
        (SELECT bit_xor(hashint8extended(oid::int8, xmin::text::int8))
         FROM pg_catalog.pg_constraint WHERE connamespace = (SELECT oid FROM ours)),
        (SELECT bit_xor(hashint8extended(indexrelid::int8, xmin::text::int8))
         FROM pg_catalog.pg_index WHERE indrelid = ANY((SELECT oids FROM tables)::oid[])),
        (SELECT bit_xor(hash_record_extended(
             ROW(oid, tgrelid, tgname, tgenabled, tgfoid, tgtype, tgattr::int2[]), 0))
         FROM pg_catalog.pg_trigger
         WHERE tgrelid = ANY((SELECT oids FROM tables)::oid[]) AND NOT tgisinternal),
        (SELECT bit_xor(hash_record_extended(
             ROW(oid, rulename, ev_type, ev_enabled,
                 CASE ev_type WHEN '1' THEN xmin::text END), 0))
         FROM pg_catalog.pg_rewrite WHERE ev_class = ANY((SELECT oids FROM tables)::oid[])),
        (SELECT bit_xor(hashint8extended(oid::int8, xmin::text::int8))
         FROM pg_catalog.pg_policy WHERE polrelid = ANY((SELECT oids FROM tables)::oid[])),
        (SELECT bit_xor(hashint8extended(seqrelid::int8, pg_sequence.xmin::text::int8))
         FROM pg_catalog.pg_sequence JOIN pg_catalog.pg_class c ON c.oid = seqrelid
         WHERE relnamespace = (SELECT oid FROM ours)),
        (SELECT bit_xor(hashint8extended(oid::int8, version::text::int8)) FROM types),
        (SELECT bit_xor(hashint8extended(e.oid::int8, e.xmin::text::int8))
         FROM pg_catalog.pg_enum e JOIN types t ON t.oid = enumtypid),
        (SELECT bit_xor(hashint8extended(oid::int8, xmin::text::int8))
         FROM pg_catalog.pg_proc WHERE pronamespace = (SELECT oid FROM ours))
"""


def version(connection: Connection, schema: str) -> Version:
    """Return what is the same as long as nothing in a schema is made, altered or dropped.

    Rows, sequences' values, TRUNCATE, VACUUM and the triggers that are disabled and enabled again
    do not count.
    """
    row = connection.execute(_VERSION, [schema]).fetchone()
    assert row is not None
    return tuple(row)
