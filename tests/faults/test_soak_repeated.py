"""Consecutive runs on one server: catalogs and sessions do not accumulate."""

import statistics
import time
from collections.abc import Callable

import pytest

from ..project import PARALLEL, Project, wait_for
from . import soak
from .matrix import MODES, sessions
from .soak import IS_SOAK

RUNS = 60 if IS_SOAK else 3
# A size has grown if the last is more than TIMES the early one, and more than BYTES above it.
TIMES, BYTES = 2, 4 * 2**20
_SIZES = """
    SELECT pg_database_size(current_database()) AS database,
           pg_total_relation_size('pg_catalog.pg_class') AS pg_class,
           pg_total_relation_size('pg_catalog.pg_attribute') AS pg_attribute,
           pg_total_relation_size('pg_catalog.pg_depend') AS pg_depend
"""


@pytest.mark.parametrize("mode", ["test", "keepdb", "current"])
def test_repeated_runs(
    project: Project, mode: str, record_property: Callable[[str, object], None]
) -> None:
    """Measured is a database that all runs use: `postgres`, the host database or the project's."""
    flags = (*MODES[mode].flags, *PARALLEL)
    taken, sizes = list[float](), list[tuple[int, ...]]()
    with soak.unchanged(project):
        measured = {"test": "postgres", "keepdb": project.test_name, "current": project.name}[mode]
        for _ in range(RUNS):
            begun = time.monotonic()
            soak.run(project, *flags, env={})
            taken.append(time.monotonic() - begun)
            sizes.extend(project.query(_SIZES, database=measured))
            with project.maintenance() as maintenance:
                wait_for(lambda: not sessions(maintenance), "the sessions of the run to end")
        if "--keepdb" in flags:
            soak.run(project, "--clear-pools", env={})
    some = max(1, RUNS // 6)
    early, late = sizes[some - 1], sizes[-1]
    ratio = statistics.median(taken[-some:]) / statistics.median(taken[:some])
    record_property("soak", ("row", mode, f"{RUNS} runs", f"time {ratio:.2f}", early, late))
    grown = [(a, b) for a, b in zip(early, late, strict=True) if b > max(a * TIMES, a + BYTES)]
    assert not grown
