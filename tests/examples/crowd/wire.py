"""
What was sent over Kafka and RabbitMQ, read from the brokers themselves and without the library.
"""

from __future__ import annotations

import json
import time
from typing import NamedTuple
from uuid import uuid4

import aio_pika
from confluent_kafka import Consumer, KafkaException, TopicPartition

__all__ = ["Copy", "drain", "records", "tap"]


class Copy(NamedTuple):
    """
    One message.

    Args:
        order: The order that it is about.
        headers: Its headers, as text.
    """

    order: str
    headers: list[tuple[str, str]]


def records(bootstrap_servers: str, topic: str, *, deadline: float = 60.0) -> list[Copy]:
    """
    Return everything that stands in a topic.

    Args:
        bootstrap_servers: The Kafka to ask.
        topic: The topic.
        deadline: Seconds that reading may take.
    """
    end = time.monotonic() + deadline
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": f"crowd-{uuid4().hex}", "enable.auto.commit": False})
    try:
        partitions = consumer.list_topics(topic, 10).topics[topic].partitions
        total = sum(consumer.get_watermark_offsets(TopicPartition(topic, number), 10)[1] for number in partitions)
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        copies: list[Copy] = []
        while len(copies) < total:
            if time.monotonic() > end:
                raise TimeoutError(f"{topic}: only {len(copies)} of {total} records could be read in {deadline:g} s")
            for message in consumer.consume(1000, 1.0):
                if message.error() is not None:
                    raise KafkaException(message.error())
                headers = [(name, (value or b"").decode()) for name, value in message.headers() or ()]
                copies.append(Copy(json.loads(message.value() or b"")["order"], headers))
        return copies
    finally:
        consumer.close()


async def tap(url: str, exchange: str) -> str:
    """
    Return the name of a new queue that gets a copy of every message of an exchange.

    Args:
        url: The RabbitMQ to ask.
        exchange: The exchange, whatever its type.
    """
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        # Where nobody drains it, since the run broke off, the broker deletes it after a while.
        queue = await channel.declare_queue(f"crowd-{uuid4().hex}", arguments={"x-expires": 1_200_000})
        await queue.bind(exchange, "#")
        return queue.name


async def drain(url: str, name: str) -> list[Copy]:
    """
    Take everything out of a queue, and delete it.

    Args:
        url: The RabbitMQ to ask.
        name: The queue.
    """
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(name)
        copies: list[Copy] = []
        if queue.declaration_result.message_count:
            async with queue.iterator(no_ack=True, timeout=30) as messages:
                async for message in messages:
                    copies.append(Copy(message.body.decode(), [(name, str(value)) for name, value in message.headers.items()]))
                    if len(copies) == queue.declaration_result.message_count:
                        break
        await queue.delete(if_empty=False)
        return copies
