"""Renaming of a database with a pool whose name stock Django is about to take."""

from psycopg import errors, sql

from ..errors import SchemaRunnerError
from . import databases, removal
from .marker import State
from .request import Request


def set_aside(request: Request) -> None:
    """Rename the database of the name of a request if it is kept, for later runs to find it.

    Its clones go. Raises SchemaRunnerError where a live run uses it.
    """
    old = request.name
    with request.server.maintenance() as maintenance, request.holding_name(maintenance):
        found = databases.requested_as(maintenance, old)
        kept = next((one for one in found if one.name == old), None)
        if kept is None or kept.marker.state is not State.KEPT:
            return
        if removal.is_in_use(maintenance, request, kept):
            raise _in_use(old)
        for one in found:
            if one.marker.template == old and one.name != old:
                removal.remove(maintenance, request, one)
        marker = kept.marker
        new = databases.free_name(maintenance, old, str(marker.fingerprint), marker.run)
        rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
        try:
            with maintenance.transaction():
                maintenance.execute(rename.format(sql.Identifier(old), sql.Identifier(new)))
                template = new if marker.template == old else marker.template
                databases.mark(maintenance, new, marker._replace(template=template))
        except errors.ObjectInUse as error:
            raise _in_use(old) from error
    request.log(f"Renamed database {old!r}, which earlier runs have kept, to {new!r}.")


def _in_use(name: str) -> SchemaRunnerError:
    return SchemaRunnerError(
        f"Database {name!r}, which runs keep with --keepdb, is in use. Run again when it is not, "
        f"or without --isolation database."
    )
