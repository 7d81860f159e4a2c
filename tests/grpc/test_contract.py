from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal

import grpc
import grpc.aio
import pytest
from opentelemetry.instrumentation.grpc import aio_client_interceptors as otel_aio_client_interceptors
from opentelemetry.instrumentation.grpc import aio_server_interceptor as otel_aio_server_interceptor
from opentelemetry.instrumentation.grpc import client_interceptor as otel_client_interceptor
from opentelemetry.instrumentation.grpc import server_interceptor as otel_server_interceptor
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel as otel_intercept_channel
from opentelemetry.sdk.trace import TracerProvider

import tenancy
from tenancy.grpc import AioServerInterceptor, ClientInterceptor, ServerInterceptor, aio_client_interceptors
from tests.contract import Headers, PropagationContract, Rejected
from tests.grpc.wire import Desk, acall, aserving, call, mirror, pairs, serving

#: Where OpenTelemetry's interceptor stands, seen from ours.
Place = Literal["none", "outside", "inside"]

PROVIDER = TracerProvider()


def ordered(place: Place, ours: list[Any], theirs: list[Any]) -> list[Any]:
    return {"none": ours, "outside": [*theirs, *ours], "inside": [*ours, *theirs]}[place]


def intercepted(channel: grpc.Channel, place: Place) -> grpc.Channel:
    theirs = otel_client_interceptor(PROVIDER)
    if place == "inside":
        channel = otel_intercept_channel(channel, theirs)
    channel = grpc.intercept_channel(channel, ClientInterceptor())
    return otel_intercept_channel(channel, theirs) if place == "outside" else channel


def lower(headers: Headers) -> Headers:
    return [(name.lower(), value) for name, value in headers]


class GrpcContract(PropagationContract):
    malformed = "rejected"
    arity = "unary_unary"
    otel: Place = "none"

    mirror: str
    desk: Desk
    channel: grpc.Channel

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _mirror(cls) -> Iterator[None]:
        with serving(mirror()) as cls.mirror:
            yield

    async def receive(self, headers: Headers, body: Callable[[], Any] = tenancy.routing_key) -> Any:
        number = self.desk.put(body)
        try:
            await asyncio.to_thread(call, self.channel, self.arity, [*lower(headers), ("x-work", number)])
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise Rejected(error.details()) from error
        return self.desk.take(number)


class Blocking(GrpcContract):
    @pytest.fixture(autouse=True)
    def _server(self) -> Iterator[None]:
        self.desk = Desk()
        interceptors = ordered(self.otel, [ServerInterceptor()], [otel_server_interceptor(PROVIDER)])
        with (
            serving(self.desk.blocking(), *interceptors) as target,
            grpc.insecure_channel(target) as self.channel,
            grpc.insecure_channel(self.mirror) as plain,
        ):
            self.sender = intercepted(plain, self.otel)
            yield

    async def send(self) -> Headers:
        return pairs(call(self.sender, self.arity))


class Asynchronous(GrpcContract):
    kind: Literal["asynchronous", "writing", "blocking"] = "asynchronous"

    @pytest.fixture(autouse=True)
    async def _server(self) -> AsyncIterator[None]:
        self.desk = Desk()
        interceptors = ordered(self.otel, [AioServerInterceptor()], [otel_aio_server_interceptor(PROVIDER)])
        with tenancy.scope("pr-13"):  # the server's loop starts in it, which must not reach a handler
            serving = aserving(getattr(self.desk, self.kind)(), *interceptors)
            target = await serving.__aenter__()
        self.loop = asyncio.get_running_loop()
        with grpc.insecure_channel(target) as self.channel:
            async with self.sending() as self.sender:
                yield
        await serving.__aexit__(None, None, None)

    def sending(self) -> grpc.aio.Channel:
        interceptors = ordered(self.otel, aio_client_interceptors(), otel_aio_client_interceptors(PROVIDER))
        return grpc.aio.insecure_channel(self.mirror, interceptors=interceptors)

    async def send(self) -> Headers:
        if asyncio.get_running_loop() is self.loop:
            return pairs(await acall(self.sender, self.arity))
        async with self.sending() as channel:  # a channel belongs to a loop
            return pairs(await acall(channel, self.arity))


def _contracts() -> Iterator[type[GrpcContract]]:
    """One class for each way that a call can take."""
    places: tuple[Place, ...] = ("none", "outside", "inside")
    for place in places:
        for arity in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            yield _contract(Blocking, arity, place)
            yield _contract(Asynchronous, arity, place)
            # OpenTelemetry's asyncio server interceptor fails on blocking handlers, and on coroutines that write where it stands inside.
            if place == "none":
                yield _contract(Asynchronous, arity, place, kind="blocking")
            if place != "inside" and arity != "unary_unary":
                yield _contract(Asynchronous, arity, place, kind="writing")


def _contract(base: type[GrpcContract], arity: str, place: Place, **more: Any) -> type[GrpcContract]:
    words = [base.__name__, *more.values(), *arity.split("_"), "otel", place]
    name = "Test" + "".join(word.title() for word in words)
    if more:  # another kind of handler: sending is the same
        more["test_a_crowd_of_threads_does_not_mix"] = None
    return type(name, (base,), {"arity": arity, "otel": place, "__module__": __name__, **more})


for _made in _contracts():
    globals()[_made.__name__] = _made
