"""Timeouts enforced by the run, with a fake clock."""

import signal
import sys
from dataclasses import dataclass

import pytest

from schema_runner.workers import deaths
from schema_runner.workers.timeouts import Timeout


@dataclass
class Killable:
    """The methods of a worker that `Limits` uses."""

    timeout_deadline: float | None
    is_overdue: bool = False
    kills: int = 0

    def kill(self) -> None:
        self.kills += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(deaths.time, "monotonic", lambda: now[0])
    return now


def keep(clock: list[float], *times: float, until: float = 105.0) -> Killable:
    clock[0] = 100.0
    kept, worker = deaths.TimeoutEnforcer(), Killable(until)
    for now in times:
        clock[0] = now
        kept.kill_overdue([worker, Killable(None)])
    return worker


def test_a_worker_is_killed_at_its_timeout(clock: list[float]) -> None:
    """Once only, even if it takes long to die."""
    assert keep(clock, 100.5, 101.4).kills == 0
    late = keep(clock, *(100 + n / 10 for n in range(70)))
    assert late.is_overdue
    assert late.kills == 1


def test_a_pause_of_the_run_itself_does_not_count(clock: list[float]) -> None:
    """After Ctrl-Z or a suspend, each worker gets its time again."""
    times = [100.5, 9000.0, *(9000 + n / 2 for n in range(1, 11))]
    # At 9000 s, 4.5 s were left at the last check.
    assert [keep(clock, *times[:number]).kills for number in (2, 11, 12)] == [0, 0, 1]


@pytest.mark.parametrize("seconds", [sys.maxsize, 1e300])
def test_a_limit_too_large_for_timers(seconds: float) -> None:
    """It never applies, and raises no error."""
    timeout = Timeout(sys.__stderr__.fileno())
    try:
        timeout.set(seconds)
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 1e8
    finally:
        timeout.clear()
