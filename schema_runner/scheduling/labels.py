"""Entries of SERIAL and OWN_DATABASE that match no test."""

import pkgutil
import sys
from collections.abc import Collection, Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any
from unittest.loader import _FailedTest  # type: ignore[attr-defined]

from django.apps import apps

from ..errors import did_you_mean
from ..fingerprint.modules import ModuleFile, Modules
from ..settings import Problem, Settings


def label_problems(
    settings: Settings, tests: Iterable[Any] = (), *, is_whole: bool = False
) -> list[Problem]:
    """Return a problem for each entry of SERIAL and OWN_DATABASE that matches no test.

    Unless `is_whole`, the tests are only part of the suite, so an entry without a dot may be the
    tag of another test. Entries that may name something in a module that is not imported are left
    out, because another command may run its tests.
    """
    known: set[str] = set()
    for test in tests:
        known.update(accumulate(test.id().split("."), "{}.{}".format))
        known.update(getattr(test, "tags", ()))
        known.update(getattr(getattr(type(test), test._testMethodName, None), "tags", ()))
        # The labels in a module that cannot be imported are unknown.
        is_whole = is_whole and not isinstance(test, _FailedTest)
    problems, modules = [], Modules()
    for key, entries in (("SERIAL", settings.serial), ("OWN_DATABASE", settings.own_database)):
        for entry in entries:
            if entry in known or not (is_whole or "." in entry):
                continue
            # Django accepts paths as labels. These settings do not.
            label = entry.removesuffix(".py").replace("/", ".")
            similar = {label} if "/" in entry else _alternatives(entry, modules)
            if similar is None:
                continue
            hint = did_you_mean(label, known if is_whole else similar)
            # The entry may be a tag with dots, or in a folder that is on the path only in other
            # runs.
            if is_whole or hint or modules.locate(entry.partition(".")[0]):
                what = f'SCHEMA_RUNNER["{key}"] names {entry!r}'
                message = f"{what}, which is not a label or tag of any test."
                problems.append(Problem("W001", message, hint))
    return problems


def _alternatives(label: str, modules: Modules) -> Collection[str] | None:
    """Return the existing labels to suggest for one that does not exist; None if it may exist."""
    steps = [*modules.walk(label)]
    if not steps:
        _, dot, rest = label.partition(".")
        tops = {app.name.partition(".")[0] for app in apps.get_app_configs()}
        others = {f"{top}{dot}{rest}" for top in tops if modules.locate(top)}
        return {one for one in others if _alternatives(one, modules) is None}
    parent, module_file = steps[-1]
    rest = label[len(parent) + 1 :]
    value: object = sys.modules.get(parent)
    if value is None:
        name = rest.partition(".")[0]
        if not rest or not module_file.folders or _mentions(module_file, name):
            return None
        return _siblings(parent, _submodules(module_file), rest)
    others = _submodules(module_file)
    while rest:
        name, _, after = rest.partition(".")
        if not hasattr(value, name):
            return _siblings(parent, {*others, *dir(value)}, rest)
        value, parent, rest, others = getattr(value, name), f"{parent}.{name}", after, set()
    return None


def _siblings(parent: str, names: Collection[str], rest: str) -> set[str]:
    """Return the labels of `rest` below `parent`, with each of the names as its first part."""
    _, dot, after = rest.partition(".")
    return {f"{parent}.{name}{dot}{after}" for name in names}


def _submodules(module_file: ModuleFile) -> set[str]:
    return {module.name for module in pkgutil.iter_modules(module_file.folders)}


def _mentions(module_file: ModuleFile, name: str) -> bool:
    """Whether the source of a package that is not imported contains this name."""
    file = module_file.file
    try:
        return file is not None and name in Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return True
