"""
A consumer process: handles up to twenty messages of each queue at once, and writes down each of them before it acknowledges it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import aio_pika
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError

import tenancy
from tenancy.messaging.aio_pika import SelectiveQueue, selective_queue
from tenancy.messaging.rabbitmq.aio_forward import Forwarder
from tenancy.routes import LiveRoutes

from ..journal import Journal, clock
from ..spec import WORKLOAD, FreezableSource
from . import mutants
from .entries import Did, Took
from .inbox import Inbox
from .spec import SINGLE, Spec, arguments_of, queues_of

__all__ = ["LOST", "Worker", "main"]

#: What aio-pika raises where the connection is gone.
LOST = (AMQPError, ChannelInvalidStateError, ConnectionError, OSError, RuntimeError, asyncio.TimeoutError)


class Worker:
    """
    One process, of the baseline or of a sandbox.

    Args:
        spec: What it is told.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._journal = Journal(spec.directory, spec.name)
        self._random = random.Random(f"{spec.name} {os.getpid()}")
        self._numbers = itertools.count()
        self._inbox = Inbox(spec.directory / "inbox.db", spec.name, spec.sandbox) if spec.once else None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """
        Consume until told to stop.
        """
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        spec = self._spec
        tenancy.configure(
            workload=WORKLOAD, role=None if spec.sandbox else "baseline", sandbox=spec.sandbox or None, routes_deadline=60
        )
        self._watch_forwarding()
        routes = LiveRoutes(FreezableSource(spec))
        connection, queues = await self._opened(routes)
        iterating = []
        for kind, queue in queues.items():
            if spec.act == "iterator":
                iterating.append(asyncio.create_task(self._iterate(kind, queue)))
            else:
                await _once_there(
                    lambda kind=kind, queue=queue: queue.consume(lambda message: self._handle(kind, message, current=True))
                )
        spec.sign("ready").touch()
        await stopping.wait()
        for task in iterating:
            task.cancel()
        await asyncio.gather(*iterating, *self._tasks, return_exceptions=True)
        for queue in queues.values():
            await queue.close()
        await connection.close()

    async def _opened(self, routes: LiveRoutes) -> tuple[Any, dict[str, SelectiveQueue]]:
        """
        Connect, and declare the queues, however long the broker is away.
        """
        while True:
            connection = None
            try:
                connection = await aio_pika.connect_robust(self._spec.rabbitmq, timeout=5, reconnect_interval=0.3)
                queues = {}
                for kind, name in queues_of(self._spec.base).items():
                    options = {"durable": True, "arguments": arguments_of(kind)}
                    queues[kind] = await selective_queue(connection, name, routes=routes, prefetch_count=SINGLE, **options)
                return connection, queues
            except LOST:
                if connection is not None:
                    await connection.close()
                await asyncio.sleep(0.3)

    async def _iterate(self, kind: str, queue: SelectiveQueue) -> None:
        slots = asyncio.Semaphore(SINGLE)
        async with await _once_there(queue.iterator().__aenter__) as messages:
            async for message in messages:
                # Not waited for before the next one is taken, so that nothing lies between its being taken and its being begun.
                task = asyncio.create_task(self._in_slot(slots, kind, message))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                await slots.acquire()

    async def _in_slot(self, slots: asyncio.Semaphore, kind: str, message: Any) -> None:
        try:
            await self._handle(kind, message, current=False)
        finally:
            slots.release()

    async def _handle(self, kind: str, message: Any, *, current: bool) -> None:
        began = clock()
        spec = self._spec
        id_ = message.correlation_id
        key = message.headers.get("chaos-key")
        altered = self._altered(kind, message, key, current)
        claimant = f"{spec.name} {os.getpid()} {next(self._numbers)}"
        claim = await self._claimed(id_, claimant)
        if claim == "ours":
            await asyncio.sleep(spec.slow + self._handling_time())
        self._journal.write(Did(id_, kind, key, spec.name, spec.sandbox, os.getpid(), began, clock(), altered))
        self._journal.sync()
        if self._inbox is not None and claim == "ours":
            self._inbox.done(id_, claimant)
        try:
            await message.ack()
        except LOST:
            return  # the broker has it back, and somebody gets it again

    async def _claimed(self, id_: str, claimant: str) -> str:
        if self._inbox is None:
            return "ours"
        while (claim := self._inbox.claim(id_, claimant)) == "busy":
            await asyncio.sleep(0.1)
        return claim

    def _handling_time(self) -> float:
        return self._random.uniform(0.1, 0.4) if self._random.random() < 0.02 else self._random.uniform(0, 0.015)

    def _altered(self, kind: str, message: Any, key: str | None, current: bool) -> str:
        """
        Return what about a message is not as it was published.
        """
        name = queues_of(self._spec.base)[kind]
        wanted = {
            "exchange": ("", message.exchange),
            "routing key": (name, message.routing_key),
            "message id": (message.correlation_id, message.message_id),
            "body": (f"{message.correlation_id} {key or ''}".encode(), message.body),
            "reply to": ("somewhere", message.reply_to),
            "user id": ("guest", message.user_id),
            "headers": ([], [header for header in message.headers if header.startswith("x-tenancy")]),
        }
        if current and self._spec.sandbox:
            wanted["current key"] = (key, str(tenancy.routing_key()))
        return ", ".join(f"{what} {found!r}" for what, (right, found) in wanted.items() if right != found)

    def _watch_forwarding(self) -> None:
        """
        Write down what is about to be forwarded, and wait with it where the stage says so.
        """
        forward, journal, spec = Forwarder.forward, self._journal, self._spec
        held = spec.sign("hold-forward")

        async def forwarding(self: Any, message: Any, route: Any) -> Any:
            journal.write(Took(message.correlation_id, spec.name, os.getpid(), clock()))
            while held.exists():
                await asyncio.sleep(0.02)
            return await forward(self, message, route)

        Forwarder.forward = forwarding  # type: ignore[method-assign]


async def _once_there(step: Callable[[], Awaitable[Any]]) -> Any:
    """
    Take a step, again and again while the broker is away.
    """
    while True:
        try:
            return await step()
        except LOST:
            await asyncio.sleep(0.3)


def main() -> None:
    """
    Run the worker that the environment describes.
    """
    spec = Spec.given()
    mutants.install(spec)
    asyncio.run(Worker(spec).run())


if __name__ == "__main__":
    main()
