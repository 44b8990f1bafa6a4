"""How values of each type are written as canonical text."""

import datetime
import functools
import re
import types
import uuid
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from django.db.migrations.utils import RegexObject
from django.db.models import Field
from django.utils.functional import LazyObject, Promise

from .hashes import digest

if TYPE_CHECKING:
    from .canonical import Canonical

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
