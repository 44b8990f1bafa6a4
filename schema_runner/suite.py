"""The parallel test suite, which supervised workers run."""

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

# Every run imports this module. Only runs with workers need these.
if TYPE_CHECKING:
    from .reruns.diagnosis import Verdict
    from .reruns.probe import SuiteRunner
    from .reruns.run_log import RunLog
    from .scheduling.plan import Ordering, Plan
    from .workers.protocol import WorkerConfig
    from .workers.report import Failure


class SuiteOutcome(NamedTuple):
    """The outcome of a parallel suite; a run without workers has the defaults."""

    workers: int = 0
    # The duration of the first attempt of all tests.
    seconds: float = 0.0
    # The names of the failures that were retried, and of those that then passed.
    retried: Sequence[str] = ()
    flaky: Sequence[str] = ()
    # The diagnoses of failures.
    verdicts: "Sequence[Verdict]" = ()


_IGNORES_SUBTESTS = {unittest.TestResult.addSubTest, unittest.TextTestResult.addSubTest}


class RunConfig(NamedTuple):
    """What a runner tells its parallel suite.

    `command`: returns the command that runs tests, by their ids, without workers.
    `order`: how to order the tests; None for the order of the suite.
    `quarantined`: the ids of flaky tests that run alone (--quarantine-flaky).
    `lease_check`: checks that the run still holds its leases.
    `shows_flaky`: whether the failures of tests that passed on a retry are printed.
    """

    settings: Settings = Settings()
    keepdb: bool = False
    observers: Sequence[Observer] = ()
    log: Callable[[str], None] = print
    command: Callable[[Sequence[str]], str] = " ".join
    order: "Ordering | None" = None
    quarantined: Collection[str] = ()
    diagnoses: bool = False
    lease_check: LeaseCheck = NoLeases()
    signals: RunSignals = RunSignals()
    lines: LineTracker = LineTracker()
    shows_flaky: bool = True


class SchemaParallelTestSuite(ParallelTestSuite):
    """Django's parallel suite, with supervised workers that create their own schemas.

    Subclasses can override the same attributes as in Django's suite, except `run_subsuite`, which
    is not called.

    `config`: what the runner sets before `run`.
    """

    config = RunConfig()

    # Set by `run`.
    outcome = SuiteOutcome()

    def run(self, result: unittest.TestResult, debug: bool = False) -> unittest.TestResult:
        with self.config.lines.track(result):
            self._run(result)
        return result

    def _run(self, result: unittest.TestResult) -> None:
        from .reruns.retry import Retry, show_flaky

        # Workers buffer output. If the main process did so too, an error in setUpClass would abort
        # the run: https://code.djangoproject.com/ticket/36491 (until Django 6.0).
        result.buffer = False
        # Not every unittest runner registers its result.
        unittest.registerResult(result)
        # Forked workers must not inherit connections or connection pools.
        disconnect()
        self.initialize_suite()
        self._refuse_shared_databases()
        tests = [list(subsuite) for subsuite in self.subsuites]
        run_log = self._new_run_log()
        runner = self._suite_runner(tests, result, [run_log] if run_log else [])
        failures: list[Failure] = []
        retries = Retry(self._retries_of)

        def keep(failure: "Failure") -> bool:
            if retries.keep(failure, runner):
                return True
            failures.append(failure)
            return False

        def give_up(failure: "Failure") -> None:
            failures.append(failure)
            failure.add_to(result)

        started, ended = time.perf_counter(), None
        verdicts: Sequence[Verdict] = ()
        try:
            runner.run(self._plan(tests).queue(), workers=self.processes, keep=keep)
            ended = time.perf_counter()
            retries.run(runner, give_up)
            if run_log is not None:
                verdicts = self._diagnose(runner, run_log, failures, result)
        except KeyboardInterrupt:
            if not self.config.signals.is_aborting:
                raise
            retries.give_up_all(give_up)
        seconds = (ended or time.perf_counter()) - started
        if retries.flaky and self.config.shows_flaky:
            self.config.lines.end_line()
            show_flaky(retries.flaky, result)
        flaky = [failure.name for failure in retries.flaky]
        self.outcome = SuiteOutcome(self.processes, seconds, retries.retried, flaky, verdicts)

    def _new_run_log(self) -> "RunLog | None":
        """Return the log that a diagnosis needs, if there will be one."""
        if not self.config.diagnoses:
            return None
        from .reruns.run_log import RunLog

        return RunLog()

    def _diagnose(
        self,
        runner: "SuiteRunner",
        run_log: "RunLog",
        failures: "list[Failure]",
        result: unittest.TestResult,
    ) -> "Sequence[Verdict]":
        from .reruns.diagnosis import Diagnosis

        if result.failfast and not self.config.signals.is_interrupted:
            # --failfast ends the tests, but not the diagnosis.
            result.shouldStop = False
        return Diagnosis(runner, run_log).run(failures)

    def _refuse_shared_databases(self) -> None:
        """Raise SchemaRunnerError if the workers would use the databases of an outer run."""
        aliases = connections if self.used_aliases is None else self.used_aliases
        for alias in aliases:
            if getattr(connections[alias].creation, "may_have_workers", True):
                continue
            raise SchemaRunnerError(
                "Nested workers need their own databases. Call the runner's setup_databases() "
                "first, as run_tests() does."
            )

    def _suite_runner(
        self,
        tests: Sequence[Sequence[Any]],
        result: unittest.TestResult,
        observers: Sequence[Observer],
    ) -> "SuiteRunner":
        from .reruns.probe import SuiteRunner
        from .workers.handle import WorkerPool
        from .workers.output import wants_sql
        from .workers.report import ReportTargets

        config = self._worker_config(result)._replace(
            reports_sql=wants_sql(result), reports_all_sql=getattr(result, "showAll", False)
        )
        return SuiteRunner(
            tests,
            ReportTargets(
                result,
                self.handle_event,
                [*self.config.observers, *observers],
                self.config.log,
                self.config.signals.announce,
            ),
            pool=WorkerPool(config, tests),
            probe_pool=WorkerPool(config._replace(is_silent=True), tests),
            lease_check=self.config.lease_check,
        )

    def _plan(self, tests: Sequence[Sequence[Any]]) -> "Plan":
        from .scheduling.plan import Plan

        return Plan(
            tests, workers=self.processes, is_serial=self._is_serial, order=self.config.order
        )

    def _is_serial(self, test: Any) -> bool:
        return decorators.must_run_alone(test, self.config.settings, self.config.quarantined)

    def _retries_of(self, test: Any) -> int:
        return decorators.retries_of(test, self.config.settings.retries)

    def _worker_config(self, result: unittest.TestResult) -> "WorkerConfig":
        from .workers.debugger import TEST_PLACEHOLDER
        from .workers.protocol import WorkerConfig

        is_only_one = self.processes == 1
        # A run inside a test has no terminal.
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
            command=self.config.command([TEST_PLACEHOLDER]),
            settings=self.config.settings,
            keepdb=self.config.keepdb,
            # Read as attributes, functions are bound to the suite, which cannot be pickled.
            init_worker=_unbound(self.init_worker),
            initial_settings=self.initial_settings,
            serialized_contents=self.serialized_contents,
            process_setup=_unbound(self.process_setup),
            process_setup_args=self.process_setup_args,
            debug_mode=self.debug_mode,
            used_aliases=self.used_aliases,
            runner_class=self.runner_class,
            suite_class=type(self.subsuites[0]),
            failfast=self.failfast,
            buffer=self.buffer,
            tb_locals=getattr(result, "tb_locals", False),
            # unittest's results ignore subtests that pass, of which there may be many.
            reports_subtests=getattr(type(result), "addSubTest", None) not in _IGNORES_SUBTESTS,
            subsuites=None,
        )


def _unbound(attribute: Any) -> Any:
    return getattr(attribute, "__func__", attribute)
