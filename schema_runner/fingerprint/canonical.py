"""Canonical text of values: the same in every process, folder and machine."""

import functools
import re
from collections.abc import Callable
from typing import Any

from django.utils.functional import Promise
from django.utils.functional import cached_property as django_cached_property

from .forms import PLAIN, path_of, write
from .project import Project

_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
_CACHED = (functools.cached_property, django_cached_property)


class Canonical:
    """Writes values; the project's root is left out of texts and paths."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._within: dict[int, int] = {}
        # Texts of what is often met.
        self._known: dict[Any, str] = {}
        self._writers: dict[type, Callable[[Any, Canonical], str]] = {}

    def text(self, value: Any) -> str:
        """Return the text of a value, whatever it is; equal texts mean equal values."""
        kind = type(value)
        if kind is str:
            if (text := self._known.get(value)) is None:
                text = self._known[value] = repr(self._project.without_root(value))
            return text
        if kind in PLAIN:
            return repr(value)
        if (key := id(value)) in self._within:
            return f"<again {len(self._within) - self._within[key]}>"
        if (writer := self._writers.get(kind)) is None:
            # By its type, as a lazy object's __class__ would evaluate it.
            writer = self._writers[kind] = write.dispatch(kind)
        self._within[key] = len(self._within)
        try:
            return writer(value, self)
        finally:
            del self._within[key]

    def lazy(self, value: Promise) -> str:
        """Return the text of the function and its arguments, never of the result.

        A language or a request decides the result.
        """
        parts: Any = value.__reduce__()
        match parts:
            case [_, [function, [str(one)], {}, *_]] if type(one) is str and not parts[1][2]:
                key = type(value), function, one
                if (text := self._known.get(key)) is None:
                    text = self._known[key] = self.made(value, *parts)
                return text
        return self.made(value, *parts)

    def listed(self, values: Any) -> str:
        text, known = self.text, self._known
        return ", ".join([(type(one) is str and known.get(one)) or text(one) for one in values])

    def mapped(self, values: Any) -> str:
        text, known = self.text, self._known
        return ", ".join(
            [
                f"{(type(key) is str and known.get(key)) or text(key)}: "
                f"{repr(one) if type(one) in PLAIN else text(one)}"
                for key, one in values
            ]
        )

    def made(self, value: Any, *parts: Any) -> str:
        """Return the text of something made of parts."""
        return f"{path_of(type(value))}({self.listed(parts)})"

    def attributes(self, value: Any) -> str:
        """Return the text of something by its type and attributes."""
        names = dict.fromkeys(name for one in type(value).__mro__ for name in _slots(one))
        found = {name: getattr(value, name) for name in names if hasattr(value, name)}
        found |= getattr(value, "__dict__", {})
        # What is computed when first asked for, or counts instances, differs between processes.
        kept = {name: one for name, one in found.items() if _is_kept(type(value), name)}
        text = self.made(value, *sorted(kept.items(), key=lambda item: str(item[0])))
        return text if kept else text + _ADDRESS.sub("", self.text(repr(value)))


def _slots(kind: type) -> list[str]:
    slots = kind.__dict__.get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [
        f"_{kind.__name__.lstrip('_')}{name}"
        if name.startswith("__") and not name.endswith("__")
        else name
        for name in names
        if name not in {"__dict__", "__weakref__"}
    ]


def _is_kept(kind: type, name: str) -> bool:
    is_cached = any(isinstance(vars(one).get(name), _CACHED) for one in kind.__mro__)
    return not is_cached and not str(name).endswith("creation_counter")
