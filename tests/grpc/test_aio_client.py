from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry import baggage
from opentelemetry.instrumentation.grpc import aio_client_interceptors as otel_aio_client_interceptors
from opentelemetry.sdk.trace import TracerProvider

import tenancy
from tenancy.context import attached
from tenancy.grpc import aio_client_interceptors
from tests.grpc.wire import ARITIES, Pairs, Service, acall, method, mirror, pairs, serving

KEY = ("baggage", "sd-routing-key=pr-42")


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with serving(mirror()) as target:
        yield target


@pytest.fixture
async def channel(target: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(target, interceptors=aio_client_interceptors()) as channel:
        yield channel


async def sent(channel: grpc.aio.Channel, metadata: Any = None, arity: str = "unary_unary") -> Pairs:
    return pairs(await acall(channel, arity, metadata))


@pytest.mark.parametrize("arity", ARITIES)
async def test_the_key_goes_out_once_and_first(channel: grpc.aio.Channel, arity: str) -> None:
    """Whatever the call's own metadata says of a key, the current one goes out, in one entry, before other people's members."""
    given = grpc.aio.Metadata(
        ("x-one", "1"),
        ("baggage", "a=%20b;p=1,sd-routing-key=stale"),
        ("payload-bin", b"\x00\xff"),
        ("baggage", "c=d"),
        ("ot-baggage-sd-routing-key", "stale"),
        ("tracestate", "vendor=1,sd-routing-key=stale"),
    )
    before = list(given)
    with tenancy.scope("pr-42"):
        wire = await sent(channel, given, arity)
    assert sorted(wire) == [
        ("baggage", "sd-routing-key=pr-42,a=%20b;p=1,c=d"),
        ("payload-bin", "00ff"),
        ("tracestate", "vendor=1"),
        ("x-one", "1"),
    ]
    assert list(given) == before


@pytest.mark.parametrize("given", [None, (), [], (("x", "1"),), grpc.aio.Metadata(("x", "1")), [("x-bin", b"\x00"), ("x", "1")]])
async def test_metadata_may_have_any_shape(channel: grpc.aio.Channel, given: Any) -> None:
    """Metadata may be absent, a sequence or grpc's own class, whatever its first value is."""
    with tenancy.scope("pr-42"):
        assert KEY in await sent(channel, given)
    assert KEY not in await sent(channel, given)


@pytest.mark.parametrize("arity", ["unary_stream", "stream_stream"])
async def test_responses_may_be_read_elsewhere(channel: grpc.aio.Channel, arity: str) -> None:
    """Responses that are read after the scope, or in another, belong to the key under which the call was made."""
    function = getattr(channel, arity)(method(arity))
    request: Any = iter([b"1"]) if arity == "stream_stream" else b"1"
    with tenancy.scope("pr-42"):
        responses = function(request)
    with tenancy.scope("pr-99"):
        assert pairs([part async for part in responses]) == [KEY]
        assert tenancy.routing_key() == "pr-99"


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_requests_are_produced_under_the_key(target: str, trusted: bool, kind: str) -> None:
    """A generator of requests has the key of the call, also where the call itself must not, and what it opens stays its own."""
    keys = []

    async def arequests() -> AsyncIterator[bytes]:
        for _ in range(3):
            keys.append(tenancy.routing_key())
            yield b"1"

    def requests() -> Iterator[bytes]:
        for _ in range(3):
            keys.append(tenancy.routing_key())
            yield b"1"

    async with grpc.aio.insecure_channel(target, interceptors=aio_client_interceptors(trusted=trusted)) as channel:
        with tenancy.scope("pr-42"):
            call = channel.stream_unary(method("stream_unary"))(arequests() if kind == "async" else requests())
        assert pairs([await call]) == ([KEY] if trusted else [])
    assert keys == ["pr-42"] * 3


async def test_calls_may_be_written_to(channel: grpc.aio.Channel) -> None:
    """A call whose requests are written one by one carries the key of where it was made."""
    with tenancy.scope("pr-42"):
        call = channel.stream_stream(method("stream_stream"))()
    await call.write(b"1")
    await call.done_writing()
    assert pairs([await call.read()]) == [KEY]
    assert await call.code() is grpc.StatusCode.OK


async def test_a_call_keeps_its_interface() -> None:
    """A call has cancel(), code(), details(), metadata and callbacks, as grpc gives it to any channel with interceptors."""

    def endless(request: Any, context: Any) -> Iterator[bytes]:
        while context.is_active():
            yield b"more"

    with serving(Service(endless=("unary_stream", endless))) as target:
        async with grpc.aio.insecure_channel(target, interceptors=aio_client_interceptors()) as channel:
            done = asyncio.Event()
            with tenancy.scope("pr-42"):
                call = channel.unary_stream(method("endless"))(b"1")
            call.add_done_callback(lambda _: done.set())
            assert isinstance(call, grpc.aio.UnaryStreamCall)
            assert await call.read() == b"more"
            assert list(await call.initial_metadata()) == []
            assert call.cancel()
            assert await call.code() is grpc.StatusCode.CANCELLED
            assert call.cancelled()
            await asyncio.wait_for(done.wait(), 10)


async def test_errors_pass(channel: grpc.aio.Channel) -> None:
    """The caller gets grpc's own error."""
    with tenancy.scope("pr-42"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(method("missing"))(b"1")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert tenancy.routing_key() == "pr-42"


@pytest.mark.parametrize("arity", ARITIES)
@pytest.mark.parametrize("traces", [True, False])
async def test_an_untrusted_channel_gets_no_key(target: str, arity: str, traces: bool) -> None:
    """Neither the current key nor one in the metadata goes out, also where OpenTelemetry injects baggage after us."""
    theirs = otel_aio_client_interceptors(TracerProvider()) if traces else []
    interceptors = [*aio_client_interceptors(trusted="api.two.example:443"), *theirs]
    async with grpc.aio.insecure_channel(target, interceptors=interceptors) as channel:
        with attached(baggage.set_baggage("a", "1")), tenancy.scope("pr-42"):
            wire = await sent(channel, [("baggage", "sd-routing-key=pr-42,a=1"), ("ot-baggage-sd-routing-key", "pr-42")], arity)
            assert tenancy.routing_key() == "pr-42"
        assert [pair for pair in wire if pair[0] != "traceparent"] == [("baggage", "a=1")]


@pytest.mark.parametrize("arity", ARITIES)
async def test_a_forwarded_key_survives_opentelemetry(target: str, arity: str) -> None:
    """A key that only the call's metadata has goes out, also where OpenTelemetry writes the current baggage over it."""
    interceptors = [*aio_client_interceptors(), *otel_aio_client_interceptors(TracerProvider())]
    async with grpc.aio.insecure_channel(target, interceptors=interceptors) as channel:
        with attached(baggage.set_baggage("a", "1")):
            wire = await sent(channel, [KEY], arity)
    assert dict(wire)["baggage"] == "sd-routing-key=pr-42,a=1"


async def test_switched_off_it_does_nothing(target: str) -> None:
    """With tenancy switched off details and requests pass through as they are."""
    tenancy.configure(enabled=False)
    given, requests = object(), iter([b"1"])

    async def continuation(*call: Any) -> Any:
        return call

    with tenancy.scope("pr-42"):
        *_, interceptor = aio_client_interceptors()
        assert await interceptor.intercept_stream_stream(continuation, given, requests) == (given, requests)  # type: ignore[attr-defined]
