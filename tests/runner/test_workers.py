"""The number of workers, and the summary at the end of a run."""

import re

import pytest

from ..project import PARALLEL, SERIAL, Mode, Project
from .test_roles import roles

AUTO = ("--parallel", "auto")
QUICK = """
    class First(TestCase):
        def test_it(self): meet()
    class Second(First): pass
    class Third(First): pass
"""
SLOW = QUICK.replace("meet()", "time.sleep(1.2)")
# A fixed number of CPUs.
PROCESSORS = """
    from schema_runner.scheduling import selection

    selection.usable_cpus = lambda: {}
"""


@pytest.fixture(scope="module")
def quick(shared_project: Project) -> Project:
    """A project whose tests take no time, on four CPUs."""
    shared_project.configure(PROCESSORS.format(4.0))
    shared_project.tests(QUICK)
    return shared_project


def chosen(project: Project, *arguments: str) -> str:
    """Return the line about the number of workers; check that number."""
    result = project.run(*arguments).passed()
    (line,) = re.findall("^--parallel auto: .*$", result.stdout, re.MULTILINE)
    workers = re.findall(r"^([0-9]+) workers\.", result.stdout, re.MULTILINE)
    assert workers == re.findall("^--parallel auto: ([0-9]+) workers", line)
    clones = result.stderr.count("Cloning test database")
    assert clones == int(workers[0]) if workers else clones == 0
    return str(line)


def test_parallel_auto_uses_the_history(project: Project) -> None:
    """The first choice is a guess. Later ones use the history and the free connections."""
    project.tests(SLOW)
    project.configure(PROCESSORS.format(4.0))
    assert "no workers, because the tests take only about 0.1 s" in chosen(project, "--parallel")
    line = chosen(project, *AUTO)
    assert line == "--parallel auto: 3 workers, because there are 3 test classes."
    role = f"few_{project.name}"
    project.configure(f'DATABASES["default"]["USER"] = {role!r}')
    with roles(project, **{role: "CREATEDB CONNECTION LIMIT 9"}):
        line = chosen(project, *AUTO)
    assert line.endswith(": 2 workers, because the server has connections left for at most 2.")


def test_a_suite_that_is_too_short_stays_serial(project: Project) -> None:
    """No worker is started although CPUs are free."""
    project.configure(PROCESSORS.format(4.0))
    project.tests(QUICK)
    for _ in range(2):
        assert "no workers, because the tests take only about 0." in chosen(
            project, "--parallel=auto"
        )


def test_waiting_tests_allow_more_workers(project: Project) -> None:
    """Tests that wait allow more workers than CPUs, if the server is on another machine."""
    project.configure(PROCESSORS.format(1.0))
    project.configure(
        "from schema_runner import run_summary\nrun_summary.has_local_server = lambda _: False"
    )
    project.tests(SLOW)
    project.run().passed()
    line = chosen(project, *AUTO)
    assert re.search("(3|2) workers, because", line), line


def test_an_explicit_number_is_used(quick: Project) -> None:
    """However short the suite is."""
    for arguments, env in [(PARALLEL, {}), (AUTO, {"DJANGO_TEST_PROCESSES": "2"})]:
        result = quick.run(*arguments, env=env).passed()
        assert "auto" not in result.stdout
        assert result.stdout.count("2 workers. ") == 1


def test_the_summary(project: Project) -> None:
    """The summary comes after stock Django's lines, and omits empty parts."""
    tests = """
        class First(TransactionTestCase):
            def test_commits(self): Author.objects.create(name="left")
            def test_it(self):
                meet()
                time.sleep(0.5)

        class Second(First):
            def test_crashes(self): os._exit(7)
            @schema_runner.timeout(0.5)
            def test_lasts(self): time.sleep(9)
    """
    project.tests(tests)
    result = project.run(*PARALLEL, "--retries", "1", env={"MEET": "2"}).failed()
    summary = result.stdout.splitlines()[-7:]
    patterns = [
        r"2 workers\. Set-up [0-9.]+ m?s, tear-down [0-9.]+ m?s\.",
        r"[0-9]+ schemas created, [0-9]+ dropped\.",
        r"Resets: [0-9]+ in [0-9.]+ m?s, [0-9]+ ms each\.",
        r"Failed all retries \(2\): .*Second\.test_.*, .*Second\.test_.*",
        r"Crashed \(1\): library\.test_generated\.Second\.test_crashes",
        r"Timed out \(1\): library\.test_generated\.Second\.test_lasts",
    ]
    for pattern, line in zip(patterns, summary[1:], strict=True):
        assert re.fullmatch(pattern, line), result.stdout
    made, dropped = re.findall("[0-9]+", summary[2])
    assert made == dropped


def test_kept_and_reused_schemas_are_counted(quick: Project) -> None:
    """Schemas of pools and databases are counted, also without workers.

    Resets are omitted if there were none.
    """
    quick.forget()
    kept = [quick.run(*PARALLEL, "--keepdb", env={"MEET": "2"}).passed().stdout for _ in range(2)]
    assert "\n2 schemas created, 2 kept.\n" in kept[0]
    assert "\n2 schemas reused, 2 kept.\n" in kept[1]
    *_, times, schemas = quick.run("--clear-pools").passed().stdout.splitlines()
    assert re.fullmatch(r"Set-up [0-9.]+ m?s, tear-down [0-9.]+ m?s\.", times)
    assert schemas == "1 schema created, 1 dropped."
    databases = quick.run(*PARALLEL, "--isolation", "database").passed().stdout
    assert "schema" not in databases.split("Set-up")[1]


@pytest.mark.parametrize("mode", [SERIAL, PARALLEL, AUTO], ids=["serial", "parallel", "auto"])
def test_verbosity_0_has_no_summary(quick: Project, mode: Mode) -> None:
    """Neither does stock Django print anything about databases."""
    result = quick.run(*mode, "-v", "0").passed()
    assert result.stdout == "System check identified no issues (0 silenced).\n"
