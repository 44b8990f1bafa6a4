"""The rerun command for a script whose parser is not Django's."""

import sys

import pytest

from schema_runner.reporting.rerun_command import RerunCommand


def test_no_option_is_added_for_unknown_scripts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If a test needs a worker, the command is shown as it was typed."""
    monkeypatch.setattr(sys, "argv", ["runtests.py", "--parallel", "2", "a b"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", *sys.argv])
    command = RerunCommand(object, {"parallel": 2})
    options = ("--parallel=2", "--retries=1")
    line = command.with_tests(["a b.It.test_it"], labels=["a b"], options=options)
    assert line == "python -X dev runtests.py --parallel 2 'a b'"
