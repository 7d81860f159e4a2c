from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import aio_pika
import confluent_kafka
import pytest
from aio_pika.exceptions import ChannelInvalidStateError, MessageProcessError

import tenancy
from tenancy.messaging import aio_pika as rabbitmq
from tenancy.messaging import confluent_kafka as kafka
from tenancy.testing import Answer, KafkaMessage, MemoryRoutes, kafka_message, rabbitmq_message

ROUTES = {"shop/orders": ["pr-1"], "shop/notify": ["pr-7"]}
#: What a message carries, whether the baseline handles it, and under which key.
KINDS: list[tuple[str | None, bool, str | None]] = [
    (None, True, None),
    ("pr-1", False, None),
    ("pr-7", True, "pr-7"),
    ("pr-9", True, None),
]


@pytest.fixture(autouse=True)
def _baseline(tenancy_settings: Any) -> None:
    tenancy_settings(workload="shop/orders", role="baseline")


@pytest.mark.parametrize(("key", "handled", "under"), KINDS)
def test_a_kafka_handler_is_tested_without_a_broker(key: str | None, handled: bool, under: str | None) -> None:
    """A decorated function takes and leaves messages as it does those of a consumer."""

    @kafka.consumer(routes=MemoryRoutes(ROUTES))
    def on_order(message: confluent_kafka.Message) -> tuple[Any, str | None]:
        return message.value(), tenancy.routing_key()

    message: Any = kafka_message(b"order", key=key, headers={"trace": "1"}, topic="orders")
    assert on_order(message) == ((b"order", under) if handled else None)


def test_a_kafka_message_looks_like_the_client_s() -> None:
    """It has every method that messages of this version of the client have, with the same answers for the same data."""
    methods = {name for name in dir(confluent_kafka.Message) if not name.startswith("_")}
    newer = {"delivery_count", "deserialized_key", "deserialized_value", "set_error", "set_topic"}
    assert methods - newer <= set(dir(KafkaMessage))
    mine = kafka_message(b"v", key="pr-1", topic="t", partition=3, offset=9, record_key=b"k", timestamp=5)
    assert [mine.topic(), mine.value(), mine.key(), mine.partition(), mine.offset()] == ["t", b"v", b"k", 3, 9]
    assert mine.timestamp() == (confluent_kafka.TIMESTAMP_CREATE_TIME, 5)
    assert mine.headers() == [("baggage", b"sd-routing-key=pr-1")]
    assert mine.headers() is not mine.headers()
    assert (mine.error(), len(mine), bool(kafka_message()), kafka_message().headers()) == (None, 1, True, None)
    mine.set_headers([("a", b"1")])
    mine.set_value(None)
    mine.set_key(b"other")
    assert (mine.headers(), mine.value(), mine.key(), len(mine)) == ([("a", b"1")], None, b"other", 0)
    assert kafka_message(error="_PARTITION_EOF").error() == "_PARTITION_EOF"
    assert repr(mine) == "<KafkaMessage t[3]@9>"


@pytest.mark.parametrize(("key", "handled", "under"), KINDS)
async def test_a_rabbitmq_handler_is_tested_without_a_broker(key: str | None, handled: bool, under: str | None) -> None:
    """It is aio-pika's own message, so everything that a handler does with it is real, and who answered what is written down."""

    @rabbitmq.consumer(routes=MemoryRoutes(ROUTES))
    async def on_order(message: aio_pika.abc.AbstractIncomingMessage) -> tuple[bytes, str | None]:
        async with message.process():
            await asyncio.sleep(0)
            return message.body, tenancy.routing_key()

    message = rabbitmq_message(b"order", key=key, headers={"trace": "1"})
    assert await on_order(message) == ((b"order", under) if handled else None)
    assert message.answers == [Answer("ack")]
    assert message.processed


async def test_all_answers_are_written_down() -> None:
    """Each as it was given; a second one, and one on a channel that is gone, are aio-pika's own errors."""
    message = rabbitmq_message()
    await message.nack(requeue=False, multiple=True)
    assert message.answers == [Answer("nack", requeue=False, multiple=True)]
    with pytest.raises(MessageProcessError):
        await message.ack()
    rejected, requeued = rabbitmq_message(), rabbitmq_message()
    await rejected.reject()
    await requeued.reject(requeue=True)
    assert (rejected.answers, requeued.answers) == ([Answer("reject")], [Answer("reject", requeue=True)])
    failing = rabbitmq_message()
    with pytest.raises(LookupError):
        async with failing.process(requeue=True):
            raise LookupError
    assert failing.answers == [Answer("reject", requeue=True)]
    closed = rabbitmq_message(closed=True)
    with pytest.raises(ChannelInvalidStateError):
        await closed.ack()
    assert rabbitmq_message(no_ack=True).processed


def test_a_rabbitmq_message_is_what_was_published() -> None:
    """A whole message keeps its properties; what is said about its delivery is so; the original stays as it was."""
    published = aio_pika.Message(b"body", headers={"Baggage": "user=ann", "n": 1}, message_id="7", reply_to="there")
    message = rabbitmq_message(
        published, key="pr-1", headers={"x": "1"}, exchange="shop", amqp_routing_key="order.made", redelivered=True, delivery_tag=5
    )
    assert isinstance(message, aio_pika.IncomingMessage)
    assert (message.exchange, message.routing_key, message.redelivered, message.delivery_tag) == ("shop", "order.made", True, 5)
    assert (message.body, message.message_id, message.reply_to) == (b"body", "7", "there")
    assert message.headers == {"n": 1, "x": "1", "baggage": "sd-routing-key=pr-1,user=ann"}
    assert published.headers == {"Baggage": "user=ann", "n": 1}


def test_without_aio_pika_the_rest_works() -> None:
    """The missing package is named with the command to run; Kafka's messages, hops and all else need none of it."""
    code = """
import json, sys
sys.modules["aio_pika"] = sys.modules["confluent_kafka"] = sys.modules["pytest"] = None
import tenancy, tenancy.testing
tenancy.testing.kafka_message(key="pr-1")
with tenancy.testing.record_hops():
    pass
try:
    tenancy.testing.rabbitmq_message()
except tenancy.MissingDependencyError as error:
    print(json.dumps([str(error), sorted(name for name in sys.modules if name in ("httpx", "grpc", "requests", "aiohttp"))]))
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    error, loaded = json.loads(done.stdout)
    assert "pip install 'request-tenancy[rabbitmq]'" in error
    assert loaded == []
