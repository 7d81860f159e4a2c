from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import OFFSET_BEGINNING, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

import tenancy
from tenancy.messaging.confluent_kafka import consumer, group_id, inject, synced, wait_synced
from tenancy.testing import MemoryRoutes
from tests.contract import Headers, PropagationContract
from tests.messaging.support import HEADERS, OWNERS, become, forks

pytestmark = pytest.mark.service

KINDS = list(HEADERS)


def make_topic(kafka: str, partitions: int = 1) -> str:
    """Make a topic of a new name."""
    name = f"tenancy-{uuid.uuid4().hex[:12]}"
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([NewTopic(name, partitions, 1)])[name].result(30)
    return name


def consumer_settings(kafka: str, group: str, **more: Any) -> dict[str, Any]:
    return {
        "bootstrap.servers": kafka,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "fetch.wait.max.ms": 10,
        **more,
    }


class Wire:
    """
    A producer, and a thread that polls: one topic of messages for the handler, and one on which to see what was sent.
    """

    def __init__(self, kafka: str) -> None:
        self.handler: Callable[[Any], Any] = lambda message: None
        self.handled, self.tapped = make_topic(kafka), make_topic(kafka)
        self._waiting: dict[bytes, Future[Any]] = {}
        producer_settings = {"bootstrap.servers": kafka, "linger.ms": 0}
        self._producers = {
            self.tapped: confluent_kafka.Producer(producer_settings),
            self.handled: confluent_kafka.cimpl.Producer(producer_settings),  # never instrumented: it sends just these headers
        }
        self._consumer = confluent_kafka.Consumer(consumer_settings(kafka, self.handled))
        self._consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING) for topic in (self.handled, self.tapped)])
        self._closed = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def put(self, topic: str, headers: Any) -> Future[Any]:
        """Produce a message; the future is what became of it."""
        mark = uuid.uuid4().hex.encode()
        waiting = self._waiting[mark] = Future()
        self._producers[topic].produce(topic, value=b"value", key=mark, headers=headers)
        self._producers[topic].poll(0)
        return waiting

    def close(self) -> None:
        self._closed = True
        self._thread.join()
        for producer in self._producers.values():
            producer.flush(10)
        self._producers.clear()
        self._consumer.close()

    def _run(self) -> None:
        with tenancy.scope("ambient"):
            while not self._closed:
                message = self._consumer.poll(0.05)
                if message is None or message.error():
                    continue
                waiting = self._waiting.pop(message.key())
                try:
                    waiting.set_result(self.handler(message) if message.topic() == self.handled else message.headers() or [])
                except BaseException as error:
                    waiting.set_exception(error)


class OnTheWire(PropagationContract):
    """The contract, over a real broker."""

    wire: Wire

    @pytest.fixture(autouse=True)
    def _handler(self, opened: Wire, routes: MemoryRoutes) -> None:
        become(None)
        routes.replace(forks())  # no forks: every key is the baseline's
        self.wire = opened
        self.bodies: dict[bytes, Callable[[], Any]] = {}
        self.wire.handler = consumer(accept="all", routes=routes)(lambda message: self.bodies.pop(message.headers()[0][1])())

    def sent_headers(self) -> Any:
        return inject([("other", b"1")])

    async def send(self) -> Headers:
        headers = await asyncio.wrap_future(self.wire.put(self.wire.tapped, self.sent_headers()))
        return [(name, value.decode()) for name, value in headers]

    async def receive(self, headers: Headers, body: Callable[[], Any] = tenancy.routing_key) -> Any:
        mark = uuid.uuid4().bytes
        self.bodies[mark] = body
        binary = [("mark", mark), *((name, value.encode()) for name, value in headers)]
        return await asyncio.wrap_future(self.wire.put(self.wire.handled, binary))


@pytest.fixture(scope="class")
def wire(kafka: str) -> Iterator[Wire]:
    made = Wire(kafka)
    yield made
    made.close()


@pytest.fixture(scope="class")
def instrumented() -> Iterator[None]:
    """OpenTelemetry's instrumentation, with an SDK, so that poll leaves a span current and produce appends headers."""
    module = pytest.importorskip("opentelemetry.instrumentation.confluent_kafka")
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    instrumentor = module.ConfluentKafkaInstrumentor()
    instrumentor.instrument(tracer_provider=trace.TracerProvider())
    yield
    instrumentor.uninstrument()


@pytest.fixture(scope="class")
def instrumented_wire(instrumented: None, kafka: str) -> Iterator[Wire]:
    made = Wire(kafka)
    yield made
    made.close()


class TestContract(OnTheWire):
    """Without OpenTelemetry's instrumentation."""

    @pytest.fixture
    def opened(self, wire: Wire) -> Wire:
        return wire


class TestInstrumentedContract(OnTheWire):
    """With it; what it injects by itself is read as well."""

    @pytest.fixture
    def opened(self, instrumented_wire: Wire) -> Wire:
        return instrumented_wire

    def sent_headers(self) -> Any:
        return [("other", b"1")]

    async def test_both_write_the_same_key(self) -> None:
        """Headers of ours, to which the instrumentation appends its own, name the key twice and are read as one; a scope decides it."""
        with tenancy.scope("pr-42"):
            waiting = self.wire.put(self.wire.tapped, inject([("baggage", b"a=1,sd-routing-key=stale")]))
        headers = [value for name, value in await asyncio.wrap_future(waiting) if name == "baggage"]
        assert headers == [b"sd-routing-key=pr-42,a=1", b"sd-routing-key=pr-42"]
        assert tenancy.extract([("baggage", value) for value in headers]) == "pr-42"
        assert await self.receive([("baggage", value.decode()) for value in headers]) == "pr-42"

    async def test_the_consume_span_is_current_in_the_handler_and_stays_apart(self) -> None:
        """The handler runs in the instrumentation's span, and the next poll finds its context as it left it."""
        from opentelemetry import trace

        names = [await self.receive([], lambda: getattr(trace.get_current_span(), "name", None)) for _ in range(3)]
        assert names == [f"{self.wire.handled} process"] * 3


class Member(threading.Thread):
    """
    One process's consumer, as a thread: who it is, is settled when it is made.
    """

    def __init__(
        self, kafka: str, topic: str, base: str, sandbox: str | None, routes: MemoryRoutes, log: list[Any], expected: int
    ) -> None:
        super().__init__()
        become(sandbox)
        self.group = group_id(base)
        self._consumer = confluent_kafka.Consumer(consumer_settings(kafka, self.group))
        self._consumer.subscribe([topic])
        self._expected = expected
        self._topic = topic
        self.committed: dict[int, int] = {}

        @consumer(routes=routes)
        def on_order(message: Any) -> None:
            log.append((int(message.value()), sandbox, tenancy.routing_key()))

        wait_synced(on_order)
        self._on_order = on_order

    def run(self) -> None:
        try:
            for _ in range(self._expected):
                message = None
                while message is None:
                    message = self._consumer.poll(0.1)
                    self._on_order(message)
                assert message.error() is None
                self._consumer.commit(message, asynchronous=False)
            partitions = [TopicPartition(self._topic, number) for number in range(3)]
            self.committed = {each.partition: each.offset for each in self._consumer.committed(partitions, timeout=10)}
        finally:
            self._consumer.close()


def exactly_one_owner(kafka: str, routes: MemoryRoutes) -> None:
    topic, base, log = make_topic(kafka, partitions=3), f"orders-{uuid.uuid4().hex[:8]}", []
    kinds = [KINDS[number % len(KINDS)] for number in range(300)]
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka})
    for number, kind in enumerate(kinds):
        headers = [(name, value.encode()) for name, value in HEADERS[kind]]
        producer.produce(topic, value=str(number).encode(), headers=headers, partition=number % 3)
    assert producer.flush(30) == 0
    members = [Member(kafka, topic, base, sandbox, routes, log, len(kinds)) for sandbox in (None, "pr-1", "pr-2")]
    assert [member.group for member in members] == [base, f"{base}.pr-1", f"{base}.pr-2"]
    for member in members:
        member.start()
    for member in members:
        member.join(60)
        assert not member.is_alive()
        assert member.committed == {0: 100, 1: 100, 2: 100}, "skipped messages are committed with the others"
    keys = {"pr-1": "pr-1", "pr-2": "pr-2", "pr-7": "pr-7"}
    assert sorted(log, key=lambda entry: entry[0]) == [(number, OWNERS[kind], keys.get(kind)) for number, kind in enumerate(kinds)]


def test_every_message_has_exactly_one_owner(kafka: str, routes: MemoryRoutes) -> None:
    """The baseline and two sandboxes, each in its group: each message is handled once, by its owner, and every group commits to the end."""
    exactly_one_owner(kafka, routes)


def test_every_message_has_exactly_one_owner_when_instrumented(instrumented: None, kafka: str, routes: MemoryRoutes) -> None:
    """The same with OpenTelemetry's instrumentation on."""
    exactly_one_owner(kafka, routes)


def produce_all_kinds(kafka: str, topic: str) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka})
    for kind in KINDS:
        producer.produce(topic, value=kind.encode(), headers=[(name, value.encode()) for name, value in HEADERS[kind]])
    assert producer.flush(30) == 0


def test_deserialized_messages_are_messages(kafka: str, routes: MemoryRoutes) -> None:
    """A DeserializingConsumer's messages are decided on like any, and handed on deserialized."""
    from confluent_kafka.serialization import StringDeserializer

    topic, handled = make_topic(kafka), []
    produce_all_kinds(kafka, topic)
    become("pr-2")
    reader = confluent_kafka.DeserializingConsumer(
        consumer_settings(kafka, group_id(topic), **{"value.deserializer": StringDeserializer("utf_8")})
    )
    reader.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    on_order = consumer(routes=routes)(lambda message: handled.append(message.value()))
    for _ in KINDS:
        message = reader.poll(20)
        assert message is not None
        on_order(message)
    reader.close()
    assert handled == ["pr-2"]


async def test_an_asyncio_consumer_has_coroutines_for_handlers(kafka: str, routes: MemoryRoutes) -> None:
    """A coroutine function is awaited after AIOConsumer.poll, with its message's key current throughout."""
    aio = pytest.importorskip("confluent_kafka.aio")
    topic, handled = make_topic(kafka), []
    produce_all_kinds(kafka, topic)
    become(None)
    reader = aio.AIOConsumer(consumer_settings(kafka, group_id(topic)))
    await reader.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])

    @consumer(routes=routes)
    async def on_order(message: Any) -> None:
        await asyncio.sleep(0.01)
        handled.append((message.value().decode(), tenancy.routing_key()))

    await synced(on_order)
    for _ in KINDS:
        await on_order(await reader.poll(20))
    await reader.close()
    assert handled == [("none", None), ("pr-7", "pr-7"), ("unknown", None), ("malformed", None)]


def test_an_error_event_reaches_the_handler(kafka: str, routes: MemoryRoutes) -> None:
    """The end of a partition, as librdkafka reports it, is handed on in a sandbox too."""
    topic, handled = make_topic(kafka), []
    become("pr-1")
    reader = confluent_kafka.Consumer(consumer_settings(kafka, group_id(topic), **{"enable.partition.eof": True}))
    reader.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    on_order = consumer(routes=routes)(lambda message: handled.append(message.error().code()))
    on_order(reader.poll(20))
    reader.close()
    assert handled == [confluent_kafka.KafkaError._PARTITION_EOF]
