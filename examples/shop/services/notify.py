"""
Notify: takes fulfilled orders from RabbitMQ, and writes a row for each.
"""

from __future__ import annotations

import asyncio

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import create_async_engine

from examples.shop.common import (
    DATABASE,
    EXACT,
    EXCHANGE,
    QUEUE,
    RABBITMQ,
    consumer_or_sabotage,
    handled,
    isolate,
    notifications,
    own_data,
    ready,
)
from tenancy.messaging import aio_pika as rabbitmq


async def main() -> None:
    engine = create_async_engine(DATABASE.replace("sqlite://", "sqlite+aiosqlite://"))
    isolate(engine)

    async def on_fulfilled(message: AbstractIncomingMessage) -> None:
        async with message.process():
            order = message.body.decode()
            handled(order)
            with own_data():
                async with engine.begin() as connection:
                    await connection.execute(insert(notifications).values(order_id=order))

    connection = await aio_pika.connect_robust(RABBITMQ)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=20)
    exchange = await channel.declare_exchange(EXCHANGE, aio_pika.ExchangeType.TOPIC, durable=True)
    if EXACT:  # the baseline forwards what a sandbox forks
        selective = await rabbitmq.selective_queue(connection, QUEUE, durable=True, prefetch_count=20)
        await selective.bind(exchange, "order.*")
        await selective.consume(on_fulfilled)
    else:  # every sandbox gets a copy of every message
        queue = await rabbitmq.declare_queue(channel, QUEUE, bindings=[(exchange, "order.*")], durable=True)
        await queue.consume(consumer_or_sabotage(rabbitmq.consumer(), on_fulfilled))
    ready()
    try:
        await asyncio.Event().wait()
    finally:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main())
