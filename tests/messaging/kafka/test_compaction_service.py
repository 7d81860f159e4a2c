"""
Nobody who serves a routing key takes the place of the baseline's value in a compacted topic; on a real broker.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import confluent_kafka
import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.serialization import StringSerializer

import tenancy
from tenancy import CompactedTopicError, RoutingKey
from tenancy.messaging import aiokafka as aio
from tenancy.messaging import confluent_kafka as confluent
from tenancy.messaging.confluent_kafka import record_key
from tenancy.messaging.kafka.aio_guard import Guard as AioGuard
from tests.messaging.support import become

KEY = RoutingKey("pr-42")

pytestmark = pytest.mark.service


class Log:
    """
    Topics on a broker, and what is in them.
    """

    def __init__(self, kafka: str) -> None:
        self.kafka = kafka
        self.admin = AdminClient({"bootstrap.servers": kafka})
        self.config = {"bootstrap.servers": kafka, "linger.ms": 0}

    def topic(self, policy: str | None) -> str:
        name = f"tenancy-{uuid.uuid4().hex[:12]}"
        config = {} if policy is None else {"cleanup.policy": policy}
        self.admin.create_topics([NewTopic(name, 1, 1, config=config)])[name].result(30)
        return name

    def values(self, topic: str) -> dict[bytes | None, bytes | None]:
        """What compaction leaves in the end: the last value of each record key."""
        reader = confluent_kafka.cimpl.Consumer({"bootstrap.servers": self.kafka, "group.id": "none", "enable.partition.eof": True})
        reader.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
        found: dict[bytes | None, bytes | None] = {}
        try:
            while True:
                message = reader.poll(10)
                assert message is not None
                if message.error() is not None:
                    return found
                found[message.key()] = message.value()
        finally:
            reader.close()


@pytest.fixture
def log(kafka: str) -> Iterator[Log]:
    become(None)  # whoever serves the key: the baseline here, a fork below
    return Log(kafka)


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
@pytest.mark.parametrize("sandbox", [None, "pr-42"])
def test_a_compacted_topic(log: Log, policy: str, sandbox: str | None) -> None:
    """Refused is what would take the baseline's place, before it is sent, with what to do; nothing else is."""
    topic = log.topic(policy)
    become(sandbox)
    producer = confluent.with_key(confluent_kafka.Producer(log.config), admin=log.config)
    producer.produce(topic, b"baseline", b"k")
    with tenancy.scope(KEY):
        for key in (b"k", "k", b"tenancy:pr-7:k", b""):
            with pytest.raises(CompactedTopicError, match=rf"{topic} is compacted.*record_key\(.*--own-topic {topic}"):
                producer.produce(topic, b"fork", key)
        with pytest.raises(CompactedTopicError):
            producer.produce(topic, key=b"k", headers=[("a", b"1")])  # a tombstone
        producer.produce(topic, b"fork", record_key(b"k"))
    assert producer.flush(10) == 0
    assert log.values(topic) == {b"k": b"baseline", b"tenancy:pr-42:k": b"fork"}


def test_what_is_passed_on_is_a_record_of_its_key(log: Log) -> None:
    """The key may stand in headers alone; without one, nothing is asked."""
    topic = log.topic("compact")
    producer = confluent.with_key(confluent_kafka.Producer(log.config), admin=log.admin)
    headers = confluent.inject(key=KEY)
    with pytest.raises(CompactedTopicError):
        producer.produce(topic, b"x", b"k", headers=headers)
    with pytest.raises(CompactedTopicError):
        producer.produce(topic, b"x", b"k", 0, None, None, 0, headers)
    with tenancy.scope(None):
        producer.produce(topic, b"x", b"k", headers=headers)  # it leaves without the key
    assert producer.flush(10) == 0
    assert log.values(topic) == {b"k": b"x"}


def test_another_topic_takes_all(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    """One that is not compacted, and one that is not there yet."""
    producer = confluent.with_key(confluent_kafka.Producer(log.config), admin=log.config)
    with tenancy.scope(KEY):
        for topic in (log.topic("delete"), log.topic(None), f"tenancy-{uuid.uuid4().hex[:12]}"):
            producer.produce(topic, b"x", b"k")
            assert producer.flush(20) == 0
            assert log.values(topic) == {b"k": b"x"}
    assert not caplog.records


def test_a_batch_is_sent_whole_or_not_at_all(log: Log) -> None:
    """One record that would do harm keeps all of them."""
    topic = log.topic("compact")
    producer = confluent.with_key(confluent_kafka.Producer(log.config), admin=log.config)
    if not hasattr(confluent_kafka.Producer, "produce_batch"):
        pytest.skip("this client has no batches")
    with tenancy.scope(KEY):
        with pytest.raises(CompactedTopicError):
            producer.produce_batch(topic, [{"value": b"1", "key": record_key(b"a")}, {"value": b"2", "key": b"b"}])
        assert producer.produce_batch(topic, [{"value": b"3", "key": record_key(b"c")}]) == 1
    assert producer.produce_batch(topic, [{"value": b"4", "key": b"d"}]) == 1
    assert producer.flush(10) == 0
    assert log.values(topic) == {b"tenancy:pr-42:c": b"3", b"d": b"4"}


def test_a_serializing_producer(log: Log) -> None:
    """Its arguments come in another order; what it makes of a key begins as the key does."""
    topic = log.topic("compact")
    config = {**log.config, "key.serializer": StringSerializer(), "value.serializer": StringSerializer()}
    producer = confluent.with_key(confluent_kafka.SerializingProducer(config), admin=config)
    with tenancy.scope(KEY):
        for given in ((("k", "v"), {}), ((), {"key": "k", "value": "v"}), (("k", "v", 0, None, 0, [("a", b"1")]), {})):
            with pytest.raises(CompactedTopicError):
                producer.produce(topic, *given[0], **given[1])
        producer.produce(topic, record_key("k"), "v", 0, None, 0, [("a", b"1")])
    assert producer.flush(10) == 0
    assert log.values(topic) == {b"tenancy:pr-42:k": b"v"}


def test_a_transaction_is_refused_within(log: Log) -> None:
    """The configuration of a transactional producer will do for asking, and fences nobody."""
    topic = log.topic("compact")
    config = {**log.config, "transactional.id": topic}
    producer = confluent.with_key(confluent_kafka.Producer(config), admin=config)
    producer.init_transactions(20)
    producer.begin_transaction()
    with tenancy.scope(KEY), pytest.raises(CompactedTopicError):
        producer.produce(topic, b"1", b"k")
    producer.produce(topic, b"2", b"k")
    producer.commit_transaction(20)
    assert log.values(topic) == {b"k": b"2"}


def test_it_is_asked_once(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each topic, however much is produced; a topic that becomes compacted is noticed after some minutes."""
    topics = [log.topic("delete"), log.topic("compact")]
    asked: list[str] = []

    class Asked:
        def describe_configs(self, resources: Any, **options: Any) -> Any:
            asked.extend(resource.name for resource in resources)
            return log.admin.describe_configs(resources, **options)

    now = time.monotonic()
    producer = confluent.with_key(confluent_kafka.Producer(log.config), admin=Asked())
    producer._tenancy_guard._compaction._clock = lambda: now  # type: ignore[attr-defined]
    for _ in range(3):
        with tenancy.scope(KEY):
            producer.produce(topics[0], b"x", b"k")
            with pytest.raises(CompactedTopicError):
                producer.produce(topics[1], b"x", b"k")
    assert asked == topics
    _compact(log.admin, topics[0])
    now += 301
    with tenancy.scope(KEY), pytest.raises(CompactedTopicError):
        producer.produce(topics[0], b"x", b"k")
    assert asked == [*topics, topics[0]]
    assert producer.flush(10) == 0


def _compact(admin: AdminClient, topic: str) -> None:
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

    entry = ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(10)


@pytest.mark.parametrize("admin", [None, {"bootstrap.servers": "127.0.0.1:1", "log_level": 0}, {"no.such.thing": 1}])
def test_where_it_cannot_be_known(log: Log, admin: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is sent, and the log says once for each topic that it may do harm, and what to do."""
    monkeypatch.setattr("tenancy.messaging.kafka.confluent_guard._TIMEOUT", 1.0)
    topic = log.topic("compact")
    producer = confluent.with_key(confluent_kafka.Producer(log.config), admin=admin)
    with tenancy.scope(KEY):
        for _ in range(3):
            producer.produce(topic, b"x", b"k")
    assert producer.flush(10) == 0
    assert log.values(topic) == {b"k": b"x"}
    (told,) = (record.getMessage() for record in caplog.records if record.name == "tenancy")
    assert topic in told
    assert ("admin=" if admin is None else "asked in vain") in told


def test_who_names_the_topics_asks_nobody(log: Log) -> None:
    """Also where record keys are told apart in another way."""
    topic = log.topic("compact")
    for compacted, refused in (([topic], True), ([], False)):
        producer = confluent.with_key(confluent_kafka.Producer(log.config), compacted=compacted)
        with tenancy.scope(KEY):
            if refused:
                with pytest.raises(CompactedTopicError):
                    producer.produce(topic, b"x", b"k")
            else:
                producer.produce(topic, b"x", b"k")
                assert producer.flush(10) == 0
    assert log.values(topic) == {b"k": b"x"}


# aiokafka


@asynccontextmanager
async def sending(kafka: str, **options: Any) -> AsyncIterator[Any]:
    async with aio.with_key(AIOKafkaProducer(bootstrap_servers=kafka), **options) as producer:
        yield producer


async def test_aiokafka(log: Log) -> None:
    """Each way to send refuses what would take the baseline's place, and nothing else; the producer asks by itself."""
    topic, other = log.topic("compact"), log.topic(None)
    async with sending(log.kafka) as producer:
        await producer.send_and_wait(topic, b"baseline", b"k")
        with tenancy.scope(KEY):
            for send in (producer.send, producer.send_and_wait):
                with pytest.raises(CompactedTopicError, match=rf"{topic} is compacted"):
                    await send(topic, b"fork", b"k")
                with pytest.raises(CompactedTopicError):
                    await send(topic, key=b"k")
                await send(topic, b"fork", record_key(b"k"))
            await producer.send_and_wait(other, b"fork", b"k")
        with pytest.raises(CompactedTopicError):
            await producer.send(topic, b"fork", b"k", headers=aio.inject(key=KEY))
        for key, sent in ((b"b", False), (record_key(b"b", routing_key=KEY), True)):
            batch = producer.create_batch()
            batch.append(timestamp=None, key=b"c", value=b"baseline")
            with tenancy.scope(KEY):
                batch.append(timestamp=None, key=key, value=b"fork")
            if sent:
                await (await producer.send_batch(batch, topic, partition=0))
            else:
                with pytest.raises(CompactedTopicError):
                    await producer.send_batch(batch, topic, partition=0)
    ours = {b"tenancy:pr-42:k": b"fork", b"tenancy:pr-42:b": b"fork"}
    assert log.values(topic) == {b"k": b"baseline", b"c": b"baseline", **ours}
    assert log.values(other) == {b"k": b"fork"}


async def test_the_event_loop_goes_on(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is asked; many that send at once ask once, and nobody asks without a routing key."""
    topic = log.topic("compact")
    asked, ticks = 0, 0
    ask = AioGuard._ask

    async def slowly(self: Any, name: str) -> Any:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.3)
        return await ask(self, name)

    async def ticking() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    monkeypatch.setattr(AioGuard, "_ask", slowly)
    ticker = asyncio.create_task(ticking())
    async with sending(log.kafka) as producer:
        await producer.send_and_wait(topic, b"x", b"k")
        assert asked == 0
        with tenancy.scope(KEY):
            refused = await asyncio.gather(*(producer.send(topic, b"x", b"k") for _ in range(20)), return_exceptions=True)
    ticker.cancel()
    assert {type(error) for error in refused} == {CompactedTopicError}
    assert asked == 1
    assert ticks > 10


async def test_aiokafka_where_it_cannot_be_known(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    """A topic that is not there is not compacted. Where the answer does not come, the record is sent, with a warning."""
    topic, absent = log.topic("compact"), f"tenancy-{uuid.uuid4().hex[:12]}"
    caplog.set_level(logging.WARNING, logger="tenancy")

    async def unable(*_: Any) -> Any:
        raise ConnectionError("away")

    async with sending(log.kafka) as producer:
        with tenancy.scope(KEY):
            await producer.send_and_wait(absent, b"x", b"k")
            assert not [record for record in caplog.records if record.name == "tenancy"]
            told: Callable[[], list[str]] = lambda: [r.getMessage() for r in caplog.records if r.name == "tenancy"]  # noqa: E731
            client = producer.client
            send, client.send = client.send, unable
            guard = producer._tenancy_guard
            try:
                assert await guard._is_compacted(topic) is False
            finally:
                client.send = send
            await producer.send_and_wait(topic, b"x", b"k")
    assert log.values(topic) == {b"k": b"x"}
    (line,) = told()
    assert topic in line
    assert "ConnectionError('away')" in line


async def test_aiokafka_who_names_the_topics(log: Log) -> None:
    """Asks nobody."""
    topic = log.topic("compact")
    async with sending(log.kafka, compacted=()) as producer:
        with tenancy.scope(KEY):
            await producer.send_and_wait(topic, b"x", b"k")
    async with sending(log.kafka, compacted=lambda name: name == topic) as producer:
        with tenancy.scope(KEY), pytest.raises(CompactedTopicError):
            await producer.send_and_wait(topic, b"x", b"k")
    assert log.values(topic) == {b"k": b"x"}
