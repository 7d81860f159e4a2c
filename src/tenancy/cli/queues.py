"""
How far a sandbox is on RabbitMQ: what is in its queues, who consumes them, what it has rejected, and what was left of earlier creates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..routes import Handover, State
from ..routes.stores import RouteStore
from ..sandbox.leftovers import Leftover
from ..sandbox.queues import Queues
from .inspection.report import counted

if TYPE_CHECKING:
    from ..messaging.rabbitmq.broker import RabbitBroker

__all__ = ["Consuming", "consuming_of", "told_leftover", "wrong_queues"]


@dataclass(frozen=True)
class Consuming:
    """
    How far a sandbox is on RabbitMQ, for one queue of the baseline.

    Args:
        queue: The baseline's queue.
        exchange: The headers exchange that routes to the sandbox's by itself; empty: the baseline forwards.
        sandbox_queue: The sandbox's queue.
        ready: How many messages are in it that nobody has in his hands; None: it is not there.
        consumers: How many consumers it has.
        readers: Those that are registered, and whose connection lives.
        dead: How many messages are in the queue of what the sandbox has rejected.
        dead_queue: What that is called.
        unregistered: How many consumers of the baseline's queue this library has not registered; they take the key's messages.
    """

    queue: str
    exchange: str
    sandbox_queue: str
    ready: int | None
    consumers: int
    readers: list[str]
    dead: int
    dead_queue: str
    unregistered: int


def consuming_of(row: Handover, store: RouteStore, rabbit: RabbitBroker) -> list[Consuming]:
    """
    Find out how far a sandbox is with its queues.

    Args:
        row: Its lives.
        store: The route store.
        rabbit: The RabbitMQ broker.

    Raises:
        QueueError: If the broker does not answer.
    """
    from ..messaging.rabbitmq.names import names_of

    queues = Queues(store, rabbit)
    strangers = {found.queue: found.amount for found in queues.strangers(row)}
    found = []
    for base in sorted(row.queues):
        names = names_of(base, row.key, row.epoch)
        state, dead = rabbit.state(names.queue), rabbit.state(names.dead)
        found.append(
            Consuming(
                base,
                row.queues[base],
                names.queue,
                None if state is None else state.ready,
                0 if state is None else state.consumers,
                [member.member for member in queues.readers(row.workload, names.queue)],
                0 if dead is None else dead.ready,
                names.dead,
                strangers.get(base, 0),
            )
        )
    return found


def wrong_queues(row: Handover, consumings: list[Consuming]) -> Iterator[str]:
    """
    Return what is wrong with a sandbox's queues.

    Args:
        row: Its lives.
        consumings: How far it is with them.
    """
    for one in consumings:
        if one.ready is None and row.forwarded:
            yield (
                f"there is no queue {one.sandbox_queue}: somebody deleted it, and what is sent on to it comes back to the baseline; delete "
                "the sandbox and create it anew"
            )
        if one.unregistered and row.forwarded:
            amount = counted(one.unregistered, "consumer")
            yield f"{amount} of {one.queue} without this library, which take {row.key}'s messages as well"
        if one.consumers > len(one.readers):
            amount = counted(one.consumers - len(one.readers), "consumer")
            yield f"{amount} of {one.sandbox_queue} without this library, which cannot be told to stop when the sandbox is deleted"
        if one.dead:
            yield (
                f"the sandbox has rejected {counted(one.dead, 'message')}: see {one.dead_queue}, which is deleted with the sandbox"
            )


def told_leftover(left: Leftover) -> str:
    """
    Return what was left of a create that was killed, and what to do with it.
    """
    what = f"{left.queue} was made for life {left.epoch} of {left.row.key} on {left.row.workload}, which never was or is over"
    if left.removable:
        return f"{what}; `tenancy sandbox delete` with the sandbox's name removes it"
    inside = f"{counted(left.ready, 'message')} and {counted(left.consumers, 'consumer')}"
    if left.epoch > left.row.epoch:
        return f"{what}, and it has {inside}: end what consumes it, create the sandbox again, which takes it over, and delete that"
    return f"{what}, and it has {inside}: see what they are, move what is to be handled, and delete it"


def waiting_of(consumings: list[Consuming]) -> int:
    """
    Return how many messages wait in a sandbox's queues.
    """
    return sum(one.ready or 0 for one in consumings)


def nobody_reads(row: Handover, consumings: list[Consuming]) -> bool:
    """
    Return whether a sandbox has queues, and none of its processes consumes one of them.
    """
    return row.state is State.ACTIVE and bool(consumings) and not any(one.readers or one.consumers for one in consumings)
