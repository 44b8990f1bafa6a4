"""What the tests of a class could leave to each other: attributes of the class and its module."""

import sys
from collections.abc import Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

# Where nothing is of the project.
_FOREIGN = ("builtins.", "django.", "unittest.", "schema_runner.")
_CONTAINERS = (dict, list, set)
_CODE = (type, FunctionType, ModuleType)
# What Django's test cases set on their classes for each test.
_OF_TESTS = {"_pre_setup_ran_eagerly", "async_client", "atomics", "client", "cls_atomics"}


class SharedState:
    """Looks at classes and their modules, at little cost: there are several looks a class.

    It sees what has been assigned, and what has come into a container or gone from one; it does
    not see what has changed within an object.
    """

    def __init__(self) -> None:
        # By module, the names of what is not code.
        self._data: dict[str, list[str]] = {}

    def of(self, test_class: type) -> list[object]:
        """Return what is equal for as long as nothing has changed."""
        return [*self._of_module(test_class.__module__), *_of_classes(test_class)]

    def _of_module(self, name: str) -> Iterator[object]:
        module: Mapping[str, Any] = vars(sys.modules[name]) if name in sys.modules else {}
        if name not in self._data:
            self._data[name] = [key for key, value in module.items() if type(value) not in _CODE]
        yield len(module)
        for key in self._data[name]:
            yield _told(module.get(key))


def _of_classes(test_class: type) -> Iterator[object]:
    for one in test_class.__mro__:
        if not f"{one.__module__}.".startswith(_FOREIGN):
            for name, value in list(vars(one).items()):
                if name not in _OF_TESTS:
                    yield name
                    yield _told(value)


def _told(value: Any) -> object:
    if type(value) in _CONTAINERS:
        # By identity: comparing what a project has made could execute code of its own.
        within = value.items() if isinstance(value, dict) else enumerate(value)
        return id(value), [(id(key), id(one)) for key, one in within]
    return id(value)
