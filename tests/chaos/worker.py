"""
A consumer process: hands records to a pool whose handlers finish out of order, and commits late what is done.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.cimpl import Consumer

import tenancy
from tenancy.messaging.confluent_kafka import SelectiveConsumer
from tenancy.routes import LiveRoutes

from . import mutants
from .journal import Assigned, Committed, Handled, Journal, Revoked, clock
from .spec import SESSION, WORKLOAD, FreezableSource, Spec
from .tracker import Tracker

__all__ = ["Worker", "main", "open_consumer"]

_POOL = 12
_MOST_UNDER_WAY = 120
_COMMIT_EVERY = 0.7


class Worker:
    """
    The loop of one worker.

    Args:
        spec: What it is told.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._journal = Journal(spec.directory, spec.name)
        self._random = random.Random(f"{spec.name} {os.getpid()}")
        self._tracker = Tracker()
        self._committed: dict[tuple[str, int], int] = {}
        self._stopping = False
        self._commit_first = spec.mutant == "commit-first" and not spec.sandbox
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        self._consumer = open_consumer(spec, on_commit=self._on_commit)
        self._group = spec.group if spec.act == "plain" else self._consumer.group_id

    def run(self) -> None:
        """
        Consume until told to stop, or until there is nothing to read any more.
        """
        consumer = self._consumer
        consumer.subscribe([self._spec.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)
        self._spec.sign("ready").touch()
        due = clock() + _COMMIT_EVERY
        with ThreadPoolExecutor(_POOL) as pool:
            while not self._stopping and not getattr(consumer, "retired", False):
                message = consumer.poll(0.1) if self._tracker.under_way() < _MOST_UNDER_WAY else self._pause()
                if message is not None and message.error() is None:
                    place, offset = (message.topic(), message.partition()), message.offset()
                    self._tracker.begin(place, offset)
                    if self._commit_first:
                        self._commit({place: offset + 1}, asynchronous=False)
                    pool.submit(self._handle, place, offset, _key(message), self._handling_time())
                if clock() >= due and not self._commit_first:
                    due = clock() + self._random.uniform(0.5, 1.5) * _COMMIT_EVERY
                    self._commit(self._tracker.done(), asynchronous=self._random.random() < 0.5)
            self._tracker.wait(None, 5.0)
            if not self._commit_first:
                self._commit(self._tracker.done(), asynchronous=False)
            consumer.close()

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _pause(self) -> None:
        time.sleep(0.005)

    def _handling_time(self) -> float:
        if self._commit_first:
            return 0.3
        return self._random.uniform(0.1, 0.4) if self._random.random() < 0.02 else self._random.uniform(0, 0.015)

    def _handle(self, place: tuple[str, int], offset: int, key: str | None, seconds: float) -> None:
        began = clock()
        time.sleep(seconds)
        spec = self._spec
        self._journal.write(Handled(*place, offset, key, spec.name, spec.sandbox, os.getpid(), self._group, began, clock()))
        self._tracker.end(place, offset)

    def _commit(self, reached: dict[tuple[str, int], int], *, asynchronous: bool) -> None:
        offsets = [TopicPartition(*place, offset) for place, offset in reached.items() if self._committed.get(place) != offset]
        if not offsets:
            return
        self._journal.sync()
        try:
            done = self._consumer.commit(offsets=offsets, asynchronous=asynchronous)
        except KafkaException as error:
            print("commit:", error, file=sys.stderr)  # somebody else has the partitions now, or the broker is away
            return
        self._committed.update(reached)
        if not asynchronous:
            self._on_commit(None, done or ())

    def _on_commit(self, error: Any, partitions: Iterable[Any]) -> None:
        for each in partitions:
            if error is not None or each.error is not None:
                self._committed.pop((each.topic, each.partition), None)  # to be tried again
            elif each.offset >= 0:
                self._journal.write(
                    Committed(self._group, each.topic, each.partition, each.offset, self._spec.name, os.getpid(), clock())
                )

    def _on_assign(self, _: Any, partitions: list[Any]) -> None:
        for each in partitions:
            self._journal.write(Assigned(self._group, each.topic, each.partition, self._spec.name, os.getpid(), clock()))

    def _on_revoke(self, _: Any, partitions: list[Any]) -> None:
        places = [(each.topic, each.partition) for each in partitions]
        # Sometimes impolite: what is under way is then handled by two.
        self._tracker.wait(places, 0.0 if not self._spec.sandbox and self._random.random() < 0.3 else 1.5)
        if not self._commit_first:
            self._commit({place: offset for place, offset in self._tracker.done().items() if place in places}, asynchronous=False)
        self._gone(partitions, lost=False)

    def _on_lost(self, _: Any, partitions: list[Any]) -> None:
        self._gone(partitions, lost=True)

    def _gone(self, partitions: list[Any], *, lost: bool) -> None:
        for each in partitions:
            self._committed.pop((each.topic, each.partition), None)
            self._journal.write(Revoked(self._group, each.topic, each.partition, self._spec.name, os.getpid(), clock(), lost))
        self._tracker.forget((each.topic, each.partition) for each in partitions)


def open_consumer(spec: Spec, *, in_order: bool = False, **settings: Any) -> Any:
    """
    Return the consumer of a process: ours, or a plain one that knows nothing of tenancy.

    Args:
        spec: The process.
        in_order: Whether nothing passes what is set aside.
        settings: Further configuration.
    """
    config = {
        "bootstrap.servers": spec.kafka,
        "group.id": spec.group,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "log_level": 2,
        "reconnect.backoff.max.ms": 500,
        **dict(spec.settings),
        **settings,
    }
    if config.get("group.protocol") != "consumer":
        config |= {"session.timeout.ms": int(SESSION * 1000), "heartbeat.interval.ms": 500}
    if spec.act == "plain":
        return Consumer(config)
    tenancy.configure(
        workload=WORKLOAD, role=None if spec.sandbox else "baseline", sandbox=spec.sandbox or None, routes_deadline=60
    )
    return SelectiveConsumer(config, routes=LiveRoutes(FreezableSource(spec)), in_order=in_order)


def _key(message: Any) -> str | None:
    return next((value.decode() for name, value in message.headers() or () if name == "chaos-key"), None)


def main() -> None:
    """
    Run the worker that the environment describes.
    """
    spec = Spec.given()
    mutants.install(spec)
    Worker(spec).run()


if __name__ == "__main__":
    main()
