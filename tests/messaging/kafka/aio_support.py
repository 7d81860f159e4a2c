"""
What the tests of consumers on asyncio share: topics, a route store whose rows they write step by step, and what a group has committed.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tenancy import RoutingKey
from tenancy.messaging.aiokafka import SelectiveConsumer, inject
from tenancy.routes import Handover, LiveRoutes, OwnTopic
from tenancy.routes.lives import activate, begin_create, begin_delete, drain, finish, replace_reader
from tenancy.routes.stores import put_handover, put_topic, put_workload, table_of
from tenancy.testing import MemoryStore
from tests.messaging.support import WORKLOAD, become

#: Long enough that a busy machine does not miss it; the tests do not wait for it.
LEASE = 20.0
SOON = 30.0


class Rows:
    """
    A route store, and the steps in the life of the key ``pr-1``, each written at once: nobody else acts, so no lease is waited for.
    """

    def __init__(self, lease: float = LEASE) -> None:
        self.store = MemoryStore(lease)
        self.store.write([put_workload(WORKLOAD)])

    def live(self) -> LiveRoutes:
        return self.store.live()

    def row(self) -> Handover:
        rows = table_of(self.store.snapshot(), origin="test").handovers(WORKLOAD)
        return next(row for row in rows if row.key == "pr-1")

    def create(self, topic: str, group: str) -> None:
        table = table_of(self.store.snapshot(), origin="test")
        row = begin_create(table.handovers(WORKLOAD), WORKLOAD, RoutingKey("pr-1"), "pr-1", {group: (topic,)})
        self.store.write([put_handover(row)])

    def activate(self, topic: str, *starts: int) -> None:
        self.store.write([put_handover(activate(self.row(), {topic: starts}))])

    def active(self, topic: str, group: str, *starts: int) -> None:
        self.create(topic, group)
        self.activate(topic, *starts)

    def own(self, topic: str) -> None:
        """Make a topic one of the sandbox's own."""
        self.store.write([put_topic(OwnTopic(topic, "orders", "pr-1", 1, "id"))])

    def delete(self) -> None:
        self.store.write([put_handover(begin_delete(self.row()))])

    def drain(self, topic: str, *ends: int) -> None:
        self.store.write([put_handover(drain(self.row(), {topic: ends}))])

    def reclaim(self) -> None:
        self.store.write([put_handover(replace_reader(self.row(), "gap"))])

    def finish(self) -> None:
        self.store.write([put_handover(finish(self.row()))])


async def make_topic(kafka: str, partitions: int = 1) -> str:
    """Make a topic of a new name."""
    name = f"tenancy-{uuid.uuid4().hex[:12]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, partitions, 1)])
    finally:
        await admin.close()
    return name


async def send(kafka: str, topic: str, keys: Sequence[str | None], *, partition: int = 0, first: int = 0) -> None:
    """Send a record for each key; its value is its number."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka)
    await producer.start()
    try:
        sent = [
            await producer.send(topic, str(number).encode(), partition=partition, headers=inject(key=key))
            for number, key in enumerate(keys, first)
        ]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


@asynccontextmanager
async def consumer(
    kafka: str, *topics: str, sandbox: str | None, routes: LiveRoutes, group: str | None, **more: Any
) -> AsyncIterator[SelectiveConsumer]:
    """Start a consumer of the baseline or a sandbox."""
    become(sandbox)
    config: dict[str, Any] = {
        "bootstrap_servers": kafka,
        "group_id": group,
        "auto_offset_reset": "earliest",
        "auto_commit_interval_ms": 100,
        "fetch_max_wait_ms": 50,
        "session_timeout_ms": 6000,
        "heartbeat_interval_ms": 300,
        "metadata_max_age_ms": 2000,
    }
    made = SelectiveConsumer(*topics, routes=routes, **{**config, **more})
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


async def receive(made: SelectiveConsumer, count: int) -> list[int]:
    """Receive so many records, and return their numbers."""
    return [int((await asyncio.wait_for(made.getone(), SOON)).value) for _ in range(count)]


async def nothing_comes(made: SelectiveConsumer, seconds: float = 0.8) -> bool:
    """Whether nothing comes for a while."""
    return not await made.getmany(timeout_ms=int(seconds * 1000))


async def committed(kafka: str, group: str, topic: str, partition: int = 0) -> int | None:
    """Return what a group has committed."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    entry = found.get(TopicPartition(topic, partition))
    return None if entry is None or entry.offset < 0 else int(entry.offset)


async def until(check: Callable[[], Any], seconds: float = SOON) -> None:
    """Wait until something holds; a coroutine function is awaited."""
    end = asyncio.get_running_loop().time() + seconds
    while True:
        result = check()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert asyncio.get_running_loop().time() < end, "it did not come to hold in time"
        await asyncio.sleep(0.05)
