"""`make` with a wrong PYTHON, and after one; nothing is installed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[2] / "Makefile"
# Prints another version for code passed with -c.
PYTHON = """\
#!/bin/sh
[ "$1" = -c ] || exit 1
exec {executable} -c 'import sys; sys.version_info = {version}; exec(sys.argv[1])' "$2"
"""
Make = Callable[..., "subprocess.CompletedProcess[str]"]


def write_python(path: Path, version: tuple[int, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PYTHON.format(executable=sys.executable, version=version))
    path.chmod(0o755)
    return path


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copy(MAKEFILE, tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "packages/pip").mkdir(parents=True)
    (tmp_path / "packages/pip/__init__.py").write_text("__version__ = '25.1'\n")
    return tmp_path


@pytest.fixture
def make(checkout: Path) -> Make:
    def make(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        # As in a terminal: a `make` that runs the tests exports its own variables.
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        clean |= {"PYTHONPATH": str(checkout / "packages"), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            ["make", *arguments],
            cwd=checkout,
            env=clean | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    return make


def recreates(result: "subprocess.CompletedProcess[str]") -> bool:
    assert result.returncode == 0, result.stderr
    return "-m venv --clear .venv" in result.stdout


def test_a_wrong_python_is_refused_in_one_line(checkout: Path, make: Make) -> None:
    """The line names the problem and the command to type; no file is left."""
    old = write_python(checkout / "old", (3, 8, 18))
    advice = "Use another Python: make demo PYTHON=python3.13"
    for python, message in {
        str(old): f"Python 3.11 or later is required, and {old} is 3.8.18. {advice}",
        "no-such-python": f"no-such-python not found. {advice}",
    }.items():
        result = make("demo", f"PYTHON={python}")
        assert result.returncode == 2
        assert result.stderr.splitlines()[0] == message
        assert result.stdout == ""
    assert not (checkout / ".venv").exists()


def test_a_broken_environment_is_created_again(checkout: Path, make: Make) -> None:
    """With an old Python, a missing Python, no pip, or another PYTHON, .venv is created again."""
    python = checkout / ".venv/bin/python"
    assert recreates(make("-n", "demo"))
    write_python(python, (3, 8, 18))
    assert recreates(make("-n", "demo"))
    python.unlink()
    python.symlink_to("/nowhere/python")
    assert recreates(make("-n", "demo"))
    python.unlink()
    write_python(python, (3, 13, 0))
    for contents in ("raise ImportError", "__version__ = '24.0'", "__version__ = '25.1'"):
        (checkout / "packages/pip/__init__.py").write_text(contents)
        assert recreates(make("-n", "demo")) == ("25.1" not in contents)
    assert not recreates(make("-n", "demo", PYTHON="no-such-python"))
    assert recreates(make("-n", "demo", "PYTHON=no-such-python"))


def test_a_copied_checkout_is_installed_again(checkout: Path, make: Make) -> None:
    """A copied .venv has the package of the original checkout."""
    write_python(checkout / ".venv/bin/python", (3, 13, 0))
    for folder, is_installed in {"/elsewhere": True, str(checkout): False}.items():
        (checkout / ".venv/demo").write_text(f"{folder}\n")
        assert ("pip install" in make("-n", "demo").stdout) == is_installed
