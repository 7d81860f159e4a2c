"""
The topics of a sandbox's own: where each is, and what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import HandoverError
from ..routes import OwnTopic, RouteTable, State

if TYPE_CHECKING:
    from ..messaging.kafka.broker import KafkaBroker, Topic

__all__ = ["TopicState", "topics_of"]


@dataclass(frozen=True)
class TopicState:
    """
    Where one topic of a sandbox's own is.

    Args:
        sandbox: Whose it is.
        topic: What it is called.
        base: The topic of the baseline in whose place it stands.
        id: What the broker calls it for itself; empty: that is not noted.
        state: ``making``, ``made`` or ``removing``.
        partitions: How many partitions it has; None: it is not there, or the broker was not asked.
        findings: What is wrong.
    """

    sandbox: str
    topic: str
    base: str
    id: str
    state: str
    partitions: int | None = None
    findings: list[str] = field(default_factory=list)


def topics_of(table: RouteTable, sandbox: str | None, kafka: KafkaBroker | None) -> list[TopicState]:
    """
    Find out where the topics of a sandbox's own are, or those of all sandboxes.

    Args:
        table: The route table.
        sandbox: The sandbox; None: all of them.
        kafka: The Kafka cluster; None: nothing is said about what is there.
    """
    own = sorted(table.own_topics(sandbox), key=lambda topic: (topic.sandbox, topic.name))
    living = {row.sandbox for row in table.handovers() if row.state is not State.NONE}
    found: dict[str, Topic] | None = None
    unanswered: list[str] = []
    if own and kafka is not None:
        try:
            found = kafka.topics(topic.name for topic in own)
        except HandoverError as error:
            unanswered = [str(error)]
    return [_state_of(topic, topic.sandbox in living, found, unanswered) for topic in own]


def _state_of(topic: OwnTopic, living: bool, found: dict[str, Topic] | None, unanswered: list[str]) -> TopicState:
    state = "removing" if topic.leaving else "made" if topic.id else "making"
    there = None if found is None else found.get(topic.name)
    findings = [*unanswered, *_wrong(topic, living, there is None, None if there is None else there.id, found is not None)]
    partitions = None if there is None else there.partitions
    return TopicState(topic.sandbox, topic.name, topic.base, topic.id, state, partitions, findings)


def _wrong(topic: OwnTopic, living: bool, absent: bool, id_now: str | None, asked: bool) -> Iterator[str]:
    if not living:
        yield f"the sandbox is gone, and this is not: run `tenancy sandbox delete {topic.sandbox}`"
    elif asked and topic.id and absent:
        yield "it is gone, though the sandbox is not: delete the sandbox and create it anew"
    elif asked and topic.id and id_now != topic.id:
        yield "somebody deleted it and made another one, which will be left when the sandbox is deleted"
