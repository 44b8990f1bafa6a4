"""Stock Django's runner and ours, with a recording of each test's outcome."""

import json
import unittest
from collections import defaultdict
from pathlib import Path
from typing import Any

from django.conf import settings
from django.test import runner
from django.test.runner import DiscoverRunner, ParallelTestSuite

from schema_runner import SchemaDiscoverRunner, SchemaParallelTestSuite


class RecordedResult(unittest.TextTestResult):
    """Records the outcomes of each test id; there is one if a test is reported once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outcomes: defaultdict[str, list[str]] = defaultdict(list)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.outcomes[test.id()].append("failed subtest")


def _recording(method: str, outcome: str) -> Any:
    def add(self: RecordedResult, test: Any, *args: Any) -> None:
        getattr(unittest.TextTestResult, method)(self, test, *args)
        self.outcomes[test.id()].append(outcome)

    return add


for _method, _outcome in {
    "addSuccess": "passed", "addFailure": "failed", "addError": "error", "addSkip": "skipped",
    "addExpectedFailure": "expected failure", "addUnexpectedSuccess": "unexpected success",
}.items():  # fmt: skip
    setattr(RecordedResult, _method, _recording(_method, _outcome))


class RecordingTextRunner(unittest.TextTestRunner):
    """Writes the outcomes to the file in the setting OUTCOMES."""

    resultclass = RecordedResult

    def run(self, test: Any) -> Any:
        result: Any = super().run(test)
        Path(settings.OUTCOMES).write_text(json.dumps(result.outcomes))
        return result


class StockRunner(DiscoverRunner):
    """Stock Django's runner, with a recording."""

    test_runner = RecordingTextRunner


def patch_runner() -> None:
    """Make Django's tests of its runner and its suite test ours."""
    runner.ParallelTestSuite = SchemaParallelTestSuite
    runner.DiscoverRunner = SchemaDiscoverRunner


def init_worker(*args: Any, **kwargs: Any) -> None:
    """Initialise a worker, which may be a new process that has no patches yet."""
    patch_runner()
    _init_worker(*args, **kwargs)


_init_worker: Any = ParallelTestSuite.init_worker


class OurSuite(SchemaParallelTestSuite):
    """Our suite, with the patches in its workers too."""

    init_worker = init_worker


class OurRunner(SchemaDiscoverRunner):
    """Our runner, with a recording."""

    test_runner = RecordingTextRunner
    parallel_test_suite = OurSuite

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        patch_runner()
        super().__init__(*args, **kwargs)
