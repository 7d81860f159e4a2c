"""
`TenancyMiddleware` of FastStream on a real Kafka, with both of its Kafka brokers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from importlib import import_module
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from faststream import AckPolicy

import tenancy
from tenancy.messaging.faststream import TenancyMiddleware
from tenancy.messaging.kafka.broker import KafkaBroker
from tenancy.routes import LiveRoutes
from tenancy.sandbox import Controller, Fork
from tests.messaging.kafka.aio_support import Rows, committed, make_topic, send, until
from tests.messaging.support import WORKLOAD, become

pytestmark = pytest.mark.service

MIXED = [None, "pr-1", None, "pr-9", "pr-1", None]
#: Who owns each of them where pr-1 is handed over from the second record on.
OWNED: dict[str | None, list[int]] = {None: [0, 2, 3, 5], "pr-1": [1, 4]}


@pytest.fixture(params=["kafka", "confluent"])
def client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def topic(kafka: str) -> str:
    return await make_topic(kafka)


@pytest.fixture
def rows() -> Rows:
    return Rows()


class Service:
    """
    A broker of FastStream with one subscriber, of the baseline or a sandbox.
    """

    def __init__(
        self,
        client: str,
        kafka: str,
        topic: str,
        sandbox: str | None,
        routes: LiveRoutes,
        *,
        answers: str | None = None,
        **options: Any,
    ) -> None:
        become(sandbox)
        self.middleware = TenancyMiddleware(routes=routes)
        self.broker = import_module(f"faststream.{client}").KafkaBroker(kafka, middlewares=[self.middleware], graceful_timeout=5)
        self.got: list[tuple[int, str | None]] = []
        self.fails: set[int] = set()
        group = self.middleware.group(topic)
        self.group = group["group_id"]
        given = {"ack_policy": AckPolicy.NACK_ON_ERROR, "auto_offset_reset": "earliest", **group, **options}

        async def handle(number: int) -> dict[str, int]:
            await asyncio.sleep(0)
            self.got.append((number, tenancy.routing_key()))
            if number in self.fails:
                self.fails.discard(number)
                raise LookupError(f"{number} failed")
            if answers is not None:
                await self.broker.publish({"inside": number}, answers, headers={"other": "1"})
            return {"returned": number}

        if answers is not None:
            handle = self.broker.publisher(answers)(handle)
        self.subscriber = self.broker.subscriber(topic, **given)(handle)

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.got]

    async def __aenter__(self) -> Service:
        await self.broker.start()
        await self.middleware.follow(self.broker)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.broker.stop()


async def _is(kafka: str, group: str, topic: str, offset: int | None) -> bool:
    return await committed(kafka, group, topic) == offset


@pytest.mark.parametrize("policy", [AckPolicy.NACK_ON_ERROR, AckPolicy.ACK, AckPolicy.ACK_FIRST])
async def test_each_message_has_one_owner(client: str, kafka: str, topic: str, rows: Rows, policy: AckPolicy) -> None:
    """The baseline and the sandbox handle their own messages, each with its key, and commit all of them."""
    rows.active(topic, topic, 1)
    await send(kafka, topic, MIXED)
    for sandbox, wanted in OWNED.items():
        with tenancy.scope("pr-7"):
            async with Service(
                client, kafka, topic, sandbox, rows.live(), ack_policy=policy, auto_commit_interval_ms=100
            ) as service:
                await until(lambda service=service, wanted=wanted: len(service.got) == len(wanted))
                assert service.got == [(number, sandbox) for number in wanted]
                await until(lambda service=service: _is(kafka, service.group, topic, len(MIXED)))
            assert tenancy.routing_key() == "pr-7"


async def test_a_message_waits_while_a_sandbox_is_created(client: str, kafka: str, topic: str, rows: Rows) -> None:
    """It waits in place, nothing from it on is committed, and then it is its owner's."""
    rows.create(topic, topic)
    await send(kafka, topic, MIXED)
    live = rows.live()
    async with AsyncExitStack() as stack:
        baseline = await stack.enter_async_context(Service(client, kafka, topic, None, live))
        sandbox = await stack.enter_async_context(Service(client, kafka, topic, "pr-1", live))
        await until(lambda: baseline.numbers == [0])
        await asyncio.sleep(1)
        assert baseline.numbers == [0]
        assert sandbox.numbers == []
        assert await committed(kafka, topic, topic) == 1
        assert await committed(kafka, sandbox.group, topic) in (None, 1)
        rows.activate(topic, 4)
        await until(lambda: baseline.numbers == [0, 1, 2, 3, 5])
        await until(lambda: sandbox.numbers == [4])
        for group in (topic, sandbox.group):
            await until(lambda group=group: _is(kafka, group, topic, len(MIXED)))


class Recorder:
    """
    A client that notes what it is asked to commit.
    """

    def __init__(self, client: Any) -> None:
        self._client, self.commits = client, list[Any]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def commit(self, **asked: Any) -> Any:
        self.commits += [None] if "offsets" not in asked else [place.offset for place in asked["offsets"]]
        return self._client.commit(**asked)


async def test_confluent_commits_up_to_the_message_and_not_to_where_it_is_by_then(kafka: str, topic: str, rows: Rows) -> None:
    """Whether it was handled or skipped: without an offset the next message could be passed, which may have to wait."""
    rows.create(topic, topic)
    await send(kafka, topic, MIXED)
    async with AsyncExitStack() as stack:
        service = Service("confluent", kafka, topic, None, rows.live())
        await stack.enter_async_context(service.broker)
        consumers = import_module("faststream.confluent.helpers.client").AsyncConfluentConsumer
        start, recorders = consumers.start, list[Recorder]()

        async def started(self: Any) -> None:
            self.consumer = Recorder(self.consumer)
            recorders.append(self.consumer)
            await start(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(consumers, "start", started)
            await service.broker.start()
        await until(lambda: service.numbers == [0])
        await until(lambda: recorders[0].commits == [1])
        await asyncio.sleep(0.3)
        rows.activate(topic, 4)
        await until(lambda: recorders[0].commits == [1, 2, 3, 4, 5, 6])
        assert service.numbers == [0, 1, 2, 3, 5]


async def test_who_stops_while_a_message_waits_leaves_it(client: str, kafka: str, topic: str, rows: Rows) -> None:
    """A broker that is stopped meanwhile stops at once, and whoever comes next has the message."""
    rows.create(topic, topic)
    await send(kafka, topic, ["pr-1", None])
    live = rows.live()
    for policy in (AckPolicy.ACK, AckPolicy.NACK_ON_ERROR):
        async with Service(client, kafka, topic, None, live, ack_policy=policy) as service:
            await asyncio.sleep(2)
            assert service.got == []
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 4
        assert not await committed(kafka, topic, topic)
    rows.activate(topic, 1)
    async with Service(client, kafka, topic, None, live) as service:
        await until(lambda: service.numbers == [0, 1])


async def test_a_failed_message_comes_again(client: str, kafka: str, topic: str, rows: Rows) -> None:
    """A handler's exception does what the subscriber's policy says, also after messages that were skipped."""
    rows.active(topic, topic, 0)
    await send(kafka, topic, ["pr-1", None, "pr-1", None])
    async with AsyncExitStack() as stack:
        service = Service(client, kafka, topic, None, rows.live())
        service.fails = {1}
        await stack.enter_async_context(service)
        await until(lambda: service.numbers == [1, 1, 3])
        await until(lambda: _is(kafka, topic, topic, 4))


async def test_what_a_handler_publishes_carries_the_key(client: str, kafka: str, topic: str, rows: Rows) -> None:
    """What it publishes itself, what it returns, and what is published elsewhere: the key of the work at hand, and no other."""
    rows.active(topic, topic, 1)
    answers = await make_topic(kafka)
    await send(kafka, topic, MIXED)
    for sandbox, wanted in OWNED.items():
        async with Service(client, kafka, topic, sandbox, rows.live(), answers=answers) as service:
            await until(lambda service=service, wanted=wanted: len(service.got) == len(wanted))
            await until(lambda service=service: _is(kafka, service.group, topic, len(MIXED)))
    async with Service(client, kafka, answers, None, rows.live()) as service:
        with tenancy.scope("pr-5"):
            await service.broker.publish(b"outside", topic)
            await service.broker.publish_batch(b"batch", b"batch", topic=topic)
        await service.broker.publish(b"outside", topic)
    async with AIOKafkaConsumer(answers, topic, bootstrap_servers=kafka, auto_offset_reset="earliest") as reader:
        seen: Counter[tuple[bytes, tuple[bytes, ...]]] = Counter()
        while sum(seen.values()) < 12 + 4 + len(MIXED):
            record = await asyncio.wait_for(reader.getone(), 30)
            keys = tuple(value for name, value in record.headers if name == "baggage")
            seen[record.value, keys] += 1
            if record.value.startswith(b'{"inside'):
                assert ("other", b"1") in record.headers
    for sandbox, wanted in OWNED.items():
        keys = (b"sd-routing-key=" + sandbox.encode(),) if sandbox else ()
        for number in wanted:
            assert seen[f'{{"inside": {number}}}'.encode(), keys] + seen[f'{{"inside":{number}}}'.encode(), keys] == 1
            assert seen[f'{{"returned": {number}}}'.encode(), keys] + seen[f'{{"returned":{number}}}'.encode(), keys] == 1
    assert seen[b"outside", (b"sd-routing-key=pr-5",)] == 1
    assert seen[b"batch", (b"sd-routing-key=pr-5",)] == 2
    assert seen[b"outside", ()] == 1


async def test_a_batch_is_refused(client: str, kafka: str, topic: str, rows: Rows, caplog: pytest.LogCaptureFixture) -> None:
    """A batch subscriber is stopped, and nothing of it is committed."""
    await send(kafka, topic, [None])
    async with Service(client, kafka, topic, None, rows.live(), batch=True) as service:
        await until(lambda: not next(iter(service.broker.subscribers)).running)
    assert service.got == []
    assert not await committed(kafka, topic, topic)
    assert any("batch=True" in entry.getMessage() for entry in caplog.records)


async def test_switched_off_it_does_nothing(client: str, kafka: str, topic: str, rows: Rows) -> None:
    """Where tenancy is off every message is handled, in the one group."""
    await send(kafka, topic, [None, "pr-1"])
    become(None, enabled=False)
    middleware = TenancyMiddleware()
    assert middleware.group("orders") == {"group_id": "orders"}
    broker = import_module(f"faststream.{client}").KafkaBroker(kafka, middlewares=[middleware])
    got: list[int] = []

    @broker.subscriber(topic, group_id=topic, auto_offset_reset="earliest")
    async def handle(number: int) -> None:
        got.append(number)

    await broker.start()
    await middleware.follow(broker)
    try:
        await until(lambda: got == [0, 1])
    finally:
        await broker.stop()


async def test_create_and_delete_while_traffic_runs(client: str, kafka: str, topic: str) -> None:
    """Every message is handled by its owner as the cuts say, none is lost, and the sandbox's subscriber leaves when it is gone."""
    rows = Rows(lease=1.0)
    live = rows.live()
    controller = Controller(rows.store, KafkaBroker({"bootstrap.servers": kafka}))
    total = 0
    ended = asyncio.Event()

    async def produce() -> None:
        nonlocal total
        while not ended.is_set():
            await send(kafka, topic, [None, "pr-1", None, "pr-9"], first=total)
            total += 4
            await asyncio.sleep(0.1)

    async with AsyncExitStack() as stack:
        baseline = await stack.enter_async_context(Service(client, kafka, topic, None, live))
        await until(lambda: len(rows.store.members(WORKLOAD)) == 1)
        producing = asyncio.create_task(produce())
        creating = asyncio.create_task(asyncio.to_thread(controller.create, "pr-1", [Fork(WORKLOAD, "pr-1")]))
        await asyncio.sleep(0.5)
        async with Service(client, kafka, topic, "pr-1", live) as sandbox:
            await creating
            await asyncio.sleep(2)
            await asyncio.to_thread(controller.delete, "pr-1", deadline=40)
            assert not next(iter(sandbox.broker.subscribers)).running
        await asyncio.sleep(1)
        ended.set()
        await producing
        await until(lambda: len(baseline.got) + len(sandbox.got) >= total)
    row = rows.row()
    # One partition, one producer: a message's number is its offset.
    owners = {number: row.claim(topic, 0, number).sandbox if number % 4 == 1 else None for number in range(total)}
    assert baseline.numbers == [number for number in range(total) if owners[number] is None]
    assert sandbox.numbers == [number for number in range(total) if owners[number] == "pr-1"]
    assert len(sandbox.numbers) > 3


async def test_all_of_a_topic_of_its_own_is_the_sandboxs(client: str, kafka: str, topic: str, rows: Rows) -> None:
    """Whatever key a message has there, or none."""
    rows.active(topic, topic, 0)
    rows.own(topic)
    await send(kafka, topic, MIXED)
    async with Service(client, kafka, topic, "pr-1", rows.live()) as service:
        await until(lambda: len(service.got) == len(MIXED))
    assert service.got == [(number, key if key == "pr-1" else None) for number, key in enumerate(MIXED)]
