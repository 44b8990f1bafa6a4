"""`--clear-pools`: the removal of what runs have kept, for all aliases of a run."""

from collections import Counter
from collections.abc import Collection

from django.db import connections

from ..wording import count
from .teardown import TearDown


def clear_pools(aliases: Collection[str] | None) -> str:
    """Remove the pools of the PostgreSQL aliases among these, and say how many in a line."""
    if aliases is not None and not aliases:
        return "No pools are removed: these tests use no database."
    cleared = Counter[str]()
    for alias in connections:
        creation = connections[alias].creation
        if isinstance(creation, TearDown) and (aliases is None or alias in aliases):
            cleared += creation.clear_pools()
    parts = [count(cleared[what], what) for what in ("schema", "database") if cleared[what]]
    said = []
    if parts or cleared["pool"]:
        inner = f" ({', '.join(parts)})" if parts else ""
        said.append(f"Removed {count(cleared['pool'], 'pool')}{inner}.")
    if cleared["pool in use"]:
        pools = count(cleared["pool in use"], "pool is", "pools are")
        said.append(f"{pools} in use by other runs and left alone.")
    return " ".join(said) or "No pools are kept."
