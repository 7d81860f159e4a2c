from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import pytest

import tenancy
from tenancy.messaging import aio_pika as rabbit
from tenancy.messaging.aio_pika import consumer, declare_queue, publish, queue_name, synced
from tenancy.testing import MemoryRoutes
from tests.contract import Headers, PropagationContract
from tests.messaging.support import HEADERS, OWNERS, become, forks, live, write_table

pytestmark = pytest.mark.service

KINDS = list(HEADERS)
KEYS = {"pr-1": "pr-1", "pr-2": "pr-2", "pr-7": "pr-7"}


class Wire:
    """
    A connection on a thread of its own: messages for the handler, by three ways of consuming, and a queue on which to see what was sent.
    """

    def __init__(self, url: str, way: str) -> None:
        self.handler: Callable[[Any], Coroutine[Any, Any, Any]]
        self.loop = asyncio.new_event_loop()
        self._way = way
        self._waiting: dict[str, Future[Any]] = {}
        self._done = asyncio.Event()
        started: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: self.loop.run_until_complete(self._run(url, started)))
        self._thread.start()
        started.result(30)

    def put(self, *, tap: bool, headers: dict[str, Any], publish: Any = None) -> Future[Any]:
        """Publish a message, in the caller's context; the future is what became of it."""
        mark = uuid.uuid4().hex
        waiting = self._waiting[mark] = Future()
        message = aio_pika.Message(b"", headers=headers, message_id=mark)

        async def send() -> None:
            name = self.tapped if tap else self.handled
            # A plain channel call, which is never instrumented, where the headers have to be just these.
            if publish is None:
                channel = await self.channel.get_underlay_channel()
                await channel.basic_publish(b"", routing_key=name, exchange=self.exchange.name, properties=message.properties)
            else:
                await publish(self.exchange, message, name)

        asyncio.run_coroutine_threadsafe(send(), self.loop)
        return waiting

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._done.set)
        self._thread.join()
        self.loop.close()

    async def _run(self, url: str, started: Future[None]) -> None:
        try:
            with tenancy.scope("ambient"):  # the callbacks of a connection inherit the context in which it was made
                connection = await aio_pika.connect_robust(url)
        except BaseException as error:
            started.set_exception(error)
            raise
        async with connection:
            self.channel = await connection.channel()
            await self.channel.set_qos(prefetch_count=100)
            name = f"tenancy-{uuid.uuid4().hex[:12]}"
            self.handled, self.tapped = f"{name}-handled", f"{name}-tapped"
            self.exchange = await self.channel.declare_exchange(name, auto_delete=True)
            queues = [await self.channel.declare_queue(each, exclusive=True) for each in (self.handled, self.tapped)]
            for queue in queues:
                await queue.bind(self.exchange, queue.name)
            await queues[1].consume(self._tap, no_ack=True)
            with tenancy.scope("ambient"):
                running = asyncio.create_task(getattr(self, f"_by_{self._way}")(queues[0]))
            started.set_result(None)
            await self._done.wait()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _tap(self, message: Any) -> None:
        self._waiting.pop(message.message_id).set_result(message.headers)

    async def _by_callback(self, queue: Any) -> None:
        async def handle(message: Any) -> Any:  # so that the handler can be another one in each test
            return await self.handler(message)

        await queue.consume(handle)
        await self._done.wait()

    async def _by_iterator(self, queue: Any) -> None:
        async with queue.iterator() as messages:
            async for message in messages:
                await self._tell(message)

    async def _by_get(self, queue: Any) -> None:
        while not self._done.is_set():
            message = await queue.get(fail=False)
            if message is None:
                await asyncio.sleep(0.005)
            else:
                await self._tell(message)

    async def _tell(self, message: Any) -> None:
        try:
            await self.handler(message)
        except LookupError:  # told by the handler; the loop goes on
            pass

    def tell(self, message: Any, result: Any = None, error: BaseException | None = None) -> None:
        waiting = self._waiting.pop(message.message_id)
        if error is None:
            waiting.set_result(result)
        else:
            waiting.set_exception(error)


class OnTheWire(PropagationContract):
    """The contract, over a real broker."""

    repeats = False
    wire: Wire

    @pytest.fixture(autouse=True)
    def _handler(self, opened: Wire, routes: MemoryRoutes) -> None:
        become(None)
        routes.replace(forks())  # no forks: every key is the baseline's
        self.wire = opened
        self.bodies: dict[str, Callable[[], Any]] = {}

        @consumer(accept="all", routes=routes)
        async def handle(message: Any) -> None:
            body = self.bodies.pop(message.headers["mark"])
            try:
                async with message.process():
                    await asyncio.sleep(0)
                    result = body()
                    await asyncio.sleep(0)
            except BaseException as error:
                opened.tell(message, error=error)
                raise
            opened.tell(message, result)

        opened.handler = handle

    async def send(self) -> Headers:
        waiting = self.wire.put(tap=True, headers={"other": "1"}, publish=publish)
        return [(name, str(value)) for name, value in (await asyncio.wrap_future(waiting)).items()]

    async def receive(self, headers: Headers, body: Callable[[], Any] = tenancy.routing_key) -> Any:
        mark = uuid.uuid4().hex
        self.bodies[mark] = body
        return await asyncio.wrap_future(self.wire.put(tap=False, headers={"mark": mark, **dict(headers)}))


WAYS = ["callback", "iterator", "get"]


@pytest.fixture(scope="class", params=WAYS)
def wire(request: pytest.FixtureRequest, rabbitmq: str) -> Iterator[Wire]:
    made = Wire(rabbitmq, request.param)
    yield made
    made.close()


@pytest.fixture(scope="class")
def instrumented() -> Iterator[None]:
    """OpenTelemetry's instrumentation, with an SDK."""
    module = pytest.importorskip("opentelemetry.instrumentation.aio_pika")
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    instrumentor = module.AioPikaInstrumentor()
    instrumentor.instrument(tracer_provider=trace.TracerProvider())
    yield
    instrumentor.uninstrument()


@pytest.fixture(scope="class", params=WAYS)
def instrumented_wire(request: pytest.FixtureRequest, instrumented: None, rabbitmq: str) -> Iterator[Wire]:
    made = Wire(rabbitmq, request.param)
    yield made
    made.close()


class TestContract(OnTheWire):
    """Without OpenTelemetry's instrumentation."""

    @pytest.fixture
    def opened(self, wire: Wire) -> Wire:
        return wire


class TestInstrumentedContract(OnTheWire):
    """With it."""

    @pytest.fixture
    def opened(self, instrumented_wire: Wire) -> Wire:
        return instrumented_wire


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[Any, Any]]:
    """A connection, its channel, and what was declared on it removed after."""
    connection = await aio_pika.connect_robust(url)
    async with connection:
        yield connection, await connection.channel()


async def exchange_on(channel: Any) -> Any:
    return await channel.declare_exchange(f"tenancy-{uuid.uuid4().hex[:12]}", "topic", auto_delete=True)


async def publish_kinds(exchange: Any, kinds: list[str]) -> None:
    await asyncio.gather(
        *(
            exchange.publish(aio_pika.Message(str(number).encode(), headers=dict(HEADERS[kind])), f"order.{kind}")
            for number, kind in enumerate(kinds)
        )
    )


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


async def left_in(channel: Any, name: str) -> int:
    """How many messages a queue has, after its consumers are gone, so that none is in anybody's hands."""
    count: int = (await channel.declare_queue(name, durable=True, passive=True)).declaration_result.message_count
    return count


async def exactly_one_owner(url: str, routes: MemoryRoutes, way: str) -> None:
    base, log, handled = f"orders-{uuid.uuid4().hex[:8]}", [], [0]
    kinds = [KINDS[number % len(KINDS)] for number in range(300)]

    async with connected(url) as (_, channel):
        exchange = await exchange_on(channel)
        names = []
        async with connected(url) as (_, consuming):
            await consuming.set_qos(prefetch_count=20)
            loops = []
            for sandbox in (None, "pr-1", "pr-2"):
                become(sandbox)
                queue = await declare_queue(consuming, base, bindings=[(exchange.name, "order.#")], durable=True)
                names.append(queue.name)

                async def on_order(message: Any, sandbox: str | None = sandbox) -> None:
                    async with message.process():
                        await asyncio.sleep(0.001 * (int(message.body) % 7))  # so that acknowledgements come out of order
                        log.append((int(message.body), sandbox, tenancy.routing_key()))

                handler = consumer(routes=routes)(on_order)
                await synced(handler)

                async def one(message: Any, handler: Any = handler) -> None:
                    await handler(message)
                    handled[0] += 1

                async def by_iterator(queue: Any = queue, one: Any = one) -> None:
                    async with queue.iterator() as messages:
                        async for message in messages:
                            await one(message)

                if way == "callback":
                    await queue.consume(one)
                else:
                    loops.append(asyncio.create_task(by_iterator()))
            assert names == [base, f"{base}.pr-1", f"{base}.pr-2"]
            await publish_kinds(exchange, kinds)
            await until(lambda: handled[0] == 3 * len(kinds))
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
        assert [await left_in(channel, name) for name in names] == [0, 0, 0], "skipped messages are acknowledged"
        for name in names:
            await channel.queue_delete(name)
    assert sorted(log, key=lambda entry: entry[0]) == [(number, OWNERS[kind], KEYS.get(kind)) for number, kind in enumerate(kinds)]


@pytest.mark.parametrize("way", ["callback", "iterator"])
async def test_every_message_has_exactly_one_owner(rabbitmq: str, routes: MemoryRoutes, way: str) -> None:
    """The baseline and two sandboxes, each with its queue: each message is handled once, by its owner, and no queue keeps any."""
    await exactly_one_owner(rabbitmq, routes, way)


@pytest.mark.parametrize("way", ["callback", "iterator"])
async def test_every_message_has_exactly_one_owner_when_instrumented(
    instrumented: None, rabbitmq: str, routes: MemoryRoutes, way: str
) -> None:
    """The same with OpenTelemetry's instrumentation on."""
    await exactly_one_owner(rabbitmq, routes, way)


async def test_instrumentation_may_come_in_either_order(rabbitmq: str, routes: MemoryRoutes) -> None:
    """A handler decorated before the instrumentation was switched on is wrapped by it as well: in its span, with the key."""
    module = pytest.importorskip("opentelemetry.instrumentation.aio_pika")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry import trace

    become(None)
    seen: list[Any] = []

    @consumer(routes=routes)
    async def on_order(message: Any) -> None:
        async with message.process():
            seen.append((tenancy.routing_key(), type(trace.get_current_span()).__name__))

    instrumentor = module.AioPikaInstrumentor()
    instrumentor.instrument(tracer_provider=sdk.TracerProvider())
    try:
        async with connected(rabbitmq) as (_, channel):
            exchange = await exchange_on(channel)
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind(exchange, "#")
            await queue.consume(on_order)
            await publish_kinds(exchange, ["pr-7", "none"])
            await until(lambda: len(seen) == 2)
    finally:
        instrumentor.uninstrument()
    assert set(seen) == {("pr-7", "_Span"), (None, "_Span")}


async def test_a_message_of_the_default_exchange_is_not_lost(rabbitmq: str, routes: MemoryRoutes) -> None:
    """Published to the queue's name it reaches the baseline alone, which handles it although a sandbox owns it."""
    become(None)
    seen: list[Any] = []
    async with connected(rabbitmq) as (_, channel):
        queue = await channel.declare_queue(exclusive=True)

        @consumer(routes=routes)
        async def on_order(message: Any) -> None:
            async with message.process():
                seen.append(tenancy.routing_key())

        await queue.consume(on_order)
        await publish(channel.default_exchange, aio_pika.Message(b""), queue.name, key="pr-1")
        await until(lambda: seen)
    assert seen == ["pr-1"]


async def test_dead_letters(rabbitmq: str, routes: MemoryRoutes) -> None:
    """What the baseline rejects for its malformed key, and a sandbox because nobody else got it, arrives in the dead-letter queue once."""
    async with connected(rabbitmq) as (_, channel):
        exchange, dead = await exchange_on(channel), await exchange_on(channel)
        letters = await channel.declare_queue(exclusive=True)
        await letters.bind(dead, "#")
        base = f"orders-{uuid.uuid4().hex[:8]}"
        for sandbox in (None, "pr-1"):
            become(sandbox)
            queue = await declare_queue(
                channel,
                base,
                bindings=[(exchange, "order.#")],
                auto_delete=True,
                arguments={"x-dead-letter-exchange": dead.name},
            )

            @consumer(routes=routes, malformed="dead-letter")
            async def on_order(message: Any) -> None:
                await message.ack()

            await queue.consume(on_order)
        await publish_kinds(exchange, KINDS)
        await publish(channel.default_exchange, aio_pika.Message(b"unkeyed, to the sandbox's queue"), queue_name(base), key=None)
        found = []
        while len(found) < 2:
            letter = await letters.get(fail=False)
            if letter is not None:
                await letter.ack()
                found.append(letter.body)
        await asyncio.sleep(0.2)
        assert await letters.get(fail=False) is None
    assert sorted(found) == [str(KINDS.index("malformed")).encode(), b"unkeyed, to the sandbox's queue"]


async def test_a_message_that_waits_for_a_table_is_neither_lost_nor_spins(
    rabbitmq: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes back a few times at most, others go on meanwhile, and when the table is there it is handled once."""
    monkeypatch.setattr(rabbit, "_RETURN_SECONDS", 0.3)
    become(None, routes_deadline=0.1)
    path = tmp_path / "late.json"
    deliveries: list[str] = []
    handled: list[Any] = []

    @consumer(routes=live(path))
    async def on_order(message: Any) -> None:
        async with message.process():
            handled.append((int(message.body), tenancy.routing_key()))

    async def counting(message: Any) -> None:
        deliveries.append(message.body)
        try:
            await on_order(message)
        except tenancy.RoutesNotSyncedError:
            pass

    async with connected(rabbitmq) as (_, channel):
        await channel.set_qos(prefetch_count=10)
        exchange = await exchange_on(channel)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(exchange, "#")
        await queue.consume(counting)
        await publish_kinds(exchange, ["pr-7", "none", "none"])
        await asyncio.sleep(1.0)
        assert sorted(handled) == [(1, None), (2, None)]
        assert 2 <= deliveries.count(b"0") <= 4
        write_table(path, "pr-1")
        await until(lambda: len(handled) == 3)
        await asyncio.sleep(0.4)
    assert handled[2:] == [(0, "pr-7")]


class Proxy:
    """
    A TCP proxy that can cut its connections, to see a client lose its broker without stopping one that others use.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        target = self._target
        return f"{target.scheme}://{target.username}:{target.password}@127.0.0.1:{port}{target.path}"

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        self.cut()

    def cut(self) -> None:
        while self._writers:
            self._writers.pop().transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._writers += [writer, back]
        await asyncio.gather(self._copy(reader, back), self._copy(there, writer), return_exceptions=True)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()


async def test_a_sandbox_s_queue_survives_a_lost_connection(rabbitmq: str, routes: MemoryRoutes) -> None:
    """Deleted by the broker with the connection, the queue is declared, bound and consumed again, and skips are acknowledged again."""
    become("pr-1")
    seen: list[int] = []
    base = f"orders-{uuid.uuid4().hex[:8]}"

    @consumer(routes=routes)
    async def on_order(message: Any) -> None:
        async with message.process():
            seen.append(int(message.body))

    proxy = Proxy(rabbitmq)
    async with connected(rabbitmq) as (_, publishing), proxy as address:
        exchange = await exchange_on(publishing)
        keep = await publishing.declare_queue(exclusive=True)
        await keep.bind(exchange, "nothing")  # so that the exchange stays while no queue of the sandbox's is bound
        connection = await aio_pika.connect_robust(address, reconnect_interval=0.1)
        async with connection:
            channel = await connection.channel()
            queue = await declare_queue(channel, base, bindings=[(exchange.name, "order.#")], auto_delete=True)
            await queue.consume(on_order)
            await publish_kinds(exchange, KINDS)
            await until(lambda: len(seen) == 1)
            proxy.cut()

            async def deliveries() -> None:
                while len(seen) < 2:
                    await publish_kinds(exchange, KINDS)
                    await asyncio.sleep(0.1)

            await asyncio.wait_for(deliveries(), 30)
            await asyncio.sleep(0.2)
            state = await publishing.declare_queue(f"{base}.pr-1", auto_delete=True, passive=True)
            assert state.declaration_result.message_count == 0
    assert set(seen) == {KINDS.index("pr-1")}
