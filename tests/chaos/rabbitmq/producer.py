"""
The producer process: publishes messages with and without keys, and writes down what the broker has confirmed.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from typing import Any

import aio_pika

from tenancy.messaging.aio_pika import inject

from ..journal import Journal, clock
from .entries import Confirmed, Tried
from .spec import Spec, queues_of
from .worker import LOST

__all__ = ["main"]

_MOST_UNDER_WAY = 300


class Producer:
    """
    Publishes with confirms, on a new connection whenever one is lost; what was not confirmed is not published again.

    Args:
        spec: What it is told.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._journal = Journal(spec.directory, spec.name)
        self._chance = random.Random(spec.name)
        self._numbers = itertools.count(1)
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """
        Publish until told to stop, and then wait for what is under way.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop)
        while not self._stopping:
            try:
                connection = await aio_pika.connect(self._spec.rabbitmq, timeout=5)
                channel = await connection.channel()
                self._spec.sign("ready").touch()
                await self._publish(connection, channel)
                if self._tasks:
                    await asyncio.wait(self._tasks, timeout=30)
                await connection.close()
            except LOST:
                await asyncio.sleep(0.2)
        self._journal.sync()

    def _stop(self) -> None:
        self._stopping = True

    async def _publish(self, connection: Any, channel: Any) -> None:
        began, number = clock(), 0
        while not (self._stopping or connection.is_closed or channel.is_closed):
            if len(self._tasks) < _MOST_UNDER_WAY:
                number += 1
                task = asyncio.create_task(self._one(channel))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(max(0.0, began + number / self._spec.rate - clock()))
            began = max(began, clock() - number / self._spec.rate - 1)  # what was missed is not made good at once

    async def _one(self, channel: Any) -> None:
        id_ = f"m{next(self._numbers)}"
        key = self._chance.choice((*self._spec.keys, None, None))
        kind, name = self._chance.choice(list(queues_of(self._spec.base).items()))
        message = aio_pika.Message(
            f"{id_} {key or ''}".encode(),
            headers={"chaos-key": key} if key else {},
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=id_,
            correlation_id=id_,
            reply_to="somewhere",
            user_id="guest",
        )
        tried = clock()
        self._journal.write(Tried(id_, kind, key, tried))
        try:
            await channel.default_exchange.publish(inject(message, key=key) if key else message, name)
        except LOST:
            return  # nobody knows whether the broker has it
        self._journal.write(Confirmed(id_, kind, key, tried, clock()))


def main() -> None:
    """
    Publish as the environment says.
    """
    asyncio.run(Producer(Spec.given()).run())


if __name__ == "__main__":
    main()
