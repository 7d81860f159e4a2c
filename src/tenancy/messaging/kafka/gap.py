"""
The gap reader: handles what a sandbox has left, in its place, outside of any group and with progress of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal

from ..._optional import extra
from ...context import attached, with_key
from ...errors import ConflictError, HandoverError, RouteSourceError, TenancyError
from ...propagator import read
from ...routes.handover import Handover
from ...routes.lease import now
from ...routes.lives import gap, record_progress
from ...routes.stores import RouteStore, put_handover, table_of
from ...routes.table import RouteTable
from .broker import KafkaBroker
from .groups import group_name

with extra("kafka", "confluent_kafka"):
    from confluent_kafka import KafkaError, KafkaException, TopicPartition
    from confluent_kafka.cimpl import Consumer

__all__ = ["GapReader", "Remaining"]

#: What becomes of what a sandbox has left: nobody handles it, or a function does, in the baseline's place, message by message.
Remaining = Literal["drop"] | Callable[[Any], Any]

# How often it is noted how far it is, where nothing is handled that whoever comes after would repeat.
_NOTE_EVERY = 0.2


class GapReader:
    """
    Handles what is left of one key on one workload.

    Args:
        kafka: The Kafka cluster.
        store: The route store.
        row: The lives of the key, which is being reclaimed.
        name: By what this reader is known as the claimant.
        remaining: What becomes of each message.
        tell: Is told what is going on.
        sleep: How to wait.
    """

    def __init__(
        self,
        kafka: KafkaBroker,
        store: RouteStore,
        row: Handover,
        name: str,
        remaining: Remaining,
        *,
        tell: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sleep = sleep
        self._kafka = kafka
        self._store = store
        self._row = row
        self._name = name
        self._remaining = remaining
        self._tell = tell
        self._lease = store.head().lease
        self._own: set[str] = set()
        self._claimed_until = 0.0
        # Whether a message was handled that is not noted yet.
        self._handled_since = False
        #: How many messages were dropped, and how many handled.
        self.dropped = 0
        self.handled = 0

    def run(self, end: float) -> bool:
        """
        Handle all of it, and return whether that is done; if not, another reader has taken its place.

        Args:
            end: When to give up, by the clock of the lease.

        Raises:
            HandoverError: If it took too long, or Kafka does not answer.
        """
        topics = self._kafka.topics(name for names in self._row.groups.values() for name in names)
        self._own = {topic.name for topic in self._table().own_topics(self._row.sandbox)}
        for base in self._row.groups:
            committed = self._kafka.committed(group_name(base, self._row.sandbox, self._row.generation), topics)
            left = gap(self._row, base, committed, self._kafka.log_starts(topics))
            try:
                self._read(base, left, end)
            except ConflictError:
                return False
            except KafkaException as error:
                raise HandoverError(f"what is left of {self._row.key} could not be read: {error}; run the same again") from error
        if self.dropped:
            logging.getLogger("tenancy").warning(
                "%d messages of %s on %s were dropped: sandbox %s had not handled them", self.dropped, self._row.key, self._row.workload,
                self._row.sandbox,
            )  # fmt: skip
        return True

    def _read(self, base: str, left: dict[tuple[str, int], tuple[int, int]], end: float) -> None:
        if not left:
            return
        positions = {place: start for place, (start, _) in left.items()}
        # Its group is never joined and nothing is committed there; the client wants a name.
        consumer = Consumer(
            {
                **self._kafka.config,
                "group.id": f"{base}.gap",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
            }
        )
        try:
            consumer.assign([TopicPartition(topic, partition, start) for (topic, partition), (start, _) in left.items()])
            waiting = set(left)
            noted = now()
            while waiting:
                message = self._next(consumer, end)
                place = (message.topic(), message.partition())
                error = message.error()
                if place not in waiting:
                    continue
                if error is not None or message.offset() >= left[place][1]:
                    # Also where the log ends: what is not there up to here cannot be read any more, or was never a record. Before the cut
                    # it ends only while a transaction is open, or when it was cut off; then more is waited for.
                    positions[place] = max(positions[place], min(message.offset(), left[place][1]))
                else:
                    if self._handled_since and self._is_left(message):
                        # Before another one is begun: whoever takes our place repeats no more than the one that we had in our hands.
                        self._note(base, positions, end)
                        noted = now()
                    self._settle(message)
                    positions[place] = message.offset() + 1
                done = positions[place] >= left[place][1]
                if done:
                    # The log goes on behind the cut; the others must not wait for all of that to be read.
                    waiting.remove(place)
                    consumer.incremental_unassign([TopicPartition(*place)])
                if done or now() - noted >= _NOTE_EVERY:
                    self._note(base, positions, end)
                    noted = now()
        except BaseException:
            # What was handled is not to be handled again because of something else; but this may be because the store cannot be had.
            with suppress(TenancyError):
                self._note(base, positions, 0.0)
            raise
        finally:
            consumer.close()

    def _next(self, consumer: Any, end: float) -> Any:
        while now() < end:
            message = consumer.poll(0.2)
            if message is None:
                continue
            error = message.error()
            if error is None or error.code() == KafkaError._PARTITION_EOF:
                return message
            raise KafkaException(error)
        raise HandoverError(f"what is left of {self._row.key} on {self._row.workload} was not handled by the deadline")

    def _is_left(self, message: Any) -> bool:
        return read(message.headers(), adapter="gap").key == self._row.key or message.topic() in self._own

    def _settle(self, message: Any) -> None:
        if not self._is_left(message):
            return
        if self._remaining == "drop":
            self.dropped += 1
            return
        if now() >= self._claimed_until:
            self._check_claim()
        with attached(with_key(read(message.headers(), adapter="gap").key)):
            self._remaining(message)
        self.handled += 1
        self._handled_since = True

    def _check_claim(self) -> None:
        """
        Make sure that nobody else has taken our place, who would handle the same; that holds for a lease, since he waits for one.
        """
        asked = now()
        row = self._table().handover(self._row.workload, self._row.key)
        if row is None or row.claimant != self._name or row.epoch != self._row.epoch:
            raise ConflictError(f"what is left of {self._row.key} on {self._row.workload} is handled by somebody else now")
        self._row = row
        self._claimed_until = asked + self._lease

    def _table(self) -> RouteTable:
        return table_of(self._store.snapshot(), origin=self._store.name)

    def _note(self, base: str, positions: Mapping[tuple[str, int], int], end: float) -> None:
        row = self._row
        for place, offset in positions.items():
            row = record_progress(row, self._name, base, *place, offset)
        while True:
            asked = now()
            try:
                version = self._store.write([put_handover(row)])
                break
            except ConflictError:
                raise
            except RouteSourceError:  # to begin anew would be to handle anew
                if asked >= end:
                    raise
                self._sleep(_NOTE_EVERY)
        self._row = row._replace(version=version)
        self._handled_since = False
        self._claimed_until = asked + self._lease
        self._tell(f"{self.handled} handled and {self.dropped} dropped of what sandbox {row.sandbox} has left")
