from argparse import ArgumentParser
from typing import Any

import pytest
from django.core.management import CommandError
from django.test import override_settings

from schema_runner import SchemaDiscoverRunner
from schema_runner.errors import SchemaRunnerError
from schema_runner.settings import Settings


def seed(using: str, number: int) -> None: ...


async def seed_later(using: str) -> None: ...


def read(value: Any) -> Settings:
    with override_settings(SCHEMA_RUNNER=value):
        return Settings.read()


def test_values_are_taken() -> None:
    """Lists or tuples of names, labels and tags; limits as whole or fractional seconds."""
    assert Settings.read() == Settings(strategy="template", fixtures=(), seeders=())
    labels = ["slow", "library.tests"]
    given = {"FIXTURES": ["a"], "SEEDERS": ("django.db.reset_queries",), "SERIAL": labels}
    expected = Settings(
        fixtures=("a",), seeders=("django.db.reset_queries",), serial=tuple(labels)
    )
    assert read(given) == expected
    assert read({"STRATEGY": "migrate"}) == Settings(strategy="migrate")
    for seconds in (5, 0.5, None):
        assert read({"TEST_TIMEOUT": seconds}).test_timeout == seconds
    assert read({}).test_timeout is None


INFINITY = float("inf")
SECONDS = '"TEST_TIMEOUT"] must be a positive number of seconds'
NUMBER = '"RETRIES"] must be an integer, 0 or greater'


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "must be a dict"),
        (
            {"FIXTURE": []},
            "Unknown key in SCHEMA_RUNNER: 'FIXTURE'. Did you mean 'FIXTURES'?",
        ),
        ({"fixtures": []}, "Unknown key in SCHEMA_RUNNER: 'fixtures'. Did you mean 'FIXTURES'?"),
        ({3: []}, "Unknown key in SCHEMA_RUNNER: 3. Valid keys: EXPECTED_CHANGES, F"),
        ({"STRATEGY": "clone"}, "'clone'. Valid values: 'template', 'migrate'."),
        ({"ISOLATION": "process"}, "Valid values: 'schema', 'database'."),
        ({"HOST_DATABASE": None}, "is None. Valid values: 'test', 'current'."),
        ({"ISOLATE_ADVISORY_LOCKS": 1}, "must be True or False"),
        ({"KEEP": "yes"}, '"KEEP"] must be True or False'),
        ({"ISOLATION": "database", "HOST_DATABASE": "current"}, "'current' does not allow"),
        ({"TEST_TIMEOUT": "5"}, '"TEST_TIMEOUT"] must be a positive number of seconds or'),
        *(
            ({"LOCK_TIMEOUT": wrong}, '"LOCK_TIMEOUT"] must be a positive number')
            for wrong in (0, None, "5")
        ),
        *(({"TEST_TIMEOUT": wrong}, SECONDS) for wrong in (0, -1.5, True, INFINITY, float("nan"))),
        *(({"RETRIES": wrong}, NUMBER) for wrong in (-1, True, 1.5)),
        ({"HISTORY_DIR": ""}, '"HISTORY_DIR"] must be a path or None'),
        *(({"SERIAL": wrong}, '"SERIAL"] must be a list of strings') for wrong in ("slow", [1])),
        ({"FIXTURES": "currencies"}, '"FIXTURES"] must be a list of strings'),
        ({"SEEDERS": [print]}, '"SEEDERS"] must be a list of dotted paths'),
        ({"SEEDERS": ["no.such.module"]}, "'no.such.module', which cannot be imported"),
        ({"WORKER_SETUP": ["os.nothing"]}, "'os.nothing', which cannot be imported"),
        ({"SEEDERS": ["os.sep"]}, "'os.sep', which is not callable"),
        (
            {"SEEDERS": ["tests.unit.test_settings.seed"]},
            "called as seed(using=alias): missing a ",
        ),
        (
            {"SEEDERS": ["tests.unit.test_settings.seed_later"]},
            "calling it does nothing. Define it",
        ),
        ({"WORKER_SETUP": ["os.getcwd"]}, "cannot be called as getcwd(worker): too many"),
        ({"FINGERPRINT": ["os.chdir"]}, "cannot be called as chdir(): missing"),
        ({"RESET": "Selectiv", "RETRIES": "1"}, "Did you mean 'selective'?\nSCHEMA_RUNNER"),
    ],
)
def test_a_mistake_is_one_error_with_a_hint(value: Any, message: str) -> None:
    with pytest.raises(SchemaRunnerError) as raised:
        read(value)
    assert message in str(raised.value)


def test_command_line_options_override_settings() -> None:
    with override_settings(SCHEMA_RUNNER={"TEST_TIMEOUT": 5, "ISOLATION": "database"}):
        neither = Settings.read(test_timeout=None, isolation=None)
        assert (neither.test_timeout, neither.isolation) == (5, "database")
        both = Settings.read(test_timeout=0.5, isolation="schema")
        assert (both.test_timeout, both.isolation) == (0.5, "schema")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"test_timeout": -1},
            "test_timeout must be a positive number of seconds or None, not -1.",
        ),
        ({"retries": "2"}, "retries must be an integer, 0 or greater, not '2'."),
        ({"isolation": "shema"}, "isolation is 'shema'. Valid values: 'schema', 'database'."),
        ({"snapshot_dir": ""}, "snapshot_dir must be a path or None, not ''."),
        ({"host_database": "current", "isolation": "database"}, "'current' does not allow"),
    ],
)
def test_options_from_code_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CommandError) as raised:
        SchemaDiscoverRunner(**options)
    assert message in str(raised.value)


@pytest.mark.parametrize("keep", [True, False])
def test_keep_is_the_default_of_keepdb(keep: bool) -> None:
    """It also applies to runners created in code; explicit arguments and flags override it."""
    parser = ArgumentParser()
    SchemaDiscoverRunner.add_arguments(parser)

    def keeps(*flags: str, **arguments: bool) -> object:
        options = vars(parser.parse_args(flags)) if flags or not arguments else arguments
        return SchemaDiscoverRunner(**options).keepdb

    with override_settings(SCHEMA_RUNNER={"KEEP": keep}):
        assert keeps() is SchemaDiscoverRunner().keepdb is keep
        assert keeps("--keepdb") is keeps("--no-keepdb", "--keepdb") is keeps(keepdb=True) is True
        assert keeps("--no-keepdb") is keeps(keepdb=False) is False
