"""Objects that rule out worker schemas, and those that would react to a run's DDL."""

import re
from collections.abc import Iterator

from ..errors import SchemaRunnerError
from . import function_bodies, move, schemas
from .move import SchemaObject
from .server import Connection

# OIDs below 16384 (FirstNormalObjectId) are of what every database begins with.
_DATABASE_OBJECTS = """
    WITH source AS (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %(source)s),
    found (classid, objid) AS (
        SELECT 'pg_catalog.pg_namespace'::regclass, oid FROM pg_catalog.pg_namespace
        WHERE nspname = ANY(%(schemas)s)
        UNION ALL
        SELECT 'pg_catalog.pg_event_trigger'::regclass, oid FROM pg_catalog.pg_event_trigger
        UNION ALL
        SELECT 'pg_catalog.pg_publication'::regclass, oid FROM pg_catalog.pg_publication
        UNION ALL
        SELECT 'pg_catalog.pg_subscription'::regclass, oid FROM pg_catalog.pg_subscription
        WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database
                         WHERE datname = pg_catalog.current_database())
        UNION ALL
        SELECT 'pg_catalog.pg_foreign_data_wrapper'::regclass, oid
        FROM pg_catalog.pg_foreign_data_wrapper
        UNION ALL
        SELECT 'pg_catalog.pg_foreign_server'::regclass, oid FROM pg_catalog.pg_foreign_server
        UNION ALL
        SELECT 'pg_catalog.pg_user_mapping'::regclass, umid FROM pg_catalog.pg_user_mappings
        UNION ALL
        SELECT 'pg_catalog.pg_language'::regclass, oid FROM pg_catalog.pg_language
        UNION ALL
        SELECT 'pg_catalog.pg_transform'::regclass, oid FROM pg_catalog.pg_transform
        UNION ALL
        SELECT 'pg_catalog.pg_am'::regclass, oid FROM pg_catalog.pg_am
        UNION ALL
        SELECT 'pg_catalog.pg_largeobject'::regclass, oid
        FROM pg_catalog.pg_largeobject_metadata
        UNION ALL
        -- Between two types there is one cast, and a type has one default class for each access
        -- method, whatever their schema.
        SELECT 'pg_catalog.pg_cast'::regclass, c.oid FROM pg_catalog.pg_cast c
        WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_type t
                          WHERE t.oid IN (castsource, casttarget)
                            AND typnamespace = (SELECT oid FROM source))
        UNION ALL
        SELECT 'pg_catalog.pg_opclass'::regclass, c.oid
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

# Where names are kept as text: it does not follow what it names.
_TEXTS = r"""
    WITH texts (classid, objid, namespace, content, is_body) AS (
        SELECT 'pg_catalog.pg_proc'::regclass, p.oid, pronamespace, prosrc,
               lanname IN ('plpgsql', 'sql')
        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = prolang
        UNION ALL
        SELECT 'pg_catalog.pg_trigger'::regclass, t.oid, relnamespace,
               pg_catalog.replace(pg_catalog.encode(tgargs, 'escape'), '\000', ' '), false
        FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = tgrelid
        UNION ALL
        SELECT 'pg_catalog.pg_ts_dict'::regclass, oid, dictnamespace, dictinitoption, false
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
# With one of these names, what has it may not be found where the schema is left out.
_SYSTEM_NAMES = """
    SELECT proname FROM pg_catalog.pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace
    UNION SELECT relname FROM pg_catalog.pg_class WHERE relnamespace = 'pg_catalog'::regnamespace
    UNION SELECT typname FROM pg_catalog.pg_type WHERE typnamespace = 'pg_catalog'::regnamespace
"""


def find_obstacles(connection: Connection, source: str = "public") -> list[SchemaObject]:
    """List what makes it impossible to move what `source` has into another schema.

    That is what cannot be moved, what is the database's and so would be shared by all
    workers, and what has the name of `source` in a text, which would go on naming it.
    Members of extensions do not count: they stay, and are for all.
    """
    left = [
        found
        for found in move.list_objects(connection, source)
        if not found.is_movable or found.kind == "foreign table"
    ]
    parameters = {"source": source, "schemas": schemas.list_others(connection)}
    elsewhere = connection.execute(_DATABASE_OBJECTS, parameters).fetchall()
    return [
        *left,
        *(SchemaObject(kind, identity, is_movable=False) for kind, identity in elsewhere),
        *_find_references(connection, source),
    ]


def _find_references(connection: Connection, source: str) -> Iterator[SchemaObject]:
    """List what names `source` in its text, other than for something of an extension.

    What `bodies.rewrite` makes do without the name does not count.
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
    of_extensions = function_bodies.extension_members(connection, source)
    of_the_system = {name for (name,) in connection.execute(_SYSTEM_NAMES)}
    for kind, identity, text, is_body in texts:
        named = {function_bodies.unquote(name) for name in mention.findall(text)} - of_extensions
        if is_body:
            body = function_bodies.parse(text, source, of_extensions)
            if body.without is not None and not body.names & of_the_system:
                named = set()
        if named or path.search(text):
            yield SchemaObject(kind, identity, is_movable=False)


# A publication of some schemas has none that are made later. Event triggers fire but for those
# that are disabled, or for replicas, and what an extension has made knows what it does. What is
# for others than the commands in a run's way, or for logins, is no matter. A slot with another
# plug-in than that of publications decodes every table.
_OBSERVERS = """
    SELECT pg_catalog.format('publication %%I is FOR ALL TABLES, and its subscribers'
                             ' would stop at those they do not have', pubname)
    FROM pg_catalog.pg_publication WHERE puballtables
    UNION ALL
    SELECT pg_catalog.format('replication slot %%I (%%s) would hand on the rows of tests',
                             slot_name, plugin)
    FROM pg_catalog.pg_replication_slots
    WHERE slot_type = 'logical' AND plugin <> 'pgoutput'
      AND database = pg_catalog.current_database()
    UNION ALL
    SELECT pg_catalog.format('event trigger %%I would call %%s for each object that is made'
                             ' or dropped', evtname, evtfoid::regprocedure)
    FROM pg_catalog.pg_event_trigger t
    WHERE evtenabled IN ('O', 'A') AND evtevent <> 'login'
      AND (evttags IS NULL OR EXISTS (SELECT FROM pg_catalog.unnest(evttags) AS tag
                                      WHERE tag !~ %s))
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                      WHERE classid = 'pg_catalog.pg_event_trigger'::regclass AND objid = t.oid
                        AND deptype = 'e')
    ORDER BY 1
"""
# Of the tags of event triggers: what belongs to a database, and no migration may make in
# the project's own. https://www.postgresql.org/docs/current/event-trigger-matrix.html
_HARMLESS_TAGS = "PUBLICATION|SUBSCRIPTION|SERVER|USER MAPPING|FOREIGN DATA|LANGUAGE|ACCESS METHOD"


def refuse_observers(connection: Connection) -> None:
    """Raise SchemaRunnerError where there is any."""
    found = [text for (text,) in connection.execute(_OBSERVERS, [_HARMLESS_TAGS])]
    if found:
        listed = "".join(f"\n  {text}" for text in found)
        raise SchemaRunnerError(
            f"Tests would disturb others in the database {connection.info.dbname!r}:{listed}\n"
            f"Use --host-database test, for a database of their own."
        )
