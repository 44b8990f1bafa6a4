"""What is said of changes that tests have made in the project's own database."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..execution.events import ClassFinished, Event
from ..wording import listing

if TYPE_CHECKING:
    from ..database.project_changes import ProjectComparison

# How many changes are listed.
_LISTED = 20


class OutsideReport:
    """An observer of classes during which something has changed, and what it has come to.

    Each worker looks after each class, and so sees what those of other workers have done as well.
    """

    def __init__(self) -> None:
        self.comparisons: list[ProjectComparison] = []
        self._finished: list[ClassFinished] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, ClassFinished) and event.changed_outside:
            self._finished.append(event)

    @property
    def number(self) -> int:
        """How many things have changed."""
        return sum(len(one.changes) for one in self.comparisons)

    def lines(self) -> Iterator[str]:
        for comparison in self.comparisons:
            yield from self._lines_of(comparison)

    def _lines_of(self, comparison: "ProjectComparison") -> Iterator[str]:
        database, changes = comparison.database, comparison.changes
        for note in comparison.notes:
            yield f"In the project's own database {database!r}, {note}."
        if not changes:
            return
        yield f"Changed in the project's own database {database!r}, outside of the tests' schemas:"
        for name, what in list(changes.items())[:_LISTED]:
            yield f"    {name}: {what}, {self._when(name)}"
        if len(changes) > _LISTED:
            yield f"    and {len(changes) - _LISTED} more"
        if comparison.sessions:
            listed = listing(comparison.sessions)
            yield f"    Others were connected, and may have done it: {listed}."
        else:
            yield "    Nobody else was connected when the tests began, nor when they ended."
        yield '    What may change goes into SCHEMA_RUNNER["EXPECTED_CHANGES"], by names as above.'

    def _when(self, name: str) -> str:
        """Say during which classes something has changed, as near as that is known."""
        groups = self._groups(name)
        if not groups:
            # What definitions consist of is looked at just then.
            return "seen when the tests had ended"
        named = [" or ".join(dict.fromkeys(one.test_class for one in group)) for group in groups]
        return f"during {listing(list(dict.fromkeys(named)))}"

    def _groups(self, name: str) -> list[list[ClassFinished]]:
        """Return classes that have seen something change: in a list those that saw one change.

        They are of different workers, and had all begun when the first of them saw it.
        """
        groups: list[list[ClassFinished]] = []
        finished = [one for one in self._finished if name in one.changed_outside]
        for one in sorted(finished, key=_end):
            group = groups[-1] if groups else []
            workers = {other.worker for other in group}
            if not group or one.worker in workers:
                groups.append([one])
            elif one.time < _end(group[0]):
                group.append(one)
        return groups


def _end(event: ClassFinished) -> float:
    return event.time + event.duration
