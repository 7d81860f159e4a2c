from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pika
import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.instrumentation.pika import PikaInstrumentor
from opentelemetry.sdk.trace import TracerProvider

import tenancy
from tenancy.context import attached
from tenancy.messaging.pika import SelectiveChannel, inject, with_key
from tests.messaging.rabbitmq.pika_support import WORKLOAD, World, a_world, once, wait_for

pytestmark = [pytest.mark.service, pytest.mark.slow]


@pytest.fixture(params=["classic", "quorum"])
def world(rabbitmq: str, request: pytest.FixtureRequest) -> Iterator[World]:
    """A world in which OpenTelemetry has instrumented pika."""
    instrumentor = PikaInstrumentor()
    instrumentor.instrument(tracer_provider=TracerProvider())
    try:
        with a_world(rabbitmq, request.param) as world:
            yield world
    finally:
        instrumentor.uninstrument()


@pytest.mark.parametrize("way", ["callback", "generator", "asyncio"])
def test_each_has_one_owner(world: World, way: str) -> None:
    """While a sandbox comes and goes each message is handled once, as it was published."""
    baseline = world.read(way=way)
    fork = world.read("pr-1", way)
    first = world.send("pr-1", None)
    wait_for(lambda: once(first, baseline))
    world.create()
    second = world.send("pr-1", None, "pr-1")
    wait_for(lambda: once([*first, *second], baseline, fork))
    assert fork.bodies == [second[0], second[2]]
    assert {seen.key for seen in fork.seen} == {"pr-1"}
    assert {seen.properties.headers["baggage"] for seen in fork.seen} == {"sd-routing-key=pr-1"}
    assert all(not any(name.startswith("x-tenancy") for name in seen.properties.headers) for seen in fork.seen)
    world.delete()
    third = world.send("pr-1", None)
    wait_for(lambda: once([*first, *second, *third], baseline, fork))
    assert {seen.key for seen in baseline.seen} <= {None, "pr-1"}


def test_ambient_baggage_does_not_get_in(world: World) -> None:
    """Neither a copy that is sent on nor a message without a key takes over what is current where the connection is read."""
    tenancy.configure(workload=WORKLOAD, role="baseline")
    fork = world.read("pr-1")
    world.create()
    tenancy.configure(workload=WORKLOAD, role="baseline", sandbox=None)
    connection = pika.BlockingConnection(pika.URLParameters(world.url))
    channel = SelectiveChannel(connection, world.queue, routes=world.routes(), durable=True, arguments=world.arguments)
    got: list[Any] = []

    def handle(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        got.append((body, tenancy.routing_key(), trace.get_current_span().get_span_context().is_valid))
        channel.basic_ack(method.delivery_tag)

    channel.basic_consume(world.queue, handle)
    forwarded = world.send("pr-1")
    plain = b"no headers"
    with attached(otel.set_value("suppress_instrumentation", True)):
        world.channel.basic_publish("", world.queue, plain, pika.BasicProperties())
    token = otel.attach(baggage.set_baggage("sd-routing-key", "ambient", baggage.set_baggage("user", "u1")))
    try:
        end = time.monotonic() + 10
        while not (got and fork.bodies) and time.monotonic() < end:
            connection.process_data_events(0.1)
    finally:
        otel.detach(token)
    channel.close()
    connection.close()
    assert got == [(plain, None, True)]
    assert fork.bodies == forwarded
    assert fork.seen[0].properties.headers["baggage"] == "sd-routing-key=pr-1"


def test_properties_that_are_used_again(world: World) -> None:
    """The instrumentation writes into the properties that it gets: those are new ones each time, and a key that is passed on stays."""
    with pika.BlockingConnection(pika.URLParameters(world.url)) as connection:
        channel = with_key(connection.channel())
        properties = pika.BasicProperties(headers={"x-tries": 1})
        with tenancy.scope("pr-1"):
            channel.basic_publish("", world.queue, b"1", properties)
        channel.basic_publish("", world.queue, b"2", properties)
        token = otel.attach(baggage.set_baggage("user", "u1"))
        try:
            channel.basic_publish("", world.queue, b"3", inject(key="pr-2"))
        finally:
            otel.detach(token)
        assert properties.headers == {"x-tries": 1}
        wait_for(lambda: world.ready() == 3)
        got = [channel.basic_get(world.queue, auto_ack=True)[1].headers.get("baggage") for _ in range(3)]
    assert got[:2] == ["sd-routing-key=pr-1", None]
    assert set(got[2].split(",")) == {"sd-routing-key=pr-2", "user=u1"}
