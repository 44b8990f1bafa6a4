"""Failures in workers have the same text as in a serial run with stock Django."""

import re

import pytest

from ..project import PARALLEL, SERIAL, WITH_STOCK, Mode, Project

pytestmark = pytest.mark.versions

LINE = "=" * 70
RUNNERS = """
    from django.test.runner import DiscoverRunner
    from schema_runner import SchemaRunnerMixin

    class Stock(DiscoverRunner):
        def get_test_runner_kwargs(self):
            return {**super().get_test_runner_kwargs(), "tb_locals": True}
    class Ours(SchemaRunnerMixin, Stock): pass
"""
TESTS = """
    import decimal
    from helpers.unpicklable import *

    def fail_here(test, number): test.assertEqual(number, number + 1)
    def local(message):
        class LocalError(Exception): pass
        raise LocalError(message)
    class Nested:
        class InnerError(ValueError): pass

    class Failures(SimpleTestCase):
        def test_lists(self): self.assertEqual([{"a": 1, "b": [1, 2]}], [{"a": 1, "b": [1, 3]}])
        def test_texts(self): self.assertEqual("one\\ntwo\\n", "one\\nthree\\n")
        def test_helper(self): fail_here(self, 3)
        def test_bare(self):
            number = 3
            assert number == 4, "bare"
        def test_nothing_raised(self):
            with self.assertRaises(ValueError): pass
        def test_from_an_error(self):
            try: int("x")
            except ValueError as error: raise AssertionError("from it") from error
        def test_clean_up(self):
            self.addCleanup(lambda: 1 / 0)
            self.fail("before the clean-up")
        def test_printed(self):
            print("to stdout")
            sys.stderr.write("to stderr\\n")
            self.fail("has printed")
        def test_printed_an_empty_line(self):
            print()
            self.fail("has printed")
        def test_subtests(self):
            for number in range(3):
                with self.subTest("of three", number=number): self.assertEqual(number, 1)
            with self.subTest(local=True): local("in a subtest")
        def test_local_class(self):
            class LocalError(AssertionError): pass
            raise LocalError("a failure")
    class OwnFailure(SimpleTestCase):
        class failureException(Exception): pass
        def test_it(self): self.assertEqual(1, 2)
        def test_subtest(self):
            with self.subTest(number=1): raise self.failureException(threading.Lock)
    class Errors(SimpleTestCase):
        def test_marks(self):
            found = {"a": {"b": None}}
            return found["a"]["b"]["c"] + len(
                found
            )
        def test_misspelt(self): self.asertEqual(1, 2)
        def test_unknown_name(self): lenn([])
        def test_decimal(self): decimal.Decimal("x")
        def test_syntax(self): compile("a = (1,", "f.py", "exec")
        def test_bytes(self): b"\\xff".decode()
        def test_file(self): open("/nowhere/at/all")
        def test_chain(self):
            try:
                try: local("at first")
                except Exception as error: raise KeyError("then") from error
            except KeyError: raise TypeError("at last")
        def test_suppressed(self):
            try: int("x")
            except ValueError: raise KeyError("alone") from None
        def test_notes(self):
            error = LockedError("noted")
            error.add_note("a note\\nof two lines")
            raise error
        def test_group(self):
            found = []
            for function in (lambda: local("in a group"), lambda: fail_here(self, 1)):
                try: function()
                except Exception as error: found.append(error)
            raise ExceptionGroup("outer", [found[0], ExceptionGroup("inner", found[1:])])
        def test_nested_class(self): raise Nested.InnerError("nested")
        def test_local_class(self): local("two\\nlines")
        def test_two_arguments(self): raise DemandingError(1, 2)
        def test_mute(self): raise MuteError("silent")
        def test_without_text(self): raise ReducingError
        def test_known_here(self): raise make_known(Exception)("known here")
        def test_exit(self): sys.exit(3)
    @tag("database")
    class Database(TestCase):
        def test_it(self): Author.objects.create(id=1, name=None)
    class SetUp(SimpleTestCase):
        def setUp(self): 1 / 0
        def test_it(self): pass
    class TearDown(SimpleTestCase):
        def tearDown(self): 1 / 0
        def test_it(self): self.fail("in the test")
    class ClassSetUp(SimpleTestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            print("in setUpClass")
            local("no set-up")
        def test_it(self): pass
    class ClassTearDown(SimpleTestCase):
        @classmethod
        def tearDownClass(cls):
            super().tearDownClass()
            1 / 0
        def test_it(self): pass
    class ClassCleanUp(SimpleTestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            cls.addClassCleanup(lambda: 1 / 0)
        def test_it(self): pass
    class Async(SimpleTestCase):
        async def test_it(self): self.assertEqual(1, 2)
"""
MODULE = """
    def setUpModule(): 1 / 0
    class InModule(SimpleTestCase):
        def test_it(self): pass
"""
WRAPPED = """
    import asyncio
    from django.core.management import call_command
    from django.db.models.signals import post_migrate

    def fail_once(**kwargs):
        post_migrate.disconnect(fail_once)
        raise ValueError("in a handler")
    class AfterTest(TestCase):
        def test_it(self): Book.objects.create(title="Solaris", author_id=1)
    class InGroup(TestCase):
        async def test_it(self):
            async with asyncio.TaskGroup() as group:
                group.create_task(Author.objects.acreate(name=None))
    class InFlush(TransactionTestCase):
        def test_it(self):
            post_migrate.connect(fail_once)
            call_command("flush", interactive=False)
"""


def reports(output: str) -> dict[str, str]:
    """Map the heading of each failure that unittest printed to its text."""
    sections = [part.partition(f"\n{'-' * 70}\nRan ")[0] for part in output.split(f"{LINE}\n")]
    found = {part.partition("\n")[0]: part for part in sections[1:]}
    # Addresses differ, and so do process ids in the names of classes that only a worker has.
    return {name: re.sub(r"0x\w+|Known\d+", "...", text).rstrip() for name, text in found.items()}


@pytest.mark.parametrize(
    ("method", "options", "runners"),
    [
        ("fork", ("--buffer",), (WITH_STOCK, ())),
        (
            "spawn",
            ("--exclude-tag", "database"),
            (("--testrunner", "runners.Stock"), ("--testrunner", "runners.Ours")),
        ),
    ],
    ids=["buffer", "locals"],
)
def test_failures_read_as_in_a_serial_run(
    project: Project, method: str, options: Mode, runners: tuple[Mode, Mode]
) -> None:
    project.write("runners.py", RUNNERS)
    project.tests(TESTS)
    project.tests(MODULE, "test_module")
    project.write("library/test_missing.py", "import nothing_of_this_name\n")
    stock, ours = runners
    serial = reports(project.run(*stock, *options).failed().stderr)
    env = {"START_METHOD": method}
    parallel = reports(project.run(*ours, *PARALLEL, *options, env=env).failed().stderr)
    assert len(serial) > 40
    assert parallel == serial


def test_tracebacks_have_no_frames_of_the_runner(project: Project) -> None:
    project.tests(WRAPPED)
    modes = WITH_STOCK, SERIAL, PARALLEL
    stock, *ours = (reports(project.run(*mode).failed().stderr) for mode in modes)
    assert len(stock) == 3
    assert ours == [stock, stock]
