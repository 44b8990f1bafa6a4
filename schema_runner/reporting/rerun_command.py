"""The command that reruns tests with the options of this run."""

import os
import sys
from argparse import SUPPRESS, Action, ArgumentError, ArgumentParser, Namespace
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

_FAILED_TO_LOAD = "unittest.loader._FailedTest."
# Options that select, order or repeat tests, which the command leaves out. The last two are in
# Django's own runtests.py.
_LEFT_OUT = {
    "test_name_patterns", "failfast", "reverse", "shuffle", "pdb", "parallel", "retries",
    "fail_on_flaky", "diagnose", "last_failed", "failed_first", "quarantine_flaky", "order",
    "clear_pools", "shard", "start_at", "start_after",
}  # fmt: skip


class _GivenOption(NamedTuple):
    """An option of the command line, which the parser stores as `dest`."""

    dest: str
    flag: str
    values: Sequence[str]

    @property
    def words(self) -> list[str]:
        if len(self.values) != 1:
            return [self.flag, *self.values]
        (value,) = self.values
        if self.flag.startswith("--"):
            return [f"{self.flag}={value}"]
        return [self.flag + value] if value.startswith("-") else [self.flag, value]


class RerunCommand:
    """The command of this process; `arguments` are all keyword arguments of the runner.

    They include the parser of the command line, unless a script created the runner.
    """

    def __init__(self, runner_class: type, arguments: Mapping[str, Any]) -> None:
        self._runner_class = runner_class
        self._arguments = dict(arguments)
        self._parser: ArgumentParser | None = self._arguments.get("command_parser")
        # sys.argv is empty in a program that embeds Python.
        self._argv, self._typed = list(sys.argv) or [""], list(sys.orig_argv)

    def with_tests(
        self, tests: Iterable[str], *, labels: Collection[str], options: Sequence[str] = ()
    ) -> str:
        """Return the shell command that runs these tests instead of the `labels` of this run."""
        from shlex import join

        tests = [name.removeprefix(_FAILED_TO_LOAD) for name in tests]
        return join(self._edit_typed(tests, labels, options) or self._compose(tests, options))

    def _edit_typed(
        self, tests: Sequence[str], labels: Collection[str], options: Sequence[str]
    ) -> list[str] | None:
        """Return the typed command with these tests; None if it cannot name tests."""
        head, tail = self._split()
        if tail and self._parser is None and set(options) > {"--parallel=2"}:
            return [*head, *tail]  # The script does not have the options.
        if self._parser and tail[:1] == self._parser.prog.split()[-1:]:
            head, tail = [*head, tail[0]], tail[1:]
        try:
            given, others = _read(self._known_parser, tail)
        except ArgumentError:
            return None
        typed = {os.path.normpath(word) for word in others}
        normalized = {os.path.normpath(label) for label in labels}
        if not self._takes_labels(normalized, typed, tail):
            return None
        others = [
            word for word in others if word != "--" and os.path.normpath(word) not in normalized
        ]
        before = list(takewhile(lambda word: not word.startswith("-"), others))
        kept = [word for one in given if one.dest not in _LEFT_OUT for word in one.words]
        if not options and self._has_workers_by_default(given):
            options = ["--parallel=1"]
        # The tests come before the options, so that no option takes one as its value.
        return [*head, *before, *tests, *kept, *options, *others[len(before) :]]

    def _takes_labels(self, labels: set[str], typed: set[str], tail: Sequence[str]) -> bool:
        if self._argv[0] in ("", "-", "-c"):
            return False  # The program is not a file.
        if self._parser is None:
            # A script with its own parser, which may pass all labels if none are typed.
            return bool(tail)
        is_command = getattr(self._parser, "called_from_command_line", False)
        return labels <= typed and bool(labels or is_command)

    def _has_workers_by_default(self, given: Sequence[_GivenOption]) -> bool:
        """Whether the command has workers without --parallel, like Django's runtests.py."""
        is_default = self._parser is None or self._parser.get_default("parallel")
        is_given = any(one.dest == "parallel" for one in given)
        is_parallel = int(self._arguments.get("parallel") or 0) > 1
        return is_parallel and bool(is_default or not is_given)

    def _compose(self, tests: Sequence[str], options: Sequence[str]) -> list[str]:
        """Return a `test` command with the options of this run and these tests."""
        from django.conf import settings
        from django.core.management import get_commands
        from django.test.utils import get_runner

        given = self._from_arguments()
        head, tail = self._split()
        if tail[:1] and tail[0] in get_commands():
            program = head
        else:
            program = [self._typed[0], "-m", "django"]
            module = os.environ.get("DJANGO_SETTINGS_MODULE", "")
            folder = os.path.dirname(self._argv[0])
            needed = {"settings": module, "pythonpath": folder}
            given = [one for one in given if not needed.get(one.dest)]
            given += [
                _GivenOption(name, f"--{name}", [text]) for name, text in needed.items() if text
            ]
        runner = self._runner_class
        if runner is not get_runner(settings, self._arguments.get("testrunner")):
            path = f"{runner.__module__}.{runner.__qualname__}"
            given = [*given, _GivenOption("testrunner", "--testrunner", [path])]
        kept = [word for one in given for word in one.words]
        return [*program, "test", *tests, *kept, *options]

    def _from_arguments(self) -> list[_GivenOption]:
        """List the options whose values differ from the defaults."""
        given = []
        for action in self._known_parser._actions:
            value = self._arguments.get(action.dest, action.default)
            is_given = value is not None and value != action.default
            if is_given and action.option_strings and action.dest not in _LEFT_OUT:
                flag = max(action.option_strings, key=len)
                values = value if isinstance(value, list | tuple) else [value]
                occurrences = [[]] if action.nargs == 0 else [[str(one)] for one in values]
                given += [_GivenOption(action.dest, flag, one) for one in occurrences]
        return given

    @property
    def _known_parser(self) -> ArgumentParser:
        if self._parser is not None:
            return self._parser
        from django.core.management import load_command_class

        parser = load_command_class("django.core", "test").create_parser("", "test")
        for flag in ("--start-at", "--start-after"):
            parser.add_argument(flag)
        return parser

    def _split(self) -> tuple[list[str], list[str]]:
        """Return the typed words up to the script or module, and those after it."""
        script, *arguments = self._argv
        if script in self._typed:
            at = self._typed.index(script) + 1
        else:
            # With -m, sys.argv[0] is a file instead of the module. A script may have added
            # arguments to sys.argv.
            sizes = range(len(arguments), 0, -1)
            ends = (size for size in sizes if self._typed[-size:] == arguments[:size])
            at = len(self._typed) - next(ends, 0)
        return _without_interpreter(self._typed[:at]), self._typed[at:]


def _without_interpreter(head: list[str]) -> list[str]:
    """Remove the interpreter if the first line of an executable script names it."""
    from shutil import which

    if len(head) < 2 or not os.access(head[1], os.X_OK) or "/" not in head[1]:
        return head
    if Path(head[1]).is_dir():  # Python runs its __main__.py.
        return head
    with Path(head[1]).open("rb") as script:
        *env, interpreter = script.readline().decode(errors="replace").split() or [""]
    if interpreter.removeprefix("#!") != head[0] or env not in ([], ["#!/usr/bin/env"]):
        return head
    name = Path(head[1]).name
    return [name if which(name) == head[1] else head[1], *head[2:]]


class _Record(Action):
    """Records an option with its values."""

    def __call__(
        self,
        parser: Any,  # noqa: ARG002
        namespace: Any,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        words = [values] if isinstance(values, str) else list(values or ())
        namespace.given.append(_GivenOption(self.dest, str(option_string), words))


class _Reader(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ArgumentError(None, message)


def _read(parser: ArgumentParser, words: Sequence[str]) -> tuple[list[_GivenOption], list[str]]:
    """Return the words that are options of a parser, and the other words.

    Raises ArgumentError if the parser does not accept the words.
    """
    reader = _Reader(prog="", add_help=False, prefix_chars=parser.prefix_chars)
    for action in parser._actions:
        if action.option_strings:
            reader.add_argument(
                *action.option_strings,
                dest=action.dest,
                action=_Record,
                nargs=action.nargs,
                default=SUPPRESS,
            )
    namespace, others = reader.parse_known_args(words, Namespace(given=[]))
    return namespace.given, others
