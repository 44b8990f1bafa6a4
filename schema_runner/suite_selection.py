"""The part of the runner that decides which tests are run, in which order and by how many."""

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
    """Builds suites as the history of earlier runs and the options have it."""

    _options: Options
    _settings: Settings
    # Of SERIAL and OWN_DATABASE.
    _wrong_labels: "Collection[Problem]" = ()

    def build_suite(self, test_labels: Any = None, **kwargs: Any) -> Any:
        wanted = self.parallel
        suite = super().build_suite(test_labels, **kwargs)
        if self._settings.serial or self._settings.own_database:
            self._wrong_labels = self._problems_of_labels(suite, test_labels)
        if isinstance(suite, unittest.TestSuite):
            suite = self._arranged(suite, test_labels or (), workers=wanted)
        return suite

    def _problems_of_labels(self, suite: Any, labels: Any) -> "list[Problem]":
        from .scheduling.labels import problems_of_labels

        selects = self.tags or self.exclude_tags or self.test_name_patterns
        is_whole = not labels and not selects and self.pattern == "test*.py"
        return problems_of_labels(self._settings, [*iter_test_cases(suite)], is_whole=is_whole)

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

    def _arranged(
        self, suite: unittest.TestSuite, labels: Collection[str], *, workers: int
    ) -> unittest.TestSuite:
        """Return the suite as it is to be run: the same one where nothing is to be changed."""
        found = list(iter_test_cases(suite))
        if self._stays_as_it_is(suite, workers) and not self._needs_worker(found):
            self.parallel = min(self.parallel, 1)
            return suite
        arrangement = self._arrangement(found, labels)
        tests = arrangement.select(
            found, shard=self._options.shard, only_failed=self._options.last_failed
        )
        subsuites = partition_suite_by_case(self.test_suite(tests))
        cases = [list(subsuite) for subsuite in subsuites]
        if isinstance(workers, Automatic):
            connections = self._workers_by_connections(suite)
            choice = arrangement.choose_workers(cases, connections=connections)
            self.log(choice.why)
            processes = choice.workers
        elif (processes := workers) > 1:
            shares = arrangement.count_shares(cases, workers=workers)
            processes = self._as_connections_allow(min(workers, shares), workers, suite)
        if processes <= 1 and not self._needs_worker(tests):
            self.parallel = min(self.parallel, 1)
            is_parallel = isinstance(suite, SchemaParallelTestSuite)
            return self.test_suite(tests) if is_parallel or tests is not found else suite
        if processes > 1:
            self.parallel = processes
            self._say_who_is_alone(tests)
        else:
            # What is run again has to be made as what others use is.
            processes, self.parallel = 1, 2
        arranged = self._parallel_suite(suite, tests is found, subsuites, processes)
        arranged.order = arrangement.order(tests) if processes > 1 else None
        arranged.quarantined = self._quarantined
        return arranged

    def _say_who_is_alone(self, tests: Sequence[Any]) -> None:
        names = self._settings.own_database
        classes = {type(test) for test in tests}
        wanting = sum(decorators.needs_own_database(one, names) for one in classes)
        if wanting and self._settings.host_database == "current":
            self.log(
                f"Run alone: {count(wanting, 'class', 'classes')} marked own_database, because no "
                f"other database is made beside the project's own (--host-database current)."
            )

    def _stays_as_it_is(self, suite: unittest.TestSuite, workers: int) -> bool:
        """Whether neither the history nor an option has a say in a suite without workers."""
        options = self._options
        is_serial = workers <= 1 and not isinstance(workers, Automatic)
        is_chosen = options.shard or options.last_failed or options.failed_first
        return is_serial and not is_chosen and not isinstance(suite, SchemaParallelTestSuite)

    def _parallel_suite(
        self, suite: unittest.TestSuite, is_whole: bool, subsuites: list[Any], processes: int
    ) -> SchemaParallelTestSuite:
        if isinstance(suite, SchemaParallelTestSuite) and is_whole:
            suite.processes = processes
            return suite
        made = self.parallel_test_suite(
            subsuites, processes, self.failfast, self.debug_mode, self.buffer
        )
        return cast("SchemaParallelTestSuite", made)

    def _arrangement(self, tests: Sequence[Any], labels: Collection[str]) -> "SuiteSelection":
        from .scheduling.selection import SuiteSelection, names_tests, stage_by

        kinds = (unittest.loader._FailedTest, *self.reorder_by)  # type: ignore[attr-defined]
        is_schema = self._settings.isolation == "schema"
        # Only where each test finds everything as it was first does no kind have to come first.
        is_all_kept = is_schema and self._settings.reset == "reference"
        is_ordered = (
            self.shuffle is not False
            or self.reverse
            or self._options.order == "suite"
            or names_tests(labels, tests)
        )
        return SuiteSelection(
            history=self._history,
            stage_of=stage_by(kinds[:1] if is_all_kept else kinds),
            is_serial=self._is_serial,
            keeps_order=is_ordered,
            fails_first=self._options.failed_first,
            log=self.log,
        )

    def _workers_by_connections(self, suite: unittest.TestSuite, wanted: int = 0) -> int | None:
        from .scheduling.worker_count import workers_by_connections

        is_current = self._settings.host_database == "current"
        aliases = self._get_databases(suite)
        return workers_by_connections(aliases, wanted=wanted, is_current=is_current)

    def _as_connections_allow(self, wanted: int, asked: int, suite: unittest.TestSuite) -> int:
        """Return how many workers of those that can be used there are connections for.

        Where these are fewer, say so, with the number that was asked for.
        """
        allowed = self._workers_by_connections(suite, wanted) if wanted > 1 else None
        if allowed is None or allowed >= wanted:
            return wanted
        from .scheduling.worker_count import by_connections, explained

        number, why = by_connections(allowed)
        self.log(explained(asked, number, why))
        return number

    @cached_property
    def _quarantined(self) -> Collection[str]:
        return self._history.flaky if self._options.quarantine_flaky else ()

    def _is_serial(self, test: Any) -> bool:
        return decorators.must_run_alone(test, self._settings, self._quarantined)

    def _needs_worker(self, tests: Sequence[Any]) -> bool:
        """Whether something may have to be run again, in a process that has run nothing yet."""
        if self.pdb or not tests:
            return False
        retries = self._settings.retries
        return self._options.diagnose or any(
            decorators.retries_of(test, retries) for test in tests
        )
