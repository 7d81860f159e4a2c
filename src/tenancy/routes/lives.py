"""
The steps in the life of a key on a workload, each a pure function from what was there to what is written next, by compare-and-set.

Who takes the steps, and waits a lease between them, is the controller's part; `Handover.claim` says what each means for a record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from ..errors import HandoverError
from ..key import RoutingKey
from .handover import Cuts, Epoch, Handover, State, cut

__all__ = [
    "abandon",
    "activate",
    "begin_create",
    "begin_delete",
    "claim_gap",
    "drain",
    "finish",
    "gap",
    "is_drained",
    "record_progress",
    "replace_reader",
]

T = TypeVar("T")


def begin_create(
    rows: Iterable[Handover],
    workload: str,
    key: RoutingKey,
    sandbox: str,
    groups: Mapping[str, tuple[str, ...]],
    *,
    late: str = "baseline",
    queues: Mapping[str, str] | None = None,
) -> Handover:
    """
    Begin to hand a key to a sandbox.

    Args:
        rows: The lives of all keys on the workload.
        workload: The workload.
        key: The key.
        sandbox: The sandbox.
        groups: The baseline's consumer groups, with their topics.
        late: What becomes of records after the end; ``baseline`` or ``drop``.
        queues: The baseline's queues on RabbitMQ, each with the headers exchange that routes to the sandbox's by itself, or with nothing.

    Raises:
        HandoverError: If somebody has the key, or is about to.
    """
    known = {row.key: row for row in rows if row.workload == workload}
    row = known.get(key, Handover(workload, key))
    if row.state is not State.NONE:
        raise HandoverError(
            f"{key} on {workload} is {row.state.value} for sandbox {row.sandbox}; delete that first, or wait until it is gone"
        )
    living = [other.generation for other in known.values() if other.sandbox == sandbox and other.state is not State.NONE]
    generation = living[0] if living else 1 + max((other.generation for other in known.values()), default=0)
    return row._replace(
        state=State.CREATING,
        epoch=row.epoch + 1,
        sandbox=sandbox,
        generation=generation,
        groups=groups,
        late=late,
        claimant="",
        progress={},
        queues=queues or {},
    )


def activate(row: Handover, log_ends: Cuts, ids: Mapping[str, str] | None = None) -> Handover:
    """
    Hand the key over: from the log's ends on, which were read after a lease of ``creating``. The cuts that earlier lives had in a topic that
    was deleted and made again go: they are those of a log that is gone.

    Args:
        row: What was written before the lease.
        log_ends: The log's ends, by topic and partition.
        ids: What the broker calls each topic for itself.
    """
    _check(row, State.CREATING)
    epochs = tuple(_in_these_logs(epoch, ids or {}) for epoch in row.epochs)
    starts = {topic: _raised(ends, (epoch.end or {} for epoch in epochs), topic) for topic, ends in log_ends.items()}
    return row._replace(state=State.ACTIVE, epochs=(*epochs, Epoch(row.epoch, row.sandbox, starts, None, ids or {})))


def abandon(row: Handover) -> Handover:
    """
    Give up a life that is being created; its number is spent. Where messages were forwarded already it ends as one that was active.
    """
    _check(row, State.CREATING)
    return row._replace(state=State.DELETING if row.queues else State.NONE)


def begin_delete(row: Handover) -> Handover:
    """
    Begin to take the key back.
    """
    _check(row, State.ACTIVE)
    return row._replace(state=State.DELETING)


def drain(row: Handover, log_ends: Cuts) -> Handover:
    """
    Take the key back: from the log's ends on, which were read after a lease of ``deleting``.

    Args:
        row: What was written before the lease.
        log_ends: The log's ends, by topic and partition. A topic that is gone has none.
    """
    _check(row, State.DELETING)
    last = row.current
    if last is None:  # it was given up before it began
        return row._replace(state=State.DRAINING)
    ends = {topic: _raised(log_ends.get(topic, ()), (last.start,), topic) for topic in last.start}
    return row._replace(state=State.DRAINING, epochs=(*row.epochs[:-1], last._replace(end=ends)))


def gap(row: Handover, group: str, committed: Cuts, log_starts: Cuts) -> dict[tuple[str, int], tuple[int, int]]:
    """
    Return what is left for a group of the sandbox: by topic and partition, from which offset up to which; nothing where all is done.

    Args:
        row: The lives of the key, with end cuts.
        group: The baseline's group whose counterpart is meant.
        committed: What the sandbox's group has committed; -1 where it has not.
        log_starts: The first offsets that can still be read.
    """
    last = row.current
    if last is None:
        return {}
    progress = row.progress.get(group, {})
    left = {}
    for topic in row.groups.get(group, ()):
        ends = (last.end or {}).get(topic, ())
        for partition, end in enumerate(ends):
            start = cut(last.start.get(topic, ()), partition)
            reached = max(start, *(cut(cuts.get(topic, ()), partition) for cuts in (committed, progress, log_starts)))
            if reached < end:
                left[topic, partition] = (reached, end)
    return left


def is_drained(row: Handover, committed: Mapping[str, Cuts], log_starts: Cuts) -> bool:
    """
    Return whether nothing is left for any group of the sandbox.

    Args:
        row: The lives of the key, with end cuts.
        committed: What the sandbox's groups have committed, by the baseline's group.
        log_starts: The first offsets that can still be read.
    """
    return not any(gap(row, group, committed.get(group, {}), log_starts) for group in row.groups)


def replace_reader(row: Handover, claimant: str) -> Handover:
    """
    Put a gap reader in the place of a sandbox that did not drain in time.

    Args:
        row: The lives of the key.
        claimant: The gap reader; it begins a lease later, once the sandbox's group has no members.
    """
    _check(row, State.DRAINING)
    return row._replace(state=State.RECLAIMING, claimant=claimant)


def claim_gap(row: Handover, claimant: str) -> Handover:
    """
    Put another gap reader in the place of one that is gone; it, too, begins a lease later.
    """
    _check(row, State.RECLAIMING)
    return row._replace(claimant=claimant)


def record_progress(row: Handover, claimant: str, group: str, topic: str, partition: int, offset: int) -> Handover:
    """
    Note how far a gap reader is.

    Raises:
        HandoverError: If another one has taken its place.
    """
    _check(row, State.RECLAIMING)
    if row.claimant != claimant:
        raise HandoverError(f"what is left of {row.key} on {row.workload} is handled by {row.claimant} now, not by {claimant}")
    cuts = dict(row.progress.get(group, {}))
    before = cuts.get(topic, ())
    padded = before + (0,) * (partition + 1 - len(before))
    cuts[topic] = (*padded[:partition], max(padded[partition], offset), *padded[partition + 1 :])
    return row._replace(progress={**row.progress, group: cuts})


def finish(row: Handover) -> Handover:
    """
    End the life: all of it was handled. Its cuts stay, since somebody may still come past them.
    """
    _check(row, State.DRAINING, State.RECLAIMING)
    return row._replace(state=State.NONE, claimant="", progress={})


def _check(row: Handover, *states: State) -> None:
    if row.state not in states:
        wanted = " or ".join(state.value for state in states)
        raise HandoverError(f"{row.key} on {row.workload} is {row.state.value}, not {wanted}; somebody else has gone on with it")


def _in_these_logs(epoch: Epoch, ids: Mapping[str, str]) -> Epoch:
    """
    Leave out the topics that have another id now.
    """
    gone = {topic for topic, name in epoch.ids.items() if ids.get(topic, name) != name}
    if not gone:
        return epoch
    end = None if epoch.end is None else _without(gone, epoch.end)
    return epoch._replace(start=_without(gone, epoch.start), end=end, ids=_without(gone, epoch.ids))


def _without(topics: set[str], entries: Mapping[str, T]) -> dict[str, T]:
    return {topic: entry for topic, entry in entries.items() if topic not in topics}


def _raised(offsets: tuple[int, ...], floors: Iterable[Cuts], topic: str) -> tuple[int, ...]:
    """
    Raise offsets to all earlier cuts: a log that has become shorter must not give a record to two lives.
    """
    lists = [offsets, *(floor.get(topic, ()) for floor in floors)]
    return tuple(max(cut(listed, partition) for listed in lists) for partition in range(max(map(len, lists))))
