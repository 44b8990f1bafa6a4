"""Programs that tests start: PGOPTIONS leads them to the tables of the default alias."""

from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections

from ..postgres import pgoptions
from .assignment import Assignment, startup_options


class Programs:
    """What this process has done for the programs that it starts."""

    def __init__(self) -> None:
        # Whether all is set up, and this process runs tests.
        self.is_testing = False
        self._has_exported = False
        # Settings that PGOPTIONS is not to mislead, and their OPTIONS before and now.
        self._shielded: list[tuple[dict[str, Any], Any, Any]] = []

    def lead(self) -> None:
        """Let them find the worker's tables from now on, wherever these go.

        Nothing is done where a pooler refuses startup options: it would refuse the programs too.
        """
        self.withdraw()
        self.is_testing = True
        found = [one.settings_dict for one in connections.all() if one.vendor == "postgresql"]
        assignments = [Assignment.of(settings_dict) for settings_dict in found]
        default = Assignment.of(connections[DEFAULT_DB_ALIAS].settings_dict)
        options = default.program_options if default else None
        if options is None or any(one.path_is_set_later for one in assignments if one):
            return
        for settings_dict in found:
            self._shield(settings_dict)
        pgoptions.export(options)
        self._has_exported = True

    def withdraw(self) -> None:
        """Take back what `lead` has done."""
        self.is_testing = self._has_exported = False
        pgoptions.export("")
        while self._shielded:
            settings_dict, before, now = self._shielded.pop()
            if settings_dict["OPTIONS"] is now:
                settings_dict["OPTIONS"] = before

    def follow(self) -> None:
        """Lead them to where the tables are by now, unless others have taken ours away."""
        if self.is_testing and self._has_exported <= pgoptions.is_exported():
            self.lead()

    def _shield(self, settings_dict: dict[str, Any]) -> None:
        """Set the startup options that a connection had before, unless it has options of its own.

        A service may define some, which OPTIONS["options"] would replace.
        """
        before = settings_dict["OPTIONS"]
        if "options" not in before and "service" not in before:
            now = {**before, "options": startup_options(before)}
            settings_dict["OPTIONS"] = now
            self._shielded.append((settings_dict, before, now))


programs = Programs()
