import pytest

import schema_runner


@pytest.mark.parametrize("name", schema_runner.__all__)
def test_every_export_resolves(name: str) -> None:
    assert getattr(schema_runner, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        schema_runner.nothing  # noqa: B018


def test_current_worker_is_none_outside_a_run() -> None:
    """Code that also runs outside of tests can call it."""
    assert schema_runner.current_worker() is None
