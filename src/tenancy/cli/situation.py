"""
Where a sandbox is: the state of each of its keys in words, how far it is in Kafka and on RabbitMQ, what is wrong, and what to do next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import HandoverError
from ..messaging.kafka.groups import group_name
from ..routes import Handover, State
from ..routes.handover import Cuts
from ..routes.lives import gap
from ..routes.stores import RouteStore
from .inspection.report import counted
from .logs import ask_logs, wrong_logs
from .queues import Consuming, consuming_of, nobody_reads, waiting_of, wrong_queues
from .states import words_of

if TYPE_CHECKING:
    from ..messaging.kafka.broker import KafkaBroker, Topic
    from ..messaging.rabbitmq.broker import RabbitBroker

__all__ = ["Reading", "Situation", "situation_of"]


@dataclass(frozen=True)
class Reading:
    """
    How far a sandbox is in Kafka, for one consumer group of the baseline.

    Args:
        group: The baseline's group.
        sandbox_group: The sandbox's.
        left: How many records lie between where the sandbox is and the end of what is its own, or of the log while that is not settled;
            an upper bound, since those of other keys count, too. None: it is not settled where it begins.
        expired: How many of its records are gone from the log, by retention, before it got to them; an upper bound as well.
        members: The members of the sandbox's group.
        unregistered: The members of the baseline's group that this library has not registered, and which would take the key's records.
    """

    group: str
    sandbox_group: str
    left: int | None
    expired: int
    members: list[str]
    unregistered: list[str]


@dataclass(frozen=True)
class Situation:
    """
    Where one key of a sandbox is on one workload.

    Args:
        row: Its lives.
        state_in_words: What its state means.
        readings: How far the sandbox is in Kafka; none where it reads nothing, or where the broker was not asked.
        consumings: How far it is on RabbitMQ; none where it consumes nothing, or where the broker was not asked.
        findings: What is wrong, or not known.
        next: What to do.
    """

    row: Handover
    state_in_words: str
    readings: list[Reading] = field(default_factory=list)
    consumings: list[Consuming] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    next: str = ""


def situation_of(row: Handover, store: RouteStore, kafka: KafkaBroker | None, rabbit: RabbitBroker | None = None) -> Situation:
    """
    Find out where a key of a sandbox is.

    Args:
        row: Its lives.
        store: The route store.
        kafka: The Kafka cluster; None: nothing is said about it.
        rabbit: The RabbitMQ broker; None: nothing is said about it.
    """
    readings: list[Reading] = []
    findings: list[str] = []
    if row.groups and row.state is not State.NONE:
        if kafka is None:
            findings.append(f"reads Kafka in {', '.join(sorted(row.groups))}; --kafka HOST:PORT tells how far the sandbox is")
        else:
            try:
                topics = kafka.topics(name for names in row.groups.values() for name in names)
                starts, ends = kafka.log_starts(topics), kafka.log_ends(topics)
                readings = [_reading(row, group, store, kafka, topics, starts, ends) for group in sorted(row.groups)]
                findings += wrong_logs(row, topics, ends)
            except HandoverError as error:
                readings = []
                findings.append(str(error))
    elif row.epochs and kafka is not None:
        findings += ask_logs(row, kafka)
    for reading in readings:
        if reading.unregistered:
            named = ", ".join(reading.unregistered)
            findings.append(f"members of {reading.group} without this library take {row.key}'s records as well: {named}")
        if reading.expired:
            findings.append(
                f"expired: retention has removed up to {counted(reading.expired, 'record')} before {reading.sandbox_group} got there"
            )
    consumings: list[Consuming] = []
    if row.queues and row.state is not State.NONE:
        if rabbit is None:
            findings.append(f"consumes {', '.join(sorted(row.queues))} on RabbitMQ; --rabbitmq URL tells how far the sandbox is")
        else:
            try:
                consumings = consuming_of(row, store, rabbit)
                findings += wrong_queues(row, consumings)
            except HandoverError as error:
                findings.append(str(error))
    return Situation(row, words_of(row), readings, consumings, findings, _next(row, readings, consumings))


def _reading(
    row: Handover, group: str, store: RouteStore, kafka: KafkaBroker, topics: Mapping[str, Topic], starts: Cuts, ends: Cuts
) -> Reading:
    sandbox_group = group_name(group, row.sandbox, row.generation)
    known = {member.member for member in store.members(row.workload)}
    left, expired = None, 0
    if row.current is not None:
        settled = row
        if row.current.end is None:
            settled = row._replace(epochs=(*row.epochs[:-1], row.current._replace(end=ends)))
        committed = kafka.committed(sandbox_group, topics)
        left = sum(end - at for at, end in gap(settled, group, committed, starts).values())
        expired = sum(end - at for at, end in gap(settled, group, committed, {}).values()) - left
    return Reading(
        group,
        sandbox_group,
        left,
        expired,
        [str(member) for member in kafka.members(sandbox_group)],
        [str(member) for member in kafka.members(group) if member.id not in known],
    )


def _next(row: Handover, readings: list[Reading], consumings: list[Consuming]) -> str:
    create = f"`tenancy sandbox create {row.sandbox} --fork {row.workload}{'' if row.key == row.sandbox else f' --key {row.key}'}`"
    delete = f"`tenancy sandbox delete {row.sandbox}`"
    members = [member for reading in readings for member in reading.members]
    left = sum(reading.left or 0 for reading in readings)
    strangers = any(reading.unregistered for reading in readings) or any(one.unregistered for one in consumings)
    holders = [reader for one in consumings for reader in one.readers]
    if row.state is State.NONE:
        return "nothing"
    if row.state is State.CREATING:
        who = "members" if not any(one.unregistered for one in consumings) else "consumers"
        first = f"end or upgrade the {who} that are named, then " if strangers else ""
        return f"{first}run {create} if no command is at work on it: it goes on from here; or give it up: {delete}"
    if row.state is State.ACTIVE:
        if (readings and not members) or nobody_reads(row, consumings):
            return f"start the sandbox's consumers, since nobody reads in its place; {delete} takes the key back"
        return f"nothing; {delete} takes the key back"
    if row.state is State.DELETING:
        return f"run {delete} if no command is at work on it: it goes on from here"
    if row.state is State.DRAINING and left and readings and not members:
        return f"start the sandbox's consumers again, or let {delete} read what is left in their place once --drain has passed"
    if row.state is State.DRAINING and consumings and not readings and not holders:
        return (
            f"run {delete} if no command is at work on it: it takes out what is left, {counted(waiting_of(consumings), 'message')}"
        )
    if row.state is State.DRAINING:
        return f"keep the sandbox's consumers running until nothing is left; {delete} then ends it"
    stayed = [reading.sandbox_group for reading in readings if reading.members] + [
        one.sandbox_queue for one in consumings if one.readers
    ]
    ended = f"end the sandbox's processes, which have not left {', '.join(stayed)}; then " if stayed else ""
    return f"{ended}run {delete} if no command is at work on it: it goes on from here"
