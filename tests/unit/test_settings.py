from typing import Any

import pytest
from django.test import override_settings

from schema_runner.errors import SchemaRunnerError
from schema_runner.settings import Settings


def read(value: Any) -> Settings:
    with override_settings(SCHEMA_RUNNER=value):
        return Settings.read()


def test_nothing_set_gives_the_defaults() -> None:
    """TEST_RUNNER alone is enough."""
    assert Settings.read() == Settings(strategy="template", fixtures=(), seeders=())


def test_lists_and_tuples_are_taken() -> None:
    """Settings files have either."""
    given = {"FIXTURES": ["a"], "SEEDERS": ("os.path.join",), "STRATEGY": "migrate"}
    settings = Settings(fixtures=("a",), seeders=("os.path.join",), strategy="migrate")
    assert read(given) == settings


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "must be a dict"),
        (
            {"FIXTURE": []},
            "Unknown key in SCHEMA_RUNNER: FIXTURE. The keys are FINGERPRINT, FIXTURES, HI",
        ),
        ({"fixtures": []}, "Unknown key in SCHEMA_RUNNER: fixtures"),
        ({3: []}, "Unknown key in SCHEMA_RUNNER: 3"),
        ({"STRATEGY": "clone"}, "use one of 'template', 'migrate'"),
        ({"ISOLATION": "process"}, "use one of 'schema', 'database'"),
        ({"HOST_DATABASE": None}, "use one of 'test', 'current'"),
        ({"ISOLATE_ADVISORY_LOCKS": 1}, "must be True or False"),
        ({"ISOLATION": "database", "HOST_DATABASE": "current"}, "'current' allows none"),
        ({"TEST_TIMEOUT": "5"}, '"TEST_TIMEOUT"] must be a number of seconds, more than 0, or'),
        ({"TEST_TIMEOUT": 0}, '"TEST_TIMEOUT"] must be a number of seconds'),
        ({"TEST_TIMEOUT": -1.5}, '"TEST_TIMEOUT"] must be a number of seconds'),
        ({"TEST_TIMEOUT": True}, '"TEST_TIMEOUT"] must be a number of seconds'),
        ({"TEST_TIMEOUT": float("inf")}, '"TEST_TIMEOUT"] must be a number of seconds'),
        ({"TEST_TIMEOUT": float("nan")}, '"TEST_TIMEOUT"] must be a number of seconds'),
        ({"RETRIES": -1}, '"RETRIES"] must be a whole number, 0 or more'),
        ({"RETRIES": True}, '"RETRIES"] must be a whole number, 0 or more'),
        ({"RETRIES": 1.5}, '"RETRIES"] must be a whole number, 0 or more'),
        ({"HISTORY_DIR": ""}, '"HISTORY_DIR"] must be a path, or None'),
        ({"SERIAL": "slow"}, '"SERIAL"] must be a list of strings'),
        ({"SERIAL": [1]}, '"SERIAL"] must be a list of strings'),
        ({"FIXTURES": "currencies"}, '"FIXTURES"] must be a list of strings'),
        ({"SEEDERS": [print]}, '"SEEDERS"] must be a list of strings'),
        ({"SEEDERS": ["no.such.module"]}, "'no.such.module', which cannot be imported"),
        ({"WORKER_SETUP": ["os.nothing"]}, "'os.nothing', which cannot be imported"),
        ({"SEEDERS": ["os.sep"]}, "'os.sep', which is not callable"),
    ],
)
def test_a_mistake_is_one_error_that_says_what_to_do(value: Any, message: str) -> None:
    """Each wrong value is named, with what would be right."""
    with pytest.raises(SchemaRunnerError) as raised:
        read(value)
    assert message in str(raised.value)


def test_options_of_the_command_line_win() -> None:
    """Where they are given."""
    with override_settings(SCHEMA_RUNNER={"TEST_TIMEOUT": 5}):
        assert Settings.read(test_timeout=None).test_timeout == 5
        assert Settings.read(test_timeout=0.5).test_timeout == 0.5
    with override_settings(SCHEMA_RUNNER={"ISOLATION": "database"}):
        assert Settings.read(isolation=None).isolation == "database"
        assert Settings.read(isolation="schema").isolation == "schema"


@pytest.mark.parametrize("seconds", [5, 0.5, None])
def test_a_time_limit_is_a_number_or_none(seconds: float | None) -> None:
    """Whole seconds or parts of one; None is the default."""
    assert read({"TEST_TIMEOUT": seconds}).test_timeout == seconds
    assert read({}).test_timeout is None


def test_what_is_serial_is_named() -> None:
    """By labels and tags, which only tests can tell apart."""
    assert read({"SERIAL": ["slow", "library.tests"]}).serial == ("slow", "library.tests")
