"""
Fulfilment: takes its orders from Kafka, and tells the next service over RabbitMQ.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aio_pika
from confluent_kafka import Consumer, Message

from examples.shop.common import EXCHANGE, GROUP, KAFKA, RABBITMQ, SABOTAGE, TOPIC, consumer_or_sabotage, handled, ready
from tenancy.messaging import aio_pika as rabbitmq
from tenancy.messaging.confluent_kafka import SelectiveConsumer, group_id


async def main() -> None:
    exchange: Any = None
    if RABBITMQ:
        connection = await aio_pika.connect_robust(RABBITMQ)
        channel = await connection.channel()
        exchange = await channel.declare_exchange(EXCHANGE, aio_pika.ExchangeType.TOPIC, durable=True)

    async def on_order(message: Message) -> None:
        order = json.loads(message.value() or b"")["order"]
        handled(order)
        if exchange is not None:
            await exchange.publish(rabbitmq.inject(aio_pika.Message(order.encode())), "order.fulfilled")

    consumer: Any
    config = {"bootstrap.servers": KAFKA, "group.id": GROUP, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    if SABOTAGE in ("no-filter", "ambient"):  # a consumer of their own, with the mistakes that the demo must catch
        consumer = Consumer({**config, "group.id": group_id(GROUP)})
        handle = consumer_or_sabotage(None, on_order)
    else:
        consumer = SelectiveConsumer(config)

        async def handle(message: Message) -> None:
            with consumer.scope(message):
                await on_order(message)

    consumer.subscribe([TOPIC])
    try:
        while True:
            message = await asyncio.to_thread(consumer.poll, 0.2)
            if consumer.assignment():
                ready()
            if message is None:
                continue
            if message.error():
                raise RuntimeError(message.error())
            await handle(message)
            consumer.commit(message, asynchronous=True)
    finally:
        consumer.close()


if __name__ == "__main__":
    asyncio.run(main())
