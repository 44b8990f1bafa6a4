"""The options that `manage.py test` has besides stock Django's."""

import os
from argparse import ArgumentError, ArgumentParser, ArgumentTypeError, _StoreAction
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from .settings import CHOICES

if TYPE_CHECKING:
    from .scheduling.shards import Shard

ORDERS = ("history", "suite")


class Automatic(int):
    """A number of workers that nobody has asked for: it is for the run to find a better one."""


class Options(NamedTuple):
    """What the command line says; None is for what the settings decide."""

    no_migrations: bool = False
    clear_pools: bool = False
    isolation: str | None = None
    host_database: str | None = None
    snapshot_dir: str | None = None
    test_timeout: float | None = None
    retries: int | None = None
    fail_on_flaky: bool = False
    diagnose: bool = False
    last_failed: bool = False
    failed_first: bool = False
    quarantine_flaky: bool = False
    order: str = "history"
    shard: "Shard | None" = None
    chooses_workers: bool = False
    command_parser: ArgumentParser | None = None

    @classmethod
    def take(cls, arguments: dict[str, Any]) -> Self:
        """Take the options from the arguments that a runner was given."""
        names = arguments.keys() & set(cls._fields)
        options = cls(**{name: arguments.pop(name) for name in names})
        if options.chooses_workers and "DJANGO_TEST_PROCESSES" not in os.environ:
            arguments["parallel"] = Automatic(arguments["parallel"])
        return options

    @property
    def needs_history(self) -> str | None:
        """The option, if one is given, that does nothing without a history."""
        names = ("last_failed", "failed_first", "quarantine_flaky")
        given = (f"--{name.replace('_', '-')}" for name in names if getattr(self, name))
        return next(given, None)

    @property
    def for_settings(self) -> Mapping[str, str | float | None]:
        """The options that win over a setting of the same name."""
        return {
            "isolation": self.isolation,
            "host_database": self.host_database,
            "snapshot_dir": self.snapshot_dir,
            "test_timeout": self.test_timeout,
            "retries": self.retries,
        }


def add_options(parser: ArgumentParser) -> None:
    """Add the options; a runner that has a flag of the same name already keeps its own."""
    # For the commands that --diagnose prints.
    parser.set_defaults(command_parser=parser)
    group = parser.add_argument_group("options of django-schema-runner")
    for flag, arguments in _OPTIONS.items():
        with suppress(ArgumentError):
            group.add_argument(flag, **arguments)
    for action in parser._actions:
        if action.dest == "parallel" and type(action) is _StoreAction:
            action.__class__ = _StoreParallel
        if action.dest == "keepdb" and action.default is False:
            # Tells what was not given from --no-keepdb.
            action.default = None


class _StoreParallel(_StoreAction):
    """Note beside "auto", which Django counts the processors for, that it was said."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        super().__call__(parser, namespace, values, option_string)
        namespace.chooses_workers = values == "auto"


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < (seconds := float(text)) < float("inf"):
            return seconds
    raise ArgumentTypeError(f"{text!r} is not a number of seconds, more than 0")


def _number(text: str) -> int:
    with suppress(ValueError):
        if (number := int(text)) >= 0:
            return number
    raise ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")


def _shard(text: str) -> "Shard":
    from .scheduling.shards import Shard

    try:
        return Shard.from_environment(os.environ) if text == "auto" else Shard.parse(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error


_OPTIONS: dict[str, dict[str, Any]] = {
    "--no-keepdb": {
        "action": "store_false",
        "dest": "keepdb",
        "default": None,
        "help": 'Keeps nothing, whatever SCHEMA_RUNNER["KEEP"] says.',
    },
    "--no-migrations": {
        "action": "store_true",
        "help": 'Creates the tables from the models, as TEST["MIGRATE"] = False does.',
    },
    "--clear-pools": {
        "action": "store_true",
        "help": "Removes all that earlier runs have kept, before the tests begin.",
    },
    "--isolation": {
        "choices": CHOICES["ISOLATION"],
        "help": "Gives each worker a schema (default), or a clone database as stock Django does.",
    },
    "--host-database": {
        "choices": CHOICES["HOST_DATABASE"],
        "help": "Creates the schemas in the test database (default), or in the project's own "
        "database, beside its tables (current).",
    },
    "--snapshot-dir": {
        "metavar": "DIR",
        "help": "Saves the migrated schema to a file in this folder, and restores it from there "
        "instead of migrating.",
    },
    "--test-timeout": {
        "type": _seconds,
        "metavar": "S",
        "help": "Fails a test that takes longer than S seconds.",
    },
    "--retries": {
        "type": _number,
        "metavar": "N",
        "help": "Runs failed tests up to N more times, each alone in a fresh schema.",
    },
    "--fail-on-flaky": {
        "action": "store_true",
        "help": "Fails the run if a test passed only when it was run again.",
    },
    "--diagnose": {
        "action": "store_true",
        "help": "Finds out why tests fail, and prints a command for each that shows it again.",
    },
    "--last-failed": {
        "action": "store_true",
        "help": "Runs only the tests that failed last time.",
    },
    "--failed-first": {
        "action": "store_true",
        "help": "Runs the tests that failed last time before all others.",
    },
    "--quarantine-flaky": {
        "action": "store_true",
        "help": "Runs tests known to be flaky alone, after all others.",
    },
    "--order": {
        "choices": ORDERS,
        "default": "history",
        "help": "Starts the longest classes first in parallel (history, the default), or keeps "
        "the order of the suite.",
    },
    "--shard": {
        "nargs": "?",
        "const": "auto",
        "type": _shard,
        "metavar": "I/N",
        "help": "Runs part I of N of the suite. Without a value, both come from the variables "
        "of the CI service.",
    },
}
