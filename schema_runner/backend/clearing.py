"""`--clear-pools`: the removal of what runs have kept, for all aliases of a run."""

from collections.abc import Collection

from django.db import connections

from ..postgres.clearing import Cleared
from ..wording import count
from .teardown import TearDown


def clear_pools(aliases: Collection[str] | None) -> str:
    """Remove the pools of the PostgreSQL aliases among these, and say how many in a line."""
    cleared = Cleared()
    for alias in connections:
        creation = connections[alias].creation
        if isinstance(creation, TearDown) and (aliases is None or alias in aliases):
            cleared = cleared.plus(creation.clear_pools())
    what = [(cleared.schemas, "schema"), (cleared.databases, "database")]
    inner = ", ".join(count(number, name) for number, name in what if number)
    if inner or cleared.pools:
        said = f"Removed {count(cleared.pools, 'pool')}{f' ({inner})' if inner else ''}."
    elif aliases is not None and not aliases:
        said = "No pools are removed: these tests use no database."
    else:
        said = "" if cleared.in_use else "No pools are kept."
    used = count(cleared.in_use, "pool is", "pools are")
    return (
        f"{said} {used} in use by other runs and left alone.".lstrip() if cleared.in_use else said
    )
