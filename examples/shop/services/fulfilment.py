"""
Fulfilment: takes its orders from Kafka, and tells the next service over RabbitMQ.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aio_pika
from confluent_kafka import Consumer, Message

from examples.shop.common import EXCHANGE, GROUP, KAFKA, RABBITMQ, TOPIC, consumer_or_sabotage, handled, ready
from tenancy.messaging import aio_pika as rabbitmq
from tenancy.messaging import confluent_kafka as kafka


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

    handle = consumer_or_sabotage(kafka.consumer(), on_order)
    consumer = Consumer(
        {
            "bootstrap.servers": KAFKA,
            "group.id": kafka.group_id(GROUP),
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
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
