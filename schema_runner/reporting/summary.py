"""A few lines about a run, after those of stock Django."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..execution.diagnosis import Verdict
from ..execution.events import ClassFinished, Event, Finished, Outcome
from ..workspace import Counts

# How many tests are named in a line: all of it is to fit on a screen.
_NAMED = 5


@dataclass(slots=True)
class Tally:
    """An observer that counts for the summary. Times are in seconds."""

    # By worker.
    busy: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    resets: int = 0
    reset_time: float = 0.0
    crashed: list[str] = field(default_factory=list)
    timed_out: list[str] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        match event:
            case ClassFinished():
                self.busy[event.worker] += event.duration
                self.resets += event.resets
                self.reset_time += event.reset_time
            case Finished(outcome=Outcome.CRASHED):
                self.crashed.append(event.test_id)
            case Finished(outcome=Outcome.TIMED_OUT):
                self.timed_out.append(event.test_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run has come to.

    Times are in seconds: `tests` is how long `workers` had to do with all tests, the first time.
    """

    workers: int
    set_up: float
    tests: float
    tear_down: float
    tally: Tally
    counts: Counts
    retried: Sequence[str] = ()
    flaky: Sequence[str] = ()
    fails_on_flaky: bool = False

    def lines(self) -> Iterator[str]:
        """Yield the lines, one screen of them at most."""
        yield f"{self._workers}Set-up {_time(self.set_up)}, tear-down {_time(self.tear_down)}."
        if schemas := self._schemas:
            yield schemas
        tally = self.tally
        if tally.resets:
            each = 1000 * tally.reset_time / tally.resets
            yield f"Resets: {tally.resets} in {_time(tally.reset_time)}, {each:.0f} ms each."
        failing = ", which fails the run" if self.fails_on_flaky else ""
        yield from _named(f"Flaky: passed when run again{failing}", self.flaky)
        others = [name for name in self.retried if name not in self.flaky]
        yield from _named("Failed again when run again", others)
        yield from _named("Crashed", tally.crashed)
        yield from _named("Timed out", tally.timed_out)

    @property
    def _workers(self) -> str:
        busy = sum(self.tally.busy.values())
        if self.workers < 2 or not self.tests:
            return ""
        share = min(busy / (self.workers * self.tests), 1)
        return (
            f"{_count(self.workers, 'worker')}, busy for {share:.0%} of {_time(self.tests)}: "
            f"{busy / self.tests:.1f} times as fast as one after another. "
        )

    @property
    def _schemas(self) -> str:
        counts = self.counts
        had = [
            _count(counts.schemas, "schema") + " made" if counts.schemas else "",
            _count(counts.reused, "schema") + " reused" if counts.reused else "",
            _count(counts.databases, "database") + " made" if counts.databases else "",
        ]
        total = counts.schemas + counts.reused + counts.databases
        kept = f"{counts.kept} kept" if counts.kept else ""
        dropped = f"{total - counts.kept} dropped" if total > counts.kept else ""
        listed = ", ".join(filter(None, [*had, kept, dropped]))
        return f"{listed[0].upper()}{listed[1:]}." if listed else ""


def verdict_lines(verdicts: Sequence[Verdict], commands: Sequence[str]) -> Iterator[str]:
    """Yield lines about failures that were diagnosed, each with the command to see it again."""
    for verdict, command in zip(verdicts, commands, strict=True):
        yield f"{verdict.name} is {verdict.kind.upper()}: {verdict.evidence}."
        yield f"    {command}"


def _named(what: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        unique = list(dict.fromkeys(names))
        more = len(unique) - _NAMED
        listed = ", ".join(unique[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        yield f"{what} ({len(unique)}): {listed}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
