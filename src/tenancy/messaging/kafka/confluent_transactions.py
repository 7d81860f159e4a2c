"""
Consume, process, produce: what a `SelectiveConsumer` of confluent-kafka commits in the transaction of a producer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..._optional import extra
from ...errors import ConfigurationError
from .confluent_choice import ChoosingConsumer

with extra("kafka", "confluent_kafka"):
    from confluent_kafka import OFFSET_BEGINNING, KafkaException

__all__ = ["TransactionalConsumer"]

_WAIT = 0.2  # seconds


class TransactionalConsumer(ChoosingConsumer):
    """
    A ``confluent_kafka.Consumer`` that goes back to what was committed when a transaction comes to nothing.
    """

    @contextmanager
    def transaction(self, producer: Any, *, timeout: float = 30.0) -> Iterator[None]:
        """
        Make what *producer* sends in a block, and the commit of what was handled in it, one transaction: both happen, or none.

        Where the block raises, the transaction is aborted and the consumer goes back to what was committed last. What was skipped is
        committed within the transaction, too. Give the producer a ``transactional.id`` by ``transactional_id()``, or a sandbox would fence
        the baseline; turn off automatic commits, and make the consumer *in_order*.

        Args:
            producer: A producer for which ``init_transactions()`` was called.
            timeout: Seconds that each step of the transaction may take.

        Raises:
            ConfigurationError: If offsets are committed automatically, which no transaction could undo, or if the consumer is not *in_order*.
            KafkaException: If the transaction cannot be committed.
        """
        if self._selection is not None and self._plan.commits:
            raise ConfigurationError(
                "a transaction commits the offsets itself; set 'enable.auto.commit': False in the consumer's config"
            )
        if self._selection is not None and not self._in_order:
            raise ConfigurationError(
                "a transaction cannot commit what lies behind a message that was set aside, which would then be handled again; make the "
                "consumer with in_order=True"
            )
        self._return_to_commits(timeout)
        producer.begin_transaction()
        try:
            yield
            positions = [entry for entry in self.position(super().assignment()) if entry.offset >= 0]
            producer.send_offsets_to_transaction(positions, super().consumer_group_metadata(), timeout)
            producer.commit_transaction(timeout)
        except BaseException:
            self._stray()
            producer.abort_transaction(timeout)
            self._return_to_commits(timeout)
            raise
        if self._selection is not None:
            self._offsets.settle_all()

    def _stray(self) -> None:
        """
        What was handed on since the last commit came to nothing.
        """
        if self._selection is not None:
            self._offsets.astray = True
            self._forget(super().assignment())

    def _return_to_commits(self, timeout: float) -> None:
        """
        Go back to what was committed, if that is due: before it is done nothing is handed on or committed.
        """
        if self._selection is None or not self._offsets.astray:
            return
        for entry in super().committed(super().assignment(), timeout):
            if entry.error is not None:
                raise KafkaException(entry.error)
            if entry.offset < 0:
                start = self._selection.start(entry.topic, entry.partition)
                entry.offset = OFFSET_BEGINNING if start is None else start
            self.seek(entry)
        self._offsets.astray = False

    def _is_back(self) -> bool:
        """
        Return whether the client is where it should be, having tried to bring it there.
        """
        try:
            self._return_to_commits(_WAIT)
        except KafkaException:
            # Callbacks of a rebalance, and errors, come meanwhile; messages will come again.
            message = super().poll(_WAIT)
            if message is not None and message.error() is not None:
                self._ahead.queue.append(message)
            return False
        return True
