"""
A process that consumes, processes and produces in transactions: what it makes of a record is seen exactly once, or there is a defect.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from confluent_kafka import KafkaException, Producer

from . import mutants
from .journal import Assigned, Journal, Revoked, clock
from .spec import Spec
from .worker import open_consumer

__all__ = ["Transactor", "main", "output_topic"]

_EVERY = 0.3


def output_topic(topic: str) -> str:
    """
    Return the topic in which it is seen what was made of the records of another one.
    """
    return f"{topic}.out"


class Transactor:
    """
    The loop of one process. The offsets go into the transaction, those of skipped records, too.

    Args:
        spec: What it is told.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._journal = Journal(spec.directory, spec.name)
        self._consumer = open_consumer(spec, in_order=True)
        self._batch: list[Any] = []
        self._reached: list[tuple[str, int, int]] = []
        self._stopping = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        # Of the sandbox's own: a transaction of the baseline's must never be ended by a sandbox.
        self._producer = Producer(
            {
                "bootstrap.servers": spec.kafka,
                "transactional.id": f"{self._consumer.group_id}.{spec.name}",
                "transaction.timeout.ms": 6000,
                "log_level": 2,
            }
        )

    def run(self) -> None:
        """
        Go on until told to stop, or until there is nothing to read any more.
        """
        self._producer.init_transactions(30)
        consumer = self._consumer
        consumer.subscribe([self._spec.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke)
        self._spec.sign("ready").touch()
        due = clock() + _EVERY
        while not self._stopping and not consumer.retired:
            message = consumer.poll(0.05)
            if message is not None and message.error() is None:
                self._batch.append(message)
            if clock() >= due:
                due = clock() + _EVERY
                self._transact()
        self._transact()
        consumer.close()

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _transact(self) -> None:
        """
        Produce what comes of the records in hand, in one transaction with the offsets behind them and behind what was skipped.
        """
        if not (self._batch or self._positions() != self._reached):
            return
        spec = self._spec
        try:
            with self._consumer.transaction(self._producer, timeout=20):
                for message in self._batch:
                    made = f"{message.partition()} {message.offset()} {spec.sandbox or '-'} {spec.name} {os.getpid()}"
                    self._producer.produce(output_topic(spec.topic), made.encode(), partition=message.partition())
                    self._producer.poll(0)
        except KafkaException as error:
            if error.args[0].fatal():
                raise
            print("transaction:", error, file=sys.stderr)  # somebody else has the partitions now, or the broker is away
        self._batch.clear()
        self._reached = self._positions()

    def _positions(self) -> list[tuple[str, int, int]]:
        return [(each.topic, each.partition, each.offset) for each in self._consumer.position(self._consumer.assignment())]

    def _on_assign(self, _: Any, partitions: list[Any]) -> None:
        for each in partitions:
            self._journal.write(
                Assigned(self._consumer.group_id, each.topic, each.partition, self._spec.name, os.getpid(), clock())
            )

    def _on_revoke(self, _: Any, partitions: list[Any]) -> None:
        gone = {(each.topic, each.partition) for each in partitions}
        self._batch = [message for message in self._batch if (message.topic(), message.partition()) not in gone]
        for topic, partition in gone:
            self._journal.write(Revoked(self._consumer.group_id, topic, partition, self._spec.name, os.getpid(), clock()))


def main() -> None:
    """
    Run the process that the environment describes.
    """
    spec = Spec.given()
    mutants.install(spec)
    Transactor(spec).run()


if __name__ == "__main__":
    main()
