"""
The contract of propagation over a real broker, with a producer with key and a `SelectiveConsumer` of aiokafka.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

import tenancy
from tenancy.messaging.aiokafka import SelectiveConsumer, with_key
from tenancy.testing import MemoryRoutes
from tests.contract import Headers, PropagationContract
from tests.messaging.kafka.aio_support import make_topic
from tests.messaging.support import become, forks

pytestmark = pytest.mark.service


class Wire:
    """
    A thread with an event loop: a producer, a consumer whose `run` calls handlers, and a plain one that sees what was sent.
    """

    def __init__(self, kafka: str) -> None:
        self.waiting: dict[bytes, Future[Any]] = {}
        self.bodies: dict[bytes, Callable[[], Any]] = {}
        self._kafka = kafka
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._thread.start()
        self._ready.result(60)

    async def _main(self) -> None:
        self.loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self.handled, self.tapped = await make_topic(self._kafka), await make_topic(self._kafka)
        options = {"bootstrap_servers": self._kafka, "auto_offset_reset": "earliest", "fetch_max_wait_ms": 20}
        become(None)
        reader = SelectiveConsumer(self.handled, accept="all", routes=MemoryRoutes(forks()), **options)
        async with AIOKafkaProducer(bootstrap_servers=self._kafka) as producer:
            self.producer = producer
            async with reader, AIOKafkaConsumer(self.tapped, **options) as tap:
                with tenancy.scope("ambient"):
                    tasks = [asyncio.create_task(reader.run(self._handle, workers=50)), asyncio.create_task(self._tap(tap))]
                self._ready.set_result(None)
                await self._ended.wait()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _handle(self, record: Any) -> None:
        waiting = self.waiting.pop(record.key)
        await asyncio.sleep(0)
        try:
            waiting.set_result(self.bodies.pop(record.key)())
        except BaseException as error:
            waiting.set_exception(error)
        await asyncio.sleep(0)

    async def _tap(self, tap: Any) -> None:
        async for record in tap:
            self.waiting.pop(record.key).set_result(record.headers)

    def put(self, producer: Any, topic: str, mark: bytes, headers: Any) -> Future[Any]:
        """Send a record, in the context of the caller; the future is what became of it."""
        waiting = self.waiting[mark] = Future()
        asyncio.run_coroutine_threadsafe(producer.send(topic, b"value", mark, headers=headers), self.loop)
        return waiting

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(60)


@pytest.fixture(scope="class")
def wire(kafka: str) -> Iterator[Wire]:
    made = Wire(kafka)
    yield made
    made.close()


class TestContract(PropagationContract):
    """A handler of `run`."""

    @pytest.fixture(autouse=True)
    def _opened(self, wire: Wire) -> None:
        self.wire = wire

    async def send(self) -> Headers:
        waiting = self.wire.put(with_key(self.wire.producer), self.wire.tapped, uuid.uuid4().bytes, [("other", b"1")])
        return [(name, value.decode()) for name, value in await asyncio.wrap_future(waiting)]

    async def receive(self, headers: Headers, body: Callable[[], Any] = tenancy.routing_key) -> Any:
        mark = uuid.uuid4().bytes
        self.wire.bodies[mark] = body
        binary = [(name, value.encode()) for name, value in headers]
        return await asyncio.wrap_future(self.wire.put(self.wire.producer, self.wire.handled, mark, binary))
