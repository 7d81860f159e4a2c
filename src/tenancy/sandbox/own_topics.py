"""
Topics of a sandbox's own: made before any of its keys is active, like those of the baseline; removed when all of its keys are gone.

What is to be made is noted in the route store first, and what is to be removed stays there until it is gone, so whoever comes after a crash
goes on with it. Nothing is removed that was not made here: a topic is known by the id that the broker gave it, and until that is noted by the
mark with which it was made.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..errors import ConflictError, HandoverError
from ..naming import partition_name
from ..routes import OwnTopic, RouteTable, State
from ..routes.handover import Cuts
from ..routes.stores import Put, RouteStore, forget_topic, put_topic, table_of

if TYPE_CHECKING:
    from ..messaging.kafka.broker import KafkaBroker, Topic

# How long brokers may take until all of them know of a topic that was made, in seconds.
_PATIENCE = 10.0

__all__ = ["OwnTopics", "checked_bases", "own_topic_name"]


def own_topic_name(sandbox: str, base: str) -> str:
    """
    Return what a sandbox calls its own version of a topic: what ``topic_name(base)`` returns in its processes.
    """
    return partition_name(sandbox, base, kind="kafka-topic")


class OwnTopics:
    """
    Makes and removes topics of sandboxes' own.

    Args:
        store: The route store.
        kafka: The Kafka cluster; None: there is none to ask.
    """

    def __init__(self, store: RouteStore, kafka: KafkaBroker | None) -> None:
        self._store = store
        self._kafka = kafka

    def claims(self, table: RouteTable, sandbox: str, bases: Sequence[str]) -> list[Put]:
        """
        Return what is to be written together with a key that a sandbox begins to have, so that the topics are its own from there on.

        Args:
            table: The route table, as it was just read.
            sandbox: The sandbox.
            bases: The topics of the baseline in whose place it wants its own.

        Raises:
            HandoverError: If there is no such topic of the baseline, or one that has the name of the sandbox's.
            ConflictError: If an earlier one is just being removed.
        """
        names = {own_topic_name(sandbox, base): base for base in bases}
        known = {name: topic for name in names if (topic := table.own_topic(name)) is not None}
        if any(topic.leaving for topic in known.values()):
            raise ConflictError(f"a topic of sandbox {sandbox}'s own is just being removed; try again")
        new = names.keys() - known.keys()
        if new:
            found = self._broker(sandbox).topics({*new, *names.values()})
            for name in sorted(new):
                self._check_new(sandbox, name, names[name], found)
        made = [OwnTopic(name, names[name], sandbox, secrets.randbits(48)) for name in sorted(new)]
        # Those that are there are written again, so that nobody who has not seen this removes them.
        return [put_topic(topic) for topic in (*known.values(), *made)]

    def check(self, table: RouteTable, sandbox: str, workload: str, bases: Iterable[str]) -> None:
        """
        Make sure that a sandbox that has its key already has the topics, too, that it is to have.

        Raises:
            HandoverError: If it has not: what it reads is settled.
        """
        for base in bases:
            if table.own_topic(own_topic_name(sandbox, base)) is None:
                raise HandoverError(
                    f"sandbox {sandbox} has its key on {workload} already, without a topic of its own for {base}; delete it first, then "
                    "create it anew"
                )

    def make(self, sandbox: str) -> bool:
        """
        Make what is noted and not yet made, and return whether all of it is there; if not, look again.

        Raises:
            HandoverError: If it cannot be made, or if somebody else has made a topic of that name meanwhile.
        """
        waiting = [topic for topic in self._table().own_topics(sandbox) if not topic.id and not topic.leaving]
        return all(self._make(topic) for topic in waiting)

    def remove(self, sandbox: str) -> bool:
        """
        Remove the topics of a sandbox of which no key is left, and return whether that is done; if not, look again.
        """
        table = self._table()
        living = any(row.sandbox == sandbox and row.state is not State.NONE for row in table.handovers())
        topics = [topic for topic in table.own_topics(sandbox) if topic.leaving or not living]
        if not topics:
            return True
        kafka = self._broker(sandbox)
        staying = [topic for topic in topics if not topic.leaving]
        try:
            if staying:
                # Whoever begins to use one of them at this moment writes it as well, and one of the two comes second.
                self._store.write([put_topic(topic._replace(leaving=True)) for topic in staying])
                return False
            gone = [topic for topic in topics if self._remove(kafka, topic)]
            if gone:
                self._store.write([forget_topic(topic) for topic in gone])
        except ConflictError:
            return False
        return gone == topics

    def replaced(self, sandbox: str, bases: Iterable[str], topics: Iterable[str]) -> tuple[str, ...]:
        """
        Return what a sandbox reads instead of some topics of the baseline.

        Args:
            sandbox: The sandbox.
            bases: Those of which it has its own.
            topics: What the baseline reads.
        """
        own = {base: own_topic_name(sandbox, base) for base in bases}
        return tuple(dict.fromkeys(own.get(topic, topic) for topic in topics))

    def beginnings(self, sandbox: str, ends: Cuts) -> Cuts:
        """
        Return where a sandbox begins: at the log's ends, but in topics of its own at the beginning, since all of it is its own.
        """
        own = {topic.name for topic in self._table().own_topics(sandbox)} if ends else set()
        return {topic: (0,) * len(offsets) if topic in own else offsets for topic, offsets in ends.items()}

    def _make(self, topic: OwnTopic) -> bool:
        kafka = self._broker(topic.sandbox)
        shape = kafka.shape(topic.base)
        if shape is None:
            raise HandoverError(f"Kafka has no topic {topic.base} any more, of which sandbox {topic.sandbox} is to have its own")
        made = kafka.create_topic(topic.name, shape, topic.mark)
        there = self._seen(kafka, topic.name, patience=_PATIENCE if made else 0.0)
        marked = made or kafka.is_marked(topic.name, topic.mark)
        if there is None or marked is None:
            return False  # it is not known everywhere yet
        if not marked:
            now = self._table().own_topic(topic.name)
            if now != topic:
                return False  # somebody else has made it, and noted that
            raise HandoverError(
                f"Kafka has a topic {topic.name} that was made since {topic.sandbox} began to be created, and not by this; it is left alone. "
                "Where the broker makes topics by itself, a process of the sandbox that was started too early is enough for that. If nobody "
                "needs it, delete it, and run this again"
            )
        try:
            self._store.write([put_topic(topic._replace(id=there.id))])
        except ConflictError:
            now = self._table().own_topic(topic.name)
            if made and (now is None or now.mark != topic.mark):
                self._remove(kafka, topic._replace(id=there.id))  # the sandbox is gone, and nobody else knows of it
            return False
        return True

    @staticmethod
    def _seen(kafka: KafkaBroker, name: str, *, patience: float) -> Topic | None:
        """
        Return a topic. One that was made just now is waited for, since nobody else may know that it is to be removed.
        """
        end = time.monotonic() + patience
        while (there := kafka.topics([name]).get(name)) is None and time.monotonic() < end:
            time.sleep(0.05)
        return there

    def _remove(self, kafka: KafkaBroker, topic: OwnTopic) -> bool:
        """
        Delete a topic if it is the one that was made here, and return whether that is done; if not, look again.
        """
        there = kafka.topics([topic.name]).get(topic.name)
        if there is None:
            return not kafka.has_topic(topic.name)
        ours = there.id == topic.id if topic.id else kafka.is_marked(topic.name, topic.mark)
        if ours is None:
            return False
        if ours:
            kafka.delete_topic(topic.name)
        else:
            logging.getLogger("tenancy").error(
                "the topic %s is not the one that was made for sandbox %s, so it is left; see who has made it",
                topic.name,
                topic.sandbox,
            )
        return True

    def _check_new(self, sandbox: str, name: str, base: str, found: dict[str, Topic]) -> None:
        if base not in found:
            raise HandoverError(f"Kafka has no topic {base}, of which sandbox {sandbox} is to have its own; create it first")
        if name in found:
            raise HandoverError(
                f"Kafka has a topic {name} already, which was not made for sandbox {sandbox}, and is left alone. Where the broker makes "
                "topics by itself, a process of the sandbox that was started too early is enough for that. If nobody needs it, delete it"
            )

    def _broker(self, sandbox: str) -> KafkaBroker:
        if self._kafka is None:
            raise HandoverError(
                f"sandbox {sandbox} has topics of its own, and it is not said where Kafka is; give kafka=KafkaBroker(...)"
            )
        return self._kafka

    def _table(self) -> RouteTable:
        return table_of(self._store.snapshot(), origin=self._store.name)


def checked_bases(bases: Iterable[str]) -> tuple[str, ...]:
    """
    Return the topics of the baseline of which a sandbox is to have its own, each once.

    Raises:
        HandoverError: If one has no name.
    """
    found = tuple(dict.fromkeys(bases))
    if not all(found) or isinstance(bases, str):
        raise HandoverError(f"own_topics is {bases!r}; give a list of the baseline's topics")
    return found
