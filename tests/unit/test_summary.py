"""The lines after stock Django's summary, by the time that a run took."""

import pytest

from schema_runner.database.usage import Usage
from schema_runner.reporting.summary import Summary, Tally
from schema_runner.suite import SuiteOutcome

BUSY = "2 workers, 90% busy, 1.8x faster than serial (10.0 s). "


@pytest.mark.parametrize(
    ("workers", "seconds", "set_up", "expected"),
    [
        # A run without tests has only a start-up time.
        (2, 9.9, 0.5, ["2 workers. Set-up 0.5 s, tear-down 40 ms."]),
        (2, 10.0, 0.5, [f"{BUSY}Set-up 0.5 s, tear-down 40 ms."]),
        (1, 99.0, 0.0996, ["Set-up 0.1 s, tear-down 40 ms."]),
        (0, 0.0, 150.0, ["Set-up 2.5 min, tear-down 40 ms."]),
        # Without a database, there is no set-up.
        (0, 0.0, 0.0001, []),
    ],
)
def test_times(workers: int, seconds: float, set_up: float, expected: list[str]) -> None:
    """A speed-up is shown from ten seconds on, and parts that took no time are left out."""
    tally = Tally()
    tally.busy = 18.0
    summary = Summary(
        set_up=set_up,
        tear_down=0.04,
        tally=tally,
        usage=Usage(),
        outcome=SuiteOutcome(workers, seconds),
        fails_on_flaky=False,
        tests=4,
        not_run=0,
    )
    assert list(summary.lines()) == expected
