"""
A real topic, a route store in memory, and consumers of the baseline and of sandboxes, for tests of hand-over on a real broker.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import confluent_kafka
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

import tenancy
from tenancy.messaging.confluent_kafka import SelectiveConsumer, inject
from tenancy.messaging.kafka.broker import KafkaBroker
from tenancy.routes import Handover, LiveRoutes
from tenancy.routes.lives import abandon, activate, begin_create, begin_delete, drain, finish
from tenancy.routes.stores import put_handover, put_workload, table_of
from tenancy.sandbox import Controller
from tenancy.testing import MemoryStore

WORKLOAD = "shop/orders"
LEASE = 2.0


def wait_for(condition: Callable[[], Any], deadline: float = 20.0) -> Any:
    """Return the first true value of a condition; an error if that takes too long."""
    end = time.monotonic() + deadline
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)
    return found


class World:
    """
    One topic and one route store.

    Args:
        kafka: Bootstrap servers.
        partitions: How many partitions the topic has.
    """

    def __init__(self, kafka: str, partitions: int = 1) -> None:
        self.kafka = kafka
        self.topic = f"tenancy-{uuid.uuid4().hex[:12]}"
        self.admin = AdminClient({"bootstrap.servers": kafka})
        self.admin.create_topics([NewTopic(self.topic, partitions, 1)])[self.topic].result(30)
        self.store = MemoryStore(lease=LEASE)
        self.store.write([put_workload(WORKLOAD)])
        self.broker = KafkaBroker({"bootstrap.servers": kafka})
        self._producer = confluent_kafka.cimpl.Producer({"bootstrap.servers": kafka, "linger.ms": 0})
        self._routes: list[LiveRoutes] = []

    def close(self) -> None:
        for routes in self._routes:
            routes.close()
        self._producer.flush(10)

    def send(self, *keys: str | None, partition: int = 0) -> list[int]:
        """Send one record for each key, numbered by its offset, and return the offsets."""
        offsets: list[int] = []
        for key in keys:
            self._producer.produce(
                self.topic,
                value=str(key).encode(),
                headers=inject([("other", b"1")], key=key),
                partition=partition,
                on_delivery=lambda error, message: offsets.append(message.offset()),
            )
        assert self._producer.flush(10) == 0
        return offsets

    def consumer(self, sandbox: str | None = None, *, kind: Any = SelectiveConsumer, **config: Any) -> Any:
        """Return a consumer of the baseline or of a sandbox; with a live table of its own, as in a process of its own."""
        options = {name: config.pop(name) for name in ("hold", "accept", "routes", "in_order") if name in config}
        tenancy.configure(workload=WORKLOAD, role=None if sandbox else "baseline", sandbox=sandbox)
        routes = options.pop("routes", None)
        if routes is None:
            routes = self.store.live()
            self._routes.append(routes)
        settings = {
            "bootstrap.servers": self.kafka,
            "group.id": self.topic,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 10,
            "session.timeout.ms": 6000,
            **config,
        }
        return kind(settings, routes=routes, **options)

    def row(self, key: str = "pr-1") -> Handover:
        """Return the lives of a key."""
        table = table_of(self.store.snapshot(), origin=self.store.name)
        return table.handover(WORKLOAD, tenancy.RoutingKey(key)) or Handover(WORKLOAD, tenancy.RoutingKey(key))

    def step(self, what: str, key: str = "pr-1") -> Handover:
        """Take one step in the life of a key, at once and at the present ends of the log."""
        row, ends = self.row(key), self.broker.log_ends(self.broker.topics([self.topic]))
        rows = table_of(self.store.snapshot(), origin=self.store.name).handovers(WORKLOAD)
        new = {
            "create": lambda: begin_create(rows, WORKLOAD, row.key, key, {self.topic: (self.topic,)}),
            "activate": lambda: activate(row, ends),
            "abandon": lambda: abandon(row),
            "delete": lambda: begin_delete(row),
            "drain": lambda: drain(row, ends),
            "finish": lambda: finish(row),
        }[what]()
        self.store.write([put_handover(new)])
        return self.row(key)

    def fork(self, key: str = "pr-1") -> Handover:
        """Make a key a sandbox's from here on."""
        self.step("create", key)
        return self.step("activate", key)

    def controller(self, **options: Any) -> Controller:
        """Return a controller on the store and the broker."""
        return Controller(self.store, self.broker, **options)

    def committed(self, group: str | None = None) -> int:
        """Return what a group has committed on partition 0; -1001 where it has not."""
        reader = confluent_kafka.cimpl.Consumer({"bootstrap.servers": self.kafka, "group.id": group or self.topic})
        try:
            return int(reader.committed([TopicPartition(self.topic, 0)], timeout=10)[0].offset)
        finally:
            reader.close()


@contextmanager
def subscribed(consumer: Any, topic: str) -> Iterator[Any]:
    """Subscribe, and close at the end."""
    consumer.subscribe([topic])
    try:
        yield consumer
    finally:
        consumer.close()


def take(consumer: Any, count: int, deadline: float = 20.0) -> list[int]:
    """Return the offsets of so many messages."""
    found: list[int] = []
    end = time.monotonic() + deadline
    while len(found) < count:
        assert time.monotonic() < end, f"only {found} came"
        message = consumer.poll(0.2)
        if message is not None:
            assert message.error() is None, message.error()
            found.append(message.offset())
    return found


def nothing(consumer: Any, seconds: float = 0.7) -> bool:
    """Return whether no message comes for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        message = consumer.poll(0.1)
        if message is not None:
            print("unexpected:", message.error(), message.topic(), message.partition(), message.offset(), message.value())
            return False
    return True


class Polling(threading.Thread):
    """
    A loop of poll, handle and commit, as a service has it.

    Args:
        consumer: The consumer.
        log: Gets (name, partition, offset) of each message.
        name: Who it is.
    """

    def __init__(self, consumer: Any, topic: str, log: list[tuple[str, int, int]], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._consumer, self._topic, self._log = consumer, topic, log
        self.ended = threading.Event()

    def run(self) -> None:
        with subscribed(self._consumer, self._topic) as consumer:
            while not self.ended.is_set():
                message = consumer.poll(0.1)
                if message is not None and message.error() is None:
                    self._log.append((self.name, message.partition(), message.offset()))

    def end(self) -> None:
        self.ended.set()
        self.join(30)
