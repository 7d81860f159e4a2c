from __future__ import annotations

import contextvars
import functools
import threading
from pathlib import Path
from typing import Any

import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.frame import Method
from pika.spec import Basic, BasicProperties

import tenancy
from tenancy import ConfigurationError, IdentityError, InvalidRoutingKeyError, RoutesNotSyncedError
from tenancy.context import attached, with_key
from tenancy.messaging import pika as ours
from tenancy.messaging.pika import consumer, inject, queue_name, synced
from tenancy.messaging.rabbitmq.outcome import Outcome
from tenancy.messaging.rabbitmq.pika_steps import Wait, run
from tenancy.messaging.rabbitmq.pika_wire import _Confirms
from tenancy.testing import MemoryRoutes
from tests.contract import Headers, PropagationContract
from tests.messaging.support import HEADERS, OWNERS, WORKLOAD, become, forks, live


class Connection:
    """A connection that blocks, and waits for nothing."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def process_data_events(self) -> None:
        raise AssertionError("nobody reads it")

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class Channel:
    """A channel that writes down what it is told."""

    is_open = True

    def __init__(self) -> None:
        self.connection = Connection()
        self.answers: list[tuple[Any, ...]] = []
        self.published: list[tuple[Any, ...]] = []

    def basic_ack(self, tag: int) -> None:
        self.answers.append(("ack", tag))

    def basic_reject(self, tag: int, requeue: bool = True) -> None:
        self.answers.append(("reject", tag, requeue))

    def basic_nack(self, tag: int, requeue: bool = True) -> None:
        self.answers.append(("nack", tag, requeue))

    def basic_publish(self, exchange: str, routing_key: str, body: Any, properties: Any = None, mandatory: bool = False) -> None:
        self.published.append((exchange, routing_key, body, properties, mandatory, tenancy.routing_key()))


def delivered(kind: str, *, exchange: str = "orders") -> tuple[Channel, Any, BasicProperties, bytes]:
    """What pika calls a callback with."""
    return Channel(), Basic.Deliver("tag", 7, False, exchange, "order.new"), BasicProperties(headers=dict(HEADERS[kind])), b"body"


def handle(channel: Any, method: Any, properties: Any, body: bytes) -> Any:
    """A handler that tells which key it had, and acknowledges."""
    channel.basic_ack(method.delivery_tag)
    return "handled", tenancy.routing_key()


class TestContract(PropagationContract):
    """pika's properties and callbacks keep the promises that all carriers keep."""

    repeats = False

    async def send(self) -> Headers:
        return list((inject(BasicProperties()).headers or {}).items())

    async def receive(self, headers: Headers, body: Any = tenancy.routing_key) -> Any:
        become(None, accept="all")

        @consumer(routes=MemoryRoutes(forks()))
        def callback(*_: Any) -> Any:
            return body()

        channel, method, _, payload = delivered("none")
        return callback(channel, method, BasicProperties(headers=dict(headers)), payload)


class TestInject:
    """Properties with a key."""

    def test_new_properties(self) -> None:
        """The caller's stay as they are, however often they are used; all but the key and the message id is the same."""
        given = BasicProperties(headers={"x-tries": 1}, priority=3, reply_to="answers", delivery_mode=2)
        with tenancy.scope("pr-1"):
            first = inject(given)
        second = inject(given)
        assert given.headers == {"x-tries": 1}
        assert given.message_id is None
        assert first.headers == {"x-tries": 1, "baggage": "sd-routing-key=pr-1"}
        assert (first.priority, first.reply_to, first.delivery_mode) == (3, "answers", 2)
        assert second.headers == {"x-tries": 1}
        assert first.message_id != second.message_id

    def test_a_message_id_stays(self) -> None:
        """One that the caller has given is kept."""
        assert inject(BasicProperties(message_id="m1")).message_id == "m1"

    def test_an_explicit_key(self) -> None:
        """It may be given, or taken out, and has to be one."""
        assert inject(key="pr-2").headers == {"baggage": "sd-routing-key=pr-2"}
        assert inject(BasicProperties(headers={"baggage": "sd-routing-key=pr-1"}), key=None).headers == {}
        with pytest.raises(InvalidRoutingKeyError):
            inject(key="PR_1")

    def test_with_key(self) -> None:
        """A channel whose basic_publish() writes the key; it has the key as its current one, too, for whoever writes it over."""
        channel = Channel()
        keyed = ours.with_key(channel)
        passed_on = BasicProperties(headers={"baggage": "sd-routing-key=pr-2"})
        with tenancy.scope("pr-1"):
            keyed.basic_publish("orders", "order.new", b"1")
        keyed.basic_publish("orders", "order.new", b"2", passed_on, mandatory=True)
        keyed.basic_publish("orders", "order.new", b"3")
        keys = [(sent[3].headers.get("baggage"), sent[4], sent[5]) for sent in channel.published]
        assert keys == [("sd-routing-key=pr-1", False, "pr-1"), ("sd-routing-key=pr-2", True, "pr-2"), (None, False, None)]
        assert keyed.connection is channel.connection
        assert isinstance(keyed, Channel)

    def test_switched_off(self) -> None:
        """Nothing stands between."""
        tenancy.configure(enabled=False)
        channel = Channel()
        assert ours.with_key(channel) is channel
        assert consumer(handle) is handle


class TestOwners:
    """Who calls its function."""

    @pytest.mark.parametrize("kind", OWNERS)
    def test_one_owner(self, kind: str, routes: MemoryRoutes) -> None:
        """Each message is handled by one process; the others acknowledge it and do nothing."""
        handled = []
        for process in (None, "pr-1", "pr-2"):
            become(process)
            message = delivered(kind)
            result = consumer(routes=routes)(handle)(*message)
            assert message[0].answers == [("ack", 7)]
            if result is not None:
                handled.append((process, result[1]))
        owner = OWNERS[kind]
        assert handled == [(owner, "pr-7" if kind == "pr-7" else owner)]

    def test_the_ambient_key_is_cleared(self, routes: MemoryRoutes) -> None:
        """A message without a key has none, whatever was current."""
        become(None)
        with tenancy.scope("ambient"):
            assert consumer(routes=routes)(handle)(*delivered("none")) == ("handled", None)
            assert tenancy.routing_key() == "ambient"

    def test_the_default_exchange(self, routes: MemoryRoutes) -> None:
        """There is one copy: the baseline handles it with its key, and a sandbox rejects what is not its own."""
        become(None)
        assert consumer(routes=routes)(handle)(*delivered("pr-1", exchange="")) == ("handled", "pr-1")
        become("pr-1")
        message = delivered("none", exchange="")
        assert consumer(routes=routes)(handle)(*message) is None
        assert message[0].answers == [("reject", 7, False)]

    def test_malformed(self, routes: MemoryRoutes) -> None:
        """It counts as none, or is rejected where that is said."""
        become(None)
        assert consumer(routes=routes)(handle)(*delivered("malformed")) == ("handled", None)
        message = delivered("malformed")
        assert consumer(routes=routes, malformed="dead-letter")(handle)(*message) is None
        assert message[0].answers == [("reject", 7, False)]

    def test_leave(self, routes: MemoryRoutes) -> None:
        """With skipped="leave" nobody is told, as auto_ack asks for."""
        become(None)
        message = delivered("pr-1")
        assert consumer(routes=routes, skipped="leave")(handle)(*message) is None
        assert message[0].answers == []

    def test_without_a_table(self, tmp_path: Path) -> None:
        """A message with a key goes back, no sooner than the deadline; one without is handled."""
        become(None, routes_deadline=0.1)
        callback = consumer(routes=live(tmp_path / "never.json"))(handle)
        message = delivered("pr-1")
        with pytest.raises(RoutesNotSyncedError):
            callback(*message)
        assert message[0].answers == [("nack", 7, True)]
        assert 0.5 < message[0].connection.slept[0] <= 1
        assert callback(*delivered("none")) == ("handled", None)
        with pytest.raises(RoutesNotSyncedError):
            synced(callback)

    def test_accept_raises(self, routes: MemoryRoutes) -> None:
        """Nobody knows whose it is, and it goes back."""
        become(None)

        def broken(_: str) -> bool:
            raise LookupError

        message = delivered("pr-1")
        with pytest.raises(LookupError):
            consumer(routes=routes, accept=broken)(handle)(*message)
        assert message[0].answers == [("nack", 7, True)]

    def test_shapes(self, routes: MemoryRoutes) -> None:
        """Methods, partials with arguments before and after, and what basic_get() returns where there is nothing."""
        become(None)

        class Service:
            @consumer(routes=routes, workload=WORKLOAD)
            def on_order(self, channel: Any, method: Any, properties: Any, body: bytes) -> Any:
                return body, tenancy.routing_key()

        assert Service().on_order(*delivered("none")) == (b"body", None)

        def more(first: str, channel: Any, method: Any, properties: Any, body: bytes, *, last: str) -> Any:
            return first, last

        assert functools.partial(consumer(routes=routes)(more), "a", last="b")(*delivered("none")) == ("a", "b")
        assert consumer(routes=routes)(handle)(Channel(), None, None, None) is None
        with pytest.raises(TypeError, match="without channel"):
            consumer(routes=routes)(handle)(b"body")

    def test_refused(self, routes: MemoryRoutes) -> None:
        """What means nothing, or who does not say who it is."""
        become(None)
        for options in ({"skipped": "drop"}, {"malformed": "drop"}, {"skipped": "leave", "malformed": "dead-letter"}):
            with pytest.raises(ConfigurationError):
                consumer(routes=routes, **options)
        tenancy.configure(workload=WORKLOAD, role=None, sandbox=None)
        with pytest.raises(IdentityError):
            consumer(routes=routes)(handle)

    def test_names(self) -> None:
        """The baseline's queue is its own, and a fork has another."""
        become(None)
        assert queue_name("orders") == "orders"
        become("pr-1")
        assert queue_name("orders") == "orders.pr-1"


class TestSteps:
    """Coroutines that pika's callbacks go on with."""

    def test_they_go_on_in_the_context_in_which_they_began(self) -> None:
        """Whoever lets them go on has a context of its own."""
        wait, keys = Wait(), []

        async def steps() -> None:
            keys.append(tenancy.routing_key())
            keys.append(await wait)
            keys.append(tenancy.routing_key())

        with attached(with_key(tenancy.RoutingKey("pr-1"))):
            run(steps())
        with tenancy.scope("other"):
            wait.set("done")
            wait.set("again")
            assert tenancy.routing_key() == "other"
        assert keys == ["pr-1", "done", "pr-1"]

    def test_errors(self) -> None:
        """What fails is raised where it is waited for, and what is not caught where the last step was taken."""
        wait = Wait()

        async def steps() -> None:
            try:
                await wait
            except KeyError:
                raise LookupError from None

        run(steps())
        with pytest.raises(LookupError):
            wait.fail(KeyError())

    def test_many_may_wait(self) -> None:
        """All of them go on."""
        wait, seen = Wait(), []

        async def steps(name: str) -> None:
            await wait
            seen.append(name)

        for name in "ab":
            run(steps(name))
        wait.set()
        run(steps("c"))
        assert seen == ["a", "b", "c"]


class TestConfirms:
    """What became of copies, as the broker says."""

    @staticmethod
    def outcomes(confirms: _Confirms, *names: str) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def expect(name: str) -> None:
            wait = confirms.expect(name)

            async def steps() -> None:
                found[name] = await wait

            run(steps())

        for name in names:
            expect(name)
        return found

    def test_a_return_comes_before_its_confirmation(self) -> None:
        """By its message id it is known which of several under way has come back."""
        confirms = _Confirms()
        found = self.outcomes(confirms, "a", "b", "c")
        confirms.returned(None, None, BasicProperties(message_id="b"), b"")
        assert found == {}
        confirms.confirmed(Method(1, Basic.Ack(3)))
        assert found == {"c": Outcome.SENT}
        confirms.confirmed(Method(1, Basic.Ack(2, multiple=True)))
        assert found == {"a": Outcome.SENT, "b": Outcome.RETURNED, "c": Outcome.SENT}

    def test_refused_and_lost(self) -> None:
        """What the broker refuses, and what it never answers, is not sent."""
        confirms = _Confirms()
        found = self.outcomes(confirms, "a", "b", "c")
        confirms.confirmed(Method(1, Basic.Nack(1)))
        confirms.lost()
        confirms.confirmed(Method(1, Basic.Ack(3, multiple=True)))
        assert found == dict.fromkeys("abc", Outcome.FAILED)


def test_what_is_theirs_is_there() -> None:
    """A selective channel has the methods of a channel by which messages are consumed and answered."""
    names = {
        "basic_ack",
        "basic_nack",
        "basic_reject",
        "basic_consume",
        "basic_cancel",
        "start_consuming",
        "stop_consuming",
        "consume",
    }
    for name in names | {"cancel", "basic_get", "basic_publish", "queue_bind", "basic_qos", "close", "is_open", "connection"}:
        assert hasattr(BlockingChannel, name)
        assert hasattr(ours.SelectiveChannel, name)


def test_threads_have_contexts_of_their_own(routes: MemoryRoutes) -> None:
    """A callback in another thread has its message's key, and leaves none there."""
    become(None)
    callback, seen = consumer(routes=routes, accept="all")(handle), []

    def work() -> None:
        seen.append(callback(*delivered("unknown")))
        seen.append(tenancy.routing_key())

    thread = threading.Thread(target=contextvars.Context().run, args=(work,))
    thread.start()
    thread.join()
    assert seen == [("handled", "pr-99"), None]
