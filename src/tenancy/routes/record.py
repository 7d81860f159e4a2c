"""
The decision who owns a record of a log: like `tenancy.routes.decide`, and by the record's position. Pure.
"""

from __future__ import annotations

from typing import NamedTuple

from ..key import RoutingKey
from .handover import Handover, State
from .identity import Identity
from .table import RouteTable
from .topics import OwnTopic
from .verdict import Action, Verdict, decide

__all__ = ["Position", "Reader", "decide_record", "is_reading"]


class Position(NamedTuple):
    """
    Where a record stands.

    Args:
        topic: Its topic.
        partition: Its partition.
        offset: Its offset.
    """

    topic: str
    partition: int
    offset: int


class Reader(NamedTuple):
    """
    Who reads a log.

    Args:
        identity: The workload, and the sandbox or the baseline.
        generation: Which of its consumer groups a sandbox reads in.
    """

    identity: Identity
    generation: int = 0


def decide_record(key: RoutingKey | None, position: Position, reader: Reader, table: RouteTable | None, *, fresh: bool) -> Verdict:
    """
    Decide whether a record is this reader's, is another's, or has to be set aside until that can be said.

    Args:
        key: The key of the record, or None.
        position: Where it stands.
        reader: Who asks.
        table: The route table as last read. Records without a key need none.
        fresh: Whether that read is younger than the lease, as found *after* the record was fetched.
    """
    sandbox = reader.identity.sandbox
    own = None if table is None or table.lease is None else table.own_topic(position.topic)
    if table is not None and own is not None:
        return _in_own_topic(key, own, reader, table, fresh)
    if key is None:
        return decide(None, reader.identity, None)
    if table is None:
        return _held(key, "unread", "the route table was not read yet")
    if table.lease is None:
        return decide(key, reader.identity, table)
    row = table.handover(reader.identity.workload, key)
    if sandbox is None:
        return _for_baseline(key, position, reader.identity, row, fresh)
    return _for_sandbox(key, position, reader, row, fresh)


def is_reading(reader: Reader, table: RouteTable) -> bool:
    """
    Return whether a sandbox's consumer may be a member of its group: it has a key to read for, of which it is known where that begins, and
    none that a gap reader reads in its place.

    Args:
        reader: The sandbox's reader.
        table: The route table as last read.
    """
    states = {row.state for row in table.handovers(reader.identity.workload) if _is_mine(row, reader)}
    return not states.isdisjoint({State.ACTIVE, State.DELETING, State.DRAINING}) and State.RECLAIMING not in states


def _for_baseline(key: RoutingKey, position: Position, identity: Identity, row: Handover | None, fresh: bool) -> Verdict:
    if row is None:
        if not fresh:
            return _stale(key)
        return Verdict(Action.OWN, f"{key} does not fork {identity.workload}, so it is the baseline's", "not_forked", key)
    claim = row.claim(*position)
    if claim.hold:
        return _held(key, row.state.value, f"sandbox {row.sandbox} is {row.state.value} on {identity.workload}")
    if not (claim.decided or fresh):
        return _stale(key)
    if claim.sandbox is not None:
        reason = f"{key} forks {identity.workload} in sandbox {claim.sandbox} at this position, not the baseline"
        return Verdict(Action.SKIP, reason, "forked_elsewhere", key)
    if claim.decided:
        reason = f"it lies before {key} was handed to a sandbox of {identity.workload}, so it is the baseline's"
        return Verdict(Action.OWN, reason, "before_cut", key)
    if row.state is State.NONE and row.epochs and row.late == "drop":
        reason = f"{key} does not fork {identity.workload} any more, and what comes late is dropped"
        return Verdict(Action.SKIP, reason, "retired", key)
    return Verdict(
        Action.OWN, f"{key} does not fork {identity.workload} at this position, so it is the baseline's", "not_forked", key
    )


def _for_sandbox(key: RoutingKey, position: Position, reader: Reader, row: Handover | None, fresh: bool) -> Verdict:
    if not fresh:
        return _stale(key)
    workload, sandbox = reader.identity.workload, reader.identity.sandbox
    if row is None or not _is_mine(row, reader) or row.state is State.NONE:
        return Verdict(Action.SKIP, f"{key} does not fork {workload} in sandbox {sandbox}", "forked_elsewhere", key)
    if row.state is State.RECLAIMING:
        return _held(key, "reclaiming", f"what is left of {key} on {workload} is handled in the place of sandbox {sandbox}")
    claim = row.claim(*position)
    if claim.hold:
        return _held(key, row.state.value, f"sandbox {sandbox} is {row.state.value} on {workload}")
    if claim.sandbox == sandbox and claim.epoch == row.epoch:
        return Verdict(Action.OWN, f"{key} forks {workload} in sandbox {sandbox} at this position", "forked_here", key)
    reason = f"{key} does not fork {workload} in sandbox {sandbox} at this position"
    return Verdict(Action.SKIP, reason, "before_cut" if claim.decided else "not_forked", key)


def _in_own_topic(key: RoutingKey | None, own: OwnTopic, reader: Reader, table: RouteTable, fresh: bool) -> Verdict:
    """
    In a topic of a sandbox's own nothing is anybody else's, with whatever key or none, so where it stands does not matter.
    """
    if not fresh:
        return _stale(key)
    if reader.identity.sandbox != own.sandbox:
        return Verdict(Action.SKIP, f"{own.name} is a topic of sandbox {own.sandbox}'s own", "forked_elsewhere", key)
    workload = reader.identity.workload
    states = {row.state for row in table.handovers(workload) if _is_mine(row, reader)}
    if State.RECLAIMING in states:
        return _held(key, "reclaiming", f"what is left of {own.name} is handled in the place of sandbox {own.sandbox}")
    if states <= {State.NONE}:
        return Verdict(Action.SKIP, f"sandbox {own.sandbox} does not fork {workload} any more", "retired", key)
    return Verdict(Action.OWN, f"{own.name} is a topic of sandbox {own.sandbox}'s own", "forked_here", key)


def _is_mine(row: Handover, reader: Reader) -> bool:
    return row.sandbox == reader.identity.sandbox and row.generation == reader.generation


def _stale(key: RoutingKey | None) -> Verdict:
    return _held(key, "stale", "the route table was not read within the lease")


def _held(key: RoutingKey | None, code: str, why: str) -> Verdict:
    return Verdict(Action.HOLD, f"{key or 'a record without a key'} waits: {why}", code, key)
