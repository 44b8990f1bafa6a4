"""Badly behaved tests while workers are killed: no test is lost, or reported twice."""

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from ..observed import Reported, finish, workers
from ..project import METHODS, Project
from .generator import Suite, generate

# Rounds with each start method. SOAK_SEED repeats one round.
ROUNDS = int(os.environ.get("SOAK_ROUNDS", "1"))
CLASSES, TESTS = 40, 200
# The most workers to kill from outside, and the range of pauses between kills, in seconds.
KILLS = 8
PAUSES = (0.05, 1.0)
BAD = {"failed", "error", "crashed", "unexpected success"}
KILLED = "was killed by signal 9 (SIGKILL)."


@contextmanager
def kill_workers(
    project: Project, run: int, number: int, chance: random.Random
) -> Iterator[list[int]]:
    """Kill random workers of a run at random times during the block; yield their process ids."""
    # Three deaths of one worker number in a row at start-up end a run, as designed. So once a
    # worker was killed before its first test, spare such workers until all have begun a test.
    killed, is_over = list[int](), threading.Event()

    def kill() -> None:
        spares_starting_workers = False
        while len(killed) < KILLS and not is_over.wait(chance.uniform(*PAUSES)):
            recorded = {line["process"] for line in project.records()}
            found = workers(run)
            if spares_starting_workers:
                found = [worker for worker in found if worker in recorded]
                spares_starting_workers = len(found) < number
            if found:
                worker = chance.choice(found)
                spares_starting_workers |= worker not in recorded
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
                    killed.append(worker)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield killed
    finally:
        is_over.set()
        killer.join()


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("method", METHODS)
def test_every_test_is_reported_once(observed: Project, method: str, number: int) -> None:
    """Its outcome is its own, or an error if its worker was killed, and nothing is left behind."""
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(2**32))
    print(f"SOAK_SEED={seed}")
    chance = random.Random(seed)
    # The exit code of a passing suite is 0, unless a worker is killed during a test.
    is_bad = chance.random() < 0.7
    suite = generate(chance, classes=CLASSES, tests=TESTS, is_bad=is_bad)
    observed.configure('INSTALLED_APPS = ["library"]')
    observed.tests(suite.text)
    number_of_workers = chance.choice([2, 3])
    process = observed.start("--parallel", str(number_of_workers), env={"START_METHOD": method})
    with kill_workers(observed, process.pid, number_of_workers, chance) as killed:
        reported = finish(observed, process)
    check(reported, suite, len(killed))
    check_records(reported, suite)
    assert "stays, for the next run" not in reported.result.output


def check(reported: Reported, suite: Suite, kills: int) -> None:
    outcomes = reported.outcomes
    hit = {test for test, outcome in outcomes.items() if outcome != suite.outcomes.get(test)}
    for test in hit:
        assert outcomes[test] == "crashed", f"{test}: {reported.text(test)}"
        assert KILLED in reported.text(test), f"{test}: {reported.text(test)}"
    broken = set()
    for name, (call,) in reported.fixtures.items():
        if name not in suite.fixtures or suite.fixtures[name] not in call.text:
            assert KILLED in call.text, f"{name}: {call.text}"
            assert name.startswith(("setUpClass (", "tearDownClass (")), f"{name}: {call.text}"
            broken.add(name)
    assert len(hit) + len(broken) <= kills
    missing = suite.outcomes.keys() - outcomes.keys()
    # The class was killed twice during its set-up.
    assert all(f"setUpClass ({test.partition('.')[0]})" in broken for test in missing), missing
    assert outcomes.keys() <= suite.outcomes.keys()
    assert suite.fixtures.keys() <= reported.fixtures.keys()
    is_bad = bool(reported.fixtures) or not BAD.isdisjoint(outcomes.values())
    assert reported.result.code == int(is_bad), reported.result.output[-5000:]
    assert f"Ran {len(outcomes)} tests" in reported.result.stderr


def check_records(reported: Reported, suite: Suite) -> None:
    """Each test ran once, or not at all if its worker was killed."""
    begun = [line for line in reported.records if line["what"] == "begins"]
    ran = [f"{line['case']}.{line['test']}" for line in begun]
    assert len(ran) == len(set(ran))
    not_run = reported.tests - set(ran) - suite.never_recorded
    assert all(KILLED in reported.text(test) for test in not_run), not_run
    assert not set(ran) & suite.never_recorded
