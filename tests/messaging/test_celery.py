"""
Celery without a broker: what a task's message carries, what is current in the task, and how a forwarded copy is made.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, chain, chord, group, signals
from celery.app.trace import build_tracer
from kombu.message import Message

import tenancy
from tenancy import ConfigurationError, IdentityError
from tenancy.messaging import celery as adapter
from tenancy.messaging.celery import setup
from tenancy.messaging.rabbitmq.celery_forward import Raw, _copy, restore
from tests.contract import Headers, PropagationContract

TOLD: list[dict[str, Any]] = []


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("unit", broker="memory://", backend="cache+memory://", set_as_current=False)
    before = [(signal, list(signal.receivers)) for signal in (signals.before_task_publish, signals.worker_process_init)]
    setup(made, select=False)
    yield made
    for signal, receivers in before:
        signal.receivers = receivers
        signal.sender_receivers_cache.clear()
    made.close()


@pytest.fixture
def sent(app: Celery) -> Iterator[list[dict[str, Any]]]:
    """The headers and properties of what is published."""
    found: list[dict[str, Any]] = []

    def note(headers: Any = None, properties: Any = None, **_: Any) -> None:
        found.append({"headers": dict(headers), "properties": dict(properties)})

    signals.before_task_publish.connect(note)  # after ours
    yield found
    signals.before_task_publish.disconnect(note)


def traced(app: Celery, body: Callable[[], Any]) -> Callable[[dict[str, Any]], Any]:
    """A task that calls *body*, as a pool would run it."""
    name = f"task-{uuid.uuid4().hex}"

    def run_body() -> Any:
        return body()

    task = app.task(name=name)(run_body)
    app.finalize()
    task.__trace__ = build_tracer(name, task, app.loader, "host", app=app)
    adapter._carry_in(app)

    def run(headers: dict[str, Any]) -> Any:
        task_id = uuid.uuid4().hex
        result = task.__trace__(task_id, (), {}, {"id": task_id, "task": name, "ignore_result": False, **headers})
        return None if result[1] is not None else result[0]

    return run


class TestCelery(PropagationContract):
    repeats = False
    raises = False

    @pytest.fixture(autouse=True)
    def _app(self, app: Celery, sent: list[dict[str, Any]]) -> None:
        self.app, self.sent = app, sent

    async def send(self) -> Headers:
        task_id = self.app.send_task("any").id
        (message,) = [message for message in tuple(self.sent) if message["headers"]["id"] == task_id]
        return [(name, value) for name, value in message["headers"].items() if isinstance(value, str)]

    async def receive(self, headers: Headers, body: Callable[[], Any] = tenancy.routing_key) -> Any:
        return await asyncio.to_thread(traced(self.app, body), dict(headers))


def test_all_ways_to_send_carry_the_key(app: Celery, sent: list[dict[str, Any]]) -> None:
    """Each message that leaves in a scope has the key, and an id of its own; outside of one none has a key."""

    @app.task(name="task")
    def task(*_: Any) -> None:
        return

    with tenancy.scope("pr-1"):
        task.delay()
        task.apply_async(countdown=5, headers={"mine": "1"})
        chain(task.si(), task.si()).apply_async()
        group(task.si(), task.si()).apply_async()
        chord([task.si(), task.si()])(task.s())
    assert {message["headers"]["baggage"] for message in sent} == {"sd-routing-key=pr-1"}
    assert sent[1]["headers"]["mine"] == "1"
    ids = [message["properties"]["message_id"] for message in sent]
    assert len(set(ids)) == len(ids)
    task.delay()
    assert "baggage" not in sent[-1]["headers"]


def test_a_message_id_of_the_callers_stays(app: Celery, sent: list[dict[str, Any]]) -> None:
    """What the caller has set is not changed."""
    app.send_task("any", message_id="mine")
    assert sent[-1]["properties"]["message_id"] == "mine"


def test_what_a_task_sends_has_its_key_and_nothing_stays_behind(app: Celery, sent: list[dict[str, Any]]) -> None:
    """A task without a key sends none, also where one is ambient; after a task what was current is current again."""
    run = traced(app, lambda: app.send_task("child").id)
    with tenancy.scope("ambient"):
        run({"baggage": "sd-routing-key=pr-1"})
        assert sent[-1]["headers"]["baggage"] == "sd-routing-key=pr-1"
        run({})
        assert "baggage" not in sent[-1]["headers"]
        assert tenancy.routing_key() == "ambient"


def test_an_eager_task_has_the_key_of_its_caller(app: Celery) -> None:
    """With task_always_eager the task runs where it is called."""
    app.conf.task_always_eager = True
    task = app.task(name="task")(tenancy.routing_key)
    with tenancy.scope("pr-1"):
        assert task.delay().get() == "pr-1"
    assert task.delay().get() is None


def test_what_cannot_be_used_is_refused(app: Celery) -> None:
    """An application is set up once, and with arguments that there are."""
    with pytest.raises(ConfigurationError, match="set up before"):
        setup(app)
    other = Celery("other", set_as_current=False)
    with pytest.raises(ConfigurationError, match="malformed is 'drop'"):
        setup(other, malformed="drop")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="hold is 0"):
        setup(other, hold=0)


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tenancy is switched off nothing is changed, and in a sandbox that is refused."""
    made = Celery("off", set_as_current=False)
    tenancy.configure(enabled=False)
    setup(made)
    assert not made.steps["consumer"]
    tenancy.configure(enabled=False, sandbox="pr-1")
    with pytest.raises(IdentityError):
        setup(made)


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_copy_comes_back_as_the_message_was(compression: str | None) -> None:
    """Body, headers, properties, exchange and routing key of a restored copy are those of the message that was forwarded."""
    headers = {"task": "any", "baggage": "sd-routing-key=pr-1", "timelimit": [None, 3], "stamps": {"a": 1}}
    if compression:
        from kombu.compression import compress

        headers["compression"] = "application/x-gzip"
        body: Any = compress(b"[[], {}, {}]", compression)[0]
    else:
        body = "[[], {}, {}]"
    properties = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "correlation_id": "id",
        "reply_to": "me",
        "priority": 3,
        "expiration": "5000",
        "message_id": "mine",
        "user_id": "guest",
        "delivery_mode": 2,
        "application_headers": headers,
    }
    original = _received(body, properties, "exchange", "key")
    copied = _copy(Raw.of(original), 4)
    assert copied.properties["message_id"] != "mine"
    assert "user_id" not in copied.properties
    arrived = _received(copied.body, copied.properties, "tenancy", "key")
    raw = Raw.of(arrived)
    restore(arrived, raw)
    assert arrived.body == original.body
    assert arrived.headers == headers
    assert arrived.delivery_info == {"exchange": "exchange", "routing_key": "key", "consumer_tag": "1"}
    without = {name: value for name, value in properties.items() if name != "application_headers"}
    assert {name: value for name, value in arrived.properties.items() if name != "application_headers"} == without
    assert raw.headers is not arrived.headers


def _received(body: Any, properties: dict[str, Any], exchange: str, amqp_routing_key: str) -> Message:
    return Message(
        body=body,
        headers=properties["application_headers"],
        properties=dict(properties),
        content_type="application/json",
        content_encoding="utf-8",
        delivery_info={"exchange": exchange, "routing_key": amqp_routing_key, "consumer_tag": "1"},
    )
