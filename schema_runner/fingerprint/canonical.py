"""Values as text that is the same in every process, and hashes of it."""

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

PLAIN = {bool, int, float, complex, bytes, type(None), type(...), range, Decimal, uuid.UUID}


def path_of(named: Any) -> str:
    """Return the module and qualified name of a class or function."""
    return f"{named.__module__}.{named.__qualname__}"


@functools.singledispatch
def write(value: Any, to: "Canonical") -> str:
    """Write what has no rule of its own."""
    if callable(getattr(value, "deconstruct", None)):
        try:
            return to.made(value, *value.deconstruct())
        except Exception:  # noqa: S110 - whatever a project's class raises, its attributes remain.
            pass
    return to.attributes(value)


@write.register(Field)
def _(value: Field, to: "Canonical") -> str:  # type: ignore[type-arg]
    try:
        _, path, args, kwargs = value.deconstruct()
    except Exception:
        return to.attributes(value)
    return f"{path_of(type(value))} {path}({to.listed(args)}; {to.mapped(kwargs.items())})"


@write.register(str)
def _(value: str, to: "Canonical") -> str:
    name = getattr(value, "setting_name", "")  # Of a SettingsReference.
    return to.made(value, str.__str__(value), name)


@write.register(int)
@write.register(float)
@write.register(bytearray)
def _(value: Any, to: "Canonical") -> str:
    return to.made(value, *([bytes(value)] if isinstance(value, bytearray) else [value + 0]))


@write.register(list)
@write.register(tuple)
def _(value: Any, to: "Canonical") -> str:
    return f"{'' if type(value) in {list, tuple} else path_of(type(value))}[{to.listed(value)}]"


@write.register(dict)
def _(value: dict, to: "Canonical") -> str:  # type: ignore[type-arg]
    # In its own order, which a JSON text keeps.
    return f"{'' if type(value) is dict else path_of(type(value))}{{{to.mapped(value.items())}}}"


@write.register(set)
@write.register(frozenset)
def _(value: Any, to: "Canonical") -> str:
    return f"{path_of(type(value))}<{', '.join(sorted(map(to.text, value)))}>"


@write.register(Enum)
def _(value: Enum, to: "Canonical") -> str:
    return f"{path_of(type(value))}.{value.name}={to.text(value.value)}"


@write.register(datetime.date)
@write.register(datetime.time)
def _(value: Any, to: "Canonical") -> str:
    return to.made(value, value.isoformat(), getattr(value, "tzinfo", None))


@write.register(datetime.timedelta)
@write.register(datetime.timezone)
@write.register(Decimal)
@write.register(uuid.UUID)
def _(value: Any, to: "Canonical") -> str:
    return to.made(value, str(value))


@write.register(ZoneInfo)
def _(value: ZoneInfo, to: "Canonical") -> str:
    return to.made(value, value.key or str(value))


@write.register(PurePath)
def _(value: PurePath, to: "Canonical") -> str:
    return f"Path({to.text(str(value))})"


@write.register(re.Pattern)
@write.register(RegexObject)
def _(value: Any, to: "Canonical") -> str:
    return f"regex({to.listed([value.pattern, int(value.flags)])})"


@write.register(Promise)
def _(value: Promise, to: "Canonical") -> str:
    return to.lazy(value)


@write.register(LazyObject)
def _(value: Any, to: "Canonical") -> str:
    return to.made(value, vars(value).get("_setupfunc"))


@write.register(functools.partial)
@write.register(functools.partialmethod)
def _(value: Any, to: "Canonical") -> str:
    return to.made(value, value.func, value.args, value.keywords)


@write.register(type)
def _(value: type, _: "Canonical") -> str:
    return path_of(value)


@write.register(types.ModuleType)
def _(value: types.ModuleType, _: "Canonical") -> str:
    return f"module {value.__name__}"


@write.register(types.MethodType)
def _(value: types.MethodType, to: "Canonical") -> str:
    return f"{to.text(value.__self__)}.{to.text(value.__func__)}"


@write.register(types.CodeType)
def _(value: types.CodeType, to: "Canonical") -> str:
    return digest(value.co_code + to.listed([value.co_consts, value.co_names]).encode())


@write.register(types.FunctionType)
@write.register(types.BuiltinFunctionType)
@write.register(functools._lru_cache_wrapper)
def _(value: Any, to: "Canonical") -> str:
    code = getattr(value, "__code__", None)
    if code is None or "<" not in value.__qualname__:
        return path_of(value)
    held = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
    return f"{path_of(value)}({to.listed([code, value.__defaults__, value.__kwdefaults__, held])})"


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


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


def digest(data: bytes | str) -> str:
    """Return the hash of bytes or a text, in hex."""
    content = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    return blake2b(content, digest_size=16).hexdigest()
