import json

import pytest

from schema_runner.postgres.names import Marker, MarkerState


@pytest.mark.parametrize("state", list(MarkerState))
def test_a_marker_is_stored_as_a_comment(state: MarkerState) -> None:
    """The comment is JSON, and is parsed back unchanged."""
    marker = Marker(run=2**61 + 1, state=state)
    assert json.loads(str(marker))["run"] == 2**61 + 1
    assert Marker.parse(str(marker)) == marker
    of_database = Marker(1, state, request='test "shop"')
    assert Marker.parse(str(of_database)) == of_database


COMMENTS = [
    *(None, "", "standard public schema", "[]", "3", '{"run": 1, "state": "ready"}'),
    *('{"schema_runner": 1}', '{"schema_runner": 99, "run": 1, "state": "ready"}'),
    *(
        f'{{"schema_runner": 1, "run": {run}, "state": "ready"}}'
        for run in ('"x"', "null", "1e999")
    ),
    '{"schema_runner": 1, "run": 1, "state": "borrowed"}',
    *(
        f'{{"schema_runner": 1, "run": 1, "state": "kept", "{key}": []}}'
        for key in ("request", "template", "fingerprint", "name")
    ),
    pytest.param("[" * 100_000, id="nested"),
]


@pytest.mark.parametrize("comment", COMMENTS)
def test_other_comments_are_no_markers(comment: str | None) -> None:
    """Any other comment proves nothing, so nothing is dropped because of it."""
    assert Marker.parse(comment) is None
