from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from opentelemetry import baggage
from opentelemetry import context as otel

import tenancy
from tenancy import ConfigurationError, IdentityError, InvalidRoutingKeyError, RoutesNotSyncedError
from tenancy.messaging import confluent_kafka as kafka
from tenancy.messaging.confluent_kafka import consumer, group_id, inject
from tenancy.testing import KafkaMessage, MemoryRoutes, kafka_message
from tests.contract import Headers, PropagationContract
from tests.messaging.support import HEADERS, OWNERS, WORKLOAD, become, forks, live, record, write_table


def seen(message: Any) -> Any:
    """A handler that tells which key it had."""
    return ("handled", tenancy.routing_key())


# Beside OpenTelemetry


def test_a_consumer_that_opentelemetry_has_made_can_be_closed() -> None:
    """From the release on that the extra `opentelemetry` asks for; the one before raises TypeError, with and without us."""
    module = pytest.importorskip("opentelemetry.instrumentation.confluent_kafka")
    instrumentor = module.ConfluentKafkaInstrumentor()
    instrumentor.instrument()
    try:
        made = confluent_kafka.Consumer({"bootstrap.servers": "127.0.0.1:1", "group.id": "orders", "log_level": 0})
        assert isinstance(made, module.AutoInstrumentedConsumer)
        made.close()
    finally:
        instrumentor.uninstrument()


# Sending


def test_headers_of_others_stay_and_ours_stands_once() -> None:
    """A stale, repeated or oddly spelled key is replaced by one member, first; whatever else is there keeps its bytes and its order."""
    headers = [
        ("trace", b"\xff\xfe"),
        ("empty", None),
        ("baggage", b"a=\xe9,sd-routing-key=old"),
        ("text", "as it was"),
        ("Baggage", b"b=2;p=1,SD-routing-key=other"),
        ("ot-baggage-sd-routing-key", b"old"),
    ]
    before = list(headers)
    assert inject(headers, key="pr-42") == [
        ("trace", b"\xff\xfe"),
        ("empty", None),
        ("text", "as it was"),
        ("baggage", b"sd-routing-key=pr-42,a=\xe9,b=2;p=1,SD-routing-key=other"),
    ]
    assert headers == before


def test_headers_come_in_every_shape_and_leave_as_a_new_list() -> None:
    """None, a dictionary, a list or a tuple of pairs; what is returned may be changed without changing what was given."""
    with tenancy.scope("pr-42"):
        ours = ("baggage", b"sd-routing-key=pr-42")
        assert inject() == inject(None) == inject([]) == inject({}) == [ours]
        assert inject({"a": "1", "b": None}) == [("a", "1"), ("b", None), ours]
        assert inject((("a", b"1"),)) == [("a", b"1"), ours]
        given = [("a", b"1")]
        assert inject(given) is not given
    assert inject() == []
    given = [("a", b"1")]
    returned = inject(given)
    assert returned == given
    assert returned is not given


def test_the_key_may_be_given_or_kept() -> None:
    """An explicit key goes before the current one; without either, the key of a message that is passed on stays, unless cleared."""
    received = [("baggage", b"sd-routing-key=pr-1,a=1")]
    with tenancy.scope("pr-42"):
        assert inject(received, key="pr-2") == [("baggage", b"sd-routing-key=pr-2,a=1")]
        assert inject(received, key=None) == [("baggage", b"a=1")]
        assert inject(received) == [("baggage", b"sd-routing-key=pr-42,a=1")]
    assert inject(received) == received
    with tenancy.scope(None):
        assert inject(received) == [("baggage", b"a=1")]
    with pytest.raises(InvalidRoutingKeyError):
        inject(key="PR 1")


# The group


def test_each_sandbox_has_a_group_of_its_own() -> None:
    """The baseline keeps its group; a sandbox's is made from it."""
    become(None)
    assert group_id("orders") == "orders"
    become("pr-42")
    assert group_id("orders") == "orders.pr-42"
    assert group_id("o" * 249) != group_id("o" * 248)
    assert len(group_id("o" * 249)) <= 249
    with pytest.raises(ConfigurationError, match="base is ''"):
        group_id("")


def test_a_group_is_not_named_by_guess() -> None:
    """Who does not know who it is joins no group; where tenancy is off it is the one group."""
    with pytest.raises(IdentityError, match="TENANCY_WORKLOAD"):
        group_id("orders")
    with pytest.raises(IdentityError, match="TENANCY_ROLE=baseline"):
        group_id("orders", workload=WORKLOAD)
    become(None, workload=None)
    assert group_id("orders", workload=WORKLOAD) == "orders"
    become("pr-42", enabled=False)
    with pytest.raises(IdentityError, match="switched off"):
        group_id("orders")
    tenancy.configure(enabled=False)
    assert group_id("orders") == "orders"


# Whose message it is


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize("sandbox", [None, "pr-1", "pr-2"])
def test_only_the_owner_handles(routes: MemoryRoutes, sandbox: str | None, kind: str) -> None:
    """A message goes to the sandbox that forks the workload under its key, in every other case to the baseline; with its key if known."""
    become(sandbox)
    result = consumer(routes=routes)(seen)(record(kind))
    key = kind if kind in ("pr-1", "pr-2", "pr-7") else None
    assert result == (("handled", key) if OWNERS[kind] == sandbox else None)


def test_the_message_decides_and_not_what_is_around(routes: MemoryRoutes) -> None:
    """An ambient key neither makes a message another's nor is seen by its handler, and is back afterwards."""
    become(None)
    handler = consumer(routes=routes)(seen)
    with tenancy.scope("pr-1"):
        assert handler(record("none")) == ("handled", None)
        assert handler(record("pr-1")) is None
        assert handler(record("pr-7")) == ("handled", "pr-7")
        assert tenancy.routing_key() == "pr-1"


def test_a_refused_key_does_not_travel_on(routes: MemoryRoutes) -> None:
    """A key that is unknown, malformed or refused is gone for the handler and for what it sends, also when it passes headers on."""
    become(None)

    def forward(message: Any) -> Any:
        return tenancy.routing_key(), inject(message.headers())

    handler = consumer(routes=routes)(forward)
    assert handler(record("unknown")) == (None, [])
    assert handler(record("malformed")) == (None, [])
    refusing = consumer(routes=routes, accept="none")(forward)
    assert refusing(record("pr-1")) == (None, [("baggage", b"a=1")])
    taking = consumer(routes=routes, accept=lambda key: key == "pr-99")(forward)
    assert taking(record("unknown")) == ("pr-99", [("baggage", b"sd-routing-key=pr-99")])


def test_other_baggage_and_spans_of_the_caller_stay_current(routes: MemoryRoutes) -> None:
    """Only the key is ours to set: what else is current around the call is current in the handler."""
    become(None)
    handler = consumer(routes=routes)(lambda message: (baggage.get_baggage("user"), tenancy.routing_key()))
    token = otel.attach(baggage.set_baggage("user", "ann"))
    try:
        assert handler(record("pr-7")) == ("ann", "pr-7")
    finally:
        otel.detach(token)


def test_nothing_is_not_handled(routes: MemoryRoutes) -> None:
    """The None of a poll that found nothing does not reach the handler."""
    become(None)
    handler = consumer(routes=routes)(seen)
    assert handler(None) is None
    assert handler(message=None) is None


def test_headers_that_cannot_be_read_are_the_baseline_s(
    routes: MemoryRoutes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the client cannot decode a header's name the baseline handles the message, without a key; the client is asked only once."""

    asked: list[KafkaMessage] = []

    def headers(message: KafkaMessage) -> Any:
        asked.append(message)
        raise SystemError("returned a result with an exception set")

    monkeypatch.setattr(KafkaMessage, "headers", headers)
    for sandbox, expected in ((None, ("handled", None)), ("pr-1", None)):
        become(sandbox)
        message = kafka_message()
        assert consumer(routes=routes)(seen)(message) == expected
        assert asked.count(message) == 1
    assert [entry.getMessage()[:71] for entry in caplog.records if "read" in entry.getMessage()][:1] == [
        "confluent_kafka: the headers of a message cannot be read (SystemError('"
    ]


@pytest.mark.parametrize("sandbox", [None, "pr-1"])
def test_errors_have_no_owner(routes: MemoryRoutes, sandbox: str | None) -> None:
    """A message that is an error or an end of partition reaches every consumer's handler, without a key and without a table."""
    become(sandbox)
    handler = consumer(routes=live(Path("/nowhere.json")))(seen)
    with tenancy.scope("pr-1"):
        assert handler(kafka_message(error="_PARTITION_EOF")) == ("handled", None)
        assert handler(kafka_message(key="pr-2", error="_TRANSPORT")) == ("handled", None)


def test_the_table_is_followed(routes: MemoryRoutes) -> None:
    """A route that is added or removed changes the owner of the messages that come after."""
    become(None)
    handler = consumer(routes=routes)(seen)
    assert handler(record("pr-1")) is None
    routes.replace(forks("pr-2"))
    assert handler(record("pr-1")) == ("handled", None)  # the key is not known any more
    routes.replace(forks("pr-1"))
    assert handler(record("pr-1")) is None


def test_verdicts_are_counted_and_put_on_the_span(routes: MemoryRoutes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each decision is counted with its reason, and the span of the consumer tells it."""
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    counted: list[Any] = []
    monkeypatch.setattr("tenancy.routes.judge.count", lambda name, attributes: counted.append(attributes))
    become("pr-1")
    handler = consumer(routes=routes)(seen)
    with trace.TracerProvider().get_tracer("test").start_as_current_span("process") as span:
        handler(record("pr-1"))
        handler(record("none"))
        handler(None)
    assert [(entry["adapter"], entry["verdict"], entry["reason"], entry["routing_key"]) for entry in counted] == [
        ("confluent_kafka", "own", "forked_here", "pr-1"),
        ("confluent_kafka", "skip", "unkeyed", "_none"),
    ]
    assert span.attributes["tenancy.routing_key"] == "pr-1"
    assert span.attributes["tenancy.verdict"] == "skip"


# What can be decorated


def service() -> Any:
    class Service:
        name = "service"

        @consumer
        def method(self, message: Any, factor: int = 1) -> Any:
            """Docs."""
            return self.name, tenancy.routing_key(), factor

        @classmethod
        @consumer()
        def of_class(cls, message: Any) -> Any:
            return cls.name, tenancy.routing_key()

        @staticmethod
        @consumer(WORKLOAD)
        def static(message: Any) -> Any:
            return tenancy.routing_key()

        @consumer(workload=WORKLOAD)
        async def coroutine(self, message: Any) -> Any:
            await asyncio.sleep(0)
            return self.name, tenancy.routing_key()

    return Service()


class CallableObject:
    def __init__(self) -> None:
        self.secret = "not for the wrapper"

    def __call__(self, message: Any) -> Any:
        return tenancy.routing_key()


class AsyncCallableObject:
    async def __call__(self, message: Any) -> Any:
        await asyncio.sleep(0)
        return tenancy.routing_key()


def with_more(more: str, message: Any) -> Any:
    """Docs."""
    return more, tenancy.routing_key()


async def handle_async(message: Any) -> Any:
    """Docs."""
    await asyncio.sleep(0)
    return tenancy.routing_key()


@pytest.fixture
def as_sandbox(routes: MemoryRoutes) -> None:
    become("pr-1", routes=routes.url)


def test_methods_are_handlers(as_sandbox: None) -> None:
    """The message is found behind self and cls, and by name; further arguments arrive."""
    instance = service()
    assert instance.method(record("pr-1")) == ("service", "pr-1", 1)
    assert instance.method(record("pr-1"), factor=3) == ("service", "pr-1", 3)
    assert instance.method(message=record("pr-1")) == ("service", "pr-1", 1)
    assert instance.method(record("pr-2")) is None
    assert instance.method(None) is None
    assert instance.of_class(record("pr-1")) == ("service", "pr-1")
    assert instance.static(record("pr-1")) == "pr-1"
    assert consumer(instance.static)(record("pr-1")) == "pr-1"
    assert asyncio.run(instance.coroutine(record("pr-1"))) == ("service", "pr-1")
    assert asyncio.run(instance.coroutine(record("none"))) is None
    kafka.wait_synced(instance.method)


def test_partials_and_callable_objects_are_handlers(as_sandbox: None) -> None:
    """Whatever can be called with a message, sync or not."""
    assert consumer(functools.partial(with_more, "more"))(record("pr-1")) == ("more", "pr-1")
    assert consumer(CallableObject())(record("pr-1")) == "pr-1"
    assert not hasattr(consumer(CallableObject()), "secret")
    assert asyncio.run(consumer(AsyncCallableObject())(record("pr-1"))) == "pr-1"
    assert asyncio.run(consumer(functools.partial(handle_async))(record("pr-1"))) == "pr-1"
    assert asyncio.run(consumer(lambda message: handle_async(message))(record("pr-1"))) == "pr-1"
    kafka.wait_synced(functools.partial(consumer(CallableObject())))


def test_a_handler_keeps_its_face(as_sandbox: None) -> None:
    """Name, documentation, signature and kind are those of the function."""
    wrapped = consumer(with_more)
    assert (wrapped.__name__, wrapped.__doc__, inspect.signature(wrapped)) == ("with_more", "Docs.", inspect.signature(with_more))
    assert inspect.iscoroutinefunction(consumer(handle_async))
    assert not inspect.iscoroutinefunction(wrapped)
    partial = consumer(functools.partial(with_more, "more"))
    assert (partial.__name__, partial.__doc__) == ("with_more", "Docs.")
    assert list(inspect.signature(partial).parameters) == ["message"]
    assert consumer(CallableObject()).__name__ == "CallableObject"
    assert service().method.__doc__ == "Docs."


async def test_a_task_is_handed_on_as_one(as_sandbox: None) -> None:
    """A handler that starts a task and returns it returns that task, which has the message's key and needs nobody to await it."""
    started: list[asyncio.Task[Any]] = []

    def start(message: Any) -> Any:
        started.append(asyncio.get_running_loop().create_task(handle_async(message)))
        return started[0]

    returned: Any = consumer(start)(record("pr-1"))
    assert returned is started[0]
    assert await returned == "pr-1"
    assert tenancy.routing_key() is None


def test_exceptions_pass_and_restore(as_sandbox: None) -> None:
    """What the handler raises reaches the caller as it is, and no key stays behind."""
    error = LookupError("the handler failed")

    def fail(message: Any) -> None:
        raise error

    async def fail_later(message: Any) -> None:
        await asyncio.sleep(0)
        raise error

    with tenancy.scope("pr-99"):
        for failing in (consumer(fail), lambda message: asyncio.run(consumer(fail_later)(message))):
            with pytest.raises(LookupError) as caught:
                failing(record("pr-1"))
            assert caught.value is error
            assert tenancy.routing_key() == "pr-99"


def test_a_handler_without_a_message_is_a_mistake(as_sandbox: None) -> None:
    """Arguments among which there is no message are refused, rather than handled as nobody's."""
    handler = consumer(seen)
    with pytest.raises(TypeError, match="without a message: got str"):
        handler("message")


@pytest.mark.parametrize("wrong", [1, (lambda: (yield))])
def test_what_cannot_be_a_handler_is_refused(as_sandbox: None, wrong: Any) -> None:
    """Something that cannot be called, or a generator, whose body would run too late, is refused when it is decorated."""
    with pytest.raises(ConfigurationError, match="cannot be a message handler"):
        consumer()(wrong)


# Who one is, and the table


def test_without_an_identity_nothing_is_decorated(routes: MemoryRoutes) -> None:
    """A consumer that does not know who it is, or has no table, fails where it is decorated, never at the first message."""
    with pytest.raises(IdentityError, match="TENANCY_WORKLOAD"):
        consumer(routes=routes)(seen)
    with pytest.raises(IdentityError, match="TENANCY_ROLE=baseline"):
        consumer(WORKLOAD, routes=routes)(seen)
    tenancy.configure(role="sandbox")
    with pytest.raises(IdentityError, match="TENANCY_SANDBOX"):
        consumer(WORKLOAD, routes=routes)(seen)
    become(None)
    with pytest.raises(ConfigurationError, match="TENANCY_ROUTES"):
        consumer(seen)
    with pytest.raises(ConfigurationError, match="sometimes"):
        consumer(accept="sometimes", routes=routes)(seen)  # type: ignore[call-overload]


def test_switched_off_it_is_not_there() -> None:
    """Where tenancy is off the function itself comes back and there is nothing to wait for, except in a sandbox, which must not start."""
    tenancy.configure(enabled=False)
    assert consumer(seen) is seen
    assert consumer(WORKLOAD)(seen) is seen
    kafka.wait_synced(seen)
    asyncio.run(kafka.synced(seen))
    for sandbox in ({"sandbox": "pr-1"}, {"role": "sandbox"}):
        tenancy.configure(enabled=False, workload=WORKLOAD, **sandbox)
        with pytest.raises(IdentityError):
            consumer(seen)


def test_work_without_a_key_never_waits(routes: MemoryRoutes) -> None:
    """With no table to be had, what carries no key is handled at once, and a malformed key counts as none; a key raises."""
    become(None, routes_deadline=0.2)
    routes.replace(forks("pr-1"))
    routes.lose("it is late")
    handler = consumer(routes=routes)(seen)
    for kind in ("none", "malformed"):
        start = time.monotonic()
        assert handler(record(kind)) == ("handled", None)
        assert time.monotonic() - start < 0.15
    with pytest.raises(RoutesNotSyncedError, match="late"):
        handler(record("pr-1"))
    with pytest.raises(RoutesNotSyncedError, match="late"):
        kafka.wait_synced(handler)
    assert handler(record("none")) == ("handled", None)
    routes.restore()
    assert handler(record("pr-1")) is None
    assert handler(record("pr-7")) == ("handled", "pr-7")


def test_a_workload_that_no_table_knows_is_refused(routes: MemoryRoutes) -> None:
    """A misspelt workload would never meet a route and take every sandbox's messages, so nothing with a key is decided."""
    become(None)
    handler = consumer("shop/order", routes=routes)(seen)
    for call in (lambda: kafka.wait_synced(handler), lambda: handler(record("pr-1")), lambda: asyncio.run(kafka.synced(handler))):
        with pytest.raises(IdentityError, match="did you mean shop/orders"):
            call()


def test_a_mistake_is_found_at_start(tmp_path: Path, routes: MemoryRoutes) -> None:
    """The barrier can be run before the first message, blocking or not; only for what was decorated."""
    become(None, routes_deadline=0.1)
    late = consumer(routes=live(tmp_path / "never.json"))(seen)
    with pytest.raises(RoutesNotSyncedError):
        kafka.wait_synced(late)
    with pytest.raises(RoutesNotSyncedError):
        asyncio.run(kafka.synced(late))
    kafka.wait_synced(consumer(routes=routes)(seen))
    asyncio.run(kafka.synced(consumer(routes=routes)(handle_async)))
    with pytest.raises(ConfigurationError, match="not a decorated message handler"):
        kafka.wait_synced(seen)


def test_the_workload_is_checked_at_start_and_not_again(routes: MemoryRoutes) -> None:
    """Once the table was there and knew the workload, an edit that drops the workload stops no consumer: nobody forks it any more."""
    become(None)
    handler = consumer(routes=routes)(seen)
    assert handler(record("pr-1")) is None
    routes.replace({"shop/billing": []})
    assert handler(record("pr-1")) == ("handled", None)
    kafka.wait_synced(handler)


async def test_messages_that_wait_together_wait_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many messages wait for the table, one thread does, and all of them go on when it is there; a cancelled one alone goes."""
    path = tmp_path / "late.json"
    become(None, routes_deadline=5)
    routes = live(path)
    waiting = 0
    wait_synced = routes.wait_synced

    def counting(deadline: float) -> Any:
        nonlocal waiting
        waiting += 1
        return wait_synced(deadline)

    monkeypatch.setattr(routes, "wait_synced", counting)
    handler = consumer(routes=routes)(handle_async)
    tasks = [asyncio.create_task(handler(record("pr-7"))) for _ in range(100)]
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in tasks)
    tasks[0].cancel()
    await asyncio.sleep(0)
    write_table(path, "pr-1")
    assert await asyncio.gather(*tasks[1:]) == ["pr-7"] * 99
    assert waiting == 1
    assert tasks[0].cancelled()


def test_the_log_says_once_that_hand_over_is_not_exact(routes: MemoryRoutes, caplog: pytest.LogCaptureFixture) -> None:
    """That hand-over is not exact is said in the log, once for the process."""
    become(None)
    with caplog.at_level(logging.INFO, "tenancy"):
        for _ in range(2):
            handler = consumer(routes=routes)(seen)
            assert handler(record("none")) is not None
            assert not caplog.records or len(caplog.records) == 1
            handler(record("pr-1"))
            kafka.wait_synced(handler)
    assert [entry.message for entry in caplog.records if "Hand-over" in entry.message] == [caplog.records[0].message]


# The contract, without a broker


class InMemory(PropagationContract):
    """Headers as `inject` makes them, messages as `poll` returns them."""

    handler: Callable[[Any], Any]

    @pytest.fixture(autouse=True)
    def _baseline(self, routes: MemoryRoutes) -> None:
        become(None)
        routes.replace(forks())  # no forks: every key is the baseline's
        self.bodies: dict[int, Callable[[], Any]] = {}
        self.handler = self.decorated(routes)

    def decorated(self, routes: MemoryRoutes) -> Callable[[Any], Any]:
        raise NotImplementedError

    def message(self, headers: Headers) -> Any:
        return kafka_message(headers=headers)

    async def send(self) -> Headers:
        return [(name, (value or b"").decode("latin-1")) for name, value in inject([("other", b"1")]) if isinstance(value, bytes)]

    async def receive(self, headers: Headers, body: Callable[[], Any] = tenancy.routing_key) -> Any:
        message = self.message(headers)
        self.bodies[id(message)] = body
        result = self.handler(message)
        return await result if inspect.isawaitable(result) else result


class TestContract(InMemory):
    """A plain function."""

    def decorated(self, routes: MemoryRoutes) -> Callable[[Any], Any]:
        return consumer(accept="all", routes=routes)(lambda message: self.bodies.pop(id(message))())


class TestAsyncContract(InMemory):
    """A coroutine function, as for AIOConsumer."""

    def decorated(self, routes: MemoryRoutes) -> Callable[[Any], Any]:
        async def handle(message: Any) -> Any:
            await asyncio.sleep(0)
            result = self.bodies.pop(id(message))()
            await asyncio.sleep(0)
            return result

        return consumer(accept="all", routes=routes)(handle)


def _can_make_messages() -> bool:
    from confluent_kafka import Message

    try:
        Message(headers=[])
    except TypeError:
        return False
    return True


@pytest.mark.skipif(not _can_make_messages(), reason="this confluent-kafka does not let anybody make messages")
class TestRealMessages(TestContract):
    """The client's own class of messages."""

    def message(self, headers: Headers) -> Any:
        from confluent_kafka import Message

        return Message(topic="orders", headers=[(name, value.encode("latin-1")) for name, value in headers])


def test_a_missing_client_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the client library the import says what to install."""
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    monkeypatch.delitem(sys.modules, "tenancy.messaging.confluent_kafka")
    with pytest.raises(tenancy.MissingDependencyError, match=r"request-tenancy\[kafka\]"):
        __import__("tenancy.messaging.confluent_kafka")
