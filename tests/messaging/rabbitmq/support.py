"""
A real queue, a route store in memory, and consumers of the baseline and of sandboxes, for tests of hand-over on a real broker.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any

import aio_pika

import tenancy
from tenancy.messaging.aio_pika import SelectiveQueue, inject, selective_queue
from tenancy.messaging.rabbitmq.broker import RabbitBroker
from tenancy.messaging.rabbitmq.names import Names, names_of
from tenancy.routes import Handover, LiveRoutes
from tenancy.routes.stores import put_workload, table_of
from tenancy.sandbox import Controller, Fork, Progress
from tenancy.testing import MemoryStore
from tests.messaging.support import WORKLOAD, become

__all__ = ["LEASE", "World", "until"]

LEASE = 1.0


async def until(condition: Callable[[], Any], deadline: float = 20.0) -> Any:
    """Return the first true value of a condition; an error if that takes too long."""
    end = time.monotonic() + deadline
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come true in time"
        await asyncio.sleep(0.02)
    return found


class World:
    """
    One queue, its consumers, and what they handled: for each message, by its body, who did.

    Args:
        url: The broker.
        arguments: With what the queue is declared.
    """

    def __init__(self, url: str, arguments: dict[str, Any] | None = None) -> None:
        self.url = url
        self.queue = f"tenancy-{uuid.uuid4().hex[:12]}"
        self.arguments = arguments or {}
        self.store = MemoryStore(lease=LEASE)
        self.store.write([put_workload(WORKLOAD)])
        self.broker = RabbitBroker(url)
        self.told: list[Progress] = []
        self.controller = Controller(self.store, rabbit=self.broker, progress=self.told.append)
        self.handled: dict[str, list[str]] = {}
        self.seen: dict[str, Any] = {}
        self._connections: list[Any] = []
        self._queues: list[SelectiveQueue] = []
        self._routes: list[LiveRoutes] = []
        self._number = 0

    async def __aenter__(self) -> World:
        self.connection = await aio_pika.connect(self.url)
        self.channel = await self.connection.channel(on_return_raises=True)
        await self.channel.declare_queue(self.queue, durable=True, arguments=self.arguments)
        return self

    async def __aexit__(self, *error: object) -> None:
        for queue in self._queues:
            await asyncio.wait_for(queue.close(), 10)
        for connection in self._connections:
            await connection.close()
        for routes in self._routes:
            routes.close()
        await self.channel.queue_delete(self.queue)
        await self.connection.close()
        await asyncio.to_thread(self.broker.close)

    async def consumer(self, sandbox: str | None = None, **options: Any) -> SelectiveQueue:
        """Return a queue of the baseline or of a sandbox, on a connection of its own and with a live table of its own, as in a process."""
        become(sandbox)
        routes = self.store.live()
        self._routes.append(routes)
        with tenancy.scope("ambient"):  # callbacks of a connection inherit the context in which it was made
            connection = await aio_pika.connect_robust(self.url)
        self._connections.append(connection)
        options.setdefault("arguments", self.arguments)
        queue = await selective_queue(connection, self.queue, routes=routes, durable=True, **options)
        self._queues.append(queue)
        return queue

    async def start(self, sandbox: str | None = None, *, takes: float = 0.0, **options: Any) -> SelectiveQueue:
        """Start a consumer that notes what it handles."""
        queue = await self.consumer(sandbox, **options)

        async def handle(message: Any) -> None:
            async with message.process():
                self.note(sandbox, message)
                await asyncio.sleep(takes)

        await queue.consume(handle)
        return queue

    def note(self, sandbox: str | None, message: Any) -> None:
        """Note that a message was begun."""
        self.handled.setdefault(message.body.decode(), []).append(sandbox or "baseline")
        self.seen[message.body.decode()] = message, tenancy.routing_key()

    async def send(self, *keys: str | None, exchange: Any = None, **properties: Any) -> list[str]:
        """Publish a message for each key, and return their bodies."""
        bodies = []
        for key in keys:
            self._number += 1
            body = f"{self._number}:{key}"
            with tenancy.scope(key):
                message = inject(aio_pika.Message(body.encode(), message_id=f"id-{self._number}", **properties))
            await (exchange or self.channel.default_exchange).publish(message, self.queue)
            bodies.append(body)
        return bodies

    async def owners(self, bodies: list[str]) -> list[str]:
        """Wait until messages were handled, and return by whom; each by one."""
        await until(lambda: all(body in self.handled for body in bodies))
        owners = [self.handled[body] for body in bodies]
        assert all(len(found) == 1 for found in owners), owners
        return [found[0] for found in owners]

    async def create(self, sandbox: str = "pr-1", *, deadline: float = 20.0, **options: Any) -> Handover:
        """Create a sandbox, as `tenancy sandbox create` does."""
        late = options.pop("late", "baseline")
        fork = Fork(WORKLOAD, sandbox, **options)
        (row,) = await asyncio.to_thread(self.controller.create, sandbox, [fork], deadline=deadline, late=late)
        return row

    async def delete(self, sandbox: str = "pr-1", *, deadline: float = 20.0, **options: Any) -> Handover:
        """Delete it."""
        (row,) = await asyncio.to_thread(lambda: self.controller.delete(sandbox, deadline=deadline, **options))
        return row

    def row(self, key: str = "pr-1") -> Handover:
        """Return the lives of a key."""
        found = table_of(self.store.snapshot(), origin=self.store.name).handover(WORKLOAD, tenancy.RoutingKey(key))
        assert found is not None
        return found

    def names(self, key: str = "pr-1", epoch: int = 1) -> Names:
        """Return what a life's queue is called."""
        return names_of(self.queue, tenancy.RoutingKey(key), epoch)

    async def state(self, queue: str) -> Any:
        """Return what the broker knows of a queue."""
        return await asyncio.to_thread(self.broker.state, queue)
