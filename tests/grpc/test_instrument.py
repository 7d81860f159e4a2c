from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry.instrumentation.grpc import (
    GrpcAioInstrumentorClient,
    GrpcAioInstrumentorServer,
    GrpcInstrumentorClient,
    GrpcInstrumentorServer,
)
from opentelemetry.sdk.trace import TracerProvider

import tenancy
import tenancy.grpc
from tenancy.grpc import AioServerInterceptor, ServerInterceptor, instrument, uninstrument
from tests.grpc.wire import ARITIES, REQUESTS, Service, acall, aconnected, call, connected, mirror, pairs, serving

KEY = ("baggage", "sd-routing-key=pr-42")
PATCHED = [
    (grpc, "insecure_channel"),
    (grpc, "secure_channel"),
    (grpc, "server"),
    (grpc.aio, "insecure_channel"),
    (grpc.aio, "secure_channel"),
    (grpc.aio, "server"),
]
ORIGINALS = [getattr(owner, name) for owner, name in PATCHED]


def current() -> list[Any]:
    return [getattr(owner, name) for owner, name in PATCHED]


@pytest.fixture(autouse=True)
def _undone() -> Iterator[None]:
    yield
    uninstrument()
    assert current() == ORIGINALS


@contextmanager
def instrumented(*, otel_first: bool | None) -> Iterator[None]:
    """Ours on, with OpenTelemetry's before or after, or without."""
    theirs = (GrpcInstrumentorClient(), GrpcInstrumentorServer(), GrpcAioInstrumentorClient(), GrpcAioInstrumentorServer())
    if otel_first is not True:
        instrument()
    if otel_first is not None:
        for instrumentor in theirs:
            instrumentor.instrument(tracer_provider=TracerProvider())
    if otel_first is True:
        instrument()
    try:
        yield
    finally:
        if otel_first is True:
            uninstrument()
        if otel_first is not None:
            for instrumentor in theirs:
                instrumentor.uninstrument()
        if otel_first is not True:
            uninstrument()


def test_it_patches_once_and_puts_everything_back() -> None:
    """Calling it again changes nothing, and undoing it restores the very originals."""
    instrument()
    once = current()
    assert all(patched is not original for patched, original in zip(once, ORIGINALS, strict=True))
    assert [inspect.signature(patched) for patched in once] == [inspect.signature(original) for original in ORIGINALS]
    instrument()
    assert current() == once
    uninstrument()
    assert current() == ORIGINALS
    uninstrument()
    assert current() == ORIGINALS


def test_switched_off_nothing_is_patched() -> None:
    """With tenancy switched off every function is the original."""
    tenancy.configure(enabled=False)
    instrument()
    assert all(patched is original for patched, original in zip(current(), ORIGINALS, strict=True))


def test_tenancy_instrument_switches_it_on() -> None:
    """The library's own instrument() reaches this adapter."""
    assert "grpc" in tenancy.instrument("grpc")
    assert grpc.insecure_channel is not ORIGINALS[0]
    tenancy.uninstrument()
    assert grpc.insecure_channel is ORIGINALS[0]


def key_of(request: Any, context: Any) -> bytes:
    return (tenancy.routing_key() or "none").encode()


def keys_of(request: Any, context: Any) -> Iterator[bytes]:
    yield key_of(request, context)


async def akey_of(request: Any, context: Any) -> bytes:
    if not isinstance(request, bytes):
        assert [part async for part in request] == list(REQUESTS)
    return key_of(request, context)


async def akeys_of(request: Any, context: Any) -> AsyncIterator[bytes]:
    yield key_of(request, context)


async def awrite(request: Any, context: Any) -> None:
    while await context.read() is not grpc.aio.EOF:
        pass
    await context.write(key_of(request, context))


BLOCKING = Service(**{arity: (arity, keys_of if arity.endswith("stream") else key_of) for arity in ARITIES})
ASYNCHRONOUS = Service(
    unary_unary=("unary_unary", akey_of),
    unary_stream=("unary_stream", akeys_of),
    stream_unary=("stream_unary", akey_of),
    stream_stream=("stream_stream", awrite),
)


@pytest.mark.parametrize("arity", ARITIES)
@pytest.mark.parametrize("otel_first", [None, True, False])
class TestEndToEnd:
    """A key goes from a scope to a handler without a line of code about it, whatever OpenTelemetry has patched, and when."""

    def test_sync(self, arity: str, otel_first: bool | None) -> None:
        """Channels and servers of grpc."""
        with instrumented(otel_first=otel_first), connected(BLOCKING, make=lambda pool, interceptors: grpc.server(pool)) as channel:
            with tenancy.scope("pr-42"):
                assert call(channel, arity) == [b"pr-42"]
            assert call(channel, arity) == [b"none"]

    async def test_asyncio(self, arity: str, otel_first: bool | None) -> None:
        """Channels and servers of grpc.aio, where coroutines that write work within OpenTelemetry's interceptor too."""
        with instrumented(otel_first=otel_first):
            async with aconnected(ASYNCHRONOUS, make=lambda pool, interceptors: grpc.aio.server(pool)) as channel:
                with tenancy.scope("pr-42"):
                    assert await acall(channel, arity) == [b"pr-42"]
                assert await acall(channel, arity) == [b"none"]


def elsewhere(original: Callable[..., Any], where: str) -> Callable[..., Any]:
    """Make channels that go to *where*, whatever target they are given, so that no resolver is asked for a made-up name."""

    def channel(*args: Any, target: str = "", **kwargs: Any) -> Any:
        return original(where, *args[1:], **kwargs)

    return channel


@pytest.mark.parametrize("otel_first", [None, True, False])
async def test_egress(otel_first: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel whose target is not trusted gets no key, whatever OpenTelemetry injects; one that is, or a private one, does."""
    with serving(mirror()) as target, monkeypatch.context() as patch:
        for owner in (grpc, grpc.aio):
            patch.setattr(owner, "insecure_channel", elsewhere(owner.insecure_channel, target))
        for host, expected in (("api.three.example:443", None), ("orders:50051", KEY[1]), (target, KEY[1])):
            with instrumented(otel_first=otel_first):
                with grpc.insecure_channel(host) as channel, tenancy.scope("pr-42"):
                    assert dict(pairs(call(channel, "unary_unary"))).get("baggage") == expected
                    assert dict(pairs(call(channel, "unary_stream"))).get("baggage") == expected
                async with grpc.aio.insecure_channel(target=host) as achannel:
                    with tenancy.scope("pr-42"):
                        assert dict(pairs(await acall(achannel, "unary_unary"))).get("baggage") == expected
                        assert dict(pairs(await acall(achannel, "stream_stream"))).get("baggage") == expected


class TestInterceptorsOfTheUser:
    """Interceptors that are given, by position or by name, stay."""

    async def test_on_a_channel(self) -> None:
        """A channel's own interceptors run before ours, so that ours has the last word."""
        seen = []

        class Mine(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
            async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
                seen.append(details.metadata)
                return await continuation(
                    details._replace(metadata=grpc.aio.Metadata(("baggage", "sd-routing-key=mine,a=1"))), request
                )

        instrument()
        with serving(mirror()) as target:
            made = [
                grpc.aio.insecure_channel(target, interceptors=(Mine(),)),
                grpc.aio.insecure_channel(target, None, None, [Mine()]),
                grpc.aio.secure_channel(target, grpc.local_channel_credentials(), None, None, None),
            ]
            for channel in made[:2]:
                with tenancy.scope("pr-42"):
                    assert pairs(await acall(channel, "unary_unary")) == [("baggage", "sd-routing-key=pr-42,a=1")]
            for channel in made:
                await channel.close()
        assert len(seen) == 2

    @pytest.mark.parametrize("position", [True, False])
    def test_on_a_server(self, position: bool) -> None:
        """A server's own interceptors run within the scope of ours."""
        seen = []

        class Mine(grpc.ServerInterceptor):  # type: ignore[type-arg]
            def intercept_service(self, continuation: Any, details: Any) -> Any:
                handler = continuation(details)

                def behavior(request: Any, context: Any) -> Any:
                    seen.append(tenancy.routing_key())
                    return handler.unary_unary(request, context)

                return grpc.unary_unary_rpc_method_handler(behavior)

        def make(pool: Any, interceptors: Any) -> grpc.Server:
            return grpc.server(pool, None, [Mine()]) if position else grpc.server(pool, interceptors=(Mine(),))

        instrument()
        with connected(BLOCKING, make=make) as channel, tenancy.scope("pr-42"):
            assert call(channel, "unary_unary") == [b"pr-42"]
        assert seen == ["pr-42"]

    async def test_ours_put_there_by_hand_stays_the_only_one(self) -> None:
        """A server interceptor of ours with its own policy is not joined by a second one with the default policy."""
        instrument()
        strict, astrict = ServerInterceptor(accept="none"), AioServerInterceptor(accept="none")
        assert tenancy.grpc.patching._served(ServerInterceptor, [strict]) == [strict]
        async with aconnected(ASYNCHRONOUS, astrict, make=grpc.aio.server) as channel:
            with tenancy.scope("pr-42"):
                assert await acall(channel, "unary_unary") == [b"none"]


def test_undone_beneath_somebody_elses_wrapper() -> None:
    """Where another library has wrapped ours, its wrapper stays and ours does nothing any more; switched on again, ours works once."""
    instrument()
    ours = grpc.insecure_channel

    def theirs(*args: Any, **kwargs: Any) -> Any:
        return ours(*args, **kwargs)

    grpc.insecure_channel = theirs
    try:
        uninstrument()
        assert grpc.insecure_channel is theirs
        with serving(mirror()) as target:
            with grpc.insecure_channel(target) as channel, tenancy.scope("pr-42"):
                assert pairs(call(channel, "unary_unary")) == []
            instrument()
            with grpc.insecure_channel(target) as channel, tenancy.scope("pr-42"):
                assert pairs(call(channel, "unary_unary")) == [KEY]
            uninstrument()
    finally:
        grpc.insecure_channel = ORIGINALS[0]
