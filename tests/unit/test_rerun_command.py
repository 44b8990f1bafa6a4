"""The rerun command for a script whose parser is not Django's."""

import sys
from pathlib import Path

import pytest
from django.test.runner import DiscoverRunner

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


def test_python_can_run_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command names a folder with a `__main__.py` as it was typed."""
    folder = str(tmp_path)
    monkeypatch.setattr(sys, "argv", [folder, "a"])
    monkeypatch.setattr(sys, "orig_argv", ["python", folder, "a"])
    line = RerunCommand(object, {}).with_tests(["a.It.test_it"], labels=["a"])
    assert line == f"python {folder} a.It.test_it"


def test_a_program_without_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python may be embedded. Then the command calls Django."""
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "orig_argv", ["program"])
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "tests.settings")
    line = RerunCommand(DiscoverRunner, {}).with_tests(["a.It.test_it"], labels=["a"])
    assert line == "program -m django test a.It.test_it --settings=tests.settings"
