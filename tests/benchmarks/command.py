"""A command whose cost is taken."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def run(*arguments: str, folder: Path, environment: dict[str, str]) -> str:
    """Run `manage.py test` in a folder, and return what it prints."""
    command = [sys.executable, "manage.py", "test", *arguments]
    return execute(*command, folder=folder, environment=environment)


def execute(*command: str, folder: Path, environment: dict[str, str]) -> str:
    """Run a command in a folder, and return what it prints; its exit code says nothing.

    It prints into a file: reading from a pipe would take time from it. Python's development mode,
    which our tests have, would slow it down, and so would compiling this package each time.
    """
    slow = {"PYTHONDEVMODE", "PYTHONDONTWRITEBYTECODE"}
    inherited = {name: value for name, value in os.environ.items() if name not in slow}
    with tempfile.TemporaryFile("w+") as output:
        subprocess.run(
            command,
            cwd=folder,
            env={**inherited, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=1800,
            check=False,
        )
        output.seek(0)
        return output.read()
