"""What a run has for one database alias."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

from .postgres.host import Host
from .postgres.host_reservation import Reservation

if TYPE_CHECKING:
    from .postgres.worker_schemas import SchemaSource


class Site:
    """What a run has for one database alias.

    `schemas` has a schema by worker number and `clones` a database by worker number: the clones
    of a site that `is_cloned`, or those of workers that could not build a schema. By the
    `blueprint` workers make what they use themselves. Runs that want the same wait until the
    `turn` of this one ends.
    """

    def __init__(
        self,
        name: str,
        turn: ExitStack,
        *,
        reservation: Reservation | None = None,
        host: Host | None = None,
    ) -> None:
        self.name = name
        self.turn = turn
        self.reservation = reservation
        self.host = host
        self.schemas: dict[int, str] = {}
        self.clones: dict[int, str] = {}
        self.is_cloned = False
        self.blueprint: SchemaSource | None = None
