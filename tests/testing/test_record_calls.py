"""The recorder and what is no HTTP request: gRPC calls, and messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import aio_pika
import confluent_kafka
import grpc
import grpc.aio
import pytest
from confluent_kafka.serialization import StringSerializer
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient, GrpcInstrumentorClient

import tenancy
from tenancy.grpc import ClientInterceptor, aio_client_interceptors
from tenancy.messaging import confluent_kafka as kafka
from tenancy.messaging.aio_pika import publish
from tenancy.testing import record_hops
from tests.grpc.wire import ARITIES, acall, call, method, mirror, serving

Instrument = Callable[..., Any]

LOST = "carries no routing key, and the work is pr-42's"


@pytest.mark.parametrize("arity", ARITIES)
def test_grpc_calls(arity: str, instrument: Instrument) -> None:
    """A bare channel's call is wrong, with the method and the target; one with the interceptor beneath OpenTelemetry's is right."""
    with serving(mirror()) as target, tenancy.scope("pr-42"):
        with record_hops(check=False) as hops, grpc.insecure_channel(target) as channel:
            call(channel, arity)
        assert [(hop.client, hop.problem, hop.destination) for hop in hops] == [("grpc", LOST, "127.0.0.1")]
        assert hops[0].action == f"call {target} {method(arity)}"
        assert "test_record_calls.py" in (hops.report() or "") or "wire.py" in (hops.report() or "")
        instrument("grpc")
        GrpcInstrumentorClient().instrument()
        try:
            with record_hops() as hops, grpc.insecure_channel(target) as channel:
                call(channel, arity, [("authorization", "secret")])
        finally:
            GrpcInstrumentorClient().uninstrument()
        assert [hop.key for hop in hops] == ["pr-42"]


def test_all_ways_to_make_a_grpc_call() -> None:
    """Blocking, with its call, and as a future; each is one hop, with metadata by name or by place."""
    with serving(mirror()) as target, grpc.insecure_channel(target) as channel, record_hops() as hops, tenancy.scope("pr-42"):
        metadata = tuple(tenancy.inject([("a", "1")]))
        function = channel.unary_unary(method("unary_unary"))
        function(b"", 20, metadata)
        function.with_call(b"", timeout=20, metadata=metadata)
        function.future(b"", timeout=20, metadata=metadata).result(20)
        intercepted = grpc.intercept_channel(channel, ClientInterceptor()).unary_unary(method("unary_unary"))
        intercepted.future(b"", timeout=20).result(20)
        intercepted.with_call(b"", timeout=20)
        channel.stream_unary(method("stream_unary")).future(iter([b""]), timeout=20, metadata=metadata).result(20)
    assert [hop.key for hop in hops] == ["pr-42"] * 6


@pytest.mark.parametrize("arity", ARITIES)
async def test_grpc_aio_calls(arity: str, instrument: Instrument) -> None:
    """The same for channels of asyncio, bare, with interceptors, and instrumented by both."""
    with serving(mirror()) as target, tenancy.scope("pr-42"):
        async with grpc.aio.insecure_channel(target) as channel:
            with record_hops(check=False) as hops:
                await acall(channel, arity)
        assert [(hop.client, hop.problem, hop.destination) for hop in hops] == [("grpc.aio", LOST, "127.0.0.1")]
        async with grpc.aio.insecure_channel(target, interceptors=aio_client_interceptors()) as channel:
            with record_hops() as hops:
                await acall(channel, arity)
        assert [hop.key for hop in hops] == ["pr-42"]
        instrument("grpc")
        GrpcAioInstrumentorClient().instrument()
        try:
            async with grpc.aio.insecure_channel(target) as channel:
                with record_hops() as hops:
                    await acall(channel, arity)
        finally:
            GrpcAioInstrumentorClient().uninstrument()
        assert [hop.key for hop in hops] == ["pr-42"]


@pytest.mark.parametrize(
    ("target", "told"), [("dns:///example.com:443", True), ("ipv4:10.0.0.1:9,8.8.8.8:9", True), ("unix:/nowhere", False)]
)
def test_grpc_targets_are_judged_by_their_hosts(target: str, told: bool) -> None:
    """A stranger among them is one too many; a socket of this machine is none."""
    with record_hops(check=False) as hops, tenancy.scope("pr-42"), grpc.insecure_channel(target) as channel:
        future = channel.unary_unary(method("unary_unary")).future(b"", timeout=0.01, metadata=tuple(tenancy.inject([])))
        future.cancel()
    assert [hop.leaks for hop in hops] == [told]


@pytest.mark.service
async def test_published_messages(rabbitmq: str) -> None:
    """What aio-pika publishes without the key is wrong, by exchange and key; what our publish sends is right."""
    connection = await aio_pika.connect(rabbitmq)
    async with connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange("tenancy-hops", auto_delete=True)
        with record_hops(check=False) as hops, tenancy.scope("pr-42"):
            await exchange.publish(aio_pika.Message(b"", headers={"n": 1}), "order.made")
            await channel.default_exchange.publish(aio_pika.Message(b""), "orders", mandatory=False)
        assert [(hop.destination, hop.problem) for hop in hops] == [("tenancy-hops", LOST), ("orders", LOST)]
        assert "publish order.made to tenancy-hops, by aiormq" in (hops.report() or "")
        with record_hops() as hops, tenancy.scope("pr-42"):
            await publish(exchange, aio_pika.Message(b""), "order.made")
        assert [hop.key for hop in hops] == ["pr-42"]
        await exchange.delete()


def test_a_kafka_producer_is_wrapped() -> None:
    """Its class is not Python's to patch, so the code under test gets a wrapped one, which is the producer in all else."""
    bare = confluent_kafka.Producer({"bootstrap.servers": "127.0.0.1:9", "log_level": 0})
    with record_hops(check=False) as hops, tenancy.scope("pr-42"):
        producer: Any = hops.wrap(bare)
        producer.produce("orders", b"1")
        producer.produce("orders", value=b"2", headers=kafka.inject())
        producer.produce("orders", b"3", headers={"baggage": "user=ann"})
        producer.produce("orders", b"4", None, -1, None, None, 0, kafka.inject({"a": "1"}))
        producer.produce(topic="billing", value=b"5")
        assert len(producer) >= 5  # and what the broker that is not there has to say
        assert producer
        assert isinstance(producer, confluent_kafka.Producer)
        assert producer.purge() is None
    assert [(hop.destination, hop.problem) for hop in hops] == [
        ("orders", LOST),
        ("orders", None),
        ("orders", LOST),
        ("orders", None),
        ("billing", LOST),
    ]
    assert "produce to orders, by producer" in (hops.report() or "")
    bare.flush(0)


def test_any_producer_is_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that serializes, one of asyncio, a stand-in; what it raises and returns is what is raised and returned."""
    serializing = confluent_kafka.SerializingProducer(
        {"bootstrap.servers": "127.0.0.1:9", "log_level": 0, "value.serializer": StringSerializer()}
    )

    async def produce(topic: str, value: bytes | None = None, headers: Any = None) -> str:
        return f"{topic} {value!r}"

    def fail(topic: str) -> None:
        raise BufferError("the queue is full")

    with record_hops() as hops, tenancy.scope("pr-42"):
        hops.wrap(serializing).produce("orders", value="1", headers=kafka.inject())
        stand_in = hops.wrap(SimpleNamespace(produce=produce))
        assert asyncio.run(stand_in.produce("orders", b"2", headers=kafka.inject())) == "orders b'2'"
    serializing.purge()
    serializing.flush(0)
    with record_hops(check=False) as hops, tenancy.scope("pr-42"), pytest.raises(BufferError):
        hops.wrap(SimpleNamespace(produce=fail)).produce("orders")
    assert len(hops) == 1
    monkeypatch.setattr("tenancy.testing.hops.hop_of", lambda sighting: 1 / 0)
    with pytest.raises(AssertionError, match="could not be understood"), record_hops() as hops:
        hops.wrap(SimpleNamespace(produce=lambda topic: None)).produce("orders")
