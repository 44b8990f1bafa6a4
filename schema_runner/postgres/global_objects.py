"""Query for the objects of a database that are in no schema, to compare two moments.

It leaves out members of extensions: each extension counts as one object.
"""

from psycopg import sql

_KINDS = {
    "access method": ("pg_am", "amname"),
    "foreign-data wrapper": ("pg_foreign_data_wrapper", "fdwname"),
    "foreign server": ("pg_foreign_server", "srvname"),
    "language": ("pg_language", "lanname"),
    "publication": ("pg_publication", "pubname"),
}
# Of settings, those of this database, and those of our role or all roles for every database.
GLOBAL_OBJECTS = sql.SQL("""
    SELECT 'schema ' || nspname AS name, pg_catalog.concat_ws(' ', nspowner, nspacl) AS value
    FROM project_schemas
    UNION ALL
    SELECT 'extension ' || extname, pg_catalog.concat_ws(' ', nspname, extversion)
    FROM pg_catalog.pg_extension JOIN project_schemas ON project_schemas.oid = extnamespace
    UNION ALL
    SELECT 'database ' || datname, pg_catalog.concat_ws(' ', datdba, datconnlimit, datacl,
                                            pg_catalog.shobj_description(oid, 'pg_database'))
    FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()
    UNION ALL
    SELECT pg_catalog.concat(
               'setting ', pg_catalog.split_part(setting, '=', 1),
               CASE WHEN setrole <> 0 THEN ' of role ' || pg_catalog.pg_get_userbyid(setrole) END,
               CASE WHEN setdatabase <> 0
                    THEN ' in database ' || pg_catalog.current_database() END), setting
    FROM pg_catalog.pg_db_role_setting, pg_catalog.unnest(setconfig) AS setting
    WHERE setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database
                              WHERE datname = pg_catalog.current_database()))
      AND (setdatabase <> 0 OR setrole IN
               (0, (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = session_user),
                   (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user)))
    UNION ALL
    SELECT 'large object ' || oid, pg_catalog.concat_ws(' ', lomowner, lomacl)
    FROM pg_catalog.pg_largeobject_metadata
    UNION ALL
    SELECT 'event trigger ' || evtname,
           pg_catalog.concat_ws(' ', evtevent, evtowner, evtfoid, evtenabled, evttags)
    FROM pg_catalog.pg_event_trigger
    UNION ALL
    SELECT pg_catalog.concat('default privileges (', defaclobjtype, ') of role ',
                             pg_catalog.pg_get_userbyid(defaclrole), ' in schema ' || nspname),
           pg_catalog.concat_ws(' ', defaclacl)
    FROM pg_catalog.pg_default_acl
    LEFT JOIN project_schemas ON project_schemas.oid = defaclnamespace
    WHERE defaclnamespace = 0 OR project_schemas.oid IS NOT NULL
    UNION ALL
    SELECT pg_catalog.concat('user mapping of ', usename, ' for ', srvname),
           pg_catalog.concat_ws(' ', umid, umoptions)
    FROM pg_catalog.pg_user_mappings
    UNION ALL
    SELECT 'cast ' || castsource::regtype || ' as ' || casttarget::regtype,
           pg_catalog.concat_ws(' ', ctid, xmin)
    FROM pg_catalog.pg_cast c
    WHERE oid >= 16384 AND castsource < 16384 AND casttarget < 16384
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                      WHERE classid = 'pg_catalog.pg_cast'::regclass AND objid = c.oid
                        AND deptype = 'e')
    UNION ALL {more}
""").format(
    more=sql.SQL(" UNION ALL ").join(
        sql.SQL("""
            SELECT {kind} || ' ' || {name}, pg_catalog.concat_ws(' ', ctid, xmin)
            FROM pg_catalog.{catalog} o
            WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                              WHERE classid = o.tableoid AND objid = o.oid AND deptype = 'e')
        """).format(
            kind=sql.Literal(kind), name=sql.Identifier(name), catalog=sql.Identifier(catalog)
        )
        for kind, (catalog, name) in _KINDS.items()
    )
)
