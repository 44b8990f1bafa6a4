import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schema_runner.scheduling.shards import Shard, Weight

TESTS = st.integers(0, 50)
SECONDS = st.floats(0, 1000) | st.sampled_from([0.0, 1.0])


def suites(seconds: st.SearchStrategy[float | None]) -> st.SearchStrategy[dict[str, Weight]]:
    """Return suites of classes with these seconds, in any order."""
    return st.dictionaries(st.text(max_size=5), st.builds(Weight, TESTS, seconds), max_size=20)


# With history, without, and with history for some classes.
SUITES = suites(SECONDS) | suites(st.none()) | suites(SECONDS | st.none())


def shares(suite: dict[str, Weight], total: int) -> list[set[str]]:
    return [Shard(number, total).select(suite) for number in range(1, total + 1)]


def places(suite: dict[str, Weight], total: int) -> dict[str, int]:
    return {name: n for n, share in enumerate(shares(suite, total)) for name in share}


def untimed(tests: list[int], prefix: str = "app.tests.Test") -> dict[str, Weight]:
    """Return a suite without history."""
    return {f"{prefix}{index}": Weight(count) for index, count in enumerate(tests)}


@pytest.mark.parametrize("text", ["2/4", " 2 / 4\n", "02/04"])
def test_a_shard_is_its_number_and_the_total(text: str) -> None:
    assert Shard.parse(text) == Shard(2, 4)
    assert str(Shard.parse(text)) == "2/4"


NO_SHARDS = [
    *("", "2", "/", "2/", "/4", "a/b", "1/4/2", "2 4", "2/4x", "auto", "0/4", "5/4", "2/0", "0/0"),
    *("-1/4", "+1/4", "1.0/4", "1_0/20", "٢/٤", "1/99999"),
]


@pytest.mark.parametrize("text", NO_SHARDS)
def test_an_invalid_shard_is_an_error_with_the_format(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be I/N .* 2/4, or auto") as no:
        Shard.parse(text)
    assert str(no.value).endswith(f"not {text!r}")


ENGINES = [
    # Two variables, the number of the first job, and other variables that the service sets.
    ("CI_NODE_INDEX", "CI_NODE_TOTAL", 1, {}),
    ("CI_NODE_INDEX", "CI_NODE_TOTAL", 1, {"GITLAB_CI": "true"}),
    ("CI_NODE_INDEX", "CI_NODE_TOTAL", 0, {"HEROKU_TEST_RUN_ID": "e5e28b13"}),
    ("CIRCLE_NODE_INDEX", "CIRCLE_NODE_TOTAL", 0, {"CIRCLECI": "true"}),
    ("BUILDKITE_PARALLEL_JOB", "BUILDKITE_PARALLEL_JOB_COUNT", 0, {"BUILDKITE": "true"}),
    ("SEMAPHORE_JOB_INDEX", "SEMAPHORE_JOB_COUNT", 1, {"SEMAPHORE": "true"}),
    ("SYSTEM_JOBPOSITIONINPHASE", "SYSTEM_TOTALJOBSINPHASE", 1, {"TF_BUILD": "True"}),
    ("BITBUCKET_PARALLEL_STEP", "BITBUCKET_PARALLEL_STEP_COUNT", 0, {}),
    ("BITRISE_IO_PARALLEL_INDEX", "BITRISE_IO_PARALLEL_TOTAL", 0, {"BITRISE_IO": "true"}),
    ("HARNESS_NODE_INDEX", "HARNESS_NODE_TOTAL", 0, {}),
]
CIRCLE = {"CIRCLE_NODE_INDEX": "2", "CIRCLE_NODE_TOTAL": "3"}
GITLAB = {"CI_NODE_INDEX": "2", "CI_NODE_TOTAL": "3"}


@pytest.mark.parametrize(("index", "total", "first", "engine"), ENGINES)
def test_a_ci_service_sets_the_shard(
    index: str, total: str, first: int, engine: dict[str, str]
) -> None:
    """The first job is number 0 or 1; a number beyond the total is an error."""
    for number in (1, 2, 4):
        environ = {**engine, index: str(number - 1 + first), total: "4", "PATH": "/bin"}
        assert Shard.from_environment(environ) == Shard(number, 4)
    for wrong in (first - 1, first + 4):
        with pytest.raises(ValueError, match=f"auto: {index}='{wrong}', which counts from"):
            Shard.from_environment({**engine, index: str(wrong), total: "4"})


@pytest.mark.parametrize(
    ("environ", "shard"),
    [
        # A job that is not parallel: GitLab sets one variable, others set both.
        ({"GITLAB_CI": "true", "CI_NODE_TOTAL": "1"}, Shard(1, 1)),
        ({"CI_NODE_INDEX": "", "CI_NODE_TOTAL": "1"}, Shard(1, 1)),
        ({"CIRCLE_NODE_INDEX": "0", "CIRCLE_NODE_TOTAL": "1", "CI_NODE_TOTAL": ""}, Shard(1, 1)),
        # A job that also sets the variables of another service.
        ({**GITLAB, **CIRCLE, "CIRCLE_NODE_INDEX": "1"}, Shard(2, 3)),
    ],
)
def test_jobs_that_are_not_parallel_and_services_that_agree(
    environ: dict[str, str], shard: Shard
) -> None:
    """Empty variables count as unset."""
    assert Shard.from_environment(environ) == shard


def test_variables_without_a_shard_are_listed() -> None:
    expected = (
        "none of these pairs of variables is set: .* Pass the shard yourself, such as --shard 2/4"
    )
    with pytest.raises(ValueError, match=expected) as no:
        Shard.from_environment({"GITHUB_ACTIONS": "true"})
    assert all(index in str(no.value) and total in str(no.value) for index, total, *_ in ENGINES)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"CI_NODE_INDEX": "2"}, "CI_NODE_INDEX='2', .* and CI_NODE_TOTAL=''"),
        ({"CI_NODE_TOTAL": "2"}, "CI_NODE_INDEX='', .* and CI_NODE_TOTAL='2'"),
        ({"CI_NODE_INDEX": "1", "CI_NODE_TOTAL": "0"}, "CI_NODE_INDEX='1'"),
        ({"CI_NODE_INDEX": "null", "CI_NODE_TOTAL": "1"}, "CI_NODE_INDEX='null'"),
        ({"CI_NODE_INDEX": "+1", "CI_NODE_TOTAL": "2"}, r"CI_NODE_INDEX='\+1'"),
        ({"CI_NODE_INDEX": "1", "CI_NODE_TOTAL": "two"}, "CI_NODE_TOTAL='two'"),
        ({**GITLAB, **CIRCLE}, "2/3 in CI_NODE_INDEX and CI_NODE_TOTAL, 3/3 in CIRCLE_NODE_IN"),
        ({"CIRRUS_CI": "true", "CI_NODE_INDEX": "1", "CI_NODE_TOTAL": "5"}, "Cirrus CI, because"),
    ],
)
def test_invalid_variables_are_an_error(environ: dict[str, str], message: str) -> None:
    """The error lists the variables, and what to do without them."""
    with pytest.raises(
        ValueError, match=rf"{message}.* Pass the shard yourself, such as --shard 2/4\."
    ):
        Shard.from_environment(environ)


@settings(deadline=None)
@given(SUITES, st.integers(1, 30))
@example({"A": Weight(1, 1.0), "B": Weight(1, 1.0)}, 2)
@example({name: Weight(1, n) for name, n in zip("abcz", (0.1, 0.2, 0.3, None), strict=True)}, 3)
def test_each_class_is_in_one_shard(suite: dict[str, Weight], total: int) -> None:
    """Each class is in one shard, regardless of the order of discovery."""
    found = shares(suite, total)
    assert set().union(*found) == set(suite)
    assert sum(map(len, found)) == len(suite)
    assert found == shares(dict(reversed(suite.items())), total)


def test_shards_are_the_same_on_every_machine() -> None:
    """Regardless of locale, hash seed and Python version."""
    suite = untimed([3] * 10, "Test")
    found = ["".join(sorted(name[4:] for name in share)) for share in shares(suite, 3)]
    assert found == ["018", "247", "3569"]


def test_shards_without_classes_are_empty() -> None:
    """Shards are empty if there are more shards than classes, or no classes."""
    assert shares({}, 3) == [set(), set(), set()]
    known = {"A": Weight(1, 2.0), "B": Weight(9, 1.0)}
    assert shares(known, 3) == [{"A"}, {"B"}, set()]


@settings(deadline=None)
@given(st.lists(st.integers(0, 20), max_size=7), st.integers(2, 3))
@example([3, 3, 2, 2, 2], 2)
def test_with_history_the_longest_shard_is_near_the_best(seconds: list[int], total: int) -> None:
    """At most 4/3 - 1/(3 * total) times the best, the bound for longest-first scheduling."""
    suite = {str(index): Weight(1, float(each)) for index, each in enumerate(seconds)}
    found = shares(suite, total)
    longest = max(sum(suite[name].seconds or 0 for name in share) for share in found)
    best = min(
        max(sum(s for s, n in zip(seconds, way, strict=True) if n == k) for k in range(total))
        for way in itertools.product(range(total), repeat=len(seconds))
    )
    assert 3 * total * longest <= (4 * total - 1) * best


def test_new_classes_take_the_average_of_known_tests() -> None:
    """Here 2 seconds for each test, so the class comes between one of 9 seconds and one of 7."""
    suite = {"A": Weight(4, 9.0), "B": Weight(4, 7.0), "C": Weight(4), "D": Weight(1)}
    assert shares(suite, 3) == [{"A"}, {"C"}, {"B", "D"}]
    suite["D"] = Weight(5)
    assert shares(suite, 3) == [{"D"}, {"A"}, {"B", "C"}]


def test_classes_that_take_no_time_are_shared_out_by_tests() -> None:
    """They are divided by the number of tests, instead of all being in one shard."""
    suite = {name: Weight(tests, 0.0) for name, tests in zip("ABCD", (1, 2, 3, 6), strict=True)}
    assert shares(suite, 2) == [{"D"}, {"A", "B", "C"}]


def test_without_history_additions_move_no_class() -> None:
    """The shards have about the same number of classes."""
    suite = untimed([1] * 400)
    before = places(suite, 4)
    after = places({**suite, **untimed([1] * 40, "app.new.Test")}, 4)
    assert {name: after[name] for name in suite} == before
    assert all(80 <= len(share) <= 120 for share in shares(suite, 4))
