"""Random test suites with crashes, errors and odd output, and the outcomes to expect."""

import random
from dataclasses import dataclass, field
from textwrap import indent

# Test bodies with their outcomes. `{n}` is a number unique to the test, `{seconds}` a short time.
_GOOD = [
    *[("pass", "passed"), ("self.assertEqual(1, 1)", "passed")],
    *[("time.sleep({seconds})", "passed")] * 2,
    ("print('out {n} ' * 30000)", "passed"),
    ("print('err {n} ' * 30000, file=sys.stderr)", "passed"),
    ("threading.Thread(target=time.sleep, args=[3600], daemon=True).start()", "passed"),
    ("threading.Thread(target=time.sleep, args=[3600]).start()", "passed"),
    ("self.skipTest('not {n}')", "skipped"),
    ("for lock in LOCKS:\n    with self.subTest(lock=lock):\n        pass", "passed"),
]
_GOOD_WITH_DATABASE = [
    ("Author.objects.create(name='of {n}')", "passed"),
    ("self.assertEqual(Author.objects.count(), 0)", "passed"),
    ("Book.objects.create(title='{n}', author=Author.objects.create(name='a'))", "passed"),
    ("Author.objects.create(name='b'); time.sleep({seconds})", "passed"),
]
# Bodies for tests decorated with expectedFailure.
_EXPECTED = [
    ("self.fail('expected {n}')", "expected failure"),
    ("raise LockedError('expected {n}')", "expected failure"),
]
_BAD = [
    *[("self.fail('failure {n}')", "failed"), ("raise ValueError('error {n}')", "error")],
    ("raise LockedError('locked {n}')", "error"),
    ("raise UnreducingError('unreducing {n}')", "error"),
    ("class LocalError(Exception):\n    pass\nraise LocalError('local {n}')", "error"),
    ("self.fail('large {n} ' * 100000)", "failed"),
    ("print('out {n} ' * 200000)\nraise LockedError('large {n} ' * 100000)", "error"),
    ("raise SystemExit({n})", "error"),
    (
        "for number, lock in enumerate(LOCKS):\n"
        "    with self.subTest(number=number, lock=lock): self.assertEqual(number, 1, 'of {n}')",
        "failed",
    ),
    ("with self.subTest(lock=LOCKS):\n    raise LockedError('subtest {n}')", "error"),
]
_DEADLY = [
    *[("os._exit(3)", "crashed"), ("os.kill(os.getpid(), signal.SIGKILL)", "crashed")],
    *[("ctypes.string_at(0)", "crashed"), ("raise KeyboardInterrupt('interrupt {n}')", "crashed")],
]
_BASES = ["SimpleTestCase", "TestCase", "TransactionTestCase"]
_PREAMBLE = """
    import ctypes

    from helpers.unpicklable import *

    LOCKS = [threading.Lock() for _ in range(3)]


"""


@dataclass(slots=True)
class Suite:
    """The source of a test module, and the expected outcomes of its tests and fixtures."""

    text: str = _PREAMBLE
    outcomes: dict[str, str] = field(default_factory=dict)
    fixtures: dict[str, str] = field(default_factory=dict)
    # Tests that are skipped before they start.
    never_recorded: set[str] = field(default_factory=set)


def generate(chance: random.Random, *, classes: int, tests: int, is_bad: bool) -> Suite:
    """Return a suite with `tests` tests in `classes` classes. Tests fail only if `is_bad`."""
    suite = Suite()
    of_class = [1] * classes
    for _ in range(tests - classes):
        of_class[chance.randrange(classes)] += 1
    for number, count in enumerate(of_class):
        _add_class(suite, chance, number, count, is_bad=is_bad)
    return suite


def _add_class(suite: Suite, chance: random.Random, number: int, tests: int, is_bad: bool) -> None:
    name, base = f"C{number}", chance.choice(_BASES)
    lines = [f"class {name}(Recording, {base}):"]
    marks, way = [], chance.random()
    breaks = is_bad and way > 0.95
    if way < 0.05:
        marks = ["@unittest.skip('all of it')"]
    elif way < 0.1:
        marks = ["@schema_runner.serial"]
    elif breaks or way < 0.2:
        then = "raise LockedError('in set-up')" if breaks else "time.sleep(0.05)"
        set_up = f"@classmethod\ndef setUpClass(cls):\n    super().setUpClass()\n    {then}\n"
        lines += [indent(set_up, "    ")]
    for index in range(tests):
        n = 1000 * number + index
        test = f"{name}.test_{index:02}"
        mark, statement, outcome = _choose(chance, base, is_bad=is_bad)
        seconds = f"{chance.uniform(0.01, 0.1):.3f}"
        statement = statement.replace("{n}", str(n)).replace("{seconds}", seconds)
        body = f"{mark}def test_{index:02}(self):\n{indent(statement, '    ')}\n"
        lines.append(indent(body, "    "))
        if not breaks:
            suite.outcomes[test] = "skipped" if way < 0.05 else outcome
        if way < 0.05 or mark.startswith("@unittest.skip"):
            suite.never_recorded.add(test)
    if breaks:
        suite.fixtures[f"setUpClass ({name})"] = "in set-up"
    suite.text += indent("\n".join([*marks, *lines]) + "\n\n\n", "    ")


def _choose(chance: random.Random, base: str, *, is_bad: bool) -> tuple[str, str, str]:
    """Return a decorator, a test body and the expected outcome."""
    way = chance.random()
    if way < 0.04:
        return ("@unittest.skip('before it begins')\n", "self.fail()", "skipped")
    if way < 0.1:
        return ("@unittest.expectedFailure\n", *chance.choice(_EXPECTED))
    if is_bad and way < 0.12:
        return ("@unittest.expectedFailure\n", "pass", "unexpected success")
    if is_bad and way < 0.16:
        return ("", *chance.choice(_DEADLY))
    if is_bad and way < 0.4:
        return ("", *chance.choice(_BAD))
    has_database = base != "SimpleTestCase"
    return ("", *chance.choice(_GOOD + _GOOD_WITH_DATABASE * has_database))
