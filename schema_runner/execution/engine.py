"""The tests of a suite, run in workers: all of them, and some of them once more."""

import itertools
import unittest
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any, TypeAlias

from .crew import Crew
from .messages import Part
from .report import Audience, Failure, Keep, Report
from .schedule import Schedule
from .supervisor import Supervisor

# A test: the number of its subsuite, and its position there.
Spot: TypeAlias = tuple[int, int]


class Engine:
    """Runs tests that are listed by subsuite; `probing` is the crew for what nobody is told of."""

    def __init__(
        self, tests: Sequence[Sequence[Any]], audience: Audience, *, crew: Crew, probing: Crew
    ) -> None:
        self.tests = tests
        self.log = audience.log
        self._audience = audience
        self._crew = crew
        self._probing = probing

    @property
    def is_stopped(self) -> bool:
        """Whether no more tests are to begin."""
        return self._audience.result.shouldStop

    def run(self, schedule: Schedule, *, workers: int, keep: Keep) -> None:
        """Run a schedule, and tell of it."""
        report = Report(self.tests, self._audience, keep=keep)
        Supervisor(workers=workers, schedule=schedule, crew=self._crew, report=report).run()

    def again(self, failure: Failure, *, attempt: int, keep: Keep) -> bool:
        """Run what has failed alone, in a fresh process with a fresh schema, and tell of it.

        Return whether all of its tests have come to an end.
        """
        report = Report(self.tests, self._audience, attempt=attempt, keep=keep)
        schedule = Schedule([Part(1, failure.subsuite, failure.positions)])
        Supervisor(
            workers=1,
            schedule=schedule,
            crew=self._crew,
            report=report,
            are_replacements=True,
        ).run()
        return {(failure.subsuite, position) for position in failure.positions} <= report.ended

    def fails(
        self, failure: Failure, *, after: Sequence[Spot] = (), beside: Sequence[Spot] = ()
    ) -> bool:
        """Find out, telling nobody, whether something fails once more.

        It is run in a fresh process with a fresh schema, after some tests and beside others, which
        are in other workers.
        """
        found: list[Failure] = []

        def keep(one: Failure) -> bool:
            found.append(one)
            return True

        spots = [*after, *((failure.subsuite, position) for position in failure.positions)]
        parts = list(_parts(spots))
        others = list(_parts(beside, first_key=len(parts) + 1))
        audience = replace(
            self._audience,
            result=_Silent(lambda: self.is_stopped),
            observers=(),
            log=lambda _text: None,
        )
        Supervisor(
            workers=2 if others else 1,
            schedule=Schedule([*parts, *others]),
            crew=self._probing,
            report=Report(self.tests, audience, keep=keep),
            are_replacements=True,
        ).run()
        return any(failure.is_about(one) for one in found)


class _Silent(unittest.TestResult):
    """A result that is to say nothing, and that stops when another one does."""

    def __init__(self, is_stopped: Callable[[], bool]) -> None:
        self._is_stopped = is_stopped
        super().__init__()

    @property
    def shouldStop(self) -> bool:  # noqa: N802
        return self._is_stopped()

    @shouldStop.setter
    def shouldStop(self, value: bool) -> None:  # noqa: N802
        """Nothing here stops by itself."""


def _parts(spots: Sequence[Spot], first_key: int = 1) -> Iterator[Part]:
    """Yield parts of the tests in their order: those of one class in a row are one."""
    rows = itertools.groupby(spots, key=itemgetter(0))
    for key, (subsuite, row) in enumerate(rows, first_key):
        yield Part(key, subsuite, tuple(position for _, position in row))
