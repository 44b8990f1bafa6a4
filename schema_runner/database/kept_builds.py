"""What decides whether a build that an earlier run kept can be used."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from ..alias_connection import AliasConnection
from ..errors import listing
from ..flush.hooks import import_management
from ..postgres.server import Connection
from .context import RunContext

if TYPE_CHECKING:
    from ..fingerprint import Recording
    from ..postgres.host_request import PoolCriteria

_DAY = 24 * 60 * 60
# In place of dependencies, if files changed during the build: it cannot be reused.
EDITED = "edited during the build"
_KINDS = {"setting": "setting"}
# Hexadecimal digits kept of each part's hash.
_DIGITS = 8


class BuildFacts(NamedTuple):
    """What decides whether a kept build can be used. Times are in seconds since the Unix epoch.

    `fingerprint`: the fingerprint of the run.
    `parts`: its hashed parts, by names for users.
    `now`: the time of the run.
    `oldest`: no build made before this time is used.
    """

    fingerprint: str
    parts: Mapping[str, str]
    now: int
    oldest: int

    @property
    def comparable_parts(self) -> dict[str, str]:
        """The hashes of the parts, shortened, for later runs to compare."""
        return {name: value[:_DIGITS] for name, value in self.parts.items()}


class UnusedBuild(NamedTuple):
    """The pool or snapshot that comes closest to the run's fingerprint, but cannot be used."""

    fingerprint: str
    made: int  # Time of creation, in seconds since the Unix epoch.
    extra: Mapping[str, Any]  # Its dependencies and fingerprint parts.

    def reason(self, facts: BuildFacts, days: float) -> str:
        """Return why this build cannot be used, for the line `Building anew`."""
        if self.fingerprint != facts.fingerprint:
            names = _changed_parts(self.extra.get("parts"), facts.comparable_parts)
        elif self.made < facts.oldest:
            return f"the last build is more than {days:g} days old (KEEP_DAYS)"
        elif EDITED in self.extra.get("dependencies", ()):
            return "files were edited during the last build"
        else:
            names = _changed_dependencies(self.extra.get("dependencies"))
        return f"{listing(names)} changed" if names else "the last build can no longer be used"


def _changed_parts(before: object, now: Mapping[str, str]) -> list[str]:
    if not isinstance(before, dict):
        return ["version of django-schema-runner"]
    return [name for name in {**now, **before} if before.get(name) != now.get(name)]


def _changed_dependencies(dependencies: object) -> list[str]:
    if not isinstance(dependencies, dict):
        return []
    from .. import fingerprint

    parts = [name.partition(":") for name in fingerprint.changed(dependencies)]
    return [f"{_KINDS[kind]} {name}" if kind in _KINDS else kind for kind, _, name in parts]


class KeptBuilds:
    """Finds out which builds of earlier runs this run can use, and what later runs compare.

    `facts`: the fingerprint of the run; None if the run neither uses nor keeps builds.
    """

    def __init__(self, connection: AliasConnection, context: RunContext) -> None:
        self.facts: BuildFacts | None = None
        self._connection = connection
        self._context = context
        self._server_facts: Sequence[str] = ()
        # The first unusable pool or snapshot that the run found.
        self._nearest: UnusedBuild | None = None

    def criteria(self, connection: Connection) -> "PoolCriteria | None":
        """Compute the fingerprint; return what a pool must match, or None if nothing is shared."""
        context, settings = self._context, self._context.settings
        if not context.serves_other_runs or settings.strategy != "template":
            return None
        from ..fingerprint.fingerprint import combine_parts, server_facts

        self._server_facts = server_facts(connection)
        parts, now = self._current_parts(), int(time.time())
        oldest = now - int(settings.keep_days * _DAY)
        self.facts = BuildFacts(combine_parts(parts, salt=context.salt), parts, now, oldest)
        if context.sharing is None:
            return None
        from ..postgres.host_request import PoolCriteria

        return PoolCriteria(
            fingerprint=self.facts.fingerprint,
            is_unchanged=is_unchanged,
            now=now,
            oldest=oldest,
            max_others=settings.keep_pools - 1,
            report_nearest=self.note_unusable,
            sharing=context.sharing,
        )

    def _current_parts(self) -> dict[str, str]:
        from ..fingerprint import compute_parts

        import_management()  # It may connect handlers of post_migrate.
        settings = self._context.settings
        shims = f"advisory locks {settings.isolate_advisory_locks}"
        return compute_parts(
            self._connection.alias,
            runner_settings=settings,
            facts=[*self._server_facts, shims],
            options=self._connection.project_options,
        )

    def note_unusable(self, fingerprint: str, made: int, extra: Mapping[str, Any]) -> None:
        """Note a pool or snapshot that the run cannot use. Only the first one counts."""
        self._nearest = self._nearest or UnusedBuild(fingerprint, made, extra)

    def rebuild_reason(self) -> str | None:
        """Return why the run builds anew; None if it keeps nothing anyway."""
        if not self._context.serves_other_runs:
            return None
        if self.facts is None:
            return 'STRATEGY "migrate" reuses nothing'
        if self._nearest is None:
            return "nothing is kept yet"
        return self._nearest.reason(self.facts, self._context.settings.keep_days)

    def recording(self) -> "AbstractContextManager[Recording | None]":
        """Return a context that records the dependencies of a build that the run may keep."""
        if self.facts is None:
            return nullcontext()
        from ..fingerprint import Recording

        return Recording(self._context.settings)

    def describe(self, recording: "Recording | None") -> dict[str, Any]:
        """Return the dependencies and fingerprint parts that later runs compare."""
        if self.facts is None or recording is None:
            return {"dependencies": {}, "parts": {}}
        # If files changed during the build, its fingerprint is unknown.
        is_edited = self._current_parts() != self.facts.parts
        return {
            "dependencies": {EDITED: ""} if is_edited else recording.dependencies(),
            "parts": self.facts.comparable_parts,
        }


def is_unchanged(extra: Mapping[str, Any]) -> bool:
    """Whether the dependencies of a pool or snapshot have not changed since its build."""
    dependencies = extra.get("dependencies")
    if dependencies is None or EDITED in dependencies:
        return False
    from .. import fingerprint

    return fingerprint.is_unchanged(dependencies)
