"""The parallel part of a suite, run by supervised workers."""

import multiprocessing
import os
import time
import unittest
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db import connections
from django.test.runner import ParallelTestSuite

from . import decorators
from .connections import disconnect
from .errors import SchemaRunnerError
from .events import Observer
from .settings import Settings
from .workers.lease_check import LeaseCheck, NoLeases
from .workers.output import LineTracker
from .workers.sigterm import RunSignals

# Every run imports this module, and only those with workers need the rest.
if TYPE_CHECKING:
    from .reruns.diagnosis import Verdict
    from .reruns.probe import SuiteRuns
    from .reruns.run_log import RunLog
    from .scheduling.plan import Ordering, Plan
    from .workers.protocol import WorkerConfig
    from .workers.report import Failure


class Findings(NamedTuple):
    """How a suite went in so many `workers`, which took so many seconds the first time.

    The names of what was `retried`, and of what of that has passed and so is `flaky`; and verdicts
    on failures. A run without workers has found nothing.
    """

    workers: int = 0
    seconds: float = 0.0
    retried: Sequence[str] = ()
    flaky: Sequence[str] = ()
    verdicts: "Sequence[Verdict]" = ()


_IGNORING = {unittest.TestResult.addSubTest, unittest.TextTestResult.addSubTest}


class SchemaParallelTestSuite(ParallelTestSuite):
    """Stock Django's suite, whose workers are supervised and make their own schemas.

    The runner sets the attributes that come first here. What Django's suite has for subclasses to
    replace works here too, but for `run_subsuite`: nothing calls it.
    """

    settings = Settings()
    keepdb = False
    observers: Collection[Observer] = ()
    log: Callable[[str], None] = staticmethod(print)
    # Returns the command that runs tests of these names without workers.
    command: Callable[[Sequence[str]], str] = staticmethod(" ".join)
    # What decides about the order in place of the suite's own, if anything does.
    order: "Ordering | None" = None
    # The names of tests that are run alone although nothing marks them.
    quarantined: Collection[str] = ()
    diagnoses = False
    # What must not be lost as long as tests are run.
    watch: LeaseCheck = NoLeases()
    signals = RunSignals()
    lines = LineTracker()
    # Whether failures are shown that were followed by a pass.
    shows_flaky = True

    # What the run has found out.
    findings = Findings()

    def run(self, result: unittest.TestResult, debug: bool = False) -> unittest.TestResult:
        with self.lines.track(result):
            self._run(result)
        return result

    def _run(self, result: unittest.TestResult) -> None:
        from .reruns.retry import Retry, show_flaky
        from .reruns.run_log import RunLog

        # Workers buffer. Where the main process does so too, an error in setUpClass breaks
        # off the run: https://code.djangoproject.com/ticket/36491 (until Django 6.0).
        result.buffer = False
        # Not all runners of tests do so.
        unittest.registerResult(result)
        # A forked worker must not find a connection, or a pool of them, that its parent uses.
        disconnect()
        self.initialize_suite()
        self._refuse_databases_of_others()
        tests = [list(subsuite) for subsuite in self.subsuites]
        run_log = RunLog()
        runs = self._runs(tests, result, run_log)
        failures: list[Failure] = []
        retries = Retry(self._retries_of)

        def keep(failure: "Failure") -> bool:
            if retries.keep(failure, runs):
                return True
            failures.append(failure)
            return False

        def give_up(failure: "Failure") -> None:
            failures.append(failure)
            failure.add_to(result)

        begun, ended = time.perf_counter(), None
        verdicts: Sequence[Verdict] = ()
        try:
            runs.run(self._plan(tests).queue(), workers=self.processes, keep=keep)
            ended = time.perf_counter()
            retries.run(runs, give_up)
            if self.diagnoses:
                verdicts = self._diagnose(runs, run_log, failures, result)
        except KeyboardInterrupt:
            if not self.signals.is_aborting:
                raise
            retries.give_up_all(give_up)
        seconds = (ended or time.perf_counter()) - begun
        if retries.flaky and self.shows_flaky:
            self.lines.end_line()
            show_flaky(retries.flaky, result)
        flaky = [failure.name for failure in retries.flaky]
        self.findings = Findings(self.processes, seconds, retries.retried, flaky, verdicts)

    def _diagnose(
        self,
        runs: "SuiteRuns",
        run_log: "RunLog",
        failures: "list[Failure]",
        result: unittest.TestResult,
    ) -> "Sequence[Verdict]":
        from .reruns.diagnosis import Diagnosis

        if result.failfast and not self.signals.is_interrupted:
            # The first failure ends the tests, and not what finds out about it.
            result.shouldStop = False
        return Diagnosis(runs, run_log).run(failures)

    def _refuse_databases_of_others(self) -> None:
        """Refuse to run in a worker of another run, whose databases others are using."""
        aliases = connections if self.used_aliases is None else self.used_aliases
        for alias in aliases:
            if getattr(connections[alias].creation, "may_have_workers", True):
                continue
            raise SchemaRunnerError(
                "Workers within a worker need databases of their own: use a runner's "
                "setup_databases() first, as run_tests() does."
            )

    def _runs(
        self, tests: Sequence[Sequence[Any]], result: unittest.TestResult, run_log: "RunLog"
    ) -> "SuiteRuns":
        from .reruns.probe import SuiteRuns
        from .workers.handle import WorkerPool
        from .workers.output import wants_sql
        from .workers.report import ReportTargets

        observers: list[Observer] = [*self.observers]
        if self.diagnoses:
            observers.append(run_log)
        assigned = self._assigned(result)._replace(
            reports_sql=wants_sql(result), reports_all_sql=getattr(result, "showAll", False)
        )
        return SuiteRuns(
            tests,
            ReportTargets(result, self.handle_event, observers, self.log, self.signals.announce),
            pool=WorkerPool(assigned, tests),
            probing=WorkerPool(assigned._replace(is_silent=True), tests),
            watch=self.watch,
        )

    def _plan(self, tests: Sequence[Sequence[Any]]) -> "Plan":
        from .scheduling.plan import Plan

        return Plan(tests, workers=self.processes, is_serial=self._is_serial, order=self.order)

    def _is_serial(self, test: Any) -> bool:
        return decorators.must_run_alone(test, self.settings, self.quarantined)

    def _retries_of(self, test: Any) -> int:
        return decorators.retries_of(test, self.settings.retries)

    def _assigned(self, result: unittest.TestResult) -> "WorkerConfig":
        from .workers.debugger import TEST_PLACEHOLDER
        from .workers.protocol import WorkerConfig

        is_only_one = self.processes == 1
        # A run within a test has no terminal that it could lend.
        may_prompt = is_only_one or (multiprocessing.parent_process() is None and os.isatty(0))
        return WorkerConfig(
            number=1,
            is_replacement=False,
            is_only_one=is_only_one,
            is_silent=False,
            main=None,
            may_prompt=may_prompt,
            reports_sql=False,
            reports_all_sql=False,
            command=self.command([TEST_PLACEHOLDER]),
            settings=self.settings,
            keepdb=self.keepdb,
            # Django's own are functions, so that they can be pickled, and bound as attributes.
            init_worker=_function(self.init_worker),
            initial_settings=self.initial_settings,
            serialized_contents=self.serialized_contents,
            process_setup=_function(self.process_setup),
            process_setup_args=self.process_setup_args,
            debug_mode=self.debug_mode,
            used_aliases=self.used_aliases,
            runner_class=self.runner_class,
            suite_class=type(self.subsuites[0]),
            failfast=self.failfast,
            buffer=self.buffer,
            tb_locals=getattr(result, "tb_locals", False),
            # Those of unittest do nothing with subtests that pass, and there may be many.
            reports_subtests=getattr(type(result), "addSubTest", None) not in _IGNORING,
            subsuites=None,
        )


def _function(attribute: Any) -> Any:
    return getattr(attribute, "__func__", attribute)
