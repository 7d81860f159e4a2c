"""
The decision who owns a message of a queue: like `tenancy.routes.decide`, for a broker that gives each message to one consumer. Pure.

A message has no position that a cut could lie before or behind, so the table alone decides, and only while it is fresh: whoever may not
handle a message any more has stopped by the time that the lease is over.
"""

from __future__ import annotations

from typing import NamedTuple

from ..key import RoutingKey
from .handover import Handover, State
from .identity import Identity
from .table import Route, RouteTable
from .verdict import Action, Verdict, decide

__all__ = ["Delivery", "decide_delivery"]


class Delivery(NamedTuple):
    """
    Where a message came from.

    Args:
        queue: The baseline's queue.
        epoch: The life of the key whose queue it was taken from; 0: it is the baseline's own.
        returned: The life of the key for which it was forwarded, and came back because there was nothing to take it; 0: none.
    """

    queue: str
    epoch: int = 0
    returned: int = 0


def decide_delivery(
    key: RoutingKey | None, delivery: Delivery, identity: Identity, table: RouteTable | None, *, fresh: bool
) -> Verdict:
    """
    Decide whether a message is this process's, is to be sent on, or has to be kept until that can be said.

    A verdict to send it on names the route; without one it goes back to the baseline's queue.

    Args:
        key: The key of the message, or None.
        delivery: Where it came from.
        identity: Who asks.
        table: The route table as last read. Messages of the baseline's queue that have no key need none.
        fresh: Whether that read is younger than the lease, as found *after* the message was delivered.
    """
    if delivery.epoch:
        return _for_sandbox(key, delivery, identity, table, fresh)
    if key is None:
        return decide(None, identity, None)
    if table is None:
        return _held(key, "unread", "the route table was not read yet")
    if table.lease is None:
        return decide(key, identity, table)
    if not fresh:
        return _stale(key)
    row = table.handover(identity.workload, key)
    if row is None or delivery.queue not in row.queues:
        return Verdict(
            Action.OWN, f"{key} does not fork {delivery.queue} of {identity.workload}, so it is the baseline's", "not_forked", key
        )
    if row.forwarded:
        return _forked(key, delivery, identity, row)
    if row.state is State.NONE and row.late == "drop":
        reason = f"{key} does not fork {identity.workload} any more, and what comes late is dropped"
        return Verdict(Action.SKIP, reason, "retired", key)
    return Verdict(Action.OWN, f"{key} does not fork {identity.workload} any more, so it is the baseline's", "not_forked", key)


def _forked(key: RoutingKey, delivery: Delivery, identity: Identity, row: Handover) -> Verdict:
    if delivery.returned == row.epoch:
        # Its queue is not there yet, or not any more: to send it again would be to send it round and round.
        reason = f"it was forwarded to sandbox {row.sandbox} of {identity.workload} and came back, so it is the baseline's"
        return Verdict(Action.OWN, reason, "came_back", key)
    route = Route(identity.workload, key, row.sandbox, row.epoch)
    reason = f"{key} forks {identity.workload} in sandbox {row.sandbox}, not the baseline"
    return Verdict(Action.FORWARD, reason, "forked_elsewhere", key, route)


def _for_sandbox(key: RoutingKey | None, delivery: Delivery, identity: Identity, table: RouteTable | None, fresh: bool) -> Verdict:
    workload, sandbox = identity.workload, identity.sandbox
    if key is None:
        return Verdict(Action.FORWARD, f"no routing key, so it is the baseline's and not sandbox {sandbox}'s", "unkeyed")
    if table is None or not fresh:
        return _stale(key)
    row = table.handover(workload, key)
    if row is None or row.sandbox != sandbox or row.epoch != delivery.epoch:
        return Verdict(Action.FORWARD, f"{key} does not fork {workload} in sandbox {sandbox}", "not_forked", key)
    if not row.forwarded:
        # Whoever moves what is left finds it in the queue.
        return _held(key, row.state.value, f"sandbox {sandbox} is losing {key} on {workload}")
    return Verdict(Action.OWN, f"{key} forks {workload} in sandbox {sandbox}", "forked_here", key)


def _stale(key: RoutingKey) -> Verdict:
    return _held(key, "stale", "the route table was not read within the lease")


def _held(key: RoutingKey, code: str, why: str) -> Verdict:
    return Verdict(Action.HOLD, f"{key} waits: {why}", code, key)
