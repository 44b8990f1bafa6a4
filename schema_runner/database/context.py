"""What the test databases of a run have in common."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import MANAGE_PY, Advice
from ..postgres.host_request import Log, Sharing
from ..settings import Settings
from .usage import Usage

if TYPE_CHECKING:
    from ..postgres.server import Server


class RunContext(NamedTuple):
    """What the test databases of a run have in common.

    `log`: prints a line of the run's output.
    `number`: the number of the worker whose schema this process creates first.
    `workers`: how many workers use the databases.
    `sharing`: how schemas and clones are shared with other runs of the same fingerprint; None if
    they are not.
    `salt`: part of the fingerprint, so that only sessions with the same salt share anything.
    `has_own_databases`: whether the run has classes that need their own database.
    `runs_migrations`: whether builds run migrations; if not, they create the tables of models.
    `advice`: how the user of the front end changes a run.
    `project_databases`: the servers of the project's own databases.
    `process`: the PID of the process that runs the suite; None in a worker that was not forked.
    `usage`: what the run has used.

    `Session` sets the last three.
    """

    settings: Settings
    log: Log
    number: int = 1
    workers: int = 1
    sharing: Sharing | None = None
    salt: str = ""
    has_own_databases: bool = False
    runs_migrations: bool = True
    advice: Advice = MANAGE_PY
    project_databases: "Sequence[Server]" = ()
    process: int | None = None
    usage: Usage = Usage()

    @property
    def keeps(self) -> bool:
        """Whether schemas and clones stay when the run ends."""
        return self.sharing is not None and self.sharing.stays

    @property
    def serves_other_runs(self) -> bool:
        """Whether this run shares its schemas, or leaves a snapshot to other runs."""
        return self.sharing is not None or self.settings.snapshot_dir is not None
