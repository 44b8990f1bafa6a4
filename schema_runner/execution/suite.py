"""The parallel part of a suite, run by supervised workers."""

import unittest
from collections.abc import Callable, Collection
from typing import Any

from django.test.runner import ParallelTestSuite

from ..backend.sessions import disconnect
from ..settings import Settings
from . import marks
from .crew import Crew
from .events import Observer
from .process import Assigned
from .report import Report
from .schedule import Schedule
from .supervisor import Supervisor


class SchemaParallelTestSuite(ParallelTestSuite):
    """Stock Django's suite, whose workers are supervised and make their own schemas.

    The runner sets `settings`, `keepdb`, `observers` and `log`. What Django's suite has for
    subclasses to replace works here too, but for `run_subsuite`: nothing calls it.
    """

    settings = Settings()
    keepdb = False
    observers: Collection[Observer] = ()
    log: Callable[[str], None] = staticmethod(print)

    def run(self, result: unittest.TestResult, debug: bool = False) -> unittest.TestResult:
        # Workers buffer. Where the main process does so too, an error in setUpClass breaks
        # off the run: https://code.djangoproject.com/ticket/36491 (until Django 6.0).
        result.buffer = False
        # A forked worker must not find a connection, or a pool of them, that its parent uses.
        disconnect()
        self.initialize_suite()
        tests = [list(subsuite) for subsuite in self.subsuites]
        supervisor = Supervisor(
            workers=self.processes,
            schedule=Schedule(tests, is_serial=self._is_serial),
            crew=Crew(self._assigned(), tests),
            report=Report(
                result,
                tests,
                self.handle_event,
                observers=self.observers,
                log=self.log,
            ),
        )
        supervisor.run()
        return result

    def _is_serial(self, test: Any) -> bool:
        return marks.is_serial(test, self.settings.serial)

    def _assigned(self) -> Assigned:
        return Assigned(
            number=1,
            is_replacement=False,
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
            failfast=self.failfast,
            buffer=self.buffer,
            subsuites=None,
        )


def _function(attribute: Any) -> Any:
    return getattr(attribute, "__func__", attribute)
