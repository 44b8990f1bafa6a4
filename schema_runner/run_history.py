"""The history of a run: what earlier runs recorded, and what this one adds."""

import multiprocessing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from .scheduling.history import History, HistoryFolder, HistoryRecorder
from .settings import Settings, project_root

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .reruns.diagnosis import Verdict


class RunHistory:
    """Reads the history of earlier runs, and adds to it.

    `recorder`: the observer that records this run.
    """

    def __init__(self, settings: Settings) -> None:
        self.recorder = HistoryRecorder()
        self._folder_name = settings.history_dir

    @cached_property
    def folder(self) -> HistoryFolder | None:
        if self._folder_name is None:
            return None
        return HistoryFolder(Path(project_root()) / self._folder_name)

    @cached_property
    def earlier(self) -> History:
        """The history of earlier runs; empty without HISTORY_DIR."""
        return self.folder.read() if self.folder is not None else History()

    def save(self, verdicts: "Sequence[Verdict]", busy_seconds: float | None) -> None:
        """Add this run, with the diagnoses of its failures.

        `busy_seconds`: CPU time of the whole machine during the tests, if known.
        """
        # Not in a worker: the suites that tests run there are not the project's.
        if self.folder is None or multiprocessing.parent_process() is not None:
            return
        flaky = [one.name for one in verdicts if one.fault in {"flaky", "parallel-unsafe"}]
        observed = self.recorder.observed(flaky, busy_seconds)
        if verdicts:
            # The CPU time includes that of the diagnosis.
            observed = observed._replace(runs=())
        self.folder.add(observed)
