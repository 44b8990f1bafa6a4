"""Exceptions and parameters that cannot be pickled, printed, or unpickled by another process."""

import os
import threading
from typing import Any


class LockedError(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message, threading.Lock())


class ReducingError(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("not to be reduced")


class UnreducingError(Exception):
    def __reduce__(self) -> Any:
        return int, ("no number",)


class DemandingError(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"of two: {first} and {second}")


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not to be shown")


class Parameter:
    pass


class MuteParameter(Parameter):
    def __repr__(self) -> str:
        raise RuntimeError("not to be shown")


class LocalReason(str):
    def __reduce__(self) -> Any:
        raise RuntimeError("not to be reduced")


def make_known(kind: type) -> type:
    """Derive a class whose name exists in this process only."""
    name = f"Known{os.getpid()}"
    known = globals()[name] = type(name, (kind,), {"__module__": __name__})
    return known
