"""State that the tests of a class share: attributes of the class and its module."""

import sys
from collections.abc import Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

# Prefixes of modules that are not the project's.
_IGNORED_MODULES = ("builtins.", "django.", "unittest.", "schema_runner.")
_CONTAINERS = (dict, list, set)
_CODE_TYPES = (type, FunctionType, ModuleType)
# Django sets these on the class of a test case for each test.
_TEST_CASE_ATTRIBUTES = {
    "_pre_setup_ran_eagerly",
    "async_client",
    "atomics",
    "client",
    "cls_atomics",
}


class SharedState:
    """Takes cheap snapshots of test classes and their modules, to detect changes.

    A snapshot covers attributes and the contents of dicts, lists and sets, but not attributes of
    other objects.
    """

    def __init__(self) -> None:
        # By module: the names of its attributes that are not code.
        self._data: dict[str, list[str]] = {}

    def snapshot(self, test_class: type) -> list[object]:
        """Return a snapshot, which equals an earlier one if nothing has changed."""
        return [*self._of_module(test_class.__module__), *_of_classes(test_class)]

    def _of_module(self, name: str) -> Iterator[object]:
        module: Mapping[str, Any] = vars(sys.modules[name]) if name in sys.modules else {}
        if name not in self._data:
            self._data[name] = [
                key for key, value in module.items() if type(value) not in _CODE_TYPES
            ]
        yield len(module)
        for key in self._data[name]:
            yield _identity(module.get(key))


def _of_classes(test_class: type) -> Iterator[object]:
    for cls in test_class.__mro__:
        if not f"{cls.__module__}.".startswith(_IGNORED_MODULES):
            for name, value in list(vars(cls).items()):
                if name not in _TEST_CASE_ATTRIBUTES:
                    yield name
                    yield _identity(value)


def _identity(value: Any) -> object:
    if type(value) in _CONTAINERS:
        # By identity: comparing by value could run code of the project.
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return id(value), [(id(key), id(item)) for key, item in items]
    return id(value)
