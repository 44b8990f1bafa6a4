"""Aliases that are to use the test database of another one (`TEST["MIRROR"]`)."""

from collections.abc import Collection

from django.db import connections

from ..errors import SchemaRunnerError
from ..wording import did_you_mean


def refuse_mirrors_of_nothing(aliases: Collection[str] | None) -> None:
    """Raise SchemaRunnerError where tests would work in a database that is not for tests.

    Stock Django gives a mirror the NAME that the other alias has by then. That is the project's
    own where no test database is made for the other one: a mirror itself, or in no test's
    `databases`.
    """
    used = [alias for alias in connections if aliases is None or alias in aliases]
    mirrors = {
        alias: connection.settings_dict["TEST"]["MIRROR"]
        for alias in connections
        if (connection := connections[alias]).settings_dict["TEST"]["MIRROR"]
    }
    safe = {alias for alias in used if alias not in mirrors}
    for alias, primary in mirrors.items():
        if primary in safe:
            safe.add(alias)
        elif alias in used:
            _refuse(alias, primary, is_mirror=primary in mirrors)


def _refuse(alias: str, primary: str, *, is_mirror: bool) -> None:
    if primary not in connections:
        hint = did_you_mean(primary, connections)
        raise SchemaRunnerError(
            f"TEST['MIRROR'] of alias {alias!r} is {primary!r}, which is no alias. {hint}".rstrip()
        )
    way_out = (
        "Mirror an alias that has no MIRROR itself."
        if is_mirror
        else f"Name {primary!r} in the `databases` of the test classes too."
    )
    name = connections[alias].settings_dict["NAME"]
    raise SchemaRunnerError(
        f"TEST['MIRROR'] of alias {alias!r} is {primary!r}, for which no test database is made, "
        f"so tests would work in, and empty, the project's own database {name!r}. {way_out}"
    )
