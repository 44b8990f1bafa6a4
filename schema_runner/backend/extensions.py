"""Extensions, which all schemas of a host database share."""

import re
from collections.abc import Callable
from typing import Any

_CREATE = re.compile(r"\bCREATE\s+EXTENSION\s+(?!IF\b)", re.IGNORECASE)


def share(
    execute: Callable[..., object], statement: Any, params: Any, many: bool, context: Any
) -> object:
    """Let a migration create an extension that an earlier build has left in `public`.

    For `connection.execute_wrapper`, around a build.
    """
    if isinstance(statement, str):
        statement = _CREATE.sub("CREATE EXTENSION IF NOT EXISTS ", statement)
    return execute(statement, params, many, context)
