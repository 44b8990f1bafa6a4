"""Contents of a developer's own database, and a check that a run leaves them unchanged."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..digest import digest
from ..project import Project

# Tables with the same names and other columns, rows of django_migrations for all migrations,
# leftovers of a removed feature, and schemas whose names or comments look like ours, but not both.
DECOYS = """
    CREATE TABLE library_author (id serial PRIMARY KEY, name text, precious text);
    CREATE TABLE library_book (id serial PRIMARY KEY, author_id int REFERENCES library_author);
    INSERT INTO library_author (name, precious) VALUES ('mine', 'yes'), ('mine too', 'yes');
    INSERT INTO library_book (author_id) VALUES (1), (2);
    CREATE TABLE library_leftover (n int);
    INSERT INTO library_leftover VALUES (1);
    CREATE TYPE leftover_mood AS ENUM ('good');
    CREATE FUNCTION leftover() RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE VIEW leftover_view AS SELECT n FROM library_leftover;
    CREATE TABLE cache_rows (cache_key text PRIMARY KEY, value text, expires timestamptz);
    INSERT INTO cache_rows VALUES (':1:a', 'mine', '2099-01-01');
    CREATE TABLE django_migrations (
        id bigserial PRIMARY KEY, app text, name text, applied timestamptz DEFAULT now());
    INSERT INTO django_migrations (app, name)
        SELECT 'auth', name FROM unnest(ARRAY[
            '0001_initial', '0002_alter_permission_name_max_length',
            '0003_alter_user_email_max_length', '0004_alter_user_username_opts',
            '0005_alter_user_last_login_null', '0006_require_contenttypes_0002',
            '0007_alter_validators_add_error_messages', '0008_alter_user_username_max_length',
            '0009_alter_user_last_name_max_length', '0010_alter_group_name_max_length',
            '0011_update_proxy_permissions', '0012_alter_user_first_name_max_length']) AS name
        UNION ALL SELECT 'contenttypes', name
        FROM unnest(ARRAY['0001_initial', '0002_remove_content_type_name']) AS name
        UNION ALL SELECT 'library', name
        FROM unnest(ARRAY['0001_initial', '0002_more', '0003_more']) AS name;
    CREATE TABLE django_content_type (id serial PRIMARY KEY, app_label text, model text);
    INSERT INTO django_content_type (id, app_label, model)
        VALUES (1, 'library', 'book'), (77, 'decoy', 'decoy');
    CREATE SCHEMA test_w1_1; CREATE TABLE test_w1_1.mine (n int);
    CREATE SCHEMA test_shims_1; COMMENT ON SCHEMA test_shims_1 IS '{"schema_runner": 2}';
    CREATE SCHEMA mine;
"""
_GLOBAL_OBJECTS = """
    SELECT 'schema', nspname, nspacl::text, obj_description(oid, 'pg_namespace')
    FROM pg_namespace WHERE nspname !~ '^pg_(toast|temp)'
    UNION ALL SELECT 'extension', extname, extnamespace::regnamespace::text, extversion
    FROM pg_extension
    UNION ALL SELECT 'database', datname, datacl::text, shobj_description(oid, 'pg_database')
    FROM pg_database
    UNION ALL SELECT 'role', rolname, rolconfig::text, rolcreatedb::text FROM pg_roles
    UNION ALL SELECT 'setting', setdatabase::text, setrole::text, setconfig::text
    FROM pg_db_role_setting
    UNION ALL SELECT 'large object', oid::text, '', '' FROM pg_largeobject_metadata
    UNION ALL SELECT 'publication', pubname, '', '' FROM pg_publication
    UNION ALL SELECT 'trigger', evtname, '', '' FROM pg_event_trigger
    UNION ALL SELECT 'default', oid::text, defaclacl::text, '' FROM pg_default_acl
    ORDER BY 1, 2
"""


def state(project: Project) -> tuple[object, ...]:
    """Return everything in a project's database and on its server that a run could change."""
    with project.host(project.name) as connection:
        schemas = [digest(connection, name) for name in ("public", "mine", "test_w1_1")]
        return (connection.execute(_GLOBAL_OBJECTS).fetchall(), *schemas)


@contextmanager
def unchanged(project: Project) -> Iterator[Project]:
    """Check that the project's own database is the same before and after the block."""
    before = state(project)
    yield project
    project.end()
    assert state(project) == before
