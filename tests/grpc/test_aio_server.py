from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry import context as otel
from opentelemetry import propagate
from opentelemetry.instrumentation.grpc import aio_server_interceptor as otel_aio_server_interceptor
from opentelemetry.sdk.trace import TracerProvider

import tenancy
from tenancy.context import Step, async_steps
from tenancy.grpc import AioServerInterceptor
from tests.grpc.test_server import unreadable
from tests.grpc.wire import ARITIES, Service, acall, aconnected, aserving, call, method, mirror, pairs

KEY = ("baggage", "sd-routing-key=pr-42")


async def handle(behavior: Callable[..., Any], *interceptors: Any, metadata: Any = None, arity: str = "unary_unary") -> list[bytes]:
    """Serve one call with one handler."""
    async with aserving(Service(only=(arity, behavior)), *interceptors) as target:
        with grpc.insecure_channel(target) as channel:  # asyncio's may report a race of its own where a stream is aborted at once
            return await asyncio.to_thread(call, channel, arity, metadata, "only")


async def status(behavior: Callable[..., Any], *interceptors: Any, metadata: Any = None, arity: str = "unary_unary") -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        await handle(behavior, *interceptors, metadata=metadata, arity=arity)
    return caught.value.code(), caught.value.details()


async def key_of(request: Any, context: Any) -> bytes:
    await asyncio.sleep(0)
    return (tenancy.routing_key() or "none").encode()


async def generated(request: Any, context: Any) -> AsyncIterator[bytes]:
    yield await key_of(request, context)
    yield await key_of(request, context)


async def written(request: Any, context: Any) -> None:
    await context.write(await key_of(request, context))


def blocking(request: Any, context: Any) -> bytes:
    return (tenancy.routing_key() or "none").encode()


def blocking_generator(request: Any, context: Any) -> Iterator[bytes]:
    yield blocking(request, context)
    yield blocking(request, context)


def blocking_list(request: Any, context: Any) -> list[bytes]:
    return [blocking(request, context)]


BLOCKING: tuple[Callable[..., Any], ...] = (blocking, blocking_generator, blocking_list)


class Handlers:
    async def bound(self, request: Any, context: Any) -> bytes:
        return await key_of(request, context)


KINDS: list[tuple[str, Callable[..., Any]]] = [
    ("unary_unary", key_of),
    ("unary_unary", Handlers().bound),
    ("unary_unary", functools.partial(key_of)),
    ("unary_unary", blocking),
    ("stream_unary", key_of),
    ("stream_unary", blocking),
    ("unary_stream", generated),
    ("unary_stream", written),
    ("unary_stream", blocking_generator),
    ("unary_stream", blocking_list),
    ("stream_stream", generated),
    ("stream_stream", written),
    ("stream_stream", blocking_generator),
]


@pytest.mark.parametrize(("arity", "behavior"), KINDS)
class TestEveryKindOfHandler:
    """Coroutines, async generators and coroutines that write; blocking functions and generators in grpc's thread pool."""

    async def test_it_has_the_key(self, arity: str, behavior: Callable[..., Any]) -> None:
        """The handler runs as grpc runs that kind, with the key of its call, or with none."""
        assert set(await handle(behavior, AioServerInterceptor(), metadata=[KEY], arity=arity)) == {b"pr-42"}
        assert set(await handle(behavior, AioServerInterceptor(), arity=arity)) == {b"none"}

    async def test_malformed_and_unavailable(self, arity: str, behavior: Callable[..., Any]) -> None:
        """A malformed key, or one that comes before the route table, ends the call with a status and a reason."""
        code, details = await status(behavior, AioServerInterceptor(), metadata=[("baggage", "sd-routing-key=PR_42")], arity=arity)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "'PR_42' is not a routing key" in details
        interceptor = AioServerInterceptor(routes=unreadable())
        code, details = await status(behavior, interceptor, metadata=[KEY], arity=arity)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "could not read its route table" in details
        assert set(await handle(behavior, interceptor, arity=arity)) == {b"none"}


@pytest.mark.parametrize(("arity", "behavior"), [(arity, kind) for arity, kind in KINDS if kind not in BLOCKING])
async def test_opentelemetry_outside(arity: str, behavior: Callable[..., Any]) -> None:
    """Within OpenTelemetry's interceptor all kinds work but the blocking ones, which it cannot run at all."""
    interceptors = [otel_aio_server_interceptor(TracerProvider()), AioServerInterceptor()]
    assert set(await handle(behavior, *interceptors, metadata=[KEY], arity=arity)) == {b"pr-42"}


@pytest.mark.parametrize("place", ["none", "outside", "inside"])
@pytest.mark.parametrize("arity", ARITIES)
async def test_a_refused_key_is_not_there(arity: str, place: str) -> None:
    """A key that is not accepted is not current, not in the metadata, and not in what a handler would inject downstream."""

    async def one(request: Any, context: Any) -> bytes:
        if not isinstance(request, bytes):
            assert [part async for part in request] == [b"1", b"2", b"3"]
        assert "pr-42" not in str(context.invocation_metadata())
        assert {entry.key: entry.value for entry in context.invocation_metadata()}["baggage"] == "a=1"
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        assert "pr-42" not in str(carrier)
        return (tenancy.routing_key() or "none").encode()

    async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
        yield await one(request, context)

    theirs, ours = otel_aio_server_interceptor(TracerProvider()), AioServerInterceptor(accept="none")
    interceptors = {"none": [ours], "outside": [theirs, ours], "inside": [ours, theirs]}[place]
    metadata = [("baggage", "sd-routing-key=pr-42,a=1"), ("uberctx-sd-routing-key", "pr-42")]
    behavior = many if arity.endswith("stream") else one
    assert await handle(behavior, *interceptors, metadata=metadata, arity=arity) == [b"none"]


@pytest.mark.parametrize("arity", ARITIES)
async def test_blocking_handlers_see_clean_metadata(arity: str) -> None:
    """In grpc's thread pool too the metadata does not show a refused key."""
    async with aserving(mirror(), AioServerInterceptor(accept="none")) as target:
        with grpc.insecure_channel(target) as channel:
            metadata = [("x", "1"), ("baggage", "sd-routing-key=pr-42,a=1")]
            assert pairs(await asyncio.to_thread(call, channel, arity, metadata)) == [("x", "1"), ("baggage", "a=1")]


async def test_the_stand_in_is_whole() -> None:
    """Where metadata is hidden the context still does all that grpc's own does, and is one for isinstance."""
    kinds = []

    async def plain(request: Any, context: Any) -> bytes:
        kinds.append(type(context))
        return b""

    async def behavior(request: Any, context: Any) -> None:
        assert isinstance(context, kinds[0])
        assert await context.read() == b"1"
        await context.send_initial_metadata((("first", "1"),))
        context.set_trailing_metadata((("last", "2"),))
        await context.write(b"response")
        await context.abort(grpc.StatusCode.NOT_FOUND, "nothing")

    await handle(plain, AioServerInterceptor(), metadata=[KEY])
    interceptor = AioServerInterceptor(accept="none")
    async with aconnected(Service(only=("stream_stream", behavior)), interceptor) as channel:
        responses = channel.stream_stream(method("only"))(metadata=(KEY,))
        await responses.write(b"1")
        assert await responses.read() == b"response"
        with pytest.raises(grpc.aio.AioRpcError):
            await responses.read()
        assert await responses.code() is grpc.StatusCode.NOT_FOUND
        assert await responses.details() == "nothing"
        assert ("first", "1") in list(await responses.initial_metadata())
        assert ("last", "2") in list(await responses.trailing_metadata())


class TestScope:
    """While a handler runs, and after it."""

    async def test_the_servers_own_context_has_no_say(self) -> None:
        """A server that is started under some key does not give it to its calls."""
        with tenancy.scope("pr-13"):
            assert await handle(key_of, AioServerInterceptor()) == [b"none"]
            assert await handle(generated, AioServerInterceptor(), arity="unary_stream") == [b"none"] * 2
            assert tenancy.routing_key() == "pr-13"

    @pytest.mark.parametrize("arity", ["unary_unary", "unary_stream"])
    @pytest.mark.parametrize("end", ["raises", "aborts", "cancelled"])
    async def test_the_context_is_restored_however_it_ends(self, arity: str, end: str) -> None:
        """An exception, an abort or a cancellation leaves the call's task with what was current before the handler."""
        started, after = asyncio.Event(), asyncio.get_running_loop().create_future()

        class Outer(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
            """What a call's task has current when our handler is through."""

            async def intercept_service(self, continuation: Any, details: Any) -> Any:
                handler = await continuation(details)

                async def one(request: Any, context: Any) -> Any:
                    before = otel.get_current()
                    try:
                        return await handler.unary_unary(request, context)
                    finally:
                        after.set_result(otel.get_current() is before and tenancy.routing_key() is None)

                async def many(request: Any, context: Any) -> Any:
                    before = otel.get_current()
                    try:
                        async for response in handler.unary_stream(request, context):
                            yield response
                    finally:
                        after.set_result(otel.get_current() is before and tenancy.routing_key() is None)

                if arity == "unary_unary":
                    return grpc.unary_unary_rpc_method_handler(one)
                return grpc.unary_stream_rpc_method_handler(many)

        async def end_it(request: Any, context: Any) -> bytes:
            assert tenancy.routing_key() == "pr-42"
            started.set()
            if end == "aborts":
                await context.abort(grpc.StatusCode.ABORTED, "stop")
            if end == "raises":
                raise LookupError("the handler failed")
            await asyncio.sleep(60)
            return b""

        async def end_stream(request: Any, context: Any) -> AsyncIterator[bytes]:
            yield b"first"
            yield await end_it(request, context)

        service = Service(only=(arity, end_it if arity == "unary_unary" else end_stream))
        async with aconnected(service, Outer(), AioServerInterceptor()) as channel:
            made = getattr(channel, arity)(method("only"))(b"1", metadata=(KEY,))
            if arity == "unary_stream":
                assert await made.read() == b"first"
            await asyncio.wait_for(started.wait(), 10)
            if end == "cancelled":
                made.cancel()
            with pytest.raises((grpc.RpcError, asyncio.CancelledError)):
                await (made.read() if arity == "unary_stream" else made)
            assert await asyncio.wait_for(after, 10)

    async def test_a_cancelled_stream_ends_under_its_key(self) -> None:
        """The finally of a generator that the caller stops reading still has the key."""
        ended = asyncio.get_running_loop().create_future()

        async def behavior(request: Any, context: Any) -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"more"
                    await asyncio.sleep(0.01)
            finally:
                ended.set_result(tenancy.routing_key())

        async with aconnected(Service(only=("unary_stream", behavior)), AioServerInterceptor()) as channel:
            stream = channel.unary_stream(method("only"))(b"", metadata=(KEY,))
            assert await stream.read() == b"more"
            stream.cancel()
            assert await asyncio.wait_for(ended, 10) == "pr-42"

    async def test_each_step_has_the_key_whichever_task_takes_it(self) -> None:
        """An async generator keeps its key when its steps run in different tasks, and when it is closed half-way."""
        ended = []

        async def body() -> AsyncIterator[Any]:
            try:
                while True:
                    yield tenancy.routing_key()
            finally:
                ended.append(tenancy.routing_key())

        with tenancy.scope("pr-42"):
            steps = async_steps(body(), Step(otel.get_current()))

        async def take() -> Any:
            with tenancy.scope("pr-99"):
                found = await anext(steps)
                return found, tenancy.routing_key()

        for _ in range(3):
            assert await asyncio.create_task(take()) == ("pr-42", "pr-99")
        await asyncio.create_task(steps.aclose())
        assert ended == ["pr-42"]
        assert tenancy.routing_key() is None


async def test_methods_that_nobody_serves() -> None:
    """A method without a handler is unimplemented, as ever."""
    async with aconnected(Service(), AioServerInterceptor()) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await acall(channel, "unary_unary", (KEY,))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_switched_off_the_handler_is_the_original() -> None:
    """With tenancy switched off the interceptor returns what it is given."""
    tenancy.configure(enabled=False)
    handler = object()

    async def continuation(details: Any) -> Any:
        return handler

    assert await AioServerInterceptor(accept="known").intercept_service(continuation, None) is handler
