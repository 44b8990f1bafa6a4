"""The example project's tests: the whole command with one process, and with two workers.

Both use a server that runs already. Its tests wait for threads and commit, as real ones do.
"""

import re
import time
from pathlib import Path

from schema_runner import embedded

from .command import run
from .comparison import Comparison, Target

_FOLDER = Path(__file__).parents[2] / "example_project"


def compare_workers(server: embedded.Server, *, rounds: int) -> Comparison:
    ratios = []
    for _ in range(rounds):
        alone, tests = _run(server)
        side_by_side, same_tests = _run(server, "--parallel", "2")
        assert tests == same_tests, f"{tests} alone, {same_tests} in two workers"
        ratios.append(alone / side_by_side)
    return Comparison(
        "example project, whole command",
        "one process / two workers",
        ratios,
        Target(is_maximum=False, bound=1.6),
    )


def _run(server: embedded.Server, *arguments: str) -> tuple[float, str]:
    """Return the seconds it takes, and how many tests it says it has run."""
    url = f"postgres://{server.user}@:{server.port}/{server.socket_dir}/example"
    begun = time.perf_counter()
    output = run(*arguments, folder=_FOLDER, environment={"DATABASE_URL": url})
    taken = time.perf_counter() - begun
    passed = re.search(r"^Ran (\d+) tests in .*\n\nOK\b", output, re.MULTILINE)
    assert passed, output
    return taken, passed[1]
