"""Runs that are killed in any phase: their reports are true, and the next run cleans up."""

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest

from ..observed import Reported, finish
from ..project import Project
from . import soak
from .matrix import LEASE, POSSIBLE, Kill, Run, execute_kill, sessions, wait_for_phase
from .soak import OUTCOMES, ROUNDS, seeded
from .waiting import WAITING, end, waiting

# In each round.
KILLS = 4
# A run may leave the phase before the kill.
ATTEMPTS = 3
KILLED = "was killed by signal"
# Exit codes of runs that a signal ended.
ENDED = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
LEFT = re.compile("stays, for the next run|was lost")
LOST = re.compile("was lost|is lost|terminating connection|connection is closed")


@pytest.mark.parametrize("number", range(KILLS * ROUNDS))
def test_kill(
    project: Project, number: int, record_property: Callable[[str, object], None]
) -> None:
    """Reports are true, the exit code is documented, and nothing is left after the next run."""
    chance = seeded()
    phase = chance.choice(sorted({kill.phase for kill in POSSIBLE}))
    kill = chance.choice([one for one in POSSIBLE if one.phase == phase])
    print(kill)
    with soak.unchanged(project) as changes:
        soak.prepare_mode(project, kill)
        with other_run(project) if kill.mode == "concurrent" else nullcontext():
            for _ in range(ATTEMPTS):
                reported, is_hit = run_and_kill(project, kill, chance)
                check(kill, reported, is_hit=is_hit)
                record_property("soak", ("kills", kill.phase, "hit" if is_hit else "missed"))
                if must_clean_up(kill, is_hit=is_hit):
                    output = reported.result.output
                    assert LEFT.search(output) or not (left := changes()), (left, output)
                if is_hit:
                    break
            soak.recover(project, kill)
        if kill.mode == "concurrent":
            soak.run(project, env={})


@contextmanager
def other_run(project: Project) -> Iterator[None]:
    """Keep a run of another project with the same NAME in a test during the block."""
    live = Project(project.folder / "live", project.server, project.name, project.fork_server)
    live.tests(WAITING)
    process = live.start()
    try:
        waiting(live, 1)
        yield
        end(live, process).passed()
    finally:
        live.end()


def run_and_kill(project: Project, kill: Kill, chance: random.Random) -> tuple[Reported, bool]:
    """Return the run's reports, and whether it was killed in the phase."""
    with project.maintenance() as observer:
        others = sessions(observer)
        process = soak.start(project, *kill.flags, "-v2", env=kill.env)
        begun = chance.randint(1, len(OUTCOMES) // 2)
        run = Run(project, process, others)
        is_hit = wait_for_phase(run, kill.phase, observer, begun) and execute_kill(
            kill, process, observer, chance
        )
    return finish(project, process), is_hit


def must_clean_up(kill: Kill, *, is_hit: bool) -> bool:
    """Whether the run must leave nothing, or name what it leaves."""
    is_killed = is_hit and kill.target != "worker" and kill.signals.endswith("KILL")
    return not (is_killed or "--keepdb" in kill.flags or kill.mode == "concurrent")


def check(kill: Kill, reported: Reported, *, is_hit: bool) -> None:
    """Check that outcomes are real, or crashes of the killed worker, and check the exit code."""
    output = reported.result.output
    *_, last = kill.signals.split() if is_hit else ["none"]
    if last == "SIGKILL" and kill.target != "worker":
        assert reported.result.code == -9, output
        soak.check_fragment(reported)
        return
    if kill.target == LEASE and reported.result.code:
        assert LOST.search(output), output
        soak.check_fragment(reported)
        return
    outcomes = reported.outcomes
    hit = {test for test in outcomes if outcomes[test] != OUTCOMES[test]}
    assert all(outcomes[test] == "crashed" and KILLED in reported.text(test) for test in hit), (
        output
    )
    broken = {name for name, calls in reported.fixtures.items() if KILLED in calls[0].text}
    assert set(reported.fixtures) == broken, output
    assert len(hit) + len(broken) <= (kill.target == "worker")
    is_interrupted = last in {"SIGINT", "SIGTERM", "SIGHUP"} and kill.target != "worker"
    if not is_interrupted:
        missing = OUTCOMES.keys() - outcomes.keys()
        assert all(f"({test.partition('.')[0]})" in str(broken) for test in missing), output
    if is_interrupted:
        assert reported.result.code == ENDED[last], output
    else:
        assert reported.result.code == bool(hit or broken), output
