"""
Who owns a piece of work, and why, in words: what consumers would decide, asked for each that could have it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..key import RoutingKey
from ..routes import Action, Handover, Identity, Position, Reader, RouteTable, State, Verdict, check_known, decide, decide_record
from ..routes.delivery import Delivery, decide_delivery
from .states import OF_QUEUES

__all__ = ["Answer", "Explanation", "cuts", "explain"]

_STATES = {
    State.NONE: "no sandbox has the key",
    State.CREATING: "a sandbox is about to have it: consumers set its records aside until the start cuts are written",
    State.ACTIVE: "the sandbox has it",
    State.DELETING: "the sandbox is about to lose it: consumers set its records aside until the end cuts are written",
    State.DRAINING: "the sandbox handles what lies before the end cuts; what follows is the baseline's",
    State.RECLAIMING: "the sandbox did not get to the end cuts: a gap reader takes its place up to there",
}


_NO_LIFE = -1


@dataclass(frozen=True)
class Answer:
    """
    What one reader does.

    Args:
        reader: ``baseline``, or ``sandbox`` and its name.
        action: ``own``, ``skip`` or ``hold``.
        reason: Why, in words.
        code: Why, as counters have it.
    """

    reader: str
    action: str
    reason: str
    code: str


@dataclass(frozen=True)
class Explanation:
    """
    Who owns a piece of work.

    Args:
        workload: Whose work it is.
        key: Its routing key.
        position: Where it stands, if it is a record.
        owner: ``baseline``, or the sandbox's name; None: nobody, or it cannot be said yet.
        owner_in_words: The same, for people.
        why: The reason.
        state: Where in its life the key is on this workload; None: it never had one.
        cuts: Which records were and are a sandbox's, a line for each topic of each life.
        readers: What each of those does that could have it.
        findings: What is wrong with the logs that the cuts are of, as far as that was asked.
        queue: The baseline's queue on RabbitMQ, if it is a message of that.
    """

    workload: str
    key: str | None
    position: dict[str, Any] | None
    owner: str | None
    owner_in_words: str
    why: str
    state: str | None
    cuts: list[str]
    readers: list[Answer]
    findings: list[str] = field(default_factory=list)
    queue: str | None = None


def explain(
    table: RouteTable,
    workload: str,
    key: RoutingKey | None,
    position: Position | None = None,
    reader: str | None = None,
    findings: Iterable[str] = (),
    *,
    queue: str | None = None,
) -> Explanation:
    """
    Explain who owns a piece of work, by a table that was read just now.

    Args:
        table: The route table.
        workload: Whose work it is.
        key: Its routing key, or None.
        position: Where it stands, if it is a record.
        reader: ``baseline`` or a sandbox, if only its answer is wanted.
        findings: What is wrong with the logs that the cuts are of.
        queue: The baseline's queue on RabbitMQ, if it is a message of that, which is met now.

    Raises:
        IdentityError: If the table does not know the workload.
    """
    check_known(Identity(workload, None), table)
    row = None if key is None else table.handover(workload, key)
    asked: dict[str | None, None] = dict.fromkeys((None, *_sandboxes(table, workload, key, row, queue)))
    one = None if reader == "baseline" else reader
    verdicts = {who: _verdict(table, workload, key, position, who, row, queue) for who in {**asked, one: None}}
    owners = [sandbox for sandbox, verdict in verdicts.items() if verdict.owned]
    held = [verdict for verdict in verdicts.values() if verdict.action is Action.HOLD]
    if owners:
        owner: str | None = owners[0] or "baseline"
        words = "the baseline's" if owners[0] is None else f"sandbox {owners[0]}'s"
        why = verdicts[owners[0]].reason
    elif held:
        owner, words, why = None, "set aside until it can be said whose it is", held[0].reason
    else:
        past = None if row is None or position is None else row.claim(*position)
        owner = None if past is None else past.sandbox
        words = "nobody's" if past is None or owner is None else f"sandbox {owner}'s in life {past.epoch} of the key, which is over"
        why = verdicts[None].reason
    shown = verdicts if reader is None else {one: verdicts[one]}
    return Explanation(
        workload=workload,
        key=key,
        position=None if position is None else position._asdict(),
        owner=owner,
        owner_in_words=words,
        why=why,
        state=None if row is None else f"{row.state.value}, life {row.epoch}: {_state(row, queue)}",
        cuts=[] if row is None else [*cuts(row)],
        readers=[_answer(sandbox, verdict) for sandbox, verdict in shown.items()],
        findings=[*findings],
        queue=queue,
    )


def cuts(row: Handover) -> Iterator[str]:
    """
    Return, a line for each topic of each life, which records are a sandbox's.

    Args:
        row: The lives of a key.
    """
    for epoch in row.epochs:
        for topic, starts in sorted(epoch.start.items()):
            ends = None if epoch.end is None else epoch.end.get(topic, ())
            until = "" if ends is None else f" up to {_offsets(ends)}"
            yield f"life {epoch.number}, {epoch.sandbox}: {topic} from {_offsets(starts)}{until}"


def _offsets(offsets: tuple[int, ...]) -> str:
    return ", ".join(f"{partition}:{offset}" for partition, offset in enumerate(offsets)) or "0 on all partitions"


def _state(row: Handover, queue: str | None) -> str:
    if queue is None:
        return OF_QUEUES[row.state] if row.queues and not row.groups else _STATES[row.state]
    return OF_QUEUES[row.state] if queue in row.queues else f"no sandbox has a queue in the place of {queue}"


def _sandboxes(table: RouteTable, workload: str, key: RoutingKey | None, row: Handover | None, queue: str | None) -> Iterator[str]:
    if queue is not None and table.lease is not None:  # there is one queue, and one sandbox that can have one in its place
        yield from (row.sandbox,) if row is not None and row.sandbox and queue in row.queues else ()
        return
    route = None if key is None else table.route(workload, key)
    of_epochs = () if row is None else (*(epoch.sandbox for epoch in row.epochs), row.sandbox)
    yield from dict.fromkeys(filter(None, (*of_epochs, "" if route is None else route.sandbox)))


def _verdict(
    table: RouteTable,
    workload: str,
    key: RoutingKey | None,
    position: Position | None,
    sandbox: str | None,
    row: Handover | None,
    queue: str | None,
) -> Verdict:
    identity = Identity(workload, sandbox)
    if queue is not None and table.lease is not None:
        # A sandbox is asked for what is in its own queue, and one that has none for what it would do if it had.
        has_one = row is not None and row.sandbox == sandbox and queue in row.queues
        epoch = 0 if sandbox is None else row.epoch if row is not None and has_one else _NO_LIFE
        return decide_delivery(key, Delivery(queue, epoch), identity, table, fresh=True)
    if position is None:
        return decide(key, identity, table)
    generation = row.generation if row is not None and row.sandbox == sandbox else 0
    return decide_record(key, position, Reader(identity, generation), table, fresh=True)


def _answer(sandbox: str | None, verdict: Verdict) -> Answer:
    return Answer("baseline" if sandbox is None else f"sandbox {sandbox}", verdict.action.value, verdict.reason, verdict.code)
