"""Tear-down of a run's databases and schemas; `--clear-pools`."""

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import connections

from ..connections import disconnect
from ..errors import count
from ..postgres import names
from .reuse import ReuseMixin

if TYPE_CHECKING:
    from django.db.backends.postgresql.creation import DatabaseCreation as Base

    from ..postgres.host_request import HostRequest
else:
    Base = object


class TearDownMixin(ReuseMixin, Base):
    """The part of `SchemaCreation` that drops or keeps schemas and databases.

    Django calls `destroy_test_db` for each worker, with its number as `suffix`, and then once for
    the alias. Below verbosity 2, only the last call is logged.
    """

    if TYPE_CHECKING:

        def _request(self) -> "HostRequest": ...

    def clear_pools(self) -> Counter[str]:
        """Remove all pools of this alias that no live run uses; return counts by kind."""
        from ..postgres import removal

        request = self._request()
        if self._is_current:
            return removal.clear_schemas(request)
        return removal.clear_databases(request._replace(name=names.database_name(request.name)))

    def _get_database_display_str(self, verbosity: int, database_name: str) -> str:
        shown: str = super()._get_database_display_str(verbosity, database_name)  # type: ignore[misc]
        # The run creates and destroys schemas only, not the project's own database.
        return shown.replace("('", "(schemas in '") if self._is_current else shown

    def destroy_test_db(
        self,
        old_database_name: str | None = None,
        verbosity: int = 1,
        keepdb: bool = False,
        suffix: str | None = None,
    ) -> None:
        alias = self._alias
        if self.test_databases is None or self.test_databases.host_name(alias) is None:
            shown = verbosity if suffix is None or verbosity > 1 else 0
            super().destroy_test_db(old_database_name, shown, keepdb, suffix)
            return
        self.connection.close()
        if suffix is None:
            what = "schemas" if self._is_current else "database"
            self._log_action(f"{'Preserving' if keepdb else 'Destroying'} test {what}", verbosity)
        workers = self._databases.workers_of(alias) if suffix is None else [int(suffix)]
        for worker in workers:
            if keepdb:
                done = self._databases.keep(alias, worker)
            else:
                done = self._databases.drop(alias, worker)
            if done is not None and verbosity >= 2:
                self.log(f"{'Kept' if keepdb else 'Dropped'} {done}.")
        if suffix is None:
            disconnect()
            self._databases.release(alias, keep=keepdb)
            self._reconnect(None)
            if old_database_name is not None:
                settings.DATABASES[alias]["NAME"] = old_database_name
                self.connection.settings_dict["NAME"] = old_database_name


def clear_pools(aliases: Collection[str] | None) -> str:
    """Remove the pools of these aliases, or of all if None; return a line for the log."""
    if aliases is not None and not aliases:
        return "No pools removed: these tests use no database."
    cleared = Counter[str]()
    for alias in connections:
        creation = connections[alias].creation
        if isinstance(creation, TearDownMixin) and (aliases is None or alias in aliases):
            cleared += creation.clear_pools()
    parts = [count(cleared[what], what) for what in ("schema", "database") if cleared[what]]
    sentences = []
    if parts or cleared["pool"]:
        inner = f" ({', '.join(parts)})" if parts else ""
        sentences.append(f"Removed {count(cleared['pool'], 'pool')}{inner}.")
    if cleared["pool in use"]:
        sentences.append(f"Kept {count(cleared['pool in use'], 'pool')} that other runs use.")
    return " ".join(sentences) or "There are no pools to remove."
