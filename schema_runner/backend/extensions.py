"""Extensions, which all schemas of a host database share."""

import re
from collections.abc import Callable
from typing import Any

from ..errors import SchemaRunnerError

_CREATE = re.compile(r"\bCREATE\s+EXTENSION\s+(?!IF\b)", re.IGNORECASE)
_DROP = re.compile(r"\bDROP\s+EXTENSION\b", re.IGNORECASE)

Execute = Callable[[Any, Any, bool, Any], object]


def share(execute: Execute, statement: Any, params: Any, many: bool, context: Any) -> object:
    """Let a migration create an extension that an earlier build has left in `public`.

    For `connection.execute_wrapper`, around a build that is not alone in its database.
    """
    if isinstance(statement, str):
        if _DROP.search(statement):
            raise SchemaRunnerError(
                f"A migration drops an extension, which other workers' schemas use: "
                f"{statement.strip()}. Run one at a time and without --parallel, or test with "
                f"django.test.runner.DiscoverRunner."
            )
        statement = _CREATE.sub("CREATE EXTENSION IF NOT EXISTS ", statement)
    return execute(statement, params, many, context)
