"""
What the gRPC tests share: handlers and calls of every kind, on bytes, without a schema.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import grpc.aio

ARITIES = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
MAKERS = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}
REQUESTS = (b"1", b"2", b"3")

Pairs = list[tuple[str, str]]


def method(name: str) -> str:
    return f"/tenancy.Test/{name}"


class Service(grpc.GenericRpcHandler):
    """Handlers by method name: name -> (arity, behaviour)."""

    def __init__(self, **handlers: tuple[str, Callable[..., Any]]) -> None:
        self.handlers = {method(name): MAKERS[arity](behavior) for name, (arity, behavior) in handlers.items()}

    def service(self, handler_call_details: Any) -> Any:
        return self.handlers.get(handler_call_details.method)


@contextmanager
def serving(service: Service, *interceptors: Any, make: Any = grpc.server, workers: int = 20) -> Iterator[str]:
    """Run a sync server; yields its target."""
    with ThreadPoolExecutor(workers) as pool:
        server = make(pool, interceptors=interceptors)
        server.add_generic_rpc_handlers((service,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(0).wait(5)


@asynccontextmanager
async def aserving(service: Service, *interceptors: Any, make: Any = grpc.aio.server) -> AsyncIterator[str]:
    """Run an asyncio server in this loop; yields its target."""
    pool = ThreadPoolExecutor(20)
    server = make(pool, interceptors=list(interceptors))
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
        await asyncio.to_thread(pool.shutdown)  # its threads wait for this loop


@contextmanager
def connected(service: Service, *interceptors: Any, **more: Any) -> Iterator[grpc.Channel]:
    """Run a sync server; yields a channel to it."""
    with serving(service, *interceptors, **more) as target, grpc.insecure_channel(target) as channel:
        yield channel


@asynccontextmanager
async def aconnected(service: Service, *interceptors: Any, **more: Any) -> AsyncIterator[grpc.aio.Channel]:
    """Run an asyncio server; yields a channel to it."""
    async with aserving(service, *interceptors, **more) as target, grpc.aio.insecure_channel(target) as channel:
        yield channel


def call(channel: Any, arity: str, metadata: Any = None, name: str | None = None, requests: Any = None) -> list[bytes]:
    """Make one call and return all its responses."""
    function = getattr(channel, arity)(method(name or arity))
    request = iter(REQUESTS if requests is None else requests) if arity.startswith("stream") else b"1"
    response = function(request, metadata=metadata, timeout=20)
    return list(response) if arity.endswith("stream") else [response]


async def acall(channel: Any, arity: str, metadata: Any = None, name: str | None = None, requests: Any = None) -> list[bytes]:
    """Make one call of grpc.aio and return all its responses."""
    function = getattr(channel, arity)(method(name or arity))
    request = iter(REQUESTS if requests is None else requests) if arity.startswith("stream") else b"1"
    response = function(request, metadata=metadata, timeout=20)
    return [part async for part in response] if arity.endswith("stream") else [await response]


def seen(context: Any) -> bytes:
    """The metadata of a call, as a response."""
    return json.dumps(
        [(name, value if isinstance(value, str) else value.hex()) for name, value in context.invocation_metadata()]
    ).encode()


def pairs(responses: list[bytes]) -> Pairs:
    return [(name, value) for name, value in json.loads(responses[0]) if name != "user-agent"]


def mirror() -> Service:
    """A service that answers with the metadata that it was sent, for every arity."""

    def one(request: Any, context: Any) -> bytes:
        for _ in request if not isinstance(request, bytes) else ():
            pass
        return seen(context)

    def many(request: Any, context: Any) -> Iterator[bytes]:
        yield one(request, context)

    return Service(**{arity: (arity, many if arity.endswith("stream") else one) for arity in ARITIES})


class Desk:
    """Hands work to handlers by number, and keeps what came of it."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._work: dict[str, Callable[[], Any]] = {}
        self._results: dict[str, tuple[bool, Any]] = {}

    def put(self, body: Callable[[], Any]) -> str:
        number = str(next(self._numbers))
        self._work[number] = body
        return number

    def work(self, context: Any) -> bytes:
        """Do the work that a call's metadata names."""
        number = dict(context.invocation_metadata())["x-work"]
        try:
            self._results[number] = True, self._work.pop(number)()
        except Exception as error:
            self._results[number] = False, error
            raise
        return b"done"

    def take(self, number: str) -> Any:
        good, result = self._results.pop(number)
        if good:
            return result
        raise result

    def blocking(self) -> Service:
        def unary_unary(request: Any, context: Any) -> bytes:
            return self.work(context)

        def unary_stream(request: Any, context: Any) -> Iterator[bytes]:
            yield b"first"
            yield self.work(context)

        def stream_unary(requests: Any, context: Any) -> bytes:
            assert len(list(requests)) == len(REQUESTS)
            return self.work(context)

        def stream_stream(requests: Any, context: Any) -> Iterator[bytes]:
            for number, request in enumerate(requests):
                yield self.work(context) if number == 1 else request

        handlers = (unary_unary, unary_stream, stream_unary, stream_stream)
        return Service(**{handler.__name__: (handler.__name__, handler) for handler in handlers})

    def asynchronous(self) -> Service:
        async def unary_unary(request: Any, context: Any) -> bytes:
            await asyncio.sleep(0)
            result = self.work(context)
            await asyncio.sleep(0)
            return result

        async def unary_stream(request: Any, context: Any) -> AsyncIterator[bytes]:
            yield b"first"
            await asyncio.sleep(0)
            yield self.work(context)
            await asyncio.sleep(0)

        async def stream_unary(requests: Any, context: Any) -> bytes:
            assert [request async for request in requests] == list(REQUESTS)
            return self.work(context)

        async def stream_stream(requests: Any, context: Any) -> AsyncIterator[bytes]:
            number = 0
            async for request in requests:
                yield self.work(context) if number == 1 else request
                number += 1

        handlers = (unary_unary, unary_stream, stream_unary, stream_stream)
        return Service(**{handler.__name__: (handler.__name__, handler) for handler in handlers})

    def writing(self) -> Service:
        async def unary_stream(request: Any, context: Any) -> None:
            await context.write(b"first")
            await context.write(self.work(context))

        async def stream_unary(requests: Any, context: Any) -> bytes:
            while await context.read() is not grpc.aio.EOF:
                pass
            return self.work(context)

        async def stream_stream(requests: Any, context: Any) -> None:
            number = 0
            while (request := await context.read()) is not grpc.aio.EOF:
                await context.write(self.work(context) if number == 1 else request)
                number += 1

        handlers = (unary_stream, stream_unary, stream_stream)
        return Service(**{handler.__name__: (handler.__name__, handler) for handler in handlers})
