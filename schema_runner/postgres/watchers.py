"""What in a database would be told of all that a run does there, and would be disturbed by it."""

from ..errors import SchemaRunnerError
from .server import Connection

# A publication of some schemas has none that are made later. Event triggers fire but for those
# that are disabled, or for replicas, and what an extension has made knows what it does. What is
# for others than the commands in a run's way, or for logins, is no matter. A slot with another
# plug-in than that of publications decodes every table.
_WATCHERS = """
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
_OF_THE_DATABASE = (
    "PUBLICATION|SUBSCRIPTION|SERVER|USER MAPPING|FOREIGN DATA|LANGUAGE|ACCESS METHOD"
)


def refuse(connection: Connection) -> None:
    """Raise SchemaRunnerError where there is any."""
    found = [text for (text,) in connection.execute(_WATCHERS, [_OF_THE_DATABASE])]
    if found:
        listed = "".join(f"\n  {text}" for text in found)
        raise SchemaRunnerError(
            f"Tests would disturb others in the database {connection.info.dbname!r}:{listed}\n"
            f"Use --host-database test, for a database of their own."
        )
