"""
aiokafka without a broker: sending, the decorator, and what a `SelectiveConsumer` takes.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.structs import ConsumerRecord

import tenancy
from tenancy import ConfigurationError, IdentityError, InvalidRoutingKeyError
from tenancy.messaging import aiokafka as kafka
from tenancy.messaging.aiokafka import SelectiveConsumer, consumer, group_id, inject, synced, with_key
from tenancy.testing import MemoryRoutes
from tests.messaging.support import HEADERS, OWNERS, WORKLOAD, become


def record(kind: str) -> Any:
    """Return a record of one kind."""
    headers = tuple((name, value.encode()) for name, value in HEADERS[kind])
    return ConsumerRecord("orders", 0, 7, 0, 0, None, b"value", None, -1, 5, headers)


async def seen(message: Any) -> Any:
    """A handler that tells which key it had."""
    return ("handled", tenancy.routing_key())


# Sending


def test_headers_of_others_stay_and_ours_stands_once() -> None:
    """A stale key is replaced by one member, first; whatever else is there stays, and what was given is not changed."""
    headers = [("trace", b"\xff"), ("baggage", b"a=1,sd-routing-key=old"), ("Baggage", b"b=2")]
    before = list(headers)
    assert inject(headers, key="pr-42") == [("trace", b"\xff"), ("baggage", b"sd-routing-key=pr-42,a=1,b=2")]
    assert headers == before
    assert inject(headers, key=None) == [("trace", b"\xff"), ("baggage", b"a=1,b=2")]
    with tenancy.scope("pr-42"):
        ours = ("baggage", b"sd-routing-key=pr-42")
        assert inject() == inject(()) == inject({}) == [ours]
        assert inject({"a": b"1"}) == inject((("a", b"1"),)) == [("a", b"1"), ours]
    assert inject() == []
    assert inject(record("pr-1").headers) == [("baggage", b"sd-routing-key=pr-1,a=1")]
    with pytest.raises(InvalidRoutingKeyError):
        inject(key="PR 1")


class Batch:
    """Notes what is appended."""

    def __init__(self) -> None:
        self.appended: list[Any] = []

    def append(self, *, timestamp: Any, key: Any, value: Any, headers: Any = ()) -> int:
        self.appended.append((timestamp, key, value, headers))
        return len(self.appended)


class Producer(AIOKafkaProducer):  # type: ignore[misc]
    """Notes what is sent."""

    def __init__(self) -> None:
        self._closed = True
        self.sent: list[Any] = []
        self.started = 0

    async def start(self) -> None:
        self.started += 1

    async def stop(self) -> None:
        self.started -= 1

    async def send(
        self, topic: Any, value: Any = None, key: Any = None, partition: Any = None, timestamp_ms: Any = None, headers: Any = None
    ) -> Any:
        self.sent.append((topic, value, key, partition, timestamp_ms, headers))
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        done.set_result("done")
        return done

    def create_batch(self) -> Batch:
        return Batch()


async def test_a_producer_with_key_sends_it() -> None:
    """Every way to send carries the current key, arguments and results are the producer's, and the producer is not changed."""
    producer = Producer()
    keyed = with_key(producer)
    ours = ("baggage", b"sd-routing-key=pr-42")
    assert isinstance(keyed, AIOKafkaProducer)
    async with keyed as entered:
        assert entered is keyed
        assert producer.started == 1
        with tenancy.scope("pr-42"):
            await (await keyed.send("orders", b"1", b"k", 3, 4, [("a", b"1")]))
            assert await keyed.send_and_wait("orders", value=b"2", headers=[("baggage", b"sd-routing-key=old")]) == "done"
            batch = keyed.create_batch()
            assert batch.append(timestamp=None, key=None, value=b"3") == 1
            assert batch.append(timestamp=5, key=b"k", value=b"4", headers=[("a", b"1")]) == 2
            await producer.send("orders", b"5")
        await keyed.send("orders", b"6")
    assert producer.started == 0
    assert producer.sent == [
        ("orders", b"1", b"k", 3, 4, [("a", b"1"), ours]),
        ("orders", b"2", None, None, None, [ours]),
        ("orders", b"5", None, None, None, None),
        ("orders", b"6", None, None, None, []),
    ]
    assert batch.appended == [(None, None, b"3", [ours]), (5, b"k", b"4", [("a", b"1"), ours])]
    for name in ("send", "send_and_wait"):
        wanted = list(inspect.signature(getattr(AIOKafkaProducer, name)).parameters)[1:]
        assert list(inspect.signature(getattr(keyed, name)).parameters) == wanted
    tenancy.configure(enabled=False)
    assert with_key(producer) is producer


# The decorator


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize("sandbox", [None, "pr-1", "pr-2"])
async def test_only_the_owner_handles(routes: MemoryRoutes, sandbox: str | None, kind: str) -> None:
    """A record goes to the sandbox that forks the workload under its key, in every other case to the baseline; with its key if known."""
    become(sandbox)
    handler = consumer(routes=routes)(seen)
    await synced(handler)
    with tenancy.scope("pr-7"):
        result = await handler(record(kind))
        assert tenancy.routing_key() == "pr-7"
    key = kind if kind in ("pr-1", "pr-2", "pr-7") else None
    assert result == (("handled", key) if OWNERS[kind] == sandbox else None)


async def test_a_handler_keeps_its_face(routes: MemoryRoutes) -> None:
    """Name and kind are those of the function, exceptions pass, None is not handled, and switched off it is the function itself."""
    become("pr-1", routes=routes.url)

    @consumer
    async def fail(message: Any) -> None:
        raise LookupError(tenancy.routing_key())

    assert (fail.__name__, inspect.iscoroutinefunction(fail)) == ("fail", True)
    with pytest.raises(LookupError, match="pr-1"):
        await fail(record("pr-1"))
    assert await fail(record("none")) is None
    assert await fail(None) is None
    with pytest.raises(TypeError, match="no ConsumerRecord"):
        await fail("a string")
    tenancy.configure(enabled=False)
    assert consumer(seen) is seen


def test_each_sandbox_has_a_group_of_its_own() -> None:
    """The baseline keeps its group; a sandbox's is made from it; and nobody guesses."""
    become(None)
    assert group_id("orders") == "orders"
    become("pr-42")
    assert group_id("orders") == "orders.pr-42"
    become(None, role=None)
    with pytest.raises(IdentityError):
        group_id("orders")


# What a consumer takes

PASSIVE = {
    "assignment", "beginning_offsets", "committed", "end_offsets", "highwater", "last_poll_timestamp", "last_stable_offset",
    "offsets_for_times", "partitions_for_topic", "topics",
}  # fmt: skip


def test_every_method_of_the_consumer_is_there() -> None:
    """Each method is ours or known to concern no record, and takes what the client's takes."""
    public = {name for name in dir(AIOKafkaConsumer) if not name.startswith("_")}
    ours = {name for name in public if name in vars(SelectiveConsumer)}
    assert public - ours == PASSIVE
    for name in ours:
        wanted = list(inspect.signature(getattr(AIOKafkaConsumer, name)).parameters)
        assert list(inspect.signature(getattr(SelectiveConsumer, name)).parameters) == wanted, name
        before, after = getattr(AIOKafkaConsumer, name), getattr(SelectiveConsumer, name)
        assert inspect.iscoroutinefunction(before) == inspect.iscoroutinefunction(after), name
        assert after.__doc__, name


async def test_a_sandbox_does_not_begin_at_the_end(routes: MemoryRoutes) -> None:
    """'latest' is refused in a sandbox with a group, since it would lose records; elsewhere it is as it was."""
    become("pr-1")
    with pytest.raises(ConfigurationError, match="auto_offset_reset is 'latest'"):
        SelectiveConsumer("orders", group_id="orders", auto_offset_reset="latest", routes=routes)
    for options, reset in (
        ({"group_id": "orders"}, "earliest"),
        ({"group_id": "orders", "auto_offset_reset": "none"}, "earliest"),
        ({}, "earliest"),
        ({"auto_offset_reset": "latest"}, "latest"),
    ):
        made = SelectiveConsumer("orders", routes=routes, **options)
        assert made._auto_offset_reset == reset
        await made.stop()
    become(None)
    made = SelectiveConsumer("orders", group_id="orders", auto_offset_reset="latest", routes=routes)
    assert made._auto_offset_reset == "latest"
    assert made.subscription() == {"orders"}
    await made.stop()


async def test_who_does_not_know_who_it_is_reads_nothing(routes: MemoryRoutes) -> None:
    """Without an identity or a route table there is no consumer; switched off it is the client's own."""
    with pytest.raises(IdentityError, match="TENANCY_WORKLOAD"):
        SelectiveConsumer("orders", group_id="orders", routes=routes)
    become(None)
    with pytest.raises(ConfigurationError, match="TENANCY_ROUTES"):
        SelectiveConsumer("orders", group_id="orders")
    tenancy.configure(enabled=False)
    made = SelectiveConsumer("orders", group_id="orders", auto_offset_reset="latest")
    assert isinstance(made, AIOKafkaConsumer)
    assert made._selection is None
    assert made._enable_auto_commit
    with made.scope(record("pr-1")):
        assert tenancy.routing_key() is None
    await made.stop()


async def test_arguments_are_checked(routes: MemoryRoutes) -> None:
    """A listener that is none, and a run without workers, are refused."""
    become(None)
    made = SelectiveConsumer(group_id="orders", routes=routes)
    with pytest.raises(TypeError, match="ConsumerRebalanceListener"):
        made.subscribe(["orders"], listener=object())
    with pytest.raises(ConfigurationError, match="workers is 0"):
        await made.run(seen, workers=0)
    with pytest.raises(TypeError, match="topics"):
        made.subscribe()
    assert issubclass(kafka.SelectiveConsumer, AIOKafkaConsumer)
    assert ConsumerRebalanceListener is not None
    await made.stop()


async def test_the_workload_may_be_named_in_code(routes: MemoryRoutes) -> None:
    """The workload is an argument where it is not a setting."""
    tenancy.configure(role="baseline")
    made = SelectiveConsumer(group_id="orders", routes=routes, workload=WORKLOAD)
    assert made.group_id == "orders"
    assert not made.retired
    await made.stop()


async def test_who_is_cancelled_when_a_record_comes_loses_nothing(routes: MemoryRoutes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the client's giving up a record and its being kept here nobody can be cancelled."""
    become(None)
    records = [record("none")]

    async def getmany(self: Any, *partitions: Any, **options: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return {TopicPartition("orders", 0): [records.pop()]}

    monkeypatch.setattr(AIOKafkaConsumer, "getmany", getmany)
    made = SelectiveConsumer(routes=routes)
    made.assign([TopicPartition("orders", 0)])
    received = await made.getone()
    assert received.value == b"value"
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)
    await made.stop()
