"""The part of the runner that selects and orders tests, and sets the number of workers."""

import unittest
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from django.test.runner import DiscoverRunner, partition_suite_by_case
from django.test.utils import iter_test_cases  # type: ignore[attr-defined]

from . import decorators
from .errors import count
from .options import Automatic, Options
from .settings import Settings, project_root
from .suite import SchemaParallelTestSuite

if TYPE_CHECKING:
    from .scheduling.history import History, HistoryFolder
    from .scheduling.selection import SuiteSelection
    from .settings import Problem

    Base = DiscoverRunner
else:
    Base = object


class SuiteSelectionMixin(Base):
    """Builds the suite to run, according to the options and the history."""

    _options: Options
    _settings: Settings
    # Entries of SERIAL and OWN_DATABASE that match no test.
    _label_problems: "Collection[Problem]" = ()

    def build_suite(self, test_labels: Any = None, **kwargs: Any) -> Any:
        workers = self.parallel
        suite = super().build_suite(test_labels, **kwargs)
        if self._settings.serial or self._settings.own_database:
            self._label_problems = self._check_labels(suite, test_labels)
        if isinstance(suite, unittest.TestSuite):
            suite = self._select(suite, test_labels or (), workers=workers)
        return suite

    def _check_labels(self, suite: Any, labels: Any) -> "list[Problem]":
        from .scheduling.labels import label_problems

        is_filtered = self.tags or self.exclude_tags or self.test_name_patterns
        is_whole = not labels and not is_filtered and self.pattern == "test*.py"
        return label_problems(self._settings, [*iter_test_cases(suite)], is_whole=is_whole)

    @cached_property
    def _history_folder(self) -> "HistoryFolder | None":
        folder = self._settings.history_dir
        if folder is None:
            return None
        from .scheduling.history import HistoryFolder

        return HistoryFolder(Path(project_root()) / folder)

    @cached_property
    def _history(self) -> "History":
        from .scheduling.history import History

        return History() if self._history_folder is None else self._history_folder.read()

    def _select(
        self, suite: unittest.TestSuite, labels: Collection[str], *, workers: int
    ) -> unittest.TestSuite:
        """Set `parallel`, and return the suite to run: the same one if tests and order stay."""
        all_tests = list(iter_test_cases(suite))
        if self._is_unchanged(suite, workers) and not self._needs_worker(all_tests):
            self.parallel = min(self.parallel, 1)
            return suite
        selection = self._selection(all_tests, labels)
        tests = selection.select(
            all_tests, shard=self._options.shard, only_failed=self._options.last_failed
        )
        subsuites = partition_suite_by_case(self.test_suite(tests))
        cases = [list(subsuite) for subsuite in subsuites]
        if isinstance(workers, Automatic):
            connections = self._workers_by_connections(suite)
            choice = selection.choose_workers(cases, connections=connections)
            self.log(choice.why)
            processes = choice.workers
        elif (processes := workers) > 1:
            maximum = selection.max_workers(cases, workers=workers)
            processes = self._limit_by_connections(min(workers, maximum), workers, suite)
        if processes <= 1 and not self._needs_worker(tests):
            self.parallel = min(self.parallel, 1)
            is_parallel = isinstance(suite, SchemaParallelTestSuite)
            return self.test_suite(tests) if is_parallel or tests is not all_tests else suite
        if processes > 1:
            self.parallel = processes
            self._log_serial_classes(tests)
        else:
            # Retries need a template for fresh schemas, so set up databases as for two workers.
            processes, self.parallel = 1, 2
        parallel_suite = self._parallel_suite(suite, tests is all_tests, subsuites, processes)
        parallel_suite.order = selection.order(tests) if processes > 1 else None
        parallel_suite.quarantined = self._quarantined
        return parallel_suite

    def _log_serial_classes(self, tests: Sequence[Any]) -> None:
        names = self._settings.own_database
        classes = {type(test) for test in tests}
        number = sum(decorators.needs_own_database(one, names) for one in classes)
        if number and self._settings.host_database == "current":
            self.log(
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
        new = self.parallel_test_suite(
            subsuites, processes, self.failfast, self.debug_mode, self.buffer
        )
        return cast("SchemaParallelTestSuite", new)

    def _selection(self, tests: Sequence[Any], labels: Collection[str]) -> "SuiteSelection":
        from .scheduling.selection import SuiteSelection, names_tests, stage_by

        kinds = (unittest.loader._FailedTest, *self.reorder_by)  # type: ignore[attr-defined]
        is_schema = self._settings.isolation == "schema"
        # If resets restore all rows, no kind of test has to come before another.
        restores_all = is_schema and self._settings.reset == "reference"
        is_ordered = (
            self.shuffle is not False
            or self.reverse
            or self._options.order == "suite"
            or names_tests(labels, tests)
        )
        return SuiteSelection(
            history=self._history,
            stage_of=stage_by(kinds[:1] if restores_all else kinds),
            is_serial=self._is_serial,
            keeps_order=is_ordered,
            failed_first=self._options.failed_first,
            log=self.log,
        )

    def _workers_by_connections(self, suite: unittest.TestSuite, wanted: int = 0) -> int | None:
        from .scheduling.worker_count import workers_by_connections

        is_current = self._settings.host_database == "current"
        aliases = self._get_databases(suite)
        return workers_by_connections(aliases, wanted=wanted, is_current=is_current)

    def _limit_by_connections(self, wanted: int, requested: int, suite: unittest.TestSuite) -> int:
        """Return `wanted` workers, or fewer if the server has too few connections left.

        In that case, log a line with the `requested` number, which is the value of --parallel.
        """
        allowed = self._workers_by_connections(suite, wanted) if wanted > 1 else None
        if allowed is None or allowed >= wanted:
            return wanted
        from .scheduling.worker_count import connection_limit, explain_worker_count

        number, why = connection_limit(allowed)
        self.log(explain_worker_count(requested, number, why))
        return number

    @cached_property
    def _quarantined(self) -> Collection[str]:
        return self._history.flaky if self._options.quarantine_flaky else ()

    def _is_serial(self, test: Any) -> bool:
        return decorators.must_run_alone(test, self._settings, self._quarantined)

    def _needs_worker(self, tests: Sequence[Any]) -> bool:
        """Whether retries or a diagnosis may need a worker process."""
        if self.pdb or not tests:
            return False
        retries = self._settings.retries
        return self._options.diagnose or any(
            decorators.retries_of(test, retries) for test in tests
        )
