"""
A sandbox is created and deleted while traffic runs, with consumers of aiokafka.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from tenancy.messaging.aiokafka import inject
from tenancy.messaging.kafka.broker import KafkaBroker
from tenancy.sandbox import Controller, Fork
from tests.messaging.kafka.aio_support import Rows, consumer, make_topic, until
from tests.messaging.support import WORKLOAD

pytestmark = pytest.mark.service

KEYS = [None, "pr-1", None, "pr-9"]


@pytest.mark.parametrize("automatic", [True, False])
async def test_create_and_delete_while_traffic_runs(kafka: str, automatic: bool) -> None:
    """Every record is handled by its owner as the cuts say, none is lost, and none twice but by a rebalance."""
    topic = await make_topic(kafka, 4)
    rows = Rows(lease=1.0)
    sent: dict[int, tuple[int, int]] = {}
    handled: list[tuple[str | None, int]] = []
    ended = asyncio.Event()

    async def produce() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=kafka)
        await producer.start()
        number, waiting = 0, set[Any]()
        try:
            while not ended.is_set():
                future = await producer.send(topic, str(number).encode(), headers=inject(key=KEYS[number % 4]))

                def sent_at(done: Any, number: int = number) -> None:
                    sent[number] = done.result().partition, done.result().offset

                future.add_done_callback(sent_at)
                waiting.add(future)
                number += 1
                await asyncio.sleep(0.004)
            await asyncio.gather(*waiting)
        finally:
            await producer.stop()

    async def consume(sandbox: str | None) -> None:
        options = {"enable_auto_commit": automatic}
        async with consumer(kafka, topic, sandbox=sandbox, routes=rows.live(), group=topic, **options) as made:
            async for record in made:
                handled.append((sandbox, int(record.value)))
                await asyncio.sleep(0)
                if not automatic:
                    await made.commit()

    controller = Controller(rows.store, KafkaBroker({"bootstrap.servers": kafka}))
    producing = asyncio.create_task(produce())
    baseline = [asyncio.create_task(consume(None)) for _ in range(2)]
    await until(lambda: len(rows.store.members(WORKLOAD)) == 2)
    await asyncio.sleep(1)
    creating = asyncio.create_task(asyncio.to_thread(controller.create, "pr-1", [Fork(WORKLOAD, "pr-1")]))
    await asyncio.sleep(0.3)
    sandbox = asyncio.create_task(consume("pr-1"))
    await creating
    await asyncio.sleep(2)
    await asyncio.to_thread(controller.delete, "pr-1", deadline=40)
    await asyncio.wait_for(sandbox, 20)
    await asyncio.sleep(1)
    ended.set()
    await producing
    await until(lambda: not sent.keys() - {number for _, number in handled})
    for task in baseline:
        task.cancel()
    await asyncio.gather(*baseline, return_exceptions=True)

    row = rows.row()
    owners = {number: row.claim(topic, *place).sandbox if KEYS[number % 4] == "pr-1" else None for number, place in sent.items()}
    assert [entry for entry in handled if owners[entry[1]] != entry[0]] == []
    assert Counter(owners.values())["pr-1"] > 20
    again = [number for number, times in Counter(number for _, number in handled).items() if times > 1]
    # The second instance of the baseline joins while the first has records in hand.
    assert len(again) < 20
    assert all(owners[number] is None for number in again)
