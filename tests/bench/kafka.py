"""
What the selective consumers add to a loop that polls: real Kafka, records that the client has fetched beforehand, this thread's CPU time.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

import aiokafka
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import tenancy
from tenancy.messaging.aiokafka import SelectiveConsumer as AsynchronousConsumer
from tenancy.messaging.confluent_kafka import SelectiveConsumer
from tenancy.routes import Epoch, Handover, LiveRoutes, RouteTable, State

from .harness import Case
from .http import Nowhere

__all__ = ["NAMES", "cases"]

#: What `cases` yields.
NAMES = (
    *("kafka_poll_filter", "kafka_consume_filter", "kafka_consume_filter_repeat", "kafka_filter_json", "kafka_skip"),
    *("kafka_routes_10k", "kafka_vs_otel", "aiokafka_filter"),
)

_RECORDS = 10_000
_BATCH = 500
_WORKLOAD = "shop/orders"
_BODY = json.dumps({"order": 12345, "items": [{"sku": f"sku-{i}", "count": i} for i in range(6)], "note": "x" * 40}).encode()
_SETTLE = 0.35  # seconds in which the client fetches all records


class _Table:
    """A route store that never changes."""

    name = "the bench's route table"

    def __init__(self, topics: list[str], rows: int = 1) -> None:
        starts = dict.fromkeys(topics, (0,))
        keys = [tenancy.RoutingKey(f"pr-{number}") for number in range(1, rows + 1)]
        handovers = [Handover(_WORKLOAD, key, State.ACTIVE, 1, str(key), 1, (Epoch(1, str(key), starts),)) for key in keys]
        self._table = RouteTable(workloads=[_WORKLOAD], handovers=handovers, lease=10.0, id="bench", version=1)

    def read(self) -> RouteTable:
        return self._table

    def mark(self) -> object:
        return 1


class _Topic:
    """
    A topic of records, and the consumers that read it again and again.

    Args:
        bootstrap: The broker.
        every: One record in so many has a key.
        repeated: Whether all records have the same headers but for the key.
    """

    def __init__(self, bootstrap: str, *, every: int = 10, repeated: bool = False) -> None:
        self.name = f"bench-{uuid.uuid4().hex[:8]}"
        self.bootstrap = bootstrap
        admin = AdminClient({"bootstrap.servers": bootstrap})
        admin.create_topics([NewTopic(self.name, 1, 1)])[self.name].result(30)
        producer = Producer({"bootstrap.servers": bootstrap, "queue.buffering.max.messages": 200_000})
        for number in range(_RECORDS):
            mark = "0" * 16 if repeated else uuid.uuid4().hex[:16]
            key = "sd-routing-key=pr-1," if number % every == 0 else ""
            headers = [
                ("traceparent", f"00-4bf92f3577b34da6{mark}-00f067aa0ba902b7-01".encode()),
                ("baggage", f"user=u{mark},{key}tier=gold".encode()),
            ]
            producer.produce(self.name, _BODY[:200] if len(_BODY) > 200 else _BODY, headers=headers)
            producer.poll(0)
        producer.flush(30)

    def config(self) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.bootstrap,
            "group.id": f"{self.name}-{uuid.uuid4().hex[:8]}",
            "auto.offset.reset": "earliest",
            "queued.min.messages": _RECORDS,
            "fetch.wait.max.ms": 10,
        }


Loop = Callable[[Any, int], int]


def _polled(consumer: Any, wanted: int) -> int:
    poll, found = consumer.poll, 0
    for _ in range(wanted):
        message = poll(1.0)
        if message is None:
            break
        if not message.error():
            found += 1
    return found


def _consumed(consumer: Any, wanted: int) -> int:
    consume, found = consumer.consume, 0
    while found < wanted:
        batch = consume(min(_BATCH, wanted - found), 1.0)
        if not batch:
            break
        for message in batch:
            if not message.error():
                found += 1
    return found


def _parsed(consumer: Any, wanted: int) -> int:
    poll, found = consumer.poll, 0
    for _ in range(wanted):
        message = poll(1.0)
        if message is None:
            break
        if not message.error():
            json.loads(_BODY if message.value() else b"")
            found += 1
    return found


def _scoped(consumer: Any, wanted: int) -> int:
    found = 0
    for _ in range(wanted):
        message = consumer.poll(1.0)
        if message is None:
            break
        with consumer.scope(message):
            found += 1
    return found


def _variant(topic: _Topic, make: Callable[[dict[str, Any]], Any], loop: Loop, wanted: int) -> Callable[[int], float]:
    """
    Return what reads the whole topic once more, and says how long each record of it took.

    Args:
        topic: The topic.
        make: Makes the consumer of a configuration.
        loop: Takes messages of a consumer, as many as are wanted, and returns how many came.
        wanted: How many messages the loop gets.
    """
    held: list[Any] = []
    # OpenTelemetry's instrumentation leaves the span of the last message in the context until the next one is polled.
    context = copy_context()

    def read() -> float:
        if not held:
            consumer = make(topic.config())
            consumer.assign([TopicPartition(topic.name, 0, 0)])
            consumer.poll(5.0)
            held.append(consumer)
        consumer = held[0]
        consumer.seek(TopicPartition(topic.name, 0, 0))
        time.sleep(_SETTLE)
        began = time.thread_time_ns()
        found = loop(consumer, wanted)
        seconds = (time.thread_time_ns() - began) / 1e9 / _RECORDS
        assert found == wanted, f"{found} of {wanted} messages came"
        return seconds

    return lambda _: context.run(read)


def _asynchronous(topic: _Topic, make: Callable[..., Any], wanted: int) -> Callable[[int], float]:
    """
    Return what reads the whole topic once more with a consumer of aiokafka, and says how long each record of it took.

    Args:
        topic: The topic.
        make: Makes the consumer.
        wanted: How many records the loop gets.
    """
    held: list[Any] = []

    async def start() -> Any:
        consumer = make(
            bootstrap_servers=topic.bootstrap, group_id=None, auto_offset_reset="earliest", max_partition_fetch_bytes=1 << 24
        )
        await consumer.start()
        consumer.assign([aiokafka.TopicPartition(topic.name, 0)])
        return consumer

    async def read(consumer: Any) -> float:
        consumer.seek(aiokafka.TopicPartition(topic.name, 0), 0)
        found, began = 0, time.thread_time_ns()
        while found < wanted:
            await consumer.getone()
            found += 1
        return (time.thread_time_ns() - began) / 1e9 / _RECORDS

    def work(_: int) -> float:
        if not held:
            loop = asyncio.new_event_loop()
            held.extend((loop, loop.run_until_complete(start())))
            atexit.register(lambda: held[0].run_until_complete(held[1].stop()))
        loop, consumer = held
        seconds: float = loop.run_until_complete(read(consumer))
        return seconds

    return work


def _ours(routes: LiveRoutes, sandbox: str | None = None) -> Callable[[dict[str, Any]], Any]:
    def make(config: dict[str, Any]) -> Any:
        before = tenancy.settings()
        tenancy.configure(workload=_WORKLOAD, role=None if sandbox else "baseline", sandbox=sandbox)
        try:
            return SelectiveConsumer(config, routes=routes)
        finally:
            tenancy.configure(before)

    return make


def _ours_asynchronous(routes: LiveRoutes) -> Callable[..., Any]:
    def make(**config: Any) -> Any:
        before = tenancy.settings()
        tenancy.configure(workload=_WORKLOAD, role="baseline")
        try:
            return AsynchronousConsumer(routes=routes, **config)
        finally:
            tenancy.configure(before)

    return make


def _instrumented(config: dict[str, Any]) -> Any:
    import confluent_kafka
    from opentelemetry.instrumentation.confluent_kafka import ConfluentKafkaInstrumentor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    instrumentor = ConfluentKafkaInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        consumer = confluent_kafka.Consumer(config)
        # As it is bound now, it stays instrumented.
        return SimpleNamespace(consumer=consumer, assign=consumer.assign, seek=consumer.seek, poll=consumer.poll)
    finally:
        instrumentor.uninstrument()


def _over(seconds: Mapping[str, float]) -> float:
    return seconds["ours"] / seconds["bare"]


def cases(bootstrap: str) -> Iterator[Case]:
    """
    Yield the cases.

    Args:
        bootstrap: A Kafka broker.
    """
    plain, repeated, rare = _Topic(bootstrap), _Topic(bootstrap, repeated=True), _Topic(bootstrap, every=1000)
    topics = [topic.name for topic in (plain, repeated, rare)]
    small, large = LiveRoutes(_Table(topics)), LiveRoutes(_Table(topics, 10_000))
    owned = _RECORDS - _RECORDS // 10  # of the others each is a sandbox's

    def case(name: str, bar: float, topic: _Topic, loop: Loop, wanted: int, what: str, sandbox: str | None = None) -> Case:
        variants = {
            "bare": _variant(topic, Consumer, loop, _RECORDS),
            "ours": _variant(topic, _ours(small, sandbox), loop, wanted),
        }
        return Case(name, bar, variants, _over, "bare", what)

    yield case("kafka_poll_filter", 1.8, plain, _polled, owned, "poll: ours / bare")
    yield case("kafka_consume_filter", 2.2, plain, _consumed, owned, "consume(500): ours / bare")
    yield case("kafka_consume_filter_repeat", 1.8, repeated, _consumed, owned, "consume(500), repeated headers: ours / bare")
    yield case("kafka_filter_json", 1.35, plain, _parsed, owned, "poll and parse a JSON body: ours / bare")
    yield case("kafka_skip", 1.9, rare, _polled, _RECORDS // 1000, "a group that owns 1 in 1,000: ours / bare", "pr-1")
    yield Case(
        "kafka_routes_10k",
        1.1,
        {
            "one": _variant(plain, _ours(small), _polled, owned),
            "many": _variant(plain, _ours(large), _polled, owned),
        },
        lambda seconds: seconds["many"] / seconds["one"],
        "one",
        "poll with 10,000 routes / with one",
    )
    asynchronous = {
        "bare": _asynchronous(plain, aiokafka.AIOKafkaConsumer, _RECORDS),
        "ours": _asynchronous(plain, _ours_asynchronous(small), owned),
    }
    yield Case(
        "kafka_vs_otel",
        0.06,
        {
            "ours": _variant(plain, _ours(small), _scoped, owned),
            "opentelemetry": _variant(plain, _instrumented, _polled, _RECORDS),
        },
        lambda seconds: seconds["ours"] / seconds["opentelemetry"],
        "ours",
        "poll with scope / OTel's poll",
    )
    yield Case("aiokafka_filter", 1.1, asynchronous, _over, "bare", "aiokafka's getone: ours / bare")
    del owned, rare
