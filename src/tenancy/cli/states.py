"""
What each state in the life of a key means for an operator, in words.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..routes import Handover, State

__all__ = ["BRIEFLY", "OF_QUEUES", "OF_RECORDS", "words_of"]

#: Whatever carries the work.
BRIEFLY: Mapping[State, str] = {
    State.NONE: "over: no sandbox has the key",
    State.CREATING: "the sandbox is about to have it",
    State.ACTIVE: "the sandbox has it",
    State.DELETING: "the sandbox is about to lose it",
    State.DRAINING: "the sandbox has lost it, and what came before is handled",
    State.RECLAIMING: "the sandbox has lost it, and what it has left is handled in its place",
}

#: For records of Kafka.
OF_RECORDS: Mapping[State, str] = {
    State.NONE: BRIEFLY[State.NONE],
    State.CREATING: "the sandbox is about to have it; its records wait until the start cuts are written",
    State.ACTIVE: "the sandbox has it from the start cuts on",
    State.DELETING: "the sandbox is about to lose it; its records wait until the end cuts are written",
    State.DRAINING: "the sandbox handles what came before the end cuts; all that follows is the baseline's already",
    State.RECLAIMING: "the sandbox did not get to the end cuts; a gap reader takes its place up to there",
}

#: For messages of RabbitMQ, which have no positions.
OF_QUEUES: Mapping[State, str] = {
    State.NONE: BRIEFLY[State.NONE],
    State.CREATING: "the sandbox is about to have it; its messages are sent on already, and for a lease the baseline may still handle one",
    State.ACTIVE: "the sandbox has it; the baseline sends its messages on to the sandbox's queues",
    State.DELETING: "the sandbox is about to lose it; nothing more is sent on, and for a lease it may still handle what it has",
    State.DRAINING: "the sandbox ends what it has begun; what is left in its queues is taken out, and all else is the baseline's already",
    State.RECLAIMING: "the sandbox did not leave its queues in time; what is left in them is taken out once it has",
}


def words_of(row: Handover) -> str:
    """
    Return what the state of a key means, for what carries its work.

    Args:
        row: Its lives.
    """
    if not row.queues or row.state is State.NONE:
        return OF_RECORDS[row.state]
    if not row.groups:
        return OF_QUEUES[row.state]
    return f"{OF_RECORDS[row.state]}. On RabbitMQ: {OF_QUEUES[row.state]}"
