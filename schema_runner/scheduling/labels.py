"""Labels and tags of SERIAL and OWN_DATABASE that name no test."""

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


def problems_of_labels(
    settings: Settings, tests: Collection[Any] = (), *, is_whole: bool = False
) -> list[Problem]:
    """Return what SERIAL and OWN_DATABASE name that is neither a label nor a tag of a test."""
    named = {"SERIAL": settings.serial, "OWN_DATABASE": settings.own_database}
    return [
        Problem(
            "W001",
            f'SCHEMA_RUNNER["{key}"] names {entry!r}, which is no label or tag of a test.',
            hint,
        )
        for key, entries in named.items()
        if entries
        for entry, hint in without_tests(entries, tests, is_whole=is_whole).items()
    ]


def without_tests(
    entries: Collection[str], tests: Iterable[Any] = (), *, is_whole: bool = False
) -> dict[str, str]:
    """Map the entries that name no test to a hint: whether another label was meant.

    Unless the tests are the whole suite, an entry without a dot may be a tag of another one. What
    is in a module that has not been imported is not known: another command may run its tests.
    """
    known: set[str] = set()
    for test in tests:
        known.update(accumulate(test.id().split("."), "{}.{}".format))
        known.update(getattr(test, "tags", ()))
        known.update(getattr(getattr(type(test), test._testMethodName, None), "tags", ()))
        # What is in a module that cannot be imported is not known.
        is_whole = is_whole and not isinstance(test, _FailedTest)
    # A path is a label for Django, but not here.
    meant = {entry: entry.removesuffix(".py").replace("/", ".") for entry in entries}
    unknown = [entry for entry in meant if entry not in known]
    modules, found = Modules(), {}
    for entry in unknown if is_whole else [one for one in unknown if "." in one]:
        beside = {meant[entry]} if "/" in entry else _known_beside(entry, modules)
        if beside is not None:
            hint = did_you_mean(meant[entry], known if is_whole else beside)
            # A tag may have dots, and some folders are on the path in other runs alone.
            if is_whole or hint or modules.locate(entry.partition(".")[0]):
                found[entry] = hint
    return found


def _known_beside(label: str, modules: Modules) -> Collection[str] | None:
    """Return the labels that there are in place of this one; None if there may be this one."""
    steps = [*modules.walk(label)]
    if not steps:
        _, dot, rest = label.partition(".")
        tops = {app.name.partition(".")[0] for app in apps.get_app_configs()}
        others = {f"{top}{dot}{rest}" for top in tops if modules.locate(top)}
        return {one for one in others if _known_beside(one, modules) is None}
    reached, place = steps[-1]
    rest = label[len(reached) + 1 :]
    found: object = sys.modules.get(reached)
    if found is None:
        if not rest or not place.folders or _mentions(place, rest.partition(".")[0]):
            return None
        return _beside(reached, _submodules(place), rest)
    others = _submodules(place)
    while rest:
        name, _, after = rest.partition(".")
        if not hasattr(found, name):
            return _beside(reached, {*others, *dir(found)}, rest)
        found, reached, rest, others = getattr(found, name), f"{reached}.{name}", after, set()
    return None


def _beside(reached: str, names: Collection[str], rest: str) -> set[str]:
    _, dot, after = rest.partition(".")
    return {f"{reached}.{name}{dot}{after}" for name in names}


def _submodules(place: ModuleFile) -> set[str]:
    return {found.name for found in pkgutil.iter_modules(place.folders)}


def _mentions(place: ModuleFile, name: str) -> bool:
    """Whether a package that is not imported has this name in its source."""
    try:
        return place.file is not None and name in Path(place.file).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return True
