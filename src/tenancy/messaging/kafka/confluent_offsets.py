"""
What a `SelectiveConsumer` of confluent-kafka commits and stores: never past what was set aside, and what was skipped along with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from time import monotonic
from typing import Any, NamedTuple

from ..._optional import extra
from ...observe import warn_once
from .confluent_ahead import Ahead, place_of
from .confluent_config import Plan
from .selection import Partition, Selection

with extra("kafka", "confluent_kafka"):
    from confluent_kafka import KafkaException, TopicPartition

__all__ = ["Client", "Offsets", "behind"]


class Client(NamedTuple):
    """
    What the client itself does, beneath all that is added to it.
    """

    assignment: Callable[[], list[Any]]
    position: Callable[[list[Any]], list[Any]]
    commit: Callable[..., Any]
    store_offsets: Callable[..., None]


class Offsets:
    """
    The offsets of one consumer.

    Args:
        client: The client.
        selection: What was skipped and set aside.
        plan: Who commits and stores.
        ahead: What nobody has got yet.
    """

    def __init__(self, client: Client, selection: Selection, plan: Plan, ahead: Ahead) -> None:
        self._client = client
        self._ahead = ahead
        self._selection = selection
        self._plan = plan
        #: Whether messages that were handed on stand in the way of a commit until somebody settles them.
        self.tracking = not (plan.commits and plan.stores)
        self._again = 0.0
        #: Whether what was handed on last came to nothing and the client still has to go back, so that its positions mean nothing.
        self.astray = False
        #: Where we went back to by ourselves: until something is fetched there the client knows no position.
        self.returned: dict[Partition, int] = {}
        # Whoever goes somewhere else says himself what he commits there.
        self._sought: set[Partition] = set()
        #: Where the log ended, as far as it was read: behind markers of transactions, which are no messages.
        self.ends: dict[Partition, int] = {}
        #: Messages that were handed on and are not in the ledgers yet, where they cost too much one by one.
        self.pending: list[Any] = []

    def committable(self) -> list[Any]:
        """
        Return, for every partition that is assigned, up to where everything is done.
        """
        if self.astray:
            return []
        self._enter_pending()
        assigned = self._client.assignment()
        listed = []
        for place, position in self._positions(assigned).items() if assigned else ():
            if position >= 0:
                ledger = self._selection.ledgers.get(place)
                listed.append(TopicPartition(*place, position if ledger is None else ledger.committable(position)))
        return listed

    def extended(self, asked: list[Any]) -> list[Any]:
        """
        Return offsets that somebody commits, moved behind what was skipped after them, and not past what was set aside.

        Args:
            asked: What is to be committed.
        """
        self._enter_pending()
        positions = self._positions(asked)
        listed = []
        for entry in asked:
            position = positions[entry.topic, entry.partition]
            self._sought.discard((entry.topic, entry.partition))
            if entry.offset < 0 or position < 0:
                listed.append(entry)
                continue
            ledger = self._selection.ledger(entry.topic, entry.partition)
            ledger.settle_before(entry.offset)
            ours = TopicPartition(entry.topic, entry.partition, ledger.committable(position))
            if getattr(entry, "metadata", None) is not None:
                ours.metadata = entry.metadata
            listed.append(ours)
        self._note(listed)
        return listed

    def resumable(self, partitions: list[Any]) -> list[Any]:
        """
        Return where to go on after what was handed on so far.
        """
        found = self._client.position(partitions)
        positions = self._positions(partitions)
        for entry in found:
            place = (entry.topic, entry.partition)
            ledger = self._selection.ledgers.get(place)
            entry.offset = min([positions[place], *([ledger.held[0].offset] if ledger is not None and ledger.held else [])])
        return found

    def settle(self, message: Any) -> None:
        """
        A message that was handed on is done.
        """
        self._enter_pending()
        self._sought.discard(place_of(message))
        self._selection.ledger(*place_of(message)).settle(message.offset())

    def settle_all(self) -> None:
        """
        All messages that were handed on are done.
        """
        self.pending.clear()
        self._sought.clear()
        for ledger in self._selection.ledgers.values():
            ledger.settle_all()

    def flush(self, *, now: bool = False) -> None:
        """
        Store what is done, or commit it where the client does not, which costs more and is therefore done less often.

        Args:
            now: Whether it is done at once, since the partitions are given up.
        """
        if not self._plan.commits and not now and not self._selection.draining() and monotonic() < self._again:
            return
        self._again = monotonic() + self._plan.interval
        listed = [
            entry
            for entry in self.committable()
            if entry.offset > self._noted(entry) and (entry.topic, entry.partition) not in self._sought
        ]
        if not listed:
            return
        self._note(listed)
        try:
            # Whoever waits for a sandbox to drain waits for its commit.
            if self._plan.commits and not self._selection.draining():
                self._client.store_offsets(offsets=listed)
            else:
                # Before a partition is given up it is waited for: what comes too late is handled again by whoever gets it.
                self._client.commit(offsets=listed, asynchronous=not now)
        except KafkaException as error:  # of a partition that is just being given up: whoever gets it skips the same again
            warn_once(
                f"store:{self._plan.group}", "confluent_kafka: offsets of %s could not be stored: %s", self._plan.group, error
            )

    def sought(self, place: Partition) -> None:
        """
        The user goes somewhere else on a partition.
        """
        if not self._plan.commits:
            self._sought.add(place)

    def forget(self, partitions: Collection[Partition]) -> None:
        """
        Drop what is known about partitions that are given up.
        """
        self._sought -= set(partitions)
        for place in partitions:
            self.ends.pop(place, None)
            self.returned.pop(place, None)
        self.pending = [message for message in self.pending if place_of(message) not in partitions]

    def _positions(self, partitions: list[Any]) -> dict[Partition, int]:
        """
        Return, for each partition, the offset behind what was handed on or skipped; less than 0: nothing was fetched.
        """
        firsts = self._ahead.firsts()
        found = {}
        for entry in self._client.position(partitions):
            place = (entry.topic, entry.partition)
            position = self.returned.get(place, entry.offset) if entry.offset < 0 else entry.offset
            position = max(position, self.ends.get(place, position))
            found[place] = min(position, firsts.get(place, position))
        return found

    def _enter_pending(self) -> None:
        for message in self.pending:
            self._selection.ledger(message.topic(), message.partition()).hand(message.offset())
        self.pending.clear()

    def _note(self, listed: list[Any]) -> None:
        for entry in listed:
            self._selection.ledger(entry.topic, entry.partition).committed = entry.offset

    def _noted(self, entry: Any) -> int:
        return self._selection.ledger(entry.topic, entry.partition).committed


def behind(message: Any) -> Any:
    """
    Return the position behind a message, which is what is committed once it is done.
    """
    return TopicPartition(message.topic(), message.partition(), message.offset() + 1)
