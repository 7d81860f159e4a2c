from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aio_pika.exceptions import ChannelInvalidStateError, MessageProcessError

import tenancy
from tenancy import ConfigurationError, IdentityError, InvalidRoutingKeyError, RoutesNotSyncedError
from tenancy.messaging import aio_pika as rabbit
from tenancy.messaging.aio_pika import consumer, declare_queue, inject, publish, queue_name, synced
from tenancy.testing import Answer, MemoryRoutes, rabbitmq_message
from tests.contract import Headers, PropagationContract
from tests.messaging.support import HEADERS, OWNERS, WORKLOAD, become, forks, live, write_table

ACK = [Answer("ack")]
PROPERTIES = [
    "body",
    "app_id",
    "content_encoding",
    "content_type",
    "correlation_id",
    "delivery_mode",
    "expiration",
    "message_id",
    "priority",
    "reply_to",
    "timestamp",
    "type",
    "user_id",
]


def message_of(kind: str, **more: Any) -> Any:
    return rabbitmq_message(b"body", headers=HEADERS[kind], **more)


async def seen(message: Any) -> Any:
    """A handler that tells which key it had, and acknowledges."""
    await asyncio.sleep(0)
    await message.ack()
    return ("handled", tenancy.routing_key())


async def seen_unacknowledged(message: Any) -> Any:
    """A handler that leaves acknowledging to its caller."""
    return ("handled", tenancy.routing_key())


# Publishing


def full_message() -> aio_pika.Message:
    return aio_pika.Message(
        b"body",
        headers={"baggage": "a=1,sd-routing-key=old", "x-table": {"deep": [1, {"er": True}]}, "x-bytes": b"\xff", "x-none": None},
        content_type="application/json",
        content_encoding="gzip",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        priority=5,
        correlation_id="correlation",
        reply_to="replies",
        expiration=60,
        message_id="id",
        timestamp=datetime(2026, 1, 2, tzinfo=timezone.utc),
        type="order",
        user_id="guest",
        app_id="shop",
    )


def test_a_copy_carries_the_key_and_all_else_is_equal() -> None:
    """Every property and header of others is kept, tables included; the original is as it was, also where it is locked after publishing."""
    message = full_message()
    message.lock()
    headers = dict(message.headers)
    copied = inject(message, key="pr-42")
    assert {name: getattr(copied, name) for name in PROPERTIES} == {name: getattr(message, name) for name in PROPERTIES}
    assert copied.headers == {**headers, "baggage": "sd-routing-key=pr-42,a=1"}
    assert message.headers == headers
    assert copied is not message
    copied.headers["x-mine"] = 1
    copied.priority = 1
    assert (message.headers, message.priority) == (headers, 5)


def test_a_table_as_the_first_header_does_not_make_ours_one() -> None:
    """Headers that are tables say nothing about how text is written."""
    assert inject(aio_pika.Message(b"", headers={"x-table": {"a": 1}}), key="pr-42").headers["baggage"] == "sd-routing-key=pr-42"
    assert inject(aio_pika.Message(b"", headers={"x-bytes": b"1"}), key="pr-42").headers["baggage"] == "sd-routing-key=pr-42"


def test_the_key_may_be_given_or_kept() -> None:
    """An explicit key goes before the current one; without either, the key of a message that is passed on stays, unless cleared."""
    with tenancy.scope("pr-42"):
        assert inject(aio_pika.Message(b"")).headers == {"baggage": "sd-routing-key=pr-42"}
        assert inject(aio_pika.Message(b""), key="pr-2").headers == {"baggage": "sd-routing-key=pr-2"}
        assert inject(aio_pika.Message(b""), key=None).headers == {}
    received = rabbitmq_message(aio_pika.Message(b"body", headers={"baggage": "sd-routing-key=pr-1", "x-death": [{"count": 1}]}))
    passed_on = inject(received)
    assert type(passed_on) is aio_pika.Message
    assert passed_on.headers == received.headers
    assert passed_on.headers is not received.headers
    with tenancy.scope(None):
        assert inject(received).headers == {"x-death": [{"count": 1}]}
    with pytest.raises(InvalidRoutingKeyError):
        inject(aio_pika.Message(b""), key="PR 1")


async def test_publish_is_the_exchange_s_with_the_key() -> None:
    """The copy is published, options are passed on, and what the exchange returns is returned."""
    published: list[Any] = []

    class Exchange:
        async def publish(self, message: Any, routing_key: str, **options: Any) -> str:
            published.append((message.headers, routing_key, options))
            return "confirmed"

    exchange: Any = Exchange()
    message = aio_pika.Message(b"")
    with tenancy.scope("pr-42"):
        assert await publish(exchange, message, "order.created", mandatory=False) == "confirmed"
        await publish(exchange, message, "order.created", key="pr-2")
    assert published == [
        ({"baggage": "sd-routing-key=pr-42"}, "order.created", {"mandatory": False}),
        ({"baggage": "sd-routing-key=pr-2"}, "order.created", {}),
    ]
    assert message.headers == {}


# The queue


class Broker:
    """Stands in for a channel, and writes down what is declared on it."""

    def __init__(self) -> None:
        self.declared: list[Any] = []
        self.bound: list[Any] = []

    async def declare_queue(self, name: str, **options: Any) -> Any:
        self.declared.append((name, options))
        return self

    async def bind(self, exchange: Any, routing_key: str, *, arguments: Any = None) -> None:
        self.bound.append((exchange, routing_key, arguments))


BINDINGS: Any = [("shop", "order.*"), ("all", "", {"x-match": "any"})]


async def test_a_sandbox_has_its_own_queue_with_the_same_bindings() -> None:
    """The baseline's queue keeps its name; a sandbox's differs in the name, and where told in its arguments."""
    broker: Any = Broker()
    arguments = {"x-queue-type": "quorum"}
    for sandbox in (None, "pr-42"):
        become(sandbox)
        queue = await declare_queue(
            broker, "orders", bindings=BINDINGS, sandbox_arguments={"x-expires": 1000}, durable=True, arguments=arguments
        )
        assert queue is broker
    assert broker.declared == [
        ("orders", {"durable": True, "arguments": {"x-queue-type": "quorum"}}),
        ("orders.pr-42", {"durable": True, "arguments": {"x-queue-type": "quorum", "x-expires": 1000}}),
    ]
    assert broker.bound == [("shop", "order.*", None), ("all", "", {"x-match": "any"})] * 2
    assert arguments == {"x-queue-type": "quorum"}


async def test_a_queue_without_bindings_is_pointed_out(caplog: pytest.LogCaptureFixture) -> None:
    """A sandbox's queue that is bound to nothing gets nothing; the baseline's may be fed by its name."""
    broker: Any = Broker()
    become(None)
    await declare_queue(broker, "orders")
    assert not caplog.records
    become("pr-42")
    await declare_queue(broker, "orders")
    assert "orders.pr-42 was declared without bindings" in caplog.text


def test_a_queue_is_not_named_by_guess() -> None:
    """Who does not know who it is reads no queue; where tenancy is off it is the one queue."""
    with pytest.raises(IdentityError, match="TENANCY_ROLE=baseline"):
        queue_name("orders", workload=WORKLOAD)
    become("pr-42", enabled=False)
    with pytest.raises(IdentityError, match="switched off"):
        queue_name("orders")
    tenancy.configure(enabled=False)
    assert queue_name("orders") == "orders"
    become("pr-42")
    assert queue_name("orders") == "orders.pr-42"
    assert len(queue_name("o" * 255).encode()) <= 255
    with pytest.raises(ConfigurationError, match="base is ''"):
        queue_name("")


# Whose message it is, and who acknowledges


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize("sandbox", [None, "pr-1", "pr-2"])
async def test_only_the_owner_handles_and_each_acknowledges_once(routes: MemoryRoutes, sandbox: str | None, kind: str) -> None:
    """The owner's handler acknowledges what it handles, the decorator what is skipped, each message by itself."""
    become(sandbox)
    message = message_of(kind)
    result = await consumer(routes=routes)(seen)(message)
    key = kind if kind in ("pr-1", "pr-2", "pr-7") else None
    assert result == (("handled", key) if OWNERS[kind] == sandbox else None)
    assert message.answers == ACK


async def test_what_is_owned_is_never_acknowledged_here(routes: MemoryRoutes) -> None:
    """An owned message stays as the handler left it, also when the handler fails."""
    become(None)

    async def fail(message: Any) -> None:
        await asyncio.sleep(0)
        raise LookupError("the handler failed")

    unanswered, failed, processed = message_of("none"), message_of("pr-7"), message_of("none")
    assert await consumer(routes=routes)(seen_unacknowledged)(unanswered) == ("handled", None)
    with tenancy.scope("pr-99"):
        with pytest.raises(LookupError, match="the handler failed"):
            await consumer(routes=routes)(fail)(failed)
        assert tenancy.routing_key() == "pr-99"
    assert unanswered.answers == failed.answers == []

    @consumer(routes=routes)
    async def with_process(message: Any) -> None:
        async with message.process():
            raise LookupError("the handler failed")

    with pytest.raises(LookupError):
        await with_process(processed)
    assert processed.answers == [Answer("reject")]


async def test_a_message_that_needs_no_answer_gets_none(routes: MemoryRoutes) -> None:
    """With no_ack, or where the caller has answered before, a skip says nothing to the broker."""
    become(None)
    handler = consumer(routes=routes)(seen_unacknowledged)
    for answered in (message_of("pr-1", no_ack=True), message_of("pr-1")):
        if not answered.processed:
            await answered.ack()
        before = list(answered.answers)
        assert await handler(answered) is None
        assert answered.answers == before


async def test_a_caller_that_acknowledges_says_so(routes: MemoryRoutes) -> None:
    """Inside of an outer process() a skip must be left to it; else it would be acknowledged twice, which aio-pika reports."""
    become(None)
    leaving, acking = consumer(routes=routes, skipped="leave")(seen_unacknowledged), consumer(routes=routes)(seen_unacknowledged)
    for kind, result in (("pr-1", None), ("pr-7", ("handled", "pr-7"))):
        message = message_of(kind)
        async with message.process():
            assert await leaving(message) == result
            assert message.answers == []
        assert message.answers == ACK
    message = message_of("pr-1")
    with pytest.raises(MessageProcessError):
        async with message.process():
            await acking(message)
    assert message.answers == ACK
    message = message_of("pr-1")
    async with message.process(ignore_processed=True):
        await acking(message)
    assert message.answers == ACK


async def test_a_skip_on_a_closed_channel_is_no_failure(routes: MemoryRoutes) -> None:
    """The broker has taken the message back already and delivers it again, so there is nothing to tell the caller."""
    become(None)
    message = message_of("pr-1", closed=True)
    assert await consumer(routes=routes)(seen)(message) is None
    with pytest.raises(ChannelInvalidStateError):
        await consumer(routes=routes)(seen)(message_of("none", closed=True))


async def test_many_messages_at_once_are_acknowledged_one_by_one(routes: MemoryRoutes) -> None:
    """Skips that finish out of order never acknowledge a message that is still being handled."""
    become(None)
    release = asyncio.Event()

    async def slow(message: Any) -> None:
        await release.wait()
        await message.ack()

    handler = consumer(routes=routes)(slow)
    messages = [(kind, message_of(kind, delivery_tag=tag)) for tag, kind in enumerate(list(HEADERS) * 5, 1)]
    work = [asyncio.create_task(handler(message)) for _, message in messages]
    await asyncio.sleep(0.05)
    assert [message.answers for _, message in messages] == [[] if OWNERS[kind] is None else ACK for kind, _ in messages]
    release.set()
    await asyncio.gather(*work)
    assert [message.answers for _, message in messages] == [ACK] * 30


async def test_the_only_copy_is_not_skipped_by_the_baseline(
    routes: MemoryRoutes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came through the default exchange reached no sandbox, so the baseline handles it, with its key; counted, and logged once."""
    counted: list[Any] = []
    monkeypatch.setattr("tenancy.routes.judge.count", lambda name, attributes: counted.append(attributes))
    become(None)
    handler = consumer(routes=routes)(seen)
    with caplog.at_level(logging.WARNING, "tenancy"):
        for _ in range(2):
            message = message_of("pr-1", exchange="")
            assert await handler(message) == ("handled", "pr-1")
            assert message.answers == ACK
    assert len([entry for entry in caplog.records if "default exchange" in entry.message]) == 1
    assert [(entry["verdict"], entry["reason"], entry["routing_key"]) for entry in counted] == [("own", "only_copy", "pr-1")] * 2
    assert await handler(message_of("none", exchange="")) == ("handled", None)


async def test_the_only_copy_of_others_is_not_acknowledged_by_a_sandbox(
    routes: MemoryRoutes, caplog: pytest.LogCaptureFixture
) -> None:
    """A sandbox handles its own from its queue's name too; what is not its own goes to the dead-letter exchange, never away unseen."""
    become("pr-1")
    handler = consumer(routes=routes)(seen)
    mine, unkeyed, others = (message_of(kind, exchange="") for kind in ("pr-1", "none", "pr-2"))
    assert await handler(mine) == ("handled", "pr-1")
    assert await handler(unkeyed) is await handler(others) is None
    assert unkeyed.answers == others.answers == [Answer("reject")]
    assert "published through the default exchange" in caplog.text


async def test_malformed_keys_are_dead_lettered_by_the_owner_alone(routes: MemoryRoutes) -> None:
    """By policy the baseline rejects them; a sandbox, which has a copy, acknowledges its own; nobody handles them."""
    for sandbox, answer in ((None, [Answer("reject")]), ("pr-1", ACK)):
        become(sandbox)
        handler = consumer(routes=routes, malformed="dead-letter")(seen)
        message = message_of("malformed")
        assert await handler(message) is None
        assert message.answers == answer
    become(None)
    handler = consumer(routes=routes, malformed="dead-letter")(seen_unacknowledged)
    assert await handler(message_of("malformed", no_ack=True)) == ("handled", None), "it cannot be rejected any more"
    assert await handler(message_of("unknown")) == ("handled", None)


async def test_a_sandbox_that_never_named_a_queue_is_warned(routes: MemoryRoutes, caplog: pytest.LogCaptureFixture) -> None:
    """If it reads the baseline's queue, what it skips is lost; the log says so once, unless the queue's name was made by us."""
    become("pr-1")
    handler = consumer(routes=routes)(seen)
    for _ in range(2):
        await handler(message_of("none"))
    assert caplog.text.count("reads the baseline's queue") == 1
    caplog.clear()
    queue_name("orders")
    await handler(message_of("none"))
    assert not caplog.records


# The table


async def test_what_cannot_be_decided_goes_back_slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a table a keyed message is returned to its queue, not before the deadline, and the error raised; unkeyed ones go on."""
    monkeypatch.setattr(rabbit, "_RETURN_SECONDS", 0.3)
    become(None, routes_deadline=0.1)
    path = tmp_path / "late.json"
    handler = consumer(routes=live(path))(seen)
    keyed, unkeyed = message_of("pr-1"), message_of("none")
    started = time.monotonic()
    waiting = asyncio.create_task(handler(keyed))
    await asyncio.sleep(0)
    assert await handler(unkeyed) == ("handled", None)
    assert time.monotonic() - started < 0.1
    with pytest.raises(RoutesNotSyncedError, match="late"):
        await waiting
    assert time.monotonic() - started >= 0.3
    assert keyed.answers == [Answer("nack", requeue=True)]
    write_table(path, "pr-1")
    assert await handler(message_of("pr-7")) == ("handled", "pr-7")


async def test_what_cannot_be_decided_is_left_to_a_caller_that_acknowledges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With skipped='leave' the error reaches the outer process(), whose requeue decides; a closed channel hides no error."""
    monkeypatch.setattr(rabbit, "_RETURN_SECONDS", 0.01)
    become(None, routes_deadline=0.01)
    leaving = consumer(routes=live(tmp_path / "never.json"), skipped="leave")(seen)
    message = message_of("pr-1")
    with pytest.raises(RoutesNotSyncedError):
        async with message.process(requeue=True):
            await leaving(message)
    assert message.answers == [Answer("reject", requeue=True)]
    acking = consumer(routes=live(tmp_path / "never.json"))(seen)
    with pytest.raises(RoutesNotSyncedError):
        await acking(message_of("pr-1", closed=True))
    with pytest.raises(RoutesNotSyncedError):
        await acking(message_of("pr-1", no_ack=True))


async def test_an_unknown_workload_does_not_spin_either(routes: MemoryRoutes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake that is found at once is answered as slowly."""
    monkeypatch.setattr(rabbit, "_RETURN_SECONDS", 0.01)
    become(None, routes_deadline=0.2)
    handler = consumer("shop/order", routes=routes)(seen)
    message, started = message_of("pr-1"), time.monotonic()
    with pytest.raises(IdentityError, match="did you mean shop/orders"):
        await handler(message)
    assert time.monotonic() - started >= 0.2
    assert message.answers == [Answer("nack", requeue=True)]
    with pytest.raises(IdentityError):
        await synced(handler)


async def test_an_accept_function_that_raises_loses_no_message(
    routes: MemoryRoutes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The message goes back to its queue, not at once, the error is raised and logged once; a caller that acknowledges does it itself."""
    monkeypatch.setattr(rabbit, "_RETURN_SECONDS", 0.2)
    become(None)
    broken = True

    def accept(key: str) -> bool:
        if broken:
            raise LookupError("the list of keys is away")
        return True

    handler = consumer(routes=routes, accept=accept)(seen)
    message, again, started = message_of("pr-7"), message_of("pr-7"), time.monotonic()
    results = await asyncio.gather(handler(message), handler(again), return_exceptions=True)
    assert [repr(result) for result in results] == ["LookupError('the list of keys is away')"] * 2
    assert time.monotonic() - started >= 0.2
    assert message.answers == again.answers == [Answer("nack", requeue=True)]
    assert [record.getMessage().count("the list of keys is away") for record in caplog.records].count(1) == 1
    assert await handler(message_of("none")) == ("handled", None)

    leaving = consumer(routes=routes, accept=accept, skipped="leave")(seen)
    left = message_of("pr-7")
    with pytest.raises(LookupError):
        async with left.process(requeue=True):
            await leaving(left)
    assert left.answers == [Answer("reject", requeue=True)]
    for unanswerable in (message_of("pr-7", closed=True), message_of("pr-7", no_ack=True)):
        with pytest.raises(LookupError):
            await handler(unanswerable)
    broken = False
    assert await handler(message_of("pr-7")) == ("handled", "pr-7")


# What can be decorated


async def test_all_kinds_of_handlers(routes: MemoryRoutes) -> None:
    """Methods, partials, callable objects and functions that return an awaitable, or a plain value."""
    become("pr-1", routes=routes.url)

    class Service:
        @consumer
        async def method(self, message: Any, more: int = 0) -> Any:
            """Docs."""
            return type(self), await seen(message), more

        async def __call__(self, message: Any) -> Any:
            return await seen(message)

    async def with_more(more: str, message: Any) -> Any:
        return more, await seen(message)

    mine = ("handled", "pr-1")
    assert await Service().method(message_of("pr-1"), more=1) == (Service, mine, 1)
    assert await Service().method(message=message_of("pr-1")) == (Service, mine, 0)
    assert await Service().method(message_of("none")) is None
    assert await consumer(Service().method)(message_of("pr-1")) == (Service, mine, 0)
    assert await consumer(Service())(message_of("pr-1")) == mine
    assert await consumer(functools.partial(with_more, "more"))(message_of("pr-1")) == ("more", mine)
    assert await consumer(lambda message: seen(message))(message_of("pr-1")) == mine
    assert await consumer(lambda message: tenancy.routing_key())(message_of("pr-1")) == "pr-1"  # type: ignore[arg-type,return-value]
    await synced(Service().method)
    wrapped = consumer(WORKLOAD)(seen)
    assert (wrapped.__name__, wrapped.__doc__, inspect.signature(wrapped)) == ("seen", seen.__doc__, inspect.signature(seen))
    assert inspect.iscoroutinefunction(wrapped)
    assert await wrapped(None) is None, "queue.get(fail=False) found nothing"
    with pytest.raises(TypeError, match="without a message: got int"):
        await wrapped(1)


def test_mistakes_are_found_where_they_are_made(routes: MemoryRoutes) -> None:
    """Arguments that cannot be used, an identity that is not said, no table: refused when decorated."""
    become(None)
    with pytest.raises(ConfigurationError, match="skipped is 'nack'"):
        consumer(skipped="nack", routes=routes)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="malformed is 'drop'"):
        consumer(malformed="drop", routes=routes)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="use one"):
        consumer(skipped="leave", malformed="dead-letter", routes=routes)
    with pytest.raises(ConfigurationError, match="TENANCY_ROUTES"):
        consumer(seen)
    tenancy.configure()
    with pytest.raises(IdentityError, match="TENANCY_ROLE=baseline"):
        consumer(WORKLOAD, routes=routes)(seen)


async def test_switched_off_it_is_not_there() -> None:
    """Where tenancy is off the function itself comes back, except in a sandbox, which must not start."""
    tenancy.configure(enabled=False)
    assert consumer(seen) is seen
    assert consumer(WORKLOAD, skipped="leave")(seen) is seen
    await synced(seen)
    tenancy.configure(enabled=False, sandbox="pr-1")
    with pytest.raises(IdentityError, match="switched off"):
        consumer(seen)


def test_a_missing_client_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the client library the import says what to install."""
    monkeypatch.setitem(sys.modules, "aio_pika", None)
    monkeypatch.delitem(sys.modules, "tenancy.messaging.aio_pika")
    with pytest.raises(tenancy.MissingDependencyError, match=r"request-tenancy\[rabbitmq\]"):
        __import__("tenancy.messaging.aio_pika")


class TestContract(PropagationContract):
    """Headers as `inject` makes them, messages as aio-pika delivers them, without a broker."""

    repeats = False

    @pytest.fixture(autouse=True)
    def _handler(self, routes: MemoryRoutes) -> None:
        become(None)
        routes.replace(forks())  # no forks: every key is the baseline's
        self.bodies: dict[int, Callable[[], Any]] = {}

        @consumer(accept="all", routes=routes)
        async def handle(message: Any) -> Any:
            await asyncio.sleep(0)
            result = self.bodies.pop(id(message))()
            await asyncio.sleep(0)
            return result

        self.handle = handle

    async def send(self) -> Headers:
        return [(name, str(value)) for name, value in inject(aio_pika.Message(b"", headers={"x": {"a": 1}})).headers.items()]

    async def receive(self, headers: Headers, body: Callable[[], Any] = tenancy.routing_key) -> Any:
        message = rabbitmq_message(headers=headers)
        self.bodies[id(message)] = body
        return await self.handle(message)
