"""The example project's tests: the whole command, with one process and with two workers.

Both use a running server. The tests wait for threads and commit, as real ones do.
"""

from pathlib import Path

from schema_runner import embedded

from .command import run
from .comparison import Comparison

_FOLDER = Path(__file__).parents[2] / "example_project"


def compare_workers(server: embedded.EmbeddedServer, *, rounds: int) -> Comparison:
    env = {"DATABASE_URL": f"postgres://{server.user}@:{server.port}/{server.socket_dir}/example"}
    ratios = []
    for _ in range(rounds):
        alone = run(folder=_FOLDER, env=env)
        side_by_side = run("--parallel", "2", folder=_FOLDER, env=env)
        side_by_side.check_passed(alone.check_passed())
        ratios.append(alone.seconds / side_by_side.seconds)
    name, ratio_of = "example project, whole command", "one process / two workers"
    return Comparison(name, ratios, 1.6, ratio_of, is_maximum=False)
