"""The options that this package adds to `manage.py test`; docs/settings.md lists them."""

import os
from argparse import ArgumentError, ArgumentParser, ArgumentTypeError, _StoreAction
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from .settings import CHOICES, EXPECTED, Settings

if TYPE_CHECKING:
    from .scheduling.shards import Shard

ORDERS = ("history", "suite")


class Automatic(int):
    """The number of CPUs, for `--parallel auto`: the runner may choose another number."""


class Options(NamedTuple):
    """The values of the options; None leaves the decision to the settings."""

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
        """Pop the options from a runner's keyword arguments, and return them."""
        names = arguments.keys() & set(cls._fields)
        options = cls(**{name: arguments.pop(name) for name in names})
        if options.chooses_workers and "DJANGO_TEST_PROCESSES" not in os.environ:
            arguments["parallel"] = Automatic(arguments["parallel"])
        return options

    @property
    def history_option(self) -> str | None:
        """The first given option that has no effect without a history."""
        names = ("last_failed", "failed_first", "quarantine_flaky")
        given = (f"--{name.replace('_', '-')}" for name in names if getattr(self, name))
        return next(given, None)

    @property
    def for_settings(self) -> Mapping[str, object]:
        """The options that override the setting of the same name."""
        return {name: getattr(self, name) for name in self._fields if name in Settings._fields}


def add_options(parser: ArgumentParser) -> None:
    """Add the options, except flags that the runner class defines itself."""
    # --diagnose prints commands, which it composes with the parser.
    parser.set_defaults(command_parser=parser)
    group = parser.add_argument_group("options of django-schema-runner")
    for flag, arguments in _OPTIONS.items():
        with suppress(ArgumentError):
            group.add_argument(flag, **arguments)
    for action in parser._actions:
        if action.dest == "parallel" and type(action) is _StoreAction:
            action.__class__ = _StoreParallel
        if action.dest == "keepdb" and action.default is False:
            # Distinguishes a missing flag from --no-keepdb.
            action.default = None


class _StoreParallel(_StoreAction):
    """Also stores whether the value was "auto", which Django replaces with the number of CPUs."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        super().__call__(parser, namespace, values, option_string)
        namespace.chooses_workers = values == "auto"


def _parse(convert: Callable[[str], object], key: str, text: str) -> object:
    expected, is_valid = EXPECTED[key]
    with suppress(ValueError):
        if is_valid(value := convert(text)):
            return value
    raise ArgumentTypeError(f"must be {expected.removesuffix(' or None')}, not {text!r}")


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
        "help": 'Neither reuses nor keeps schemas. Overrides SCHEMA_RUNNER["KEEP"].',
    },
    "--no-migrations": {
        "action": "store_true",
        "help": 'Creates tables directly from the models, like TEST["MIGRATE"] = False.',
    },
    "--clear-pools": {
        "action": "store_true",
        "help": "Before the tests, removes the schemas and databases that earlier runs kept.",
    },
    "--isolation": {
        "choices": CHOICES["ISOLATION"],
        "help": "Gives each worker a schema or, like stock Django, a clone database. "
        'Overrides SCHEMA_RUNNER["ISOLATION"] (default: schema).',
    },
    "--host-database": {
        "choices": CHOICES["HOST_DATABASE"],
        "help": "Creates the schemas in the test database or in the project's own database. "
        'Overrides SCHEMA_RUNNER["HOST_DATABASE"] (default: test).',
    },
    "--snapshot-dir": {
        "metavar": "DIR",
        "help": "Saves the migrated schema to a file in DIR, and restores it from there instead "
        'of running migrations. Overrides SCHEMA_RUNNER["SNAPSHOT_DIR"].',
    },
    "--test-timeout": {
        "type": partial(_parse, float, "TEST_TIMEOUT"),
        "metavar": "S",
        "help": "Fails a test that takes longer than S seconds. "
        'Overrides SCHEMA_RUNNER["TEST_TIMEOUT"].',
    },
    "--retries": {
        "type": partial(_parse, int, "RETRIES"),
        "metavar": "N",
        "help": "Retries a failed test up to N times, each time alone in a fresh schema. "
        'Overrides SCHEMA_RUNNER["RETRIES"] (default: 0).',
    },
    "--fail-on-flaky": {
        "action": "store_true",
        "help": "Fails the run if a test passed only on a retry.",
    },
    "--diagnose": {
        "action": "store_true",
        "help": "Reruns failed tests to find out why they fail, and prints a command that "
        "reproduces each failure.",
    },
    "--last-failed": {
        "action": "store_true",
        "help": "Runs only tests that failed in their last run.",
    },
    "--failed-first": {
        "action": "store_true",
        "help": "Starts with tests that failed in their last run.",
    },
    "--quarantine-flaky": {
        "action": "store_true",
        "help": "Runs flaky tests last, each of them alone.",
    },
    "--order": {
        "choices": ORDERS,
        "default": "history",
        "help": "With --parallel, starts the longest classes first (history) or keeps the order "
        "of the suite (suite). Default: history.",
    },
    "--shard": {
        "nargs": "?",
        "const": "auto",
        "type": _shard,
        "metavar": "I/N",
        "help": "Runs shard I of N of the suite. Without a value, or with auto, reads both from "
        "the environment variables of the CI service.",
    },
}
