"""
The controller on a real RabbitMQ that goes away, and beside others; and controllers that are killed while they move what is left.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aio_pika
import pytest

import tenancy
from tenancy.messaging.rabbitmq import session as session_module
from tenancy.messaging.rabbitmq.broker import QueueError, RabbitBroker
from tenancy.messaging.rabbitmq.names import names_of
from tenancy.routes import State
from tenancy.routes.stores import open_store, put_workload
from tenancy.sandbox import Controller, Fork
from tenancy.sandbox.leftovers import Leftovers
from tests.messaging.rabbitmq.support import World, until
from tests.messaging.support import WORKLOAD

pytestmark = pytest.mark.service

_DELETE = """
import sys
from tenancy.messaging.rabbitmq.broker import RabbitBroker
from tenancy.routes.stores import open_store
from tenancy.sandbox import Controller
store, url = sys.argv[1:]
Controller(open_store(store), rabbit=RabbitBroker(url)).delete("pr-1", deadline=60)
"""


@pytest.fixture
async def world(rabbitmq: str) -> AsyncIterator[World]:
    async with World(rabbitmq) as made:
        yield made


def test_a_lock_goes_with_its_connection(rabbitmq: str, unique: str) -> None:
    """It is somebody else's then, and who had it does nothing under it, and knows it for another one when he has it again."""
    key = tenancy.RoutingKey("pr-1")
    names = names_of(unique, key, 1)
    first, second = RabbitBroker(rabbitmq), RabbitBroker(rabbitmq)
    try:
        held = first.lock(names)
        assert (held, first.lock(names), second.lock(names)) == (held, held, 0)
        assert held
        transport: Any = first._session._connection.transport.connection
        asyncio.run_coroutine_threadsafe(transport.close(ConnectionError("cut")), first._session._loop).result(10)  # type: ignore[arg-type]
        with pytest.raises(QueueError, match="was lost with its connection"):
            first.move(unique, names, "baseline")
        with pytest.raises(QueueError, match="was lost with its connection"):
            first.remove(names)
        assert second.lock(names)
        assert first.lock(names) == 0
        second.unlock(names)
        assert first.lock(names) not in (0, held)
        first.unlock(names)
    finally:
        first.close()
        second.close()


async def test_what_a_step_that_fails_has_in_its_hands_goes_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept on a channel of which nobody knows: the queue would be deleted with it."""
    await world.create(queues={world.queue: ""})
    names = world.names()
    await world.channel.default_exchange.publish(aio_pika.Message(b"one"), names.queue)
    assert await asyncio.to_thread(world.broker.lock, names)
    with pytest.raises(QueueError, match="has no queue nowhere-at-all"):
        await asyncio.to_thread(world.broker.move, "nowhere-at-all", names, "baseline")
    assert (await world.state(names.queue)).ready == 1

    async def hang(*_: Any) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr("tenancy.messaging.rabbitmq.broker._publish_back", hang)
    monkeypatch.setattr("tenancy.messaging.rabbitmq.broker.TIMEOUT", 0.3)
    with pytest.raises(QueueError, match="TimeoutError"):
        await asyncio.to_thread(world.broker.move, world.queue, names, "baseline")
    monkeypatch.undo()
    for _ in range(100):
        if (await world.state(names.queue)).ready:
            break
        await asyncio.sleep(0.05)
    assert (await world.state(names.queue)).ready == 1
    assert (await world.delete()).state is State.NONE
    assert (await world.state(world.queue)).ready == 1


@pytest.mark.parametrize("step", ["create", "delete"])
async def test_the_broker_goes_away_in_the_middle(own_service: Callable[[str], Any], step: str) -> None:
    """The step is taken again until it is back: nothing is lost, nothing is left behind."""
    service = await asyncio.to_thread(own_service, "rabbitmq")
    async with World(service.address) as world:
        await world.start()
        options: dict[str, Any] = {"delivery_mode": aio_pika.DeliveryMode.PERSISTENT}
        if step == "delete":
            await world.create(deadline=60)
            bodies = await world.send(*["pr-1"] * 20, **options)
            await until(lambda: world.row().state is State.ACTIVE)
            for _ in range(100):
                if (await world.state(world.names().queue)).ready == 20:
                    break
                await asyncio.sleep(0.05)
            working = asyncio.create_task(world.delete(deadline=90))
            await until(lambda: world.row().state is State.DELETING)
        else:
            bodies = []
            working = asyncio.create_task(world.create(deadline=90))
            await until(lambda: any(progress.state is State.CREATING for progress in world.told))
        await asyncio.to_thread(service.kill)
        await until(lambda: any("an answer" in progress.waiting for progress in world.told), 40)
        await asyncio.to_thread(service.start)
        row = await working
        assert row.state is (State.NONE if step == "delete" else State.ACTIVE)
        if step == "delete":
            # A broker that is killed forgets acknowledgements that it had not written yet, so some may come twice.
            await until(lambda: all(body in world.handled for body in bodies))
            assert {owner for body in bodies for owner in world.handled[body]} == {"baseline"}
            assert [await world.state(name) for name in world.names()] == [None] * 5
        world.connection = await aio_pika.connect(service.address)
        world.channel = await world.connection.channel()


@pytest.mark.parametrize("kind", [pytest.param("classic", marks=pytest.mark.slow), "quorum"])
async def test_a_controller_that_is_killed_while_it_moves(rabbitmq: str, unique: str, tmp_path: Path, kind: str) -> None:
    """Whoever goes on moves the rest: of 3,000 messages none is lost or left behind, and each kill repeats one at most."""
    url, amount, kills = f"sqlite:///{tmp_path}/routes.db", 3000, 3
    store = open_store(url)
    store.create(0.3)
    store.write([put_workload(WORKLOAD)])
    connection = await aio_pika.connect(rabbitmq)
    channel = await connection.channel()
    base = await channel.declare_queue(unique, durable=True, arguments={"x-queue-type": kind})
    broker = RabbitBroker(rabbitmq)
    key = tenancy.RoutingKey("pr-1")
    names = names_of(unique, key, 1)
    try:
        fork = Fork(WORKLOAD, key, {}, queues={unique: ""})
        await asyncio.to_thread(Controller(store, rabbit=broker).create, "pr-1", [fork])
        bodies = [str(number).encode() for number in range(amount)]
        for start in range(0, amount, 500):
            sending = (
                channel.default_exchange.publish(aio_pika.Message(body, message_id=body.decode()), names.queue)
                for body in bodies[start : start + 500]
            )
            await asyncio.gather(*sending)
        for kill in range(1, kills + 1):
            process = subprocess.Popen([sys.executable, "-c", _DELETE, url, rabbitmq])
            try:
                for _ in range(2000):
                    moved = await asyncio.to_thread(broker.state, unique)
                    assert moved is not None
                    if moved.ready >= kill * 500:
                        break
                    assert process.poll() is None
                    await asyncio.sleep(0.01)
            finally:
                process.kill()
            assert process.wait(10) == -signal.SIGKILL
        left = await asyncio.to_thread(broker.state, names.queue)
        assert left is not None
        assert left.ready > 0  # it was in the middle
        (row,) = await asyncio.to_thread(lambda: Controller(store, rabbit=broker).delete("pr-1", deadline=60))
        assert row.state is State.NONE
        found: dict[bytes, int] = {}
        while (message := await base.get(fail=False)) is not None:
            assert message.headers["x-tenancy-original-message-id"] == message.body.decode()
            found[message.body] = found.get(message.body, 0) + 1
            await message.ack()
        assert set(found) == set(bodies)
        assert sum(found.values()) - amount <= kills
        assert [await asyncio.to_thread(broker.state, name) for name in names] == [None] * 5
    finally:
        await base.delete(if_unused=False, if_empty=False)
        await connection.close()
        await asyncio.to_thread(broker.close)
        store.close()


async def test_two_controllers_at_once(world: World) -> None:
    """Both end; nothing is moved twice, and nothing is left behind."""
    await world.create(queues={world.queue: ""})
    names = world.names()
    for number in range(300):
        await world.channel.default_exchange.publish(aio_pika.Message(str(number).encode()), names.queue)
    brokers = [RabbitBroker(world.url) for _ in range(2)]
    try:
        controllers = [Controller(world.store, rabbit=broker) for broker in brokers]
        done = await asyncio.gather(
            *(asyncio.to_thread(lambda one=one: one.delete("pr-1", deadline=30, drain=2.5)) for one in controllers)
        )
        assert [row.state for rows in done for row in rows] == [State.NONE] * 2
        queue = await world.channel.get_queue(world.queue)
        found = []
        while (message := await queue.get(fail=False)) is not None:
            found.append(int(message.body))
            await message.ack()
        assert sorted(found) == list(range(300))
        assert [await world.state(name) for name in names] == [None] * 5
    finally:
        for broker in brokers:
            await asyncio.to_thread(broker.close)


async def test_two_creates_at_once(world: World) -> None:
    """One sandbox has the key, and the other is told whose it is."""
    brokers = [RabbitBroker(world.url) for _ in range(2)]
    try:
        creating = [
            asyncio.to_thread(
                Controller(world.store, rabbit=broker).create, name, [Fork(WORKLOAD, "pr-1", {}, queues={world.queue: ""})]
            )
            for name, broker in zip(("pr-1", "pr-2"), brokers, strict=True)
        ]
        done = await asyncio.gather(*creating, return_exceptions=True)
        assert sorted(type(one).__name__ for one in done) == ["HandoverError", "list"]
        assert await world.state(world.names().queue) is not None
        await world.delete(world.row().sandbox)
        for epoch in (1, 2):
            assert [await world.state(name) for name in world.names(epoch=epoch)] == [None] * 5
    finally:
        for broker in brokers:
            await asyncio.to_thread(broker.close)


async def test_what_a_create_that_was_killed_has_left(world: World) -> None:
    """It is found by its name and removed with its number spent, unless there is something in it; a create uses it."""
    fork = Fork(WORKLOAD, "pr-1", {}, queues={world.queue: ""})

    def die(*_: Any) -> Any:
        raise KeyboardInterrupt

    async def crash() -> None:
        write = world.store.write
        world.store.write = die  # type: ignore[method-assign]
        try:
            with pytest.raises(KeyboardInterrupt):
                world.controller.create("pr-1", [fork])  # in a thread it would end the loop
        finally:
            world.store.write = write  # type: ignore[method-assign]

    await world.start()  # registers the queue
    assert await asyncio.to_thread(Leftovers(world.store, world.broker).of, "pr-1") == []
    await crash()
    (left,) = await asyncio.to_thread(Leftovers(world.store, world.broker).of, "pr-1")
    assert (left.queue, left.epoch, left.removable) == (world.names().queue, 1, True)
    await world.channel.default_exchange.publish(aio_pika.Message(b"x"), left.queue)
    assert await asyncio.to_thread(world.controller.delete, "pr-1") == []
    (left,) = await asyncio.to_thread(Leftovers(world.store, world.broker).of, "pr-1")
    assert (left.ready, left.removable) == (1, False)
    await (await world.channel.get_queue(left.queue)).purge()
    assert await asyncio.to_thread(world.controller.delete, "pr-1") == []
    assert await asyncio.to_thread(Leftovers(world.store, world.broker).of, "pr-1") == []
    assert (world.row().state, world.row().epoch) == (State.NONE, 1)  # who is still at work on it begins anew
    await crash()
    row = await world.create(queues={world.queue: ""})
    assert (row.epoch, await asyncio.to_thread(Leftovers(world.store, world.broker).of, "pr-1")) == (2, [])
    await world.delete()
    assert [await world.state(name) for name in world.names(epoch=2)] == [None] * 5


def test_the_heartbeat_is_short_unless_the_url_says(rabbitmq: str) -> None:
    """The locks of a machine that is gone are soon free."""
    for url, expected in ((rabbitmq, session_module._HEARTBEAT), (f"{rabbitmq}?heartbeat=33", 33)):
        broker = RabbitBroker(url)
        assert broker.state("tenancy-nowhere") is None
        assert broker._session._connection.transport.connection.heartbeat_timeout == expected
        broker.close()
