from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pika
import pytest
from pika.exceptions import AMQPError

import tenancy
from tenancy import ConfigurationError, IdentityError
from tenancy.messaging.pika import SelectiveAsyncChannel, SelectiveChannel, consumer, inject
from tenancy.messaging.rabbitmq.names import names_of
from tenancy.testing import MemoryRoutes
from tests.messaging.rabbitmq.pika_support import WAYS, WORKLOAD, World, a_world, once, wait_for

pytestmark = pytest.mark.service


@pytest.fixture(params=["classic", "quorum"])
def world(rabbitmq: str, request: pytest.FixtureRequest) -> Iterator[World]:
    with a_world(rabbitmq, request.param) as world:
        yield world


@pytest.fixture
def classic(rabbitmq: str) -> Iterator[World]:
    with a_world(rabbitmq) as world:
        yield world


@pytest.mark.parametrize("way", WAYS)
def test_each_has_one_owner(world: World, way: str) -> None:
    """While a sandbox comes, works and goes, every message is handled once: by the sandbox those of its key, by the baseline all others."""
    baseline = world.read(way=way)
    first = world.send(None, "pr-1", "pr-9")
    wait_for(lambda: once(first, baseline))
    fork = world.read("pr-1", way)
    stop, sent = threading.Event(), list(first)

    def keep_sending() -> None:
        with a_sender(world) as send:
            while not stop.is_set():
                sent.extend(send())
                time.sleep(0.02)

    sender = threading.Thread(target=keep_sending)
    sender.start()
    try:
        world.create()
        mine = world.send("pr-1", None, "pr-1", "pr-9")
        wait_for(lambda: set(mine) <= {*fork.bodies, *baseline.bodies})
        assert {mine[0], mine[2]} <= set(fork.bodies)
        assert {mine[1], mine[3]} <= set(baseline.bodies)
        world.delete()
        late = world.send("pr-1")
        wait_for(lambda: set(late) <= set(baseline.bodies))
    finally:
        stop.set()
        sender.join()
    wait_for(lambda: once([*sent, *mine, *late], baseline, fork))
    assert all(body.endswith(b":pr-1") for body in fork.bodies)
    assert {seen.key for seen in fork.seen} == {"pr-1"}
    assert {seen.key for seen in baseline.seen} <= {None, "pr-1"}


class a_sender:
    """Publishes three messages at each call, from a thread of its own."""

    def __init__(self, world: World) -> None:
        self._world, self._number = world, 0

    def __enter__(self) -> Any:
        self._connection = pika.BlockingConnection(pika.URLParameters(self._world.url))
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()
        return self._send

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def _send(self) -> list[bytes]:
        bodies = []
        for key in (None, "pr-1", "pr-9"):
            body = f"s{self._number}:{key}".encode()
            self._number += 1
            self._channel.basic_publish(self._world.exchange, "order.new", body, inject(None, key=key), mandatory=True)
            bodies.append(body)
        return bodies


EVERY = {
    "content_type": "text/plain",
    "content_encoding": "utf-8",
    "priority": 3,
    "correlation_id": "c1",
    "reply_to": "answers",
    "expiration": "600000",
    "message_id": "m1",
    "timestamp": 1_700_000_000,
    "type": "order",
    "user_id": "guest",
    "app_id": "shop",
}


@pytest.mark.parametrize("way", ["callback", "select"])
class TestForwarding:
    """What the baseline sends on."""

    def test_it_is_handed_on_as_it_was_published(self, world: World, way: str) -> None:
        """Exchange, routing key, properties and headers: in the sandbox, and in the baseline once the sandbox gave it back."""
        baseline, fork = world.read(way=way), world.read("pr-1", way, answers=_take_first)
        world.create()
        sent = world.send("pr-1", "pr-1", **EVERY)
        wait_for(lambda: fork.bodies)
        threading.Timer(0.5, lambda: fork.call(lambda: fork.channel.basic_ack(0, multiple=True))).start()
        world.delete()
        wait_for(lambda: set(sent) <= {*baseline.bodies, *fork.bodies})
        for seen in [*baseline.seen, *fork.seen]:
            assert (seen.method.exchange, seen.method.routing_key) == (world.exchange, "order.new")
            assert {name: getattr(seen.properties, name) for name in EVERY} == EVERY
            assert seen.properties.headers == {"other": 1, "baggage": "sd-routing-key=pr-1"}
            assert seen.properties.delivery_mode == 2

    def test_it_gets_a_message_id_of_its_own(self, classic: World, way: str) -> None:
        """What was published without one has none when it is handed on: it is restored, whatever the copy had."""
        classic.read(way=way)
        fork = classic.read("pr-1", way)
        classic.create()
        properties = pika.BasicProperties(headers={"baggage": "sd-routing-key=pr-1"})
        classic.channel.basic_publish("", classic.queue, b"plain", properties)
        wait_for(lambda: fork.bodies)
        assert fork.seen[0].properties.message_id is None
        assert fork.seen[0].method.exchange == ""

    def test_what_comes_back_is_the_baselines(self, world: World, way: str) -> None:
        """A copy for which there is no queue, by the alternate exchange or given back by the broker, is handled by the baseline, once."""
        baseline = world.read(way=way)
        world.create()
        names = names_of(world.queue, tenancy.RoutingKey("pr-1"), 1)
        world.channel.queue_unbind(names.queue, names.exchange, "")
        first = world.send("pr-1")
        wait_for(lambda: once(first, baseline))
        world.channel.exchange_delete(names.back)
        second = world.send("pr-1", "pr-1")
        wait_for(lambda: once([*first, *second], baseline))
        assert {seen.key for seen in baseline.seen} == {"pr-1"}
        assert all(not any(name.startswith("x-tenancy") for name in seen.properties.headers) for seen in baseline.seen)

    def test_without_a_confirmation_nothing_is_acknowledged(self, classic: World, way: str) -> None:
        """Where the broker cannot take a copy the message stays, and is tried again until it can, or the sandbox is gone."""
        baseline = classic.read(way=way)
        classic.create()
        names = names_of(classic.queue, tenancy.RoutingKey("pr-1"), 1)
        classic.channel.exchange_delete(names.exchange)
        sent = classic.send("pr-1", None)
        wait_for(lambda: baseline.bodies == [sent[1]])
        time.sleep(0.5)
        assert baseline.bodies == [sent[1]]
        classic.delete()
        wait_for(lambda: once(sent, baseline))

    def test_a_refused_copy_is_tried_again(self, classic: World, way: str) -> None:
        """A sandbox's queue that is full refuses; what it has refused is not lost, and handled when that has changed."""
        baseline = classic.read(way=way)
        classic.create()
        names = names_of(classic.queue, tenancy.RoutingKey("pr-1"), 1)
        classic.channel.queue_unbind(names.queue, names.exchange, "")
        full = f"{classic.queue}.full"
        classic.channel.queue_declare(full, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}, exclusive=True)
        classic.channel.queue_bind(full, names.exchange, "")
        sent = classic.send(*["pr-1"] * 20)
        time.sleep(2)
        assert baseline.bodies == []
        taken = classic.ready(full)
        assert 1 <= taken < 20
        classic.channel.queue_unbind(full, names.exchange, "")
        wait_for(lambda: len(baseline.bodies) == 20 - taken)
        assert set(baseline.bodies) < set(sent)
        assert once([], baseline)
        classic.channel.queue_delete(full)


def _take_first(_channel: Any, _method: Any, _body: bytes) -> None:
    """Leave a message without an answer."""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["callback", "asyncio"])
class TestWaiting:
    """What cannot be decided, and what was decided too early."""

    def test_the_store_is_lost(self, classic: World, way: str) -> None:
        """Messages with a key are kept, others go on; when it can be said whose they are, each is handled once."""
        baseline = classic.read(way=way)
        classic.store.lose()
        time.sleep(1.5)  # the lease is over
        sent = classic.send("pr-1", None, "pr-2", None)
        wait_for(lambda: set(baseline.bodies) == {sent[1], sent[3]})
        time.sleep(0.3)
        assert len(baseline.bodies) == 2
        classic.store.restore()
        wait_for(lambda: once(sent, baseline))

    def test_no_more_is_kept_than_there_is_room_for(self, classic: World, way: str) -> None:
        """Beyond that the queue waits; nothing goes back to its head, in the way of others, and all is handled when the store is back."""
        baseline = classic.read(way=way, hold=2, prefetch_count=2)
        classic.store.lose()
        time.sleep(1.5)
        sent = classic.send(*["pr-1"] * 8, None)
        most = 2 if way == "get" else 4  # as many as are handled, and those that are kept beside them
        wait_for(lambda: baseline.channel._choices.held()[0] == most)
        time.sleep(1.5)
        assert baseline.channel._choices.held()[0] == most
        assert classic.ready() >= 4
        classic.store.restore()
        wait_for(lambda: once(sent, baseline))

    def test_what_waited_is_looked_at_again(self, classic: World, way: str) -> None:
        """A message that had been decided on, and is not begun yet, is the sandbox's once that is there."""
        baseline = classic.read(way=way, prefetch_count=1, answers=_take_first)
        sent = classic.send("pr-1", "pr-1")
        wait_for(lambda: baseline.bodies)
        time.sleep(0.3)
        if way != "get":  # a get is one by one, whatever has no answer yet
            assert baseline.bodies == sent[:1]
            fork = classic.read("pr-1", way)
            classic.create()
            baseline.call(lambda: baseline.channel.basic_ack(1))
            wait_for(lambda: once(sent, baseline, fork))
            assert fork.bodies == sent[1:]

    def test_a_sandbox_ends_what_it_has_begun(self, world: World, way: str) -> None:
        """At delete it keeps what has no answer yet, until it has; the rest goes back, and is the baseline's."""
        baseline, fork = world.read(way=way), world.read("pr-1", way, prefetch_count=1, answers=_take_first)
        world.create()
        sent = world.send(*["pr-1"] * 5)
        wait_for(lambda: fork.bodies)
        begun = len(fork.bodies)
        deleted = threading.Thread(target=world.delete)
        deleted.start()
        time.sleep(2.5)
        if way != "get":
            assert begun == 1
            assert deleted.is_alive()
        fork.call(lambda: fork.channel.basic_ack(0, multiple=True))
        deleted.join(20)
        wait_for(lambda: once(sent, baseline, fork))


class TestAnswers:
    """Who answers the broker, and how."""

    @pytest.mark.parametrize("way", ["callback", "select"])
    def test_multiple(self, classic: World, way: str) -> None:
        """`multiple` means what was handed on, and never what is kept."""

        def every_third(channel: Any, method: Any, _body: bytes) -> None:
            if method.delivery_tag % 3 == 0:
                channel.basic_ack(method.delivery_tag, multiple=True)

        baseline = classic.read(way=way, answers=every_third)
        classic.store.lose()
        time.sleep(1.5)
        kept = classic.send("pr-1")
        sent = classic.send(*[None] * 6)
        wait_for(lambda: len(baseline.bodies) == 6)
        assert not baseline.channel._given
        baseline.close()
        wait_for(lambda: classic.ready() == 1)
        assert classic.channel.basic_get(classic.queue, auto_ack=True)[2] == kept[0]
        assert once(sent, baseline)

    def test_nack_and_reject(self, classic: World) -> None:
        """They mean the message, and requeue it where that is said; a second answer is an error."""
        errors: list[Exception] = []

        def answer(channel: Any, method: Any, body: bytes) -> None:
            if method.redelivered:
                channel.basic_reject(method.delivery_tag, requeue=False)
                try:
                    channel.basic_ack(method.delivery_tag)
                except ValueError as error:
                    errors.append(error)
            else:
                channel.basic_nack(method.delivery_tag, requeue=True)

        baseline = classic.read(answers=answer)
        sent = classic.send(None)
        wait_for(lambda: errors)
        assert baseline.bodies == sent * 2
        assert "waits for an answer" in str(errors[0])

    def test_a_handler_raises(self, classic: World) -> None:
        """Its exception ends start_consuming() as it does with pika, and the message goes back when the channel is closed."""
        tenancy.configure(workload=WORKLOAD, role="baseline")
        sent = classic.send(None)
        connection = pika.BlockingConnection(pika.URLParameters(classic.url))
        channel = SelectiveChannel(connection, classic.queue, routes=classic.routes(), durable=True, arguments=classic.arguments)
        channel.basic_consume(classic.queue, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            channel.start_consuming()
        channel.close()
        assert channel.is_closed
        wait_for(lambda: classic.ready() == 1)
        connection.close()
        assert classic.channel.basic_get(classic.queue, auto_ack=True)[2] == sent[0]

    def test_malformed(self, classic: World) -> None:
        """Where it is said so, the owner rejects it."""
        baseline = classic.read(malformed="dead-letter")
        properties = pika.BasicProperties(headers={"baggage": "sd-routing-key=PR_1"})
        classic.channel.basic_publish("", classic.queue, b"bad", properties)
        sent = classic.send(None)
        wait_for(lambda: once(sent, baseline))
        assert baseline.bodies == sent

    def test_a_reply_has_the_key(self, classic: World) -> None:
        """What a handler publishes on the channel that it got carries the message's key, and the caller's properties stay as they are."""
        classic.channel.queue_declare(f"{classic.queue}.replies")
        properties = pika.BasicProperties(correlation_id="c1")

        def reply(channel: Any, method: Any, body: bytes) -> None:
            channel.basic_publish("", f"{classic.queue}.replies", body, properties)
            channel.basic_ack(method.delivery_tag)

        classic.read(answers=reply, accept="all")
        classic.send("pr-9")
        wait_for(lambda: classic.ready(f"{classic.queue}.replies"))
        got = classic.channel.basic_get(f"{classic.queue}.replies", auto_ack=True)[1]
        classic.channel.queue_delete(f"{classic.queue}.replies")
        assert got.headers == {"baggage": "sd-routing-key=pr-9"}
        assert (properties.headers, properties.message_id) == (None, None)

    def test_a_decorated_handler(self, classic: World) -> None:
        """In a selective channel the decorator only makes the key current."""
        tenancy.configure(workload=WORKLOAD, role="baseline")
        got: list[Any] = []
        routes = classic.routes()

        @consumer(WORKLOAD, routes=routes, accept="all")
        def handle(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            got.append((body, tenancy.routing_key()))
            channel.basic_ack(method.delivery_tag)

        reader = classic.read(routes=routes, accept="all", answers=lambda channel, method, body: None)
        reader.handle = handle  # type: ignore[method-assign]
        reader.close()
        connection = pika.BlockingConnection(pika.URLParameters(classic.url))
        tenancy.configure(workload=WORKLOAD, role="baseline")
        channel = SelectiveChannel(
            connection, classic.queue, routes=routes, accept="all", durable=True, arguments=classic.arguments
        )
        channel.basic_consume(classic.queue, handle)
        sent = classic.send("pr-9", None)
        while len(got) < 2:
            connection.process_data_events(0.1)
        channel.close()
        connection.close()
        assert got == [(sent[0], "pr-9"), (sent[1], None)]


class TestRefusals:
    """What cannot be made safe says so, by its name."""

    @pytest.fixture
    def connection(self, classic: World) -> Iterator[Any]:
        tenancy.configure(workload=WORKLOAD, role="baseline")
        with pika.BlockingConnection(pika.URLParameters(classic.url)) as connection:
            yield connection

    def channel(self, world: World, connection: Any, **options: Any) -> SelectiveChannel:
        return SelectiveChannel(connection, world.queue, **{"routes": world.routes(), "durable": True, **options})

    @pytest.mark.parametrize(
        ("options", "name"),
        [
            ({"exclusive": True}, "exclusive"),
            ({"auto_delete": True}, "auto_delete"),
            ({"passive": True}, "passive"),
            ({"arguments": {"x-queue-type": "stream"}}, "stream"),
            ({"arguments": {"x-single-active-consumer": True}}, "x-single-active-consumer"),
            ({"prefetch_count": 0}, "prefetch_count"),
            ({"malformed": "drop"}, "malformed"),
        ],
    )
    def test_queues(self, classic: World, connection: Any, options: dict[str, Any], name: str) -> None:
        """Queues that cannot be handed over, and arguments that mean nothing."""
        with pytest.raises(ConfigurationError, match=name):
            self.channel(classic, connection, **options)

    def test_consumers(self, classic: World, connection: Any) -> None:
        """Consumers that would lose messages or keep them from others, another queue, and a second consumer."""
        channel = self.channel(classic, connection, arguments=classic.arguments)
        for options in ({"auto_ack": True}, {"exclusive": True}):
            with pytest.raises(ConfigurationError, match=next(iter(options))):
                channel.basic_consume(classic.queue, print, **options)
            with pytest.raises(ConfigurationError, match=next(iter(options))):
                channel.consume(classic.queue, **options)
        with pytest.raises(ConfigurationError, match="auto_ack"):
            channel.basic_get(classic.queue, auto_ack=True)
        with pytest.raises(ConfigurationError, match="stream"):
            channel.basic_consume(classic.queue, print, arguments={"x-stream-offset": "first"})
        with pytest.raises(ConfigurationError, match="another"):
            channel.basic_consume("another", print)
        channel.basic_consume(classic.queue, print)
        with pytest.raises(ConfigurationError, match="already"):
            channel.consume(classic.queue)

    def test_connections(self, classic: World, connection: Any) -> None:
        """Each kind of connection has its own class."""
        with pytest.raises(ConfigurationError, match="SelectiveChannel"):
            SelectiveAsyncChannel(connection, classic.queue, print, routes=classic.routes())
        with pytest.raises(ConfigurationError, match="SelectiveAsyncChannel"):
            SelectiveChannel(object(), classic.queue, routes=classic.routes())

    def test_tables(self, classic: World, connection: Any) -> None:
        """A table without lives cannot tell when a message is a sandbox's, and nobody is the baseline by accident."""
        with pytest.raises(ConfigurationError, match="route store"):
            self.channel(classic, connection, routes=MemoryRoutes({WORKLOAD: ["pr-1"]}))
        tenancy.configure(workload=WORKLOAD)
        with pytest.raises(IdentityError):
            self.channel(classic, connection)

    def test_an_asynchronous_channel_tells_why(self, classic: World) -> None:
        """Its error callback gets what the other kind raises."""
        with pytest.raises(IdentityError, match="shop/typo"):
            classic.read(way="select", workload="shop/typo")


@pytest.mark.slow
class TestConnections:
    """What becomes of messages where connections end."""

    @pytest.mark.parametrize("way", ["callback", "asyncio"])
    def test_a_new_connection_goes_on(self, classic: World, way: str) -> None:
        """pika does not connect again; the same code with a new connection goes on, and nothing is lost."""
        baseline = classic.read(way=way, pause=0.01)
        fork = classic.read("pr-1", way, pause=0.01)
        classic.create()
        sent = classic.send(*["pr-1", None] * 40)
        wait_for(lambda: len(baseline.bodies) > 5 and len(fork.bodies) > 5)
        for reader in (baseline, fork):
            reader.cut()
            reader.thread.join(10)
            assert not reader.thread.is_alive()
            if way in ("callback", "generator"):
                assert isinstance(reader.error, AMQPError)
        again = [classic.read(None, way), classic.read("pr-1", way)]
        wait_for(lambda: set(sent) <= {body for reader in (baseline, fork, *again) for body in reader.bodies})
        assert all(body.endswith(b":pr-1") for reader in (fork, again[1]) for body in reader.bodies)
        assert all(body.endswith(b":None") for reader in (baseline, again[0]) for body in reader.bodies)

    def test_the_baselines_queue_is_deleted(self, classic: World) -> None:
        """Consuming ends, as it does with pika."""
        baseline, generator = classic.read(), classic.read(way="generator")
        classic.channel.queue_delete(classic.queue)
        baseline.thread.join(10)
        assert not baseline.thread.is_alive()
        generator.thread.join(10)
        assert not generator.thread.is_alive()

    def test_switched_off_it_is_a_plain_channel(self, classic: World) -> None:
        """It takes everything, and asks nobody."""
        tenancy.configure(enabled=False)
        sent = classic.send("pr-1", None)
        with pika.BlockingConnection(pika.URLParameters(classic.url)) as connection:
            channel = SelectiveChannel(connection, classic.queue, durable=True, arguments=classic.arguments)
            got = []
            for method, _, body in channel.consume(classic.queue, inactivity_timeout=2):
                channel.basic_ack(method.delivery_tag)
                got.append(body)
                if len(got) == 2:
                    break
            assert channel.cancel() == 0
            channel.close()
        assert got == sent
