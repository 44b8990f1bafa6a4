"""Whose a database or a schema is, by the role that owns it."""

from psycopg import sql

# A comment proves nothing by itself: any role that may create a database or a schema can write
# one. A superuser passes pg_has_role for every role, so that only what superusers own counts for
# one. USAGE is of roles whose rights are inherited: what we could not drop is not ours.
_IS_OURS = """
    (SELECT CASE WHEN we.rolsuper THEN owner.rolsuper
                 ELSE pg_catalog.pg_has_role(owner.oid, 'USAGE') END
     FROM pg_catalog.pg_roles we, pg_catalog.pg_roles owner
     WHERE we.rolname = current_user AND owner.oid = {owner})
"""


def is_ours(owner: str) -> sql.Composed:
    """Return SQL that tells of a column with a role's OID whether that is us.

    It is if it is the current role, or one that this is a member of.
    """
    return sql.SQL(_IS_OURS).format(owner=sql.Identifier(owner))
