"""
Hand-over: which positions of a log belong to a sandbox. Pure; the owner of a record is a function of the record and of durable cuts alone,
so redelivery, rebalance and restart give the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from ..key import RoutingKey

__all__ = ["Claim", "Cuts", "Epoch", "Handover", "State", "cut"]

#: Offsets by topic: one for each partition that was there when they were taken, from partition 0 on.
Cuts = Mapping[str, tuple[int, ...]]


_NO_IDS: Mapping[str, str] = MappingProxyType({})
_NO_PROGRESS: Mapping[str, Cuts] = MappingProxyType({})
_NO_GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType({})
_NO_QUEUES: Mapping[str, str] = MappingProxyType({})


class State(str, Enum):
    """
    Where in its life a key is, on one workload.
    """

    #: No sandbox has it.
    NONE = "none"
    #: A sandbox is about to have it: whoever knows this sets its records aside.
    CREATING = "creating"
    #: The sandbox has it from the start cuts on.
    ACTIVE = "active"
    #: The sandbox is about to lose it: whoever knows this sets its records aside.
    DELETING = "deleting"
    #: The sandbox handles what lies before the end cuts; the baseline has all that follows.
    DRAINING = "draining"
    #: The sandbox did not get there in time: a gap reader takes its place up to the end cuts.
    RECLAIMING = "reclaiming"


class Epoch(NamedTuple):
    """
    One life of a key on a workload: the records between its cuts are the sandbox's.

    Args:
        number: Which life, from 1.
        sandbox: Who had it.
        start: The offsets from which on they are the sandbox's; of a topic that is not there nothing is.
        end: The offsets from which on they are the sandbox's no longer; None while that is not settled.
        ids: What the broker calls each topic for itself; one that was made again has another.
    """

    number: int
    sandbox: str
    start: Cuts
    end: Cuts | None = None
    ids: Mapping[str, str] = _NO_IDS


class Claim(NamedTuple):
    """
    Whose a record is, by its position.

    Args:
        sandbox: The sandbox; None: the baseline.
        decided: Whether no later table can say otherwise. What is not decided holds only for as long as the table is fresh.
        epoch: The life of the key that claims it; 0: none does.
        hold: Whether it cannot be said yet, so that nobody handles or skips it.
    """

    sandbox: str | None
    decided: bool
    epoch: int = 0
    hold: bool = False


class Handover(NamedTuple):
    """
    The lives of one key on one workload.

    Args:
        workload: The workload, ``namespace/name``.
        key: The routing key.
        state: Where in its life it is.
        epoch: The number of its present or last life; 0: it had none. A life that was given up while it was created is counted, too.
        sandbox: The sandbox of that life.
        generation: Which consumer groups that sandbox has on the workload: it is part of their names.
        epochs: The lives whose start cuts are written, in order.
        version: That of the store's table when this was written; 0: it is not in a store.
        groups: The consumer groups of the baseline with their topics, as far as they are known.
        claimant: The gap reader that is at work; empty: none.
        progress: How far gap readers are, by group of the baseline: offsets before which everything is settled.
        late: What the baseline does with records that come after the end: it handles them (``baseline``) or nobody does (``drop``).
        queues: The baseline's queues on RabbitMQ of which the sandbox has one of its own; each with the headers exchange that routes to it
            by itself, or with nothing where the baseline forwards.
    """

    workload: str
    key: RoutingKey
    state: State = State.NONE
    epoch: int = 0
    sandbox: str = ""
    generation: int = 0
    epochs: tuple[Epoch, ...] = ()
    version: int = 0
    groups: Mapping[str, tuple[str, ...]] = _NO_GROUPS
    claimant: str = ""
    progress: Mapping[str, Cuts] = _NO_PROGRESS
    late: str = "baseline"
    queues: Mapping[str, str] = _NO_QUEUES

    @property
    def forwarded(self) -> bool:
        """
        Whether the baseline forwards messages of RabbitMQ to the sandbox.
        """
        return self.state in (State.CREATING, State.ACTIVE)

    @property
    def current(self) -> Epoch | None:
        """
        The present life, once its start cuts are written.
        """
        last = self.epochs[-1] if self.epochs else None
        return last if last is not None and last.number == self.epoch and self.state is not State.NONE else None

    def claim(self, topic: str, partition: int, offset: int) -> Claim:
        """
        Return whose a record with this key is.

        Args:
            topic: The record's topic.
            partition: Its partition.
            offset: Its offset.
        """
        for epoch in self.epochs:
            starts = epoch.start.get(topic)
            if starts is None:
                continue
            if offset < cut(starts, partition):
                return _BELOW
            if epoch.end is None:
                return Claim(epoch.sandbox, decided=False, epoch=epoch.number, hold=self.state is State.DELETING)
            if offset < cut(epoch.end.get(topic, ()), partition):
                return Claim(epoch.sandbox, decided=True, epoch=epoch.number)
        return _UNCLAIMED if self.state is not State.CREATING else _COMING

    def last_cut(self, topic: str, partition: int) -> int:
        """
        Return the offset from which on `claim` says the same of every record of a partition.
        """
        cuts = [0]
        for epoch in self.epochs:
            if topic in epoch.start:
                cuts += [cut(epoch.start[topic], partition), cut((epoch.end or {}).get(topic, ()), partition)]
        return max(cuts)


def cut(offsets: tuple[int, ...], partition: int) -> int:
    """
    Return the cut on a partition. One that was added after the cuts were taken has 0: all of it lies behind the cut.
    """
    return offsets[partition] if partition < len(offsets) else 0


_BELOW = Claim(None, decided=True)
_UNCLAIMED = Claim(None, decided=False)
_COMING = Claim(None, decided=False, hold=True)
