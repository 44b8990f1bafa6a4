import pickle
from dataclasses import replace
from typing import Any

import pytest

from schema_runner.backend.assignment import Assignment, Place, assign, project_options
from schema_runner.errors import SchemaRunnerError

RUN = 4711


def assignment(**options: Any) -> Assignment:
    places = {1: Place("test_x", ("test_w1_7", "public")), 2: Place("test_x", ("test_w2_8",))}
    return Assignment(places, 1, RUN, options, "default")


def test_the_search_path_is_added_to_the_options_of_the_project() -> None:
    """What the user has in OPTIONS["options"] stays, and ours comes last, where it wins."""
    settings: dict[str, Any] = {"OPTIONS": {"options": "-c statement_timeout=5s", "sslmode": "x"}}
    assign(settings, assignment(**settings["OPTIONS"]))
    assert settings["OPTIONS"] == {
        "application_name": "django-schema-runner 4711 w1",
        "options": "-c statement_timeout=5s -c search_path=test_w1_7,public",
        "sslmode": "x",
    }
    assert settings["NAME"] == "test_x"


def test_the_dict_stays_and_its_options_are_a_copy() -> None:
    """Threads share the dict; the OPTIONS in it are the project's own and come back."""
    own = {"options": "-c work_mem=1MB"}
    settings: dict[str, Any] = {"OPTIONS": own}
    assign(settings, assignment(**own))
    assign(settings, Assignment.of(settings).for_worker(2))
    assert own == {"options": "-c work_mem=1MB"}
    assert project_options(settings) == own
    assign(settings, None)
    assert settings == {"OPTIONS": own, "NAME": "test_x"}


def test_the_application_name_is_the_run_s() -> None:
    """Whatever the project has set: what is left over must be known by it."""
    settings: dict[str, Any] = {"OPTIONS": {}}
    assign(settings, assignment(application_name="mine"))
    assert settings["OPTIONS"]["application_name"] == "django-schema-runner 4711 w1"


def test_a_build_keeps_the_project_s_search_path() -> None:
    """It has no schema yet; only whose connection it is can be seen."""
    settings: dict[str, Any] = {"OPTIONS": {"options": "-c work_mem=1MB"}}
    assign(settings, replace(assignment(**settings["OPTIONS"]), worker=None))
    assert settings["OPTIONS"] == {
        "options": "-c work_mem=1MB",
        "application_name": "django-schema-runner 4711",
    }


def test_it_travels_to_spawned_workers() -> None:
    """Spawned workers are sent the settings by pickle."""
    settings: dict[str, Any] = {"OPTIONS": {}}
    assign(settings, assignment())
    received = pickle.loads(pickle.dumps(settings))
    assert Assignment.of(received).for_worker(2).place == Place("test_x", ("test_w2_8",))


def test_a_worker_too_many_is_told_that_it_has_no_schema() -> None:
    """multiprocessing.Pool gives what replaces a dead worker the next number."""
    with pytest.raises(SchemaRunnerError, match="no schema for worker 3"):
        assignment().for_worker(3)


def test_a_clone_database_has_the_project_s_search_path() -> None:
    """There is nothing to add to the OPTIONS, only another NAME."""
    settings: dict[str, Any] = {"OPTIONS": {}}
    options = {"options": "-c search_path=app"}
    cloned = Assignment({1: Place("test_x_1")}, 1, None, options, "default")
    assign(settings, cloned)
    assert settings["NAME"] == "test_x_1"
    assert settings["OPTIONS"] == {"options": "-c search_path=app"}
    assert cloned.place is not None
    assert cloned.place.schema == "public"


def test_a_path_that_is_set_later_is_not_in_the_options() -> None:
    """A pooler that refuses startup options is not given any."""
    settings: dict[str, Any] = {"OPTIONS": {}}
    assign(settings, replace(assignment(), path_is_set_later=True))
    assert settings["OPTIONS"] == {"application_name": "django-schema-runner 4711 w1"}
    assert Assignment.of(settings).search_path == "test_w1_7,public"


@pytest.mark.parametrize(
    ("name", "quoted", "escaped"),
    [
        ("plain_1", "plain_1", "plain_1"),
        ("Capital", '"Capital"', '"Capital"'),
        ('a "b" c', '"a ""b"" c"', '"a\\ ""b""\\ c"'),
        ("back\\slash", '"back\\slash"', '"back\\\\slash"'),
    ],
)
def test_schemas_of_the_project_are_quoted(name: str, quoted: str, escaped: str) -> None:
    """Spaces and backslashes once more, for libpq splits its options at spaces."""
    named = replace(assignment(), places={1: Place("x", ("w", name))})
    assert named.search_path == f"w,{quoted}"
    assert named.entries()["OPTIONS"]["options"] == f"-c search_path=w,{escaped}"


def test_settings_can_be_read_back_from_their_repr() -> None:
    """Django's own tests write settings to files so, and other projects' do."""
    settings: dict[str, Any] = {"OPTIONS": {}}
    assign(settings, assignment())
    assert eval(repr(settings))["NAME"] == "test_x"


def test_passwords_are_not_shown() -> None:
    """Tracebacks with local variables, and logs, may show an assignment."""
    assert "s3cret" not in repr(assignment(password="s3cret"))
