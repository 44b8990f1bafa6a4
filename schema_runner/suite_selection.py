"""Select and order the tests of a run, and choose the number of workers."""

import unittest
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from django.test.runner import partition_suite_by_case
from django.test.utils import iter_test_cases  # type: ignore[attr-defined]

from . import decorators
from .errors import count
from .options import Automatic, Options
from .run_history import RunHistory
from .settings import Settings
from .suite import SchemaParallelTestSuite

if TYPE_CHECKING:
    from .scheduling.plan import Ordering
    from .scheduling.selection import SuiteSelection
    from .settings import Problem


class SuiteSelector:
    """Selects and orders the tests of a run, according to its options and the history.

    `runner`: a DiscoverRunner, whose `parallel` it sets.
    `label_problems`: entries of SERIAL and OWN_DATABASE that match no test.
    `sizes`: the number of tests of each selected class.
    `order`: how a parallel suite orders them; None for the order of the suite.
    """

    def __init__(
        self, runner: Any, settings: Settings, options: Options, history: RunHistory
    ) -> None:
        self.label_problems: Collection[Problem] = ()
        self.sizes: Counter[type] = Counter()
        self.order: Ordering | None = None
        self._runner = runner
        self._settings = settings
        self._options = options
        self._history = history

    def select(self, suite: Any, labels: Collection[str], *, workers: int) -> Any:
        """Return the suite to run: the same one if tests and order stay."""
        if self._settings.serial or self._settings.own_database:
            self.label_problems = self._check_labels(suite, labels)
        if isinstance(suite, unittest.TestSuite):
            suite = self._select(suite, labels, workers=workers)
        self.sizes = Counter(map(type, iter_test_cases(suite)))
        return suite

    @property
    def has_own_databases(self) -> bool:
        """Whether a selected class gets its own database."""
        names = self._settings.own_database
        return any(decorators.needs_own_database(one, names) for one in self.sizes)

    @cached_property
    def quarantined(self) -> Collection[str]:
        """The ids of flaky tests that run alone (--quarantine-flaky)."""
        return self._history.earlier.flaky if self._options.quarantine_flaky else ()

    def _check_labels(self, suite: Any, labels: Collection[str]) -> "list[Problem]":
        from .scheduling.labels import label_problems

        runner = self._runner
        is_filtered = runner.tags or runner.exclude_tags or runner.test_name_patterns
        is_whole = not labels and not is_filtered and runner.pattern == "test*.py"
        return label_problems(self._settings, [*iter_test_cases(suite)], is_whole=is_whole)

    def _select(
        self, suite: unittest.TestSuite, labels: Collection[str], *, workers: int
    ) -> unittest.TestSuite:
        runner, all_tests = self._runner, list(iter_test_cases(suite))
        if self._is_unchanged(suite, workers) and not self._needs_worker(all_tests):
            runner.parallel = min(runner.parallel, 1)
            return suite
        selection = self._selection(all_tests, labels)
        tests = selection.select(
            all_tests, shard=self._options.shard, only_failed=self._options.last_failed
        )
        subsuites = partition_suite_by_case(runner.test_suite(tests))
        cases = [list(subsuite) for subsuite in subsuites]
        processes = self._choose_processes(selection, cases, suite, workers)
        if processes <= 1 and not self._needs_worker(tests):
            runner.parallel = min(runner.parallel, 1)
            is_parallel = isinstance(suite, SchemaParallelTestSuite)
            is_same = tests is all_tests and not is_parallel
            return suite if is_same else cast("unittest.TestSuite", runner.test_suite(tests))
        if processes > 1:
            runner.parallel = processes
            self._log_serial_classes(tests)
            self.order = selection.order(tests)
        else:
            # Retries need a template for fresh schemas, so set up databases as for two workers.
            processes, runner.parallel = 1, 2
        return self._parallel_suite(suite, tests is all_tests, subsuites, processes)

    def _choose_processes(
        self,
        selection: "SuiteSelection",
        cases: Sequence[Sequence[Any]],
        suite: unittest.TestSuite,
        workers: int,
    ) -> int:
        """Return the number of worker processes, and log why it differs from the one given."""
        if isinstance(workers, Automatic):
            connections = self._workers_by_connections(suite)
            choice = selection.choose_workers(cases, connections=connections)
            self._runner.log(choice.why)
            return choice.workers
        if workers > 1:
            maximum = selection.max_workers(cases, workers=workers)
            return self._limit_by_connections(min(workers, maximum), workers, suite)
        return workers

    def _log_serial_classes(self, tests: Sequence[Any]) -> None:
        names = self._settings.own_database
        classes = {type(test) for test in tests}
        number = sum(decorators.needs_own_database(one, names) for one in classes)
        if number and self._settings.is_current:
            self._runner.log(
                f"Running {count(number, 'own_database class', 'own_database classes')} alone, "
                f"because --host-database current creates no other database."
            )

    def _is_unchanged(self, suite: unittest.TestSuite, workers: int) -> bool:
        """Whether the suite needs no workers, and no option selects or orders its tests."""
        options = self._options
        is_serial = workers <= 1 and not isinstance(workers, Automatic)
        is_selected = options.shard or options.last_failed or options.failed_first
        return is_serial and not is_selected and not isinstance(suite, SchemaParallelTestSuite)

    def _parallel_suite(
        self, suite: unittest.TestSuite, is_whole: bool, subsuites: list[Any], processes: int
    ) -> SchemaParallelTestSuite:
        if isinstance(suite, SchemaParallelTestSuite) and is_whole:
            suite.processes = processes
            return suite
        runner = self._runner
        new = runner.parallel_test_suite(
            subsuites, processes, runner.failfast, runner.debug_mode, runner.buffer
        )
        return cast("SchemaParallelTestSuite", new)

    def _selection(self, tests: Sequence[Any], labels: Collection[str]) -> "SuiteSelection":
        from .scheduling.selection import SuiteSelection, names_tests, stage_by

        runner = self._runner
        kinds = (unittest.loader._FailedTest, *runner.reorder_by)  # type: ignore[attr-defined]
        # If resets restore all rows, no kind of test has to come before another.
        restores_all = not self._settings.is_stock and self._settings.reset == "reference"
        is_ordered = (
            runner.shuffle is not False
            or runner.reverse
            or self._options.order == "suite"
            or names_tests(labels, tests)
        )
        return SuiteSelection(
            history=self._history.earlier,
            stage_of=stage_by(kinds[:1] if restores_all else kinds),
            is_serial=self._is_serial,
            keeps_order=is_ordered,
            failed_first=self._options.failed_first,
            log=runner.log,
        )

    def _workers_by_connections(self, suite: unittest.TestSuite, wanted: int = 0) -> int | None:
        from .scheduling.worker_count import workers_by_connections

        aliases = self._runner._get_databases(suite)
        return workers_by_connections(aliases, wanted=wanted, is_current=self._settings.is_current)

    def _limit_by_connections(self, wanted: int, requested: int, suite: unittest.TestSuite) -> int:
        """Return `wanted` workers, or fewer if the server has too few connections left.

        In that case, log a line with the `requested` number, which is the value of --parallel.
        """
        allowed = self._workers_by_connections(suite, wanted) if wanted > 1 else None
        if allowed is None or allowed >= wanted:
            return wanted
        from .scheduling.worker_count import connection_limit, explain_worker_count

        number, why = connection_limit(allowed)
        self._runner.log(explain_worker_count(requested, number, why))
        return number

    def _is_serial(self, test: Any) -> bool:
        return decorators.must_run_alone(test, self._settings, self.quarantined)

    def _needs_worker(self, tests: Sequence[Any]) -> bool:
        """Whether retries or a diagnosis may need a worker process."""
        if self._runner.pdb or not tests:
            return False
        retries = self._settings.retries
        return self._options.diagnose or any(
            decorators.retries_of(test, retries) for test in tests
        )
