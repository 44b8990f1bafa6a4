"""The command of a script whose parser is not Django's."""

import sys

import pytest

from schema_runner.reporting.rerun_command import RerunCommand


def test_a_script_is_given_no_option_that_it_does_not_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a test needs a worker, what was typed shows it again as it is."""
    monkeypatch.setattr(sys, "argv", ["runtests.py", "--parallel", "2", "a b"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", *sys.argv])
    command = RerunCommand(object, {"parallel": 2})
    options = ("--parallel=2", "--retries=1")
    line = command.with_tests(["a b.It.test_it"], labels=["a b"], options=options)
    assert line == "python -X dev runtests.py --parallel 2 'a b'"
