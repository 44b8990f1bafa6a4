"""Commands to type in, to see something again."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..options import Options

# Options of the command that decide what a test meets, besides those of the runner.
_KEPT = ("settings", "pythonpath", "testrunner", "top_level")
_FAILED_TO_LOAD = "unittest.loader._FailedTest."


class Command(NamedTuple):
    """The command of a run, as far as it decides what a test meets."""

    program: tuple[str, ...]
    options: tuple[str, ...] = ()

    @classmethod
    def of_run(cls, arguments: Mapping[str, Any], options: Options) -> "Command":
        """Find the command by which this process tests; `arguments` are those of the runner."""
        kept = {
            **{name: arguments.get(name) for name in _KEPT},
            "isolation": options.isolation,
            "host_database": options.host_database,
            "test_timeout": options.test_timeout,
        }
        given = [f"--{_flag(name)}={value}" for name, value in kept.items() if value is not None]
        if options.no_migrations:
            given.append("--no-migrations")
        return cls(_program(), tuple(given))

    def with_tests(self, tests: Iterable[str], *, workers: int = 0) -> str:
        """Return the line for a shell that runs these tests, in so many workers, if in any."""
        parallel = [f"--parallel={workers}"] if workers else []
        labels = [name.removeprefix(_FAILED_TO_LOAD) for name in tests]
        from shlex import join

        return join([*self.program, "test", *self.options, *parallel, *labels])


def _flag(name: str) -> str:
    return {"top_level": "top-level-directory"}.get(name, name.replace("_", "-"))


def _program() -> tuple[str, ...]:
    script = Path(sys.argv[0])
    if script.name == "__main__.py" and script.parent.name == "django":
        return "python", "-m", "django"
    return ("python", sys.argv[0]) if script.suffix == ".py" else (script.name,)
