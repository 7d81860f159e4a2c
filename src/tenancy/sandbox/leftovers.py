"""
What a create leaves on RabbitMQ when it is killed between making the queues and writing that it did.

They are named after the key's next life, so the next create of that key uses them. Until then nobody knows of them but their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ConflictError
from ..key import RoutingKey
from ..routes import Handover, RouteTable, State
from ..routes.stores import RouteStore, put_handover, table_of
from .queues import Queues

if TYPE_CHECKING:
    from ..messaging.rabbitmq.broker import RabbitBroker
    from ..messaging.rabbitmq.names import Names

__all__ = ["Leftover", "Leftovers"]


class Leftover(NamedTuple):
    """
    What was made for a life that never was, or has ended.

    Args:
        row: The lives of the key on the workload, in none of which it is.
        epoch: The number of the life for which it was made.
        base: The baseline's queue.
        names: What it is called.
        ready: How many messages are in its queue.
        consumers: How many consumers that has.
    """

    row: Handover
    epoch: int
    base: str
    names: Names
    ready: int
    consumers: int

    @property
    def queue(self) -> str:
        """
        What its queue is called.
        """
        return self.names.queue

    @property
    def removable(self) -> bool:
        """
        Whether nothing is lost with it.
        """
        return not self.ready and not self.consumers


class Leftovers:
    """
    Finds and removes what is left of keys that no sandbox has.

    Args:
        store: The route store.
        rabbit: The RabbitMQ broker; None: there is none to ask.
    """

    def __init__(self, store: RouteStore, rabbit: RabbitBroker | None) -> None:
        self._store = store
        self._rabbit = rabbit
        self._queues = Queues(store, rabbit)

    def of(self, sandbox: str) -> list[Leftover]:
        """
        Return what is left of the keys that a sandbox had, and of the one that has its name.

        Raises:
            QueueError: If the broker does not answer.
        """
        if self._rabbit is None:
            return []
        table = table_of(self._store.snapshot(), origin=self._store.name)
        return [left for row in _ended(table, sandbox) for left in self._left(row)]

    def remove(self, sandbox: str) -> bool:
        """
        Remove what is left, where it is empty and nobody uses it; return whether that is done.

        The number of the life is spent first: a create that is still at work on it begins anew, with the next.
        """
        for left in self.of(sandbox):
            if not left.removable:
                continue
            row = left.row
            if left.epoch > row.epoch:
                new = row._replace(epoch=left.epoch, sandbox=row.sandbox or sandbox, queues={**row.queues, left.base: ""})
                try:
                    self._store.write([put_handover(new)])
                except ConflictError:
                    pass
                return False  # what is there now is looked at anew
            assert self._rabbit is not None  # noqa: S101 - it was asked
            if not self._rabbit.lock(left.names):
                return False
            self._rabbit.remove(left.names)
        return True

    def _left(self, row: Handover) -> Iterator[Leftover]:
        from ..messaging.rabbitmq.names import names_of

        assert self._rabbit is not None  # noqa: S101 - checked before
        for base in sorted({*row.queues, *self._queues.registered(row.workload)}):
            for epoch in (row.epoch, row.epoch + 1):
                names = names_of(base, row.key, epoch)
                if epoch and self._rabbit.is_there(names):
                    state = self._rabbit.state(names.queue)
                    yield Leftover(row, epoch, base, names, *((0, 0) if state is None else state))


def _ended(table: RouteTable, sandbox: str) -> Iterator[Handover]:
    found = {(row.workload, row.key): row for row in table.handovers()}
    for row in found.values():
        if row.state is State.NONE and row.sandbox == sandbox:
            yield row
    key = RoutingKey(sandbox)
    for workload in sorted(table.workloads):
        own = found.get((workload, key), Handover(workload, key))
        if own.state is State.NONE and own.sandbox != sandbox:
            yield own
