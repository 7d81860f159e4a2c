"""
What the how-to pages only define, because it needs a broker, does what they say.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

import tenancy
from tenancy.messaging import aio_pika as rabbit
from tenancy.messaging.aio_pika import publish
from tenancy.messaging.confluent_kafka import inject
from tests.messaging.support import WORKLOAD, write_table

pytestmark = pytest.mark.service

PAGES = Path(__file__).resolve().parents[2] / "docs" / "how-to"


def page(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandbox: str | None) -> dict[str, Any]:
    """Run a page's snippets and return what they define, in a process that is the baseline, or sandbox pr-42."""
    sybil = pytest.importorskip("sybil")
    markdown = pytest.importorskip("sybil.parsers.markdown")
    write_table(tmp_path / "routes.json", "pr-42")
    monkeypatch.setenv("TENANCY_ROUTES", f"file://{tmp_path}/routes.json")
    monkeypatch.setenv("TENANCY_WORKLOAD", WORKLOAD)
    monkeypatch.setenv("TENANCY_ROLE", "baseline")
    tenancy.configure()
    document = sybil.Sybil(parsers=[markdown.PythonCodeBlockParser()]).parse(PAGES / name)
    if sandbox is not None:  # the pages assert what the baseline sees; only what they define is wanted
        monkeypatch.delenv("TENANCY_ROLE")
        monkeypatch.setenv("TENANCY_SANDBOX", sandbox)
        tenancy.configure()
    for example in document.examples():
        try:
            example.evaluate()
        except AssertionError:
            assert sandbox is not None
    document.namespace["orders"].clear()
    namespace: dict[str, Any] = document.namespace
    return namespace


@pytest.mark.parametrize("sandbox", [None, "pr-42"])
@pytest.mark.parametrize("way", ["serve", "serve_in_a_loop", "serve_batches", "forward"])
def test_the_kafka_loops(
    kafka: str, unique: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandbox: str | None, way: str
) -> None:
    """Each loop of the page handles what is its own, and ends on an exception of the handler; a transaction that ended so sent nothing."""
    output = f"{unique}.out"
    admin = AdminClient({"bootstrap.servers": kafka})
    for created in admin.create_topics([NewTopic(unique, 1, 1), NewTopic(output, 1, 1)]).values():
        created.result(30)
    defined = page("kafka.md", tmp_path, monkeypatch, sandbox)
    defined["produce"](kafka, unique)

    class Orders(list[Any]):
        def append(self, item: Any) -> None:
            super().append(item)
            if len(self) >= 2:
                raise KeyboardInterrupt

    defined["orders"] = handled = Orders()
    arguments = (kafka, unique, output, unique) if way == "forward" else (kafka, unique, unique)
    ended: list[BaseException] = []

    def run() -> None:
        try:
            defined[way](*arguments)
        except KeyboardInterrupt as interrupt:
            ended.append(interrupt)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert ended
    expected = [(b"0", None), (b"2", None)] if sandbox is None else [(b"1", "pr-42"), (b"3", "pr-42")]
    assert (sorted(handled) if way == "serve" else handled) == expected
    if way == "forward":
        reader = Consumer({"bootstrap.servers": kafka, "group.id": output, "isolation.level": "read_committed"})
        reader.assign([TopicPartition(output, 0, 0)])
        sent = reader.poll(20)
        assert sent is not None
        assert (sent.value(), sent.headers()) == (expected[0][0], inject(key=expected[0][1]) or None)
        assert reader.poll(1.0) is None
        reader.close()


@pytest.mark.parametrize("sandbox", [None, "pr-42"])
async def test_the_rabbitmq_functions(
    rabbitmq: str, unique: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandbox: str | None
) -> None:
    """The queue, the callback, the loop and the retries of the page."""
    monkeypatch.setattr(rabbit, "_own_queues", set())
    defined = page("rabbitmq.md", tmp_path, monkeypatch, sandbox)
    handled = defined["orders"]
    expected = [(b"0", None), (b"2", None)] if sandbox is None else [(b"1", "pr-42"), (b"3", "pr-42")]
    own = defined["queue_name"]

    connection = await aio_pika.connect_robust(rabbitmq)
    async with connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(unique, "topic", durable=True)

        async def send() -> None:
            for number, key in enumerate([None, "pr-42", None, "pr-42"]):
                await publish(exchange, aio_pika.Message(str(number).encode()), "order.new", key=key)

        async def settled() -> None:
            while len(handled) < 2:
                await asyncio.sleep(0.01)

        try:
            async with await connection.channel() as consuming:
                await defined["serve"](consuming, unique)
                await send()
                await asyncio.wait_for(settled(), 20)
            assert sorted(handled) == expected
            handled.clear()

            queue = await defined["own_queue"](channel, unique, f"{unique}.loop")
            await send()
            await asyncio.wait_for(defined["serve_in_a_loop"](queue, b"3"), 20)
            assert handled == expected

            queue = await defined["with_retries"](channel, unique, f"{unique}.tried")
            await publish(exchange, aio_pika.Message(b"again"), "order.new", key=sandbox)
            first = await queue.get(timeout=5)
            await first.reject()
            again = None
            while again is None:
                again = await queue.get(fail=False)
                await asyncio.sleep(0.05)
            await again.ack()
            assert (again.body, again.headers.get("baggage")) == (b"again", first.headers.get("baggage"))
        finally:
            for name in ("orders", f"{unique}.loop", f"{unique}.tried", f"{unique}.tried.retry"):
                await channel.queue_delete(own(name))
            await channel.exchange_delete(unique)
