"""Runners that IDEs pass as --testrunner use schemas if `schema_runner` is an installed app."""

import pytest

from ..project import WITH_STOCK, Mode, Project, each_mode

# Like VS Code's: one runner lists tests, and one runs them with its own result class.
RUNNERS = """
    import unittest
    from django.test.runner import DiscoverRunner
    from django.test.utils import iter_test_cases
    from helpers import record

    class Discovery(DiscoverRunner):
        def run_tests(self, test_labels, **kwargs):
            suite = self.build_suite(test_labels, **kwargs)
            record("found", tests=sorted(test.id() for test in iter_test_cases(suite)))
            return 0

    class Result(unittest.TextTestResult):
        def addSuccess(self, test):
            super().addSuccess(test)
            record("passed", test=test.id())

    class Execution(DiscoverRunner):
        def get_test_runner_kwargs(self):
            return {**super().get_test_runner_kwargs(), "resultclass": Result}

    def function(*labels, **options): pass
"""
TESTS = """
    class First(TestCase):
        def test_it(self): record("schema", current=query("SELECT current_schema()")[0][0])
    class Second(First): pass
"""
NAMES = [f"library.test_generated.{name}.test_it" for name in ("First", "Second")]


@pytest.fixture
def installed(project: Project) -> Project:
    project.configure('INSTALLED_APPS += ["schema_runner"]')
    project.write("ide.py", RUNNERS)
    project.tests(TESTS)
    return project


@pytest.mark.versions
@each_mode
def test_the_runner_is_combined_with_that_of_the_settings(installed: Project, mode: Mode) -> None:
    """The IDE's result class, the project's runner and its options are combined."""
    runner = """
        from schema_runner import SchemaDiscoverRunner
        class Runner(SchemaDiscoverRunner):
            @classmethod
            def add_arguments(cls, parser):
                super().add_arguments(parser)
                parser.add_argument("--of-the-project")
            def __init__(self, of_the_project, **kwargs):
                super().__init__(**kwargs)
                self.log(f"The project's runner has {of_the_project}.")
    """
    installed.write("runners.py", runner)
    installed.configure('TEST_RUNNER = "runners.Runner"')
    options = ("--of-the-project", "options", "--test-timeout", "60")
    result = installed.run(*mode, *options, "--testrunner=ide.Execution").passed("Ran 2 tests")
    assert "The project's runner has options." in result.stdout
    assert sorted(one["test"] for one in installed.records("passed")) == NAMES
    schemas = {one["current"] for one in installed.records("schema")}
    assert all(name.startswith("test_w") for name in schemas)


def test_a_runner_that_lists_tests(installed: Project) -> None:
    """Listing tests creates nothing, and prints no summary."""
    result = installed.run("--testrunner=ide.Discovery").passed()
    (found,) = installed.records("found")
    assert found["tests"] == NAMES
    assert result.output == "Found 2 test(s).\n"


def test_a_subclass_that_runs_tests_itself(project: Project) -> None:
    """Like PyCharm's runner."""
    runner = """
        import unittest
        from schema_runner import SchemaDiscoverRunner
        class Runner(unittest.TextTestRunner, SchemaDiscoverRunner):
            def __init__(self, **options):
                unittest.TextTestRunner.__init__(self)
                SchemaDiscoverRunner.__init__(self, **options)
            def run_suite(self, suite, **kwargs): return unittest.TextTestRunner.run(self, suite)
    """
    project.write("ide.py", runner)
    project.tests(TESTS)
    project.run("--testrunner=ide.Runner").passed("Ran 2 tests")
    (schema,) = {one["current"] for one in project.records("schema")}
    assert schema.startswith("test_w1_")


def test_runners_that_are_not_combined(installed: Project) -> None:
    """Stock Django's runner is used as given, and without the app any runner is."""
    for arguments, is_ours in [(WITH_STOCK, False), ((), True)]:
        installed.run(*arguments).passed()
        schemas = {one["current"].startswith("test_w") for one in installed.records("schema")}
        assert schemas == {is_ours}
        installed.forget()
    installed.configure('INSTALLED_APPS.remove("schema_runner")')
    installed.run("--testrunner=ide.Execution").passed()
    assert {one["current"] for one in installed.records("schema")} == {"public"}
