"""--shard: several machines run parts of a suite, without communication."""

import shutil
from itertools import chain

import pytest

from ..project import PARALLEL, SERIAL, Mode, Project, each_mode, outcome
from .recording import read, run, sleeping

SHARDS = ["1/3", "2/3", "3/3"]
# Variables of CI engines that `--shard auto` reads.
VARIABLES = [
    *("CI_NODE_INDEX", "CI_NODE_TOTAL", "CIRCLE_NODE_INDEX", "CIRCLE_NODE_TOTAL"),
    *("BUILDKITE_PARALLEL_JOB", "SEMAPHORE_JOB_INDEX", "SYSTEM_JOBPOSITIONINPHASE"),
    *("BITBUCKET_PARALLEL_STEP", "BITRISE_IO_PARALLEL_INDEX", "HARNESS_NODE_INDEX", "CIRRUS_CI"),
]
GITLAB = {"CI_NODE_INDEX": "2", "CI_NODE_TOTAL": "3"}
CIRCLE = {"CIRCLE_NODE_INDEX": "1", "CIRCLE_NODE_TOTAL": "3"}

TWO_TESTS = """
    class {name}(Recording, {kind}):
        def test_a(self): Author.objects.create(name="a")
        def test_b(self): time.sleep({seconds})

"""
KINDS = ["TestCase", "TransactionTestCase"]


def write_suite(project: Project, *, has_history: bool = False) -> Project:
    """Write ten classes of two tests each, in two modules.

    Without a history, runs do not differ.
    """
    for module in ("M1", "M2"):
        text = ""
        for n in range(5):
            text += TWO_TESTS.format(name=f"{module}C{n}", kind=KINDS[n % 2], seconds=n / 50)
        project.tests(text, module=f"test_{module}")
    if not has_history:
        project.configure('SCHEMA_RUNNER = {"HISTORY_DIR": None}')
    return project


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def suite(shared_project: Project) -> Project:
    """A project with a suite whose runs change nothing."""
    return write_suite(shared_project)


def shards(project: Project, *arguments: str, total: int = 20) -> list[list[str]]:
    """Return the tests of each shard; all shards get the same history."""
    folder, kept = project.folder / ".schema_runner", project.folder / "kept"
    if folder.exists():
        shutil.copytree(folder, kept, dirs_exist_ok=True)
    found = []
    for shard in SHARDS:
        shutil.rmtree(folder, ignore_errors=True)
        if kept.exists():
            shutil.copytree(kept, folder)
        one = run(project, *arguments, "--shard", shard).passed()
        said = f"Running shard {shard}: {len(one.tests)} of {total} tests."
        assert said in one.result.stdout.splitlines()
        found.append(one.tests)
    return found


@pytest.mark.parametrize("has_history", [False, True], ids=["without", "with"])
@each_mode
def test_shards_are_the_suite(project: Project, mode: Mode, has_history: bool) -> None:
    """Each class is in one shard. Serial shards run tests in the order of stock Django."""
    write_suite(project, has_history=has_history)
    every = run(project, *mode).passed().tests
    assert len(set(every)) == len(every) == 20
    found = shards(project, *mode)
    assert sorted(chain(*found)) == sorted(every)
    assert all(found)
    classes = [{name.partition(".")[0] for name in tests} for tests in found]
    assert sum(map(len, classes)) == 10
    if not mode:
        assert found == [[name for name in every if name in tests] for tests in found]


def test_shards_do_not_depend_on_the_order(suite: Project) -> None:
    """The shards make up the suite although each uses another order."""
    flags = [["--reverse"], ["--shuffle", "3"], []]
    found: list[str] = []
    for shard, more in zip(SHARDS, flags, strict=True):
        found += run(suite, *more, "--shard", shard).passed().tests
    assert len(found) == len({*found}) == 20


def test_shards_are_balanced_by_history(project: Project) -> None:
    """A class as long as all others together has its own shard, and the others are distributed."""
    # It takes long only in the run that is measured.
    project.tests(sleeping("Long", "1.5 if 'MEASURED' in os.environ else 0"), module="test_1")
    project.tests(sleeping("A B C D E F", 0.1), module="test_2")
    run(project, env={"MEASURED": "1"}).passed()
    found = shards(project, total=7)
    assert ["Long.test_it"] in found
    assert sorted(map(len, found)) == [1, 3, 3]
    project.configure('SCHEMA_RUNNER = {"HISTORY_DIR": None}')
    assert ["Long.test_it"] not in shards(project, total=7)


@pytest.mark.parametrize(
    ("mode", "host"), [(SERIAL, "test"), (PARALLEL, "test"), (PARALLEL, "current")]
)
def test_shards_may_share_a_server(suite: Project, mode: Mode, host: str) -> None:
    """Concurrent shards with the same settings leave nothing behind."""
    suite.forget()
    suite.create_database()
    # All processes reach their first test before any continues.
    env = {"MEET": "6" if mode else "3"}
    arguments = (*mode, "--host-database", host)
    for one in [suite.start(*arguments, "--shard", shard, env=env) for shard in SHARDS]:
        outcome(one).passed()
    begun = [line.name for line in read(suite) if line.what == "begins"]
    assert len(begun) == len(set(begun)) == 20
    assert suite.databases() == [suite.name]
    assert suite.schemas(suite.name) == {}
    suite.drop_database()


@each_mode
def test_a_shard_without_tests_passes(project: Project, mode: Mode) -> None:
    """A shard may be empty if there are more shards than classes."""
    project.tests(sleeping("Only", 0))
    found = [run(project, *mode, "--shard", shard).passed() for shard in SHARDS]
    assert sorted(one.tests for one in found) == [[], [], ["Only.test_it"]]
    for one in found:
        assert f"Ran {len(one.tests)} test" in one.result.stderr


def refused(project: Project, *flags: str) -> str:
    """Return the error of a run that is refused before it does anything."""
    found = run(project, *flags)
    assert (found.result.code, found.result.stdout, found.tests) == (2, "", [])
    *_, line = found.result.stderr.splitlines()
    return line


def test_invalid_shards_are_refused(suite: Project) -> None:
    """One line says what the option takes. Unit tests have all invalid values."""
    for text in ("4/3", ""):
        assert refused(suite, f"--shard={text}") == (
            "manage.py test: error: argument --shard: must be I/N with I from 1 to N, such as "
            "2/4, or auto to read both from the environment variables of the CI service, "
            f"not {text!r}"
        )
    # The message names the variables that were read, and an alternative.
    for flags in (["--shard", "auto"], ["--shard"]):
        line = refused(suite, *flags)
        assert (
            "--shard: --shard auto: none of these pairs of variables is set: CI_NODE_INDEX and"
            in line
        )
        assert line.endswith("Pass the shard yourself, such as --shard 2/4.")


def test_the_ci_engine_names_the_shard(suite: Project) -> None:
    """Engines count from 0 or from 1. Without the option, the variables are ignored."""
    by_hand = run(suite, "--shard", "2/3").passed()
    for env, flags in [(GITLAB, ["--shard", "auto"]), (CIRCLE, ["--shard"])]:
        found = run(suite, *flags, env=env).passed()
        assert found.tests == by_hand.tests
        assert "Running shard 2/3: " in found.result.stdout
    for mode in (SERIAL, PARALLEL):
        found = run(suite, *mode, env={**GITLAB, **CIRCLE}).passed()
        assert len(found.tests) == len(set(found.tests)) == 20
        assert "hard" not in found.result.output


@each_mode
def test_an_import_error_fails_every_shard(project: Project, mode: Mode) -> None:
    """Its tests could be in any shard."""
    write_suite(project).tests("import nothing_there", module="test_broken")
    every = []
    for shard in SHARDS:
        found = run(project, *mode, "--shard", shard)
        every += found.failed("No module named 'nothing_there'", "FAILED (errors=1)").tests
    assert len(every) == len(set(every)) == 20
