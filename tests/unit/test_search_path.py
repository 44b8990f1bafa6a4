import pickle
from typing import Any

import pytest

from schema_runner.errors import SchemaRunnerError
from schema_runner.search_path import (
    Location,
    Locations,
    project_options,
    set_locations,
)

RUN = 4711
APPLICATION = "django-schema-runner 4711"
MEMORY = {"options": "-c work_mem=1MB"}


def locations(**options: Any) -> Locations:
    by_worker = {
        1: Location("test_x", ("test_w1_7", "public")),
        2: Location("test_x", ("test_w2_8",)),
    }
    return Locations(by_worker, 1, RUN, options, "default")


def assigned(given: Locations | None, **options: Any) -> dict[str, Any]:
    """Return settings with these OPTIONS, assigned to a schema."""
    settings: dict[str, Any] = {"OPTIONS": options}
    set_locations(settings, given)
    return settings


PATH = "-c search_path=test_w1_7,public"
Options = dict[str, Any]


@pytest.mark.parametrize(
    ("options", "changes", "expected"),
    [
        # The user's OPTIONS["options"] stay, and ours come last, so that they win.
        ({"options": "-c a=5s", "b": "x"}, {}, {"options": f"-c a=5s {PATH}", "b": "x"}),
        # Leftover connections are recognised by application_name, which overrides the project's.
        ({"application_name": "mine"}, {}, {"options": PATH}),
        # During a build there is no schema yet, so only application_name is set.
        (MEMORY, {"worker": None}, {**MEMORY, "application_name": APPLICATION}),
        # A pooler that refuses startup options gets none.
        ({}, {"sets_path_on_connect": True}, {}),
    ],
)
def test_options_of_connections(options: Options, changes: Options, expected: Options) -> None:
    settings = assigned(locations(**options)._replace(**changes), **options)
    assert settings["OPTIONS"] == {"application_name": f"{APPLICATION} w1", **expected}
    if "worker" not in changes:
        assert settings["NAME"] == "test_x"
        assert Locations.of(settings).search_path == "test_w1_7,public"


def test_the_dict_stays_and_its_options_are_a_copy() -> None:
    """Threads share the dict; the project's OPTIONS are unchanged, and restored later."""
    own = dict(MEMORY)
    settings: dict[str, Any] = {"OPTIONS": own}
    set_locations(settings, locations(**own))
    set_locations(settings, Locations.of(settings).for_worker(2))
    assert own == MEMORY
    assert project_options(settings) == own
    set_locations(settings, None)
    assert settings == {"OPTIONS": own, "NAME": "test_x"}


def test_settings_can_be_pickled_and_read_back_from_their_repr() -> None:
    """Spawned workers unpickle them; Django's own tests write settings to files."""
    settings = assigned(locations())
    received = pickle.loads(pickle.dumps(settings))
    assert Locations.of(received).for_worker(2).location == Location("test_x", ("test_w2_8",))
    assert eval(repr(settings))["NAME"] == "test_x"


def test_a_replacement_worker_has_no_schema() -> None:
    """multiprocessing.Pool gives the replacement of a dead worker the next number."""
    with pytest.raises(SchemaRunnerError, match="no schema for worker 3"):
        locations().for_worker(3)


def test_a_clone_database_has_the_project_s_search_path() -> None:
    options = {"options": "-c search_path=app"}
    cloned = Locations({1: Location("test_x_1")}, 1, None, options, "default")
    settings = assigned(cloned)
    assert settings["NAME"] == "test_x_1"
    assert settings["OPTIONS"] == {"options": "-c search_path=app"}
    assert cloned.location is not None
    assert cloned.location.schema == "public"


QUOTED = [
    ("plain_1", "plain_1", "plain_1"),
    ("Capital", '"Capital"', '"Capital"'),
    ('a "b" c', '"a ""b"" c"', '"a\\ ""b""\\ c"'),
    ("back\\slash", '"back\\slash"', '"back\\\\slash"'),
]


@pytest.mark.parametrize(("name", "quoted", "escaped"), QUOTED)
def test_schemas_of_the_project_are_quoted(name: str, quoted: str, escaped: str) -> None:
    """Spaces and backslashes are escaped, because libpq splits options at spaces."""
    named = locations()._replace(by_worker={1: Location("x", ("w", name))})
    assert named.search_path == f"w,{quoted}"
    assert named.entries()["OPTIONS"]["options"] == f"-c search_path=w,{escaped}"


def test_passwords_are_not_shown() -> None:
    """The repr of an assignment, as in tracebacks and logs, contains no password."""
    assert "s3cret" not in repr(locations(password="s3cret"))
