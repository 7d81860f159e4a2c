"""
What a selective queue adds to a loop that consumes and acknowledges: real RabbitMQ, messages that the client has fetched beforehand.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import aio_pika
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import tenancy
from tenancy.messaging.aio_pika import selective_queue
from tenancy.messaging.rabbitmq.broker import RabbitBroker
from tenancy.messaging.rabbitmq.names import names_of
from tenancy.routes import Handover, LiveRoutes, State
from tenancy.routes.stores import put_handover, put_workload
from tenancy.testing import MemoryStore

from .harness import Case
from .http import Nowhere

__all__ = ["NAMES", "cases"]

#: What `cases` yields.
NAMES = ("rabbitmq_filter", "rabbitmq_forward", "rabbitmq_vs_otel")

_MESSAGES = 1000
_PREFETCH = 200
_WORKLOAD = "shop/orders"
_KEY = tenancy.RoutingKey("pr-1")
_BODY = json.dumps({"order": 12345, "note": "x" * 170}).encode()[:200]

Start = Callable[[Any, str, Callable[[Any], Awaitable[None]]], Awaitable[Callable[[], Awaitable[None]]]]


class _World:
    """
    A broker, an event loop of its own, and a route table in which pr-1 is forked.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.loop = asyncio.new_event_loop()
        self.store = MemoryStore(lease=10.0)
        self.queue = f"bench-{uuid.uuid4().hex[:8]}"
        row = Handover(_WORKLOAD, _KEY, State.ACTIVE, 1, str(_KEY), 1, queues={self.queue: ""})
        self.store.write([put_workload(_WORKLOAD), put_handover(row)])
        self.routes: LiveRoutes = self.store.live()
        self.names = names_of(self.queue, _KEY, 1)
        self.broker = RabbitBroker(url)
        self.do(self.open())
        self.broker.make(self.queue, self.names, {"durable": True}, key=_KEY)

    def do(self, step: Any) -> Any:
        return self.loop.run_until_complete(step)

    async def open(self) -> None:
        self.connection: Any = await aio_pika.connect(self.url)
        self.channel = await self.connection.channel()
        await self.channel.declare_queue(self.queue, durable=True)

    def close(self) -> None:
        self.broker.lock(self.names)
        self.broker.remove(self.names)
        self.broker.close()
        self.do(self.channel.queue_delete(self.queue))
        self.do(self.connection.close())

    async def fill(self, key: str | None) -> None:
        """Put the messages into the queue, each with headers of its own."""
        sending = []
        for _ in range(_MESSAGES):
            mark = uuid.uuid4().hex
            named = "" if key is None else f"sd-routing-key={key},"
            headers = {"traceparent": f"00-{mark}-00f067aa0ba902b7-01", "baggage": f"{named}user=u{mark[:16]},tier=gold"}
            message = aio_pika.Message(_BODY, headers=headers, message_id=mark, delivery_mode=1)
            sending.append(self.channel.default_exchange.publish(message, self.queue))
        await asyncio.gather(*sending)

    def variant(self, start: Start, key: str | None, *, forwarded: bool = False) -> Callable[[int], float]:
        """
        Return what consumes the messages once more, and says how long each of them took of this process's CPU time.

        Args:
            start: Starts consuming, with what handles a message, and returns what ends it.
            key: The key of the messages.
            forwarded: Whether the consumer sends them on, so that it is the sandbox's queue that fills.
        """

        async def run() -> float:
            await self.fill(key)
            done = asyncio.Event()
            handled = 0

            async def handle(message: Any) -> None:
                nonlocal handled
                await message.ack()
                handled += 1
                if handled == _MESSAGES:
                    done.set()

            connection = await aio_pika.connect(self.url)
            end = await start(connection, self.queue, handle)
            began = time.process_time_ns()  # messages come only now, while the loop runs
            if forwarded:
                while await self._left():
                    await asyncio.sleep(0.05)
            else:
                await done.wait()
            seconds = (time.process_time_ns() - began) / 1e9 / _MESSAGES
            await end()
            await connection.close()
            await (await self.channel.get_queue(self.names.queue)).purge()
            return seconds

        return lambda _: float(self.do(run()))

    async def _left(self) -> bool:
        queue = await self.channel.declare_queue(self.names.queue, passive=True)
        return (queue.declaration_result.message_count or 0) < _MESSAGES

    async def bare(self, connection: Any, name: str, handle: Any) -> Callable[[], Awaitable[None]]:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=_PREFETCH)
        queue = await channel.get_queue(name)
        tag = await queue.consume(handle)

        async def end() -> None:
            await queue.cancel(tag)

        return end

    async def ours(self, connection: Any, name: str, handle: Any) -> Callable[[], Awaitable[None]]:
        before = tenancy.settings()
        tenancy.configure(workload=_WORKLOAD, role="baseline")
        try:
            queue = await selective_queue(connection, name, routes=self.routes, durable=True, prefetch_count=_PREFETCH)
        finally:
            tenancy.configure(before)
        await queue.consume(handle)

        async def end() -> None:
            await queue.close()

        return end

    async def instrumented(self, connection: Any, name: str, handle: Any) -> Callable[[], Awaitable[None]]:
        from opentelemetry.instrumentation.aio_pika import AioPikaInstrumentor

        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(Nowhere()))
        instrumentor = AioPikaInstrumentor()
        instrumentor.instrument(tracer_provider=provider)
        try:
            return await self.bare(connection, name, handle)
        finally:
            instrumentor.uninstrument()


def cases(url: str, stack: ExitStack) -> Iterator[Case]:
    """
    Yield the cases.

    Args:
        url: A RabbitMQ broker.
        stack: Ends what they use.
    """
    world = _World(url)
    stack.callback(world.close)

    def over(seconds: Mapping[str, float]) -> float:
        return seconds["ours"] / seconds["bare"]

    plain = {"bare": world.variant(world.bare, None), "ours": world.variant(world.ours, None)}
    yield Case("rabbitmq_filter", 1.10, plain, over, "bare", "consume and acknowledge: ours / bare aio-pika")
    forwarded = {"bare": world.variant(world.bare, "pr-1"), "ours": world.variant(world.ours, "pr-1", forwarded=True)}
    yield Case("rabbitmq_forward", 1.8, forwarded, over, "bare", "a stream forwarded whole / bare consume and acknowledge")
    yield Case(
        "rabbitmq_vs_otel",
        0.75,
        {"ours": world.variant(world.ours, "pr-9"), "opentelemetry": world.variant(world.instrumented, "pr-9")},
        lambda seconds: seconds["ours"] / seconds["opentelemetry"],
        "ours",
        "ours / OTel-instrumented aio-pika consumer, with a key",
    )
