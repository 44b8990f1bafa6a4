"""Convert values to text that is the same in every process, and hash it."""

import datetime
import functools
import re
import types
import uuid
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from hashlib import blake2b
from pathlib import PurePath
from typing import Any
from zoneinfo import ZoneInfo

from django.db.migrations.utils import RegexObject
from django.db.models import Field
from django.utils.functional import LazyObject, Promise
from django.utils.functional import cached_property as django_cached_property

from ..project import Project

PLAIN_TYPES = {bool, int, float, complex, bytes, type(None), type(...), range, Decimal, uuid.UUID}


def dotted_path(named: Any) -> str:
    """Return the module and the qualified name of a class or function."""
    return f"{named.__module__}.{named.__qualname__}"


@functools.singledispatch
def render(value: Any, canonical: "Canonical") -> str:
    """Return the text of a value. This is the fallback for types without a rule below."""
    if callable(getattr(value, "deconstruct", None)):
        try:
            return canonical.construct(value, *value.deconstruct())
        except Exception:  # noqa: S110 - a class of the project may raise any; use its attributes.
            pass
    return canonical.attributes(value)


@render.register(Field)
def _(value: Field, canonical: "Canonical") -> str:  # type: ignore[type-arg]
    try:
        _, path, args, kwargs = value.deconstruct()
    except Exception:
        return canonical.attributes(value)
    arguments = f"{canonical.sequence(args)}; {canonical.mapping(kwargs.items())}"
    return f"{dotted_path(type(value))} {path}({arguments})"


@render.register(str)
def _(value: str, canonical: "Canonical") -> str:
    name = getattr(value, "setting_name", "")  # Of a SettingsReference.
    return canonical.construct(value, str.__str__(value), name)


@render.register(int)
@render.register(float)
@render.register(bytearray)
def _(value: Any, canonical: "Canonical") -> str:
    return canonical.construct(
        value, *([bytes(value)] if isinstance(value, bytearray) else [value + 0])
    )


@render.register(list)
@render.register(tuple)
def _(value: Any, canonical: "Canonical") -> str:
    subclass = "" if type(value) in {list, tuple} else dotted_path(type(value))
    return f"{subclass}[{canonical.sequence(value)}]"


@render.register(dict)
def _(value: dict, canonical: "Canonical") -> str:  # type: ignore[type-arg]
    subclass = "" if type(value) is dict else dotted_path(type(value))
    # Keep the order, because JSON does.
    return f"{subclass}{{{canonical.mapping(value.items())}}}"


@render.register(set)
@render.register(frozenset)
def _(value: Any, canonical: "Canonical") -> str:
    return f"{dotted_path(type(value))}<{', '.join(sorted(map(canonical.text, value)))}>"


@render.register(Enum)
def _(value: Enum, canonical: "Canonical") -> str:
    return f"{dotted_path(type(value))}.{value.name}={canonical.text(value.value)}"


@render.register(datetime.date)
@render.register(datetime.time)
def _(value: Any, canonical: "Canonical") -> str:
    return canonical.construct(value, value.isoformat(), getattr(value, "tzinfo", None))


@render.register(datetime.timedelta)
@render.register(datetime.timezone)
@render.register(Decimal)
@render.register(uuid.UUID)
def _(value: Any, canonical: "Canonical") -> str:
    return canonical.construct(value, str(value))


@render.register(ZoneInfo)
def _(value: ZoneInfo, canonical: "Canonical") -> str:
    return canonical.construct(value, value.key or str(value))


@render.register(PurePath)
def _(value: PurePath, canonical: "Canonical") -> str:
    return f"Path({canonical.text(str(value))})"


@render.register(re.Pattern)
@render.register(RegexObject)
def _(value: Any, canonical: "Canonical") -> str:
    return f"regex({canonical.sequence([value.pattern, int(value.flags)])})"


@render.register(Promise)
def _(value: Promise, canonical: "Canonical") -> str:
    return canonical.lazy(value)


@render.register(LazyObject)
def _(value: Any, canonical: "Canonical") -> str:
    return canonical.construct(value, vars(value).get("_setupfunc"))


@render.register(functools.partial)
@render.register(functools.partialmethod)
def _(value: Any, canonical: "Canonical") -> str:
    return canonical.construct(value, value.func, value.args, value.keywords)


@render.register(type)
def _(value: type, _: "Canonical") -> str:
    return dotted_path(value)


@render.register(types.ModuleType)
def _(value: types.ModuleType, _: "Canonical") -> str:
    return f"module {value.__name__}"


@render.register(types.MethodType)
def _(value: types.MethodType, canonical: "Canonical") -> str:
    return f"{canonical.text(value.__self__)}.{canonical.text(value.__func__)}"


@render.register(types.CodeType)
def _(value: types.CodeType, canonical: "Canonical") -> str:
    return digest(value.co_code + canonical.sequence([value.co_consts, value.co_names]).encode())


@render.register(types.FunctionType)
@render.register(types.BuiltinFunctionType)
@render.register(functools._lru_cache_wrapper)
def _(value: Any, canonical: "Canonical") -> str:
    code = getattr(value, "__code__", None)
    if code is None or "<" not in value.__qualname__:
        return dotted_path(value)
    cells = [cell.cell_contents for cell in value.__closure__ or () if _has_contents(cell)]
    parts = canonical.sequence([code, value.__defaults__, value.__kwdefaults__, cells])
    return f"{dotted_path(value)}({parts})"


def _has_contents(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
_CACHED_PROPERTIES = (functools.cached_property, django_cached_property)


class Canonical:
    """Converts values to text, without the project's root in strings and paths."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._ancestors: dict[int, int] = {}
        # The texts of frequent values.
        self._cache: dict[Any, str] = {}
        self._writers: dict[type, Callable[[Any, Canonical], str]] = {}

    def text(self, value: Any) -> str:
        """Return the text of any value. It is the same in every process."""
        kind = type(value)
        if kind is str:
            if (text := self._cache.get(value)) is None:
                text = self._cache[value] = repr(self._project.without_root(value))
            return text
        if kind in PLAIN_TYPES:
            return repr(value)
        if (key := id(value)) in self._ancestors:
            return f"<again {len(self._ancestors) - self._ancestors[key]}>"
        if (writer := self._writers.get(kind)) is None:
            # Dispatch on the type, because a lazy object's __class__ evaluates the object.
            writer = self._writers[kind] = render.dispatch(kind)
        self._ancestors[key] = len(self._ancestors)
        try:
            return writer(value, self)
        finally:
            del self._ancestors[key]

    def lazy(self, value: Promise) -> str:
        """Return the text of a lazy call: the function and its arguments.

        The result may depend on the active language or on a request.
        """
        parts: Any = value.__reduce__()
        match parts:
            case [_, [function, [str(message)], {}, *_]] if (
                type(message) is str and not parts[1][2]
            ):
                key = type(value), function, message
                if (text := self._cache.get(key)) is None:
                    text = self._cache[key] = self.construct(value, *parts)
                return text
        return self.construct(value, *parts)

    def sequence(self, values: Any) -> str:
        """Return the texts of values, separated by commas."""
        text, cache = self.text, self._cache
        texts = [(type(value) is str and cache.get(value)) or text(value) for value in values]
        return ", ".join(texts)

    def mapping(self, items: Any) -> str:
        """Return the texts of key-value pairs, separated by commas."""
        text, cache = self.text, self._cache
        return ", ".join(
            [
                f"{(type(key) is str and cache.get(key)) or text(key)}: "
                f"{repr(value) if type(value) in PLAIN_TYPES else text(value)}"
                for key, value in items
            ]
        )

    def construct(self, value: Any, *parts: Any) -> str:
        """Return the text of an object as a call of its type with `parts`."""
        return f"{dotted_path(type(value))}({self.sequence(parts)})"

    def attributes(self, value: Any) -> str:
        """Return the text of an object: its type and attributes."""
        names = dict.fromkeys(name for kind in type(value).__mro__ for name in _slots(kind))
        attributes = {name: getattr(value, name) for name in names if hasattr(value, name)}
        attributes |= getattr(value, "__dict__", {})
        # Cached properties and creation counters differ between processes.
        stable = {name: item for name, item in attributes.items() if _is_stable(type(value), name)}
        text = self.construct(value, *sorted(stable.items(), key=lambda item: str(item[0])))
        return text if stable else text + _ADDRESS.sub("", self.text(repr(value)))


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


def _is_stable(kind: type, name: str) -> bool:
    is_cached = any(isinstance(vars(base).get(name), _CACHED_PROPERTIES) for base in kind.__mro__)
    return not is_cached and not str(name).endswith("creation_counter")


def digest(data: bytes | str) -> str:
    """Return the 128-bit hash of bytes or a text, in hex."""
    content = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    return blake2b(content, digest_size=16).hexdigest()
