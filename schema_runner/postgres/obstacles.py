"""Find objects that rule out worker schemas, and objects that react to a run's DDL."""

import re
from collections.abc import Iterator

from ..errors import SchemaRunnerError, advice
from . import function_bodies, move, schemas
from .move import SchemaObject
from .server import Connection

# OIDs below 16384 (FirstNormalObjectId) belong to objects that every new database has.
_DATABASE_OBJECTS = """
    WITH source AS (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %(source)s),
    found (classid, objid) AS (
        SELECT tableoid, oid FROM pg_catalog.pg_namespace WHERE nspname = ANY(%(schemas)s)
        UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_event_trigger
        UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_publication
        UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_foreign_data_wrapper
        UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_foreign_server
        UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_language
        UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_transform
        UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_am
        UNION ALL
        SELECT 'pg_catalog.pg_largeobject'::regclass, oid FROM pg_catalog.pg_largeobject_metadata
        UNION ALL
        -- Other roles than superusers may not read the column tableoid of these two.
        SELECT 'pg_catalog.pg_user_mapping'::regclass, umid FROM pg_catalog.pg_user_mappings
        UNION ALL
        SELECT 'pg_catalog.pg_subscription'::regclass, oid FROM pg_catalog.pg_subscription
        WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database
                         WHERE datname = pg_catalog.current_database())
        UNION ALL
        -- Unique in a database: the cast between two types, and the default operator class of a
        -- type for an access method.
        SELECT c.tableoid, c.oid FROM pg_catalog.pg_cast c
        WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_type t
                          WHERE t.oid IN (castsource, casttarget)
                            AND typnamespace = (SELECT oid FROM source))
        UNION ALL
        SELECT c.tableoid, c.oid
        FROM pg_catalog.pg_opclass c JOIN pg_catalog.pg_type t ON t.oid = opcintype
        WHERE opcdefault AND opcnamespace = (SELECT oid FROM source)
          AND typnamespace <> (SELECT oid FROM source)
    )
    SELECT identity.type, identity.identity
    FROM found, pg_catalog.pg_identify_object(classid, objid, 0) AS identity
    WHERE objid >= 16384
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = found.classid AND d.objid = found.objid
                        AND d.deptype = 'e')
    ORDER BY 1, 2
"""

# Objects that store names as text, which does not follow a moved object.
_TEXTS = r"""
    WITH texts (classid, objid, namespace, content, is_body) AS (
        SELECT p.tableoid, p.oid, pronamespace, prosrc,
               lanname IN ('plpgsql', 'sql')
        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = prolang
        UNION ALL
        SELECT t.tableoid, t.oid, relnamespace,
               pg_catalog.replace(pg_catalog.encode(tgargs, 'escape'), '\000', ' '), false
        FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = tgrelid
        UNION ALL
        SELECT tableoid, oid, dictnamespace, dictinitoption, false
        FROM pg_catalog.pg_ts_dict
    )
    SELECT identity.type, identity.identity, content, is_body
    FROM texts, pg_catalog.pg_identify_object(classid, objid, 0) AS identity
    WHERE namespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %(source)s)
      AND pg_catalog.strpos(pg_catalog.lower(content), pg_catalog.lower(%(source)s)) > 0
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = texts.classid AND d.objid = texts.objid
                        AND d.deptype = 'e')
    ORDER BY 1, 2
"""

# Defaults, constraints and views with a literal that is the name of a relation, such as
# nextval('public.s'::text). Literals of type regclass are OIDs, which follow a moved object.
_LITERALS = r"""
    WITH source AS (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %(source)s),
    expressions (classid, objid, content) AS (
        SELECT d.tableoid, d.oid, pg_catalog.pg_get_expr(adbin, adrelid)
        FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_class c ON c.oid = adrelid
        WHERE relnamespace = (SELECT oid FROM source)
        UNION ALL
        SELECT tableoid, oid, pg_catalog.pg_get_constraintdef(oid)
        FROM pg_catalog.pg_constraint
        WHERE connamespace = (SELECT oid FROM source) AND contype = 'c'
        UNION ALL
        SELECT tableoid, oid, pg_catalog.pg_get_viewdef(oid)
        FROM pg_catalog.pg_class
        WHERE relnamespace = (SELECT oid FROM source) AND relkind IN ('v', 'm')
    ),
    literals AS MATERIALIZED (
        SELECT classid, objid,
               pg_catalog.regexp_replace(content, '''[^'']*''::regclass', '', 'g') AS content
        FROM expressions
        WHERE pg_catalog.strpos(content, '''' || pg_catalog.quote_ident(%(source)s) || '.') > 0
    )
    SELECT identity.type, identity.identity
    FROM literals, pg_catalog.pg_identify_object(classid, objid, 0) AS identity
    WHERE EXISTS (SELECT FROM pg_catalog.pg_class
                  WHERE relnamespace = (SELECT oid FROM source) AND pg_catalog.strpos(
                      content, pg_catalog.format('''%%I.%%I''', %(source)s::text, relname)) > 0)
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = literals.classid AND d.objid = literals.objid
                        AND d.deptype = 'e')
    ORDER BY 1, 2
"""


def find_obstacles(connection: Connection, source: str = "public") -> list[SchemaObject]:
    """List the objects that prevent the use of worker schemas in place of `source`.

    These are objects that cannot be moved, objects that belong to the database and so would be
    shared by all workers, and objects that name `source` in text, which would still refer to it.
    Members of extensions are not listed: they stay in `source`, for all workers.
    """
    immovable = [
        item
        for item in move.list_objects(connection, source)
        if not item.is_movable or item.kind == "foreign table"
    ]
    parameters = {"source": source, "schemas": schemas.list_others(connection)}
    others = connection.execute(_DATABASE_OBJECTS, parameters).fetchall()
    others += connection.execute(_LITERALS, parameters).fetchall()
    return [
        *immovable,
        *(SchemaObject(kind, identity, is_movable=False) for kind, identity in others),
        *_find_references(connection, source),
    ]


def _find_references(connection: Connection, source: str) -> Iterator[SchemaObject]:
    """Yield objects that name `source` in text, except for members of extensions.

    Functions that `function_bodies.rewrite_functions` can rewrite are left out.
    """
    mention = re.compile(
        rf'(?<![\w$])(?:"{re.escape(source)}"|{re.escape(source)})\s*\.\s*'
        r'("(?:[^"]|"")+"|[^\W\d][\w$]*)?',
        re.IGNORECASE,
    )
    path = re.compile(rf"search_path.*\b{re.escape(source)}\b", re.IGNORECASE | re.DOTALL)
    texts = connection.execute(_TEXTS, {"source": source}).fetchall()
    if not texts:
        return
    extension_members = function_bodies.extension_members(connection, source)
    for kind, identity, text, is_body in texts:
        names = {
            function_bodies.unquote(name) for name in mention.findall(text)
        } - extension_members
        if is_body and function_bodies.replace_schema(text, source, None) is not None:
            names = set()
        if names or path.search(text):
            yield SchemaObject(kind, identity, is_movable=False)


# Publications of listed schemas do not include a run's new schemas. Event triggers are harmless if
# they are disabled, fire only for replicas, logins or commands that a run does not execute, or
# belong to an extension. A slot decodes every table unless its plug-in is that of publications.
_OBSERVERS = """
    SELECT pg_catalog.format('publication %%I is FOR ALL TABLES, and its subscribers'
                             ' would stop at tables that they do not have', pubname)
    FROM pg_catalog.pg_publication WHERE puballtables
    UNION ALL
    SELECT pg_catalog.format('replication slot %%I (%%s) would send the rows of tests',
                             slot_name, plugin)
    FROM pg_catalog.pg_replication_slots
    WHERE slot_type = 'logical' AND plugin <> 'pgoutput'
      AND database = pg_catalog.current_database()
    UNION ALL
    SELECT pg_catalog.format('event trigger %%I would call %%s for each object that tests'
                             ' create or drop', evtname, evtfoid::regprocedure)
    FROM pg_catalog.pg_event_trigger t
    WHERE evtenabled IN ('O', 'A') AND evtevent <> 'login'
      AND (evttags IS NULL OR EXISTS (SELECT FROM pg_catalog.unnest(evttags) AS tag
                                      WHERE tag !~ %s))
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                      WHERE classid = 'pg_catalog.pg_event_trigger'::regclass AND objid = t.oid
                        AND deptype = 'e')
    ORDER BY 1
"""
# Command tags of objects that belong to a database: migrations may not create these in the
# project's own. https://www.postgresql.org/docs/current/event-trigger-matrix.html
_HARMLESS_TAGS = "PUBLICATION|SUBSCRIPTION|SERVER|USER MAPPING|FOREIGN DATA|LANGUAGE|ACCESS METHOD"


def refuse_observers(connection: Connection) -> None:
    """Raise SchemaRunnerError if DDL of tests would affect replication or fire event triggers."""
    reasons = [text for (text,) in connection.execute(_OBSERVERS, [_HARMLESS_TAGS])]
    if reasons:
        listed = "".join(f"\n  {text}" for text in reasons)
        raise SchemaRunnerError(
            f"Tests in the database {connection.info.dbname!r} would affect others:{listed}\n"
            f"Use {advice().host_test} to run them in a separate database."
        )
