"""
A real queue, a route store in memory, and consumers of pika's in threads of their own, of the baseline and of sandboxes.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pika
from pika.adapters.asyncio_connection import AsyncioConnection

import tenancy
from tenancy.messaging.pika import SelectiveAsyncChannel, SelectiveChannel, inject
from tenancy.messaging.rabbitmq.broker import RabbitBroker
from tenancy.routes import LiveRoutes
from tenancy.routes.stores import put_workload
from tenancy.sandbox import Controller, Fork
from tenancy.testing import MemoryStore

WORKLOAD = "shop/orders"
LEASE = 1.0
#: By which ways a consumer gets messages.
WAYS = ("callback", "generator", "get", "select", "asyncio")


def wait_for(condition: Callable[[], Any], deadline: float = 20.0) -> Any:
    """Return the first true value of a condition; an error if that takes too long."""
    end = time.monotonic() + deadline
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)
    return found


class Seen(NamedTuple):
    """What a handler got."""

    body: bytes
    method: Any
    properties: Any
    key: str | None
    at: float


class Reader:
    """
    A consumer in a thread of its own, with a connection and a live route table of its own, as in a process.

    Args:
        world: The world.
        sandbox: Whose it is; None: the baseline's.
        way: How it gets messages.
        pause: How long its handler takes.
        answers: What its handler does with a message; default it acknowledges.
        options: As for the channel.
    """

    def __init__(
        self,
        world: World,
        sandbox: str | None = None,
        way: str = "callback",
        *,
        pause: float = 0.0,
        answers: Callable[[Any, Any, bytes], None] | None = None,
        **options: Any,
    ) -> None:
        self.world = world
        self.seen: list[Seen] = []
        self.error: BaseException | None = None
        self.channel: Any = None
        self.connection: Any = None
        self.loop: Any = None
        self._sandbox, self._way, self._pause = sandbox, way, pause
        self._answers = answers or (lambda channel, method, body: channel.basic_ack(method.delivery_tag))
        self._options = {"durable": True, "arguments": world.arguments, "workload": WORKLOAD, **options}
        self._options.setdefault("routes", world.routes())
        self._ready, self._end = threading.Event(), False
        tenancy.configure(workload=WORKLOAD, role=None if sandbox else "baseline", sandbox=sandbox)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        assert self._ready.wait(20), "the consumer did not start"
        if self.error is not None:
            raise self.error

    @property
    def bodies(self) -> list[bytes]:
        return [each.body for each in self.seen]

    def handle(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        key = tenancy.routing_key()
        self.seen.append(Seen(body, method, properties, None if key is None else str(key), time.monotonic()))
        if self._pause:
            time.sleep(self._pause)
        self._answers(channel, method, body)

    def call(self, function: Callable[[], Any]) -> None:
        """Call a function in the consumer's thread."""
        if self._way == "asyncio":
            self.loop.call_soon_threadsafe(function)
        elif self._way == "select":
            self.connection.ioloop.add_callback_threadsafe(function)
        else:
            self.connection.add_callback_threadsafe(function)

    def close(self) -> None:
        """Stop it as a program does that is asked to."""
        self._end = True
        if self._way == "callback":
            self.call(self.channel.stop_consuming)
        elif self._way in ("select", "asyncio"):
            self.call(lambda: self.channel.close(self.connection.close))
        self.thread.join(20)
        assert not self.thread.is_alive(), "the consumer did not end"

    def cut(self) -> None:
        """End its connection as a network does."""
        impl = getattr(self.connection, "_impl", self.connection)
        impl._transport._sock.shutdown(2) if hasattr(impl._transport, "_sock") else impl._transport.abort()

    def _run(self) -> None:
        try:
            with tenancy.scope("ambient"):
                getattr(self, f"_by_{self._way}")()
        except BaseException as error:
            self.error = error
        finally:
            self._ready.set()

    def _opened(self) -> Any:
        self.connection = pika.BlockingConnection(pika.URLParameters(self.world.url))
        self.channel = SelectiveChannel(self.connection, self.world.queue, **self._options)
        self._ready.set()
        return self.channel

    def _by_callback(self) -> None:
        channel = self._opened()
        channel.basic_consume(self.world.queue, self.handle)
        channel.start_consuming()
        channel.close()
        self.connection.close()

    def _by_generator(self) -> None:
        channel = self._opened()
        for method, properties, body in channel.consume(self.world.queue, inactivity_timeout=0.1):
            if method is not None:
                assert tenancy.routing_key() == "ambient"
                with channel.scope(properties):
                    self.handle(channel, method, properties, body)
            if self._end:
                break
        channel.cancel()
        channel.close()
        self.connection.close()

    def _by_get(self) -> None:
        with self._opened() as channel:
            while not self._end:
                method, properties, body = channel.basic_get(self.world.queue)
                if method is None:
                    self.connection.sleep(0.02)
                    continue
                with channel.scope(properties):
                    self.handle(channel, method, properties, body)
        self.connection.close()

    def _begin(self, connection: Any) -> None:
        def opened(channel: Any) -> None:
            self.channel = channel
            channel.basic_consume(self.world.queue, self.handle, callback=lambda _: self._ready.set())

        def failed(_: Any, error: Exception) -> None:
            self.error = error
            self._ready.set()
            connection.close()

        SelectiveAsyncChannel(connection, self.world.queue, opened, failed, **self._options)

    def _by_select(self) -> None:
        self.connection = pika.SelectConnection(
            pika.URLParameters(self.world.url),
            on_open_callback=self._begin,
            on_close_callback=lambda connection, _: connection.ioloop.stop(),
        )
        self.connection.ioloop.start()

    def _by_asyncio(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.connection = AsyncioConnection(
            pika.URLParameters(self.world.url),
            on_open_callback=self._begin,
            on_close_callback=lambda *_: self.loop.stop(),
            custom_ioloop=self.loop,
        )
        self.loop.run_forever()
        self.loop.close()


class World:
    """
    One queue and one route store.

    Args:
        url: The broker.
        kind: ``classic`` or ``quorum``.
    """

    def __init__(self, url: str, kind: str = "classic") -> None:
        self.url = url
        self.queue = f"tenancy-{uuid.uuid4().hex[:12]}"
        self.arguments = {"x-queue-type": kind}
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        self.exchange = f"{self.queue}.all"
        self.channel.exchange_declare(self.exchange, "topic")
        self.channel.queue_declare(self.queue, durable=True, arguments=self.arguments)
        self.channel.queue_bind(self.queue, self.exchange, "order.#")
        self.store = MemoryStore(lease=LEASE)
        self.store.write([put_workload(WORKLOAD)])
        self.rabbit = RabbitBroker(url)
        self.readers: list[Reader] = []
        self._routes: list[LiveRoutes] = []
        self._number = 0

    def routes(self) -> LiveRoutes:
        """Return a live table."""
        routes = self.store.live()
        self._routes.append(routes)
        return routes

    def read(self, sandbox: str | None = None, way: str = "callback", **options: Any) -> Reader:
        """Start a consumer."""
        reader = Reader(self, sandbox, way, **options)
        self.readers.append(reader)
        return reader

    def send(self, *keys: str | None, **properties: Any) -> list[bytes]:
        """Publish a message for each key; its body says which it is."""
        bodies = []
        for key in keys:
            body = f"{self._number}:{key}".encode()
            self._number += 1
            sent = inject(pika.BasicProperties(headers={"other": 1}, delivery_mode=2, **properties), key=key)
            self.channel.basic_publish(self.exchange, "order.new", body, sent, mandatory=True)
            bodies.append(body)
        return bodies

    def controller(self) -> Controller:
        return Controller(self.store, rabbit=self.rabbit)

    def create(self, sandbox: str = "pr-1", **options: Any) -> None:
        self.controller().create(sandbox, [Fork(WORKLOAD, sandbox, queues={self.queue: ""})], deadline=20, **options)

    def delete(self, sandbox: str = "pr-1", **options: Any) -> None:
        self.controller().delete(sandbox, deadline=20, **options)

    def ready(self, queue: str | None = None) -> int:
        """Return how many messages are in a queue that nobody has in his hands."""
        return int(self.channel.queue_declare(queue or self.queue, passive=True).method.message_count)

    def close(self) -> None:
        for reader in self.readers:
            if reader.thread.is_alive():
                reader.close()
        for routes in self._routes:
            routes.close()
        self.channel.queue_delete(self.queue)
        self.channel.exchange_delete(self.exchange)
        self.connection.close()
        self.rabbit.close()


@contextmanager
def a_world(url: str, kind: str = "classic") -> Iterator[World]:
    """A world that is gone afterwards."""
    world = World(url, kind)
    try:
        yield world
    finally:
        world.close()


def once(sent: Sequence[bytes], *readers: Reader) -> bool:
    """Whether each of what was sent was handled; by one alone, and once, or it is an error."""
    got = Counter(body for reader in readers for body in reader.bodies)
    assert all(amount == 1 for amount in got.values()), {body: amount for body, amount in got.items() if amount > 1}
    return set(sent) <= got.keys()
