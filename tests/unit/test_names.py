import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schema_runner.postgres import names

OTHERS = ["public", "test_w0_1", "test_w1_", "test_w1_1_more", "a_test_w1_1", "test_w1_1\n"]


def test_own_names_are_recognised_and_others_are_not() -> None:
    """Only the documented form counts, so that no schema of a user is taken for ours."""
    assert names.worker_schema(3, 1765198600442) == "test_w3_1765198600442"
    assert names.is_own_schema(names.worker_schema(12, 1))
    assert names.is_own_schema(names.shims_schema(1))
    for other in (*OTHERS, "test_shims", names.EXTENSIONS_SCHEMA):
        assert not names.is_own_schema(other)


def test_a_run_is_identified_by_its_application_name() -> None:
    """PostgreSQL truncates names at 63 bytes, and a truncated one would not be found."""
    assert len(names.application_name(2**62)) <= 63
    assert names.run_of_test_connection(names.application_name(4711)) == 4711
    for other in ("", "psql", "django-schema-runner", "django-schema-runner x", "my 4711"):
        assert names.run_of_test_connection(other) is None


@pytest.mark.parametrize(
    "name", ["short", "n" * 63, "n" * 64, "n" * 200, "ü" * 32, "a" + "ü" * 40]
)
@pytest.mark.parametrize("suffix", ["", "_8", "_123"])
def test_database_names_fit_the_limit_of_postgresql(name: str, suffix: str) -> None:
    """Names that are too long are cut to 63 bytes, in whole characters; others stay the same."""
    fitting = names.database_name(name, suffix)
    assert len(fitting.encode()) <= 63
    assert fitting.endswith(suffix)
    assert (fitting == name + suffix) == (len((name + suffix).encode()) <= 63)
    assert fitting != names.database_name(name + "x", suffix)


def test_derived_database_names_differ() -> None:
    for name in ("short", "n" * 63):
        made = [names.clone_database(name, worker) for worker in (1, 2, 11)]
        made += [names.database_of_run(name, run) for run in (1, 2**61)]
        assert len({name, *made}) == 6
    assert names.clone_database("test_shop", 2) == "test_shop_2"


RUN, WORKER = st.integers(0, 2**62 - 1), st.integers(1, 200)
# Also names that are too long, and those that look like derived ones.
REQUEST = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=70),
    st.builds(names.database_of_run, st.just("test_shop"), RUN),
    st.builds(names.clone_database, st.just("test_shop"), WORKER),
)


@settings(deadline=None)
@given(REQUEST, RUN, RUN, WORKER, st.text("0123456789abcdef", min_size=12, max_size=40))
def test_databases_of_runs_are_recognised_by_name(
    request: str, run: int, other: int, worker: int, fingerprint: str
) -> None:
    """All names derived from a requested one, and none that a person would choose."""
    hosts = [names.database_of_run(request, run)]
    hosts.append(names.database_of_fingerprint(request, fingerprint))
    empty = [names.clone_database(host, 0) for host in (request, *hosts)]
    empty += [names.own_database(host, other, worker) for host in (request, *hosts)]
    for name in (*hosts, *empty):
        assert names.is_named_after_run(name, [request] if name in hosts else [request, *hosts])
        assert not names.is_named_after_run(f"{name}_app", [request, *hosts])
        assert not names.is_named_after_run(f"app_{name}", [request, *hosts])
    assert names.runs_in(hosts[0])[-1:] == [run]
    for host in (request, *hosts, empty[0]):
        clone = names.clone_database(host, worker)
        for name in (clone, names.database_of_run(clone, run)):
            assert names.is_clone_name(name, host)
            assert not names.is_clone_name(f"{name}_app", host)
            assert not names.is_clone_name(f"app_{name}", host)
    for name in (request, f"{request}_demo", "shop"):
        assert not names.is_named_after_run(name, [request])
        assert not names.is_clone_name(name, request)
