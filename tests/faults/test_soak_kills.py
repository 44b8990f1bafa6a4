"""Runs that are killed anywhere: what they have reported is true, and the next cleans up."""

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest

from ..observed import Reported, finish
from ..project import Project
from . import soaked
from .matrix import LEASE, POSSIBLE, Kill, Run, reaches, sessions, strike
from .soaked import OUTCOMES, ROUNDS, seeded
from .waiting import WAITING, end, waiting

# In each round.
KILLS = 4
# A run may be faster than who watches it.
ATTEMPTS = 3
KILLED = "was killed by signal"
# The exit code of runs that a signal has ended.
ENDED = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
LEFT = re.compile("stays, for the next run|was lost")
LOST = re.compile("was lost|is lost|terminating connection|connection is closed")


@pytest.mark.parametrize("number", range(KILLS * ROUNDS))
def test_kill(
    project: Project, number: int, record_property: Callable[[str, object], None]
) -> None:
    """It has told the truth, it ends as documented, and after the next one nothing is left."""
    chance = seeded()
    phase = chance.choice(sorted({kill.phase for kill in POSSIBLE}))
    kill = chance.choice([one for one in POSSIBLE if one.phase == phase])
    print(kill)
    with soaked.unchanged(project) as changes:
        soaked.prepare_for(project, kill)
        with at_work(project) if kill.mode == "beside" else nullcontext():
            for _ in range(ATTEMPTS):
                reported, is_hit = run_and_kill(project, kill, chance)
                check(kill, reported, is_hit=is_hit)
                record_property("soak", ("kills", kill.phase, "hit" if is_hit else "missed"))
                if cleans_up(kill, is_hit=is_hit):
                    output = reported.result.output
                    assert LEFT.search(output) or not (left := changes()), (left, output)
                if is_hit:
                    break
            soaked.recover(project, kill)
        if kill.mode == "beside":
            soaked.run(project, env={})


@contextmanager
def at_work(project: Project) -> Iterator[None]:
    """Let a run of another project with this NAME be in a test meanwhile."""
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
    """Return what a run has reported, and whether it was killed in the phase."""
    with project.maintenance() as observer:
        others = sessions(observer)
        process = soaked.start(project, *kill.flags, "-v2", env=kill.env)
        begun = chance.randint(1, len(OUTCOMES) // 2)
        run = Run(project, process, others)
        is_hit = reaches(run, kill.phase, observer, begun) and strike(
            kill, process, observer, chance
        )
    return finish(project, process), is_hit


def cleans_up(kill: Kill, *, is_hit: bool) -> bool:
    """Whether a run leaves nothing, or says what."""
    is_killed = is_hit and kill.target != "worker" and kill.signals.endswith("KILL")
    return not (is_killed or "--keepdb" in kill.flags or kill.mode == "beside")


def check(kill: Kill, reported: Reported, *, is_hit: bool) -> None:
    """What the run has reported is what its tests came to, and it has ended as documented."""
    output = reported.result.output
    *_, last = kill.signals.split() if is_hit else ["none"]
    if last == "SIGKILL" and kill.target != "worker":
        assert reported.result.code == -9, output
        soaked.check_fragment(reported)
        return
    if kill.target == LEASE and reported.result.code:
        assert LOST.search(output), output
        soaked.check_fragment(reported)
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
