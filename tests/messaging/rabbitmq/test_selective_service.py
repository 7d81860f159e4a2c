"""
Hand-over on a real RabbitMQ, with aio-pika: one owner for each message, through create and delete.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
import pytest
from pamqp.commands import Basic

import tenancy
from tenancy.errors import ConfigurationError, HandoverError
from tenancy.messaging.aio_pika import consumer, selective_queue
from tenancy.messaging.rabbitmq.aio_frames import Frames
from tenancy.routes import State
from tests.chaos.rabbitmq.proxy import Proxies
from tests.messaging.rabbitmq.support import LEASE, World, until
from tests.messaging.support import become

pytestmark = pytest.mark.service


@pytest.fixture
async def world(rabbitmq: str) -> AsyncIterator[World]:
    async with World(rabbitmq) as made:
        yield made


async def _take(message: Any) -> None:
    await message.ack()


async def _give_back(message: Any) -> None:
    await asyncio.sleep(0.05)
    await message.nack(requeue=True)


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_create_and_delete_while_traffic_runs(rabbitmq: str, kind: str) -> None:
    """Every message is handled, once; between create and delete the key's by the sandbox alone, before and after by the baseline."""
    async with World(rabbitmq, {"x-queue-type": kind}) as world:
        for _ in range(2):
            await world.start(takes=0.002)
        await world.start("pr-1", takes=0.002)
        phase, sent, ended = "before", dict[str, list[str]](), asyncio.Event()

        async def publish() -> None:
            while not ended.is_set():
                during = phase
                sent.setdefault(during, []).extend(await world.send("pr-1", None, "pr-9"))
                await asyncio.sleep(0.002)

        publishing = asyncio.create_task(publish())
        for number in range(2):
            await asyncio.sleep(0.2)
            phase = "creating"
            row = await world.create()
            assert (row.state, row.epoch) == (State.ACTIVE, number + 1)
            phase = "active"
            await asyncio.sleep(0.5)
            phase = "deleting"  # what is sent just before may be left in the sandbox's queue, and goes back
            await asyncio.sleep(0.3)
            assert (await world.delete()).state is State.NONE
            phase = "after"
        await asyncio.sleep(0.2)
        ended.set()
        await publishing
        for bodies in sent.values():
            await world.owners(bodies)  # each is handled, by one
        owners = {name: {world.handled[body][0] for body in bodies if body.endswith(":pr-1")} for name, bodies in sent.items()}
        assert owners["before"] == owners["after"] == {"baseline"}
        assert owners["active"] == {"pr-1"}
        others = [body for bodies in sent.values() for body in bodies if not body.endswith(":pr-1")]
        assert {world.handled[body][0] for body in others} == {"baseline"}
        for epoch in (1, 2):
            for name in world.names(epoch=epoch):
                assert await world.state(name) is None


async def test_a_message_is_handed_over_as_it_was_published(world: World) -> None:
    """Exchange, routing key of AMQP, every property and header, and the key is current; what was ambient is not."""
    await world.start()
    await world.start("pr-1")
    await world.create()
    exchange = await world.channel.declare_exchange(f"{world.queue}.in", "topic", auto_delete=True)
    queue = await world.channel.get_queue(world.queue)
    await queue.bind(exchange, "#")
    properties = {
        "headers": {"x-tries": 3, "nested": {"a": [1, 2]}},
        "priority": 7,
        "correlation_id": "c-1",
        "reply_to": "answers",
        "expiration": 60,
        "type": "order",
        "app_id": "shop",
        "user_id": "guest",
        "content_type": "text/plain",
        "content_encoding": "utf-8",
        "delivery_mode": aio_pika.DeliveryMode.PERSISTENT,
        "timestamp": 1_700_000_000,
    }
    for key, owner in ((None, "baseline"), ("pr-1", "pr-1")):
        (body,) = await world.send(key, exchange=exchange, **properties)
        assert await world.owners([body]) == [owner]
        message, current = world.seen[body]
        assert current == key
        baggage = {} if key is None else {"baggage": f"sd-routing-key={key}"}
        assert message.headers == {**properties["headers"], **baggage}
        assert (message.exchange, message.routing_key) == (f"{world.queue}.in", world.queue)
        assert message.message_id.startswith("id-")
        for name, value in properties.items():
            if name not in ("headers", "timestamp"):
                assert getattr(message, name) == value, name


async def test_bodies_of_any_size_are_handed_over_whole(world: World) -> None:
    """Empty ones too, and those that just fill a frame of 131,072 bytes, or need several; many at once, between others that stay."""
    await world.start()
    await world.start("pr-1")
    await world.create()
    sizes = [0, 1, 131_063, 131_064, 131_065, 131_072, 500_000, *range(2, 200)]
    headers = {"baggage": "sd-routing-key=pr-1"}
    messages = [aio_pika.Message(b"x" * size, headers=headers) for size in sizes]
    others = [aio_pika.Message(f"other {number}".encode()) for number in range(200)]
    exchange = world.channel.default_exchange
    await asyncio.gather(
        *(exchange.publish(message, world.queue) for pair in zip(messages, others, strict=False) for message in pair)
    )
    await asyncio.gather(*(exchange.publish(message, world.queue) for message in messages[len(others) :]))
    assert await world.owners(["x" * size for size in sizes]) == ["pr-1"] * len(sizes)
    assert await world.owners([message.body.decode() for message in others]) == ["baseline"] * len(others)


async def test_what_cannot_be_written_is_not_counted(world: World) -> None:
    """Its error is raised, and each confirmation that follows is that of its own message."""
    channel = await world.connection.channel(on_return_raises=True)
    frames = Frames(await channel.get_underlay_channel())

    def publish(queue: str, number: int, headers: dict[str, Any]) -> Any:
        properties = Basic.Properties(message_id=f"frames-{number}", headers=headers)
        return frames.publish(b"x", exchange="", amqp_routing_key=queue, properties=properties)

    first = publish(world.queue, 1, {})
    with pytest.raises((TypeError, ValueError)):
        publish(world.queue, 2, {"number": 2**80})
    nowhere = publish("there is no such queue", 3, {})
    last = publish(world.queue, 4, {})
    found = await asyncio.wait_for(asyncio.gather(first, nowhere, last, return_exceptions=True), 10)
    assert [isinstance(each, aio_pika.exceptions.PublishError) for each in found] == [False, True, False]
    assert (await (await channel.get_queue(world.queue)).declare()).message_count == 2
    await channel.close()


async def test_what_finds_no_queue_comes_back_to_the_baseline(world: World) -> None:
    """A forward after the unbinding goes round by the alternate exchange, once, and is handled."""
    await world.start()
    await world.create()
    await asyncio.to_thread(world.broker.close_in, world.names(), key=tenancy.RoutingKey("pr-1"))
    bodies = await world.send("pr-1", "pr-1")
    assert await world.owners(bodies) == ["baseline", "baseline"]
    assert world.seen[bodies[0]][0].headers == {"baggage": "sd-routing-key=pr-1"}


async def test_what_a_dead_sandbox_has_left_goes_back(world: World) -> None:
    """Also what it had in its hands; its queue is gone afterwards."""
    await world.start()
    await world.create()
    queue = await world.consumer("pr-1")
    began: list[Any] = []

    async def handle(message: Any) -> None:
        began.append(message)  # and never acknowledged

    await queue.consume(handle)
    bodies = await world.send(*["pr-1"] * 30)
    await until(lambda: began)
    deleting = asyncio.create_task(world.delete(drain=0.5))
    await until(lambda: any("end what they have begun" in progress.waiting for progress in world.told))
    assert not deleting.done()  # it is known to have some in its hands
    await world._connections[-1].close()
    assert (await deleting).state is State.NONE
    assert set(await world.owners(bodies)) == {"baseline"}
    assert await world.state(world.names().queue) is None
    world._queues.pop()


@pytest.mark.parametrize("store", ["there", "away"])
async def test_a_consumer_that_lost_its_connection_leaves_when_it_is_told_to(world: World, store: str) -> None:
    """What it had in its hands, begun or kept, the broker has given to others since, and it does not wait for its acknowledgement."""
    await world.start()
    await world.create()
    proxies = Proxies(world.url)
    try:
        world.url = proxies.url("sandbox")
        queue = await world.consumer("pr-1")
        began: list[Any] = []

        async def handle(message: Any) -> None:
            began.append(message)  # and never acknowledged

        await queue.consume(handle)
        bodies = await world.send(*["pr-1"] * 3)
        await until(lambda: len(began) == 3)
        if store == "away":
            snapshot: Any = world.store
            snapshot.snapshot = snapshot.head = lambda: (_ for _ in ()).throw(RuntimeError("away"))
            await asyncio.sleep(1.5)
        proxies.cut("sandbox")
        if store == "away":
            await asyncio.sleep(1.0)
            proxies.cut("sandbox")  # with messages that are kept
            await asyncio.sleep(0.5)
            del snapshot.snapshot, snapshot.head
        await until(lambda: len(began) >= 6)
        deleting = asyncio.create_task(world.delete())
        # What it has now it has in its hands, and it is known by the connection that it has now.
        await until(lambda: any("end what they have begun" in progress.waiting for progress in world.told))
        await asyncio.sleep(2.0)
        assert not deleting.done()
        for message in began[3:]:
            await message.ack()
        assert (await deleting).state is State.NONE
        assert not [body for body in bodies if body in world.handled]
    finally:
        await asyncio.to_thread(proxies.close)


async def test_what_comes_late_can_be_dropped(world: World) -> None:
    """With the policy drop neither what the sandbox has left nor what comes later reaches the baseline."""
    await world.start()
    await world.create(late="drop")
    bodies = await world.send(*["pr-1"] * 5)
    await until(lambda: world.controller is not None)
    assert (await world.delete()).state is State.NONE
    late = await world.send("pr-1", None)
    assert await world.owners(late[1:]) == ["baseline"]
    assert not [body for body in (*bodies, late[0]) if body in world.handled]


async def test_while_the_store_is_away_only_keys_wait(world: World) -> None:
    """What has a key is kept after a lease, and handled when the store is back; what has none goes on."""
    await world.start()
    await world.send("pr-9")
    broken = RuntimeError("the store is away")

    def fail(*_: Any) -> Any:
        raise broken

    world.store.snapshot, world.store.head, snapshot, head = fail, fail, world.store.snapshot, world.store.head  # type: ignore[method-assign]
    await asyncio.sleep(1.5)
    waiting, free = await world.send("pr-9", None)
    assert await world.owners([free]) == ["baseline"]
    await asyncio.sleep(0.3)
    assert waiting not in world.handled
    world.store.snapshot, world.store.head = snapshot, head  # type: ignore[method-assign]
    assert await world.owners([waiting]) == ["baseline"]


async def test_what_is_kept_is_in_nobody_s_way_up_to_a_number(world: World) -> None:
    """Beyond it the queue waits; nothing is given back, which a quorum queue would count, and all is handled when the store is back."""
    await world.start(hold=6, prefetch_count=2)
    await world.send(None)
    store: Any = world.store
    store.snapshot = store.head = lambda: (_ for _ in ()).throw(RuntimeError("away"))
    await asyncio.sleep(1.5)
    kept = await world.send(*["pr-9"] * 6)
    assert await world.owners(await world.send(*[None] * 20)) == ["baseline"] * 20
    kept += await world.send(*["pr-9"] * 6)
    (stuck,) = await world.send(None)
    await asyncio.sleep(0.5)
    assert stuck not in world.handled
    del store.snapshot, store.head
    assert await world.owners([*kept, stuck]) == ["baseline"] * 13
    assert not any(world.seen[body][0].redelivered for body in kept)


async def test_a_decision_that_raises_loses_nothing(world: World) -> None:
    """The message is kept until the function is mended."""
    broken = True

    def accept(key: str) -> bool:
        if broken:
            raise ValueError("not today")
        return True

    await world.start(accept=accept)
    (body,) = await world.send("pr-9")
    assert await world.owners(await world.send(None)) == ["baseline"]
    assert body not in world.handled
    broken = False
    assert await world.owners([body]) == ["baseline"]


async def test_a_consumer_without_this_library_is_in_the_way(world: World) -> None:
    """It would take the key's messages, so the create waits for it to go, and says so."""
    await world.start()
    tag = await (await world.channel.get_queue(world.queue)).consume(_take)
    with pytest.raises(HandoverError, match=f"not registered by this library.*1 of {world.queue}"):
        await world.create(deadline=4.0)
    await (await world.channel.get_queue(world.queue)).cancel(tag)
    assert (await world.create()).state is State.ACTIVE


async def test_a_create_that_is_given_up_loses_nothing(world: World) -> None:
    """What was forwarded already goes back."""
    await world.start()
    tag = await (await world.channel.get_queue(world.queue)).consume(_give_back)
    with pytest.raises(HandoverError):
        await world.create(deadline=3.0)
    await (await world.channel.get_queue(world.queue)).cancel(tag)
    bodies = await world.send(*["pr-1"] * 5)
    await asyncio.sleep(0.3)
    assert not [body for body in bodies if body in world.handled]
    assert (await world.delete()).state is State.NONE
    assert set(await world.owners(bodies)) == {"baseline"}
    assert await world.state(world.names().queue) is None


async def test_an_iterator_and_get_give_what_is_ours(world: World) -> None:
    """The current context stays as it is; scope() makes the key current."""
    base, fork = await world.consumer(), await world.consumer("pr-1")
    await world.create(queues={world.queue: ""})
    bodies = await world.send(None, "pr-1", "pr-9")
    found = []
    async with base.iterator() as messages:
        async for message in messages:
            assert tenancy.routing_key() is None
            with base.scope(message):
                found.append((message.body.decode(), tenancy.routing_key()))
            await message.ack()
            if len(found) == 2:
                break
    assert found == [(bodies[0], None), (bodies[2], None)]  # nobody knows pr-9
    got = await fork.get()
    with fork.scope(got):
        assert (got.body.decode(), tenancy.routing_key()) == (bodies[1], "pr-1")
    await got.ack()
    assert await fork.get(fail=False) is None
    with pytest.raises(aio_pika.exceptions.QueueEmpty):
        await base.get()


async def test_who_only_gets_is_waited_for_as_well(world: World) -> None:
    """What was got and is not acknowledged is known at the delete, and lost to nobody; and a get is no consumer that would hide another."""
    base = await world.consumer()
    assert await base.get(fail=False) is None
    tag = await (await world.channel.get_queue(world.queue)).consume(_take)
    with pytest.raises(HandoverError, match="not registered by this library"):
        await world.create(deadline=4.0)
    await (await world.channel.get_queue(world.queue)).cancel(tag)
    await world.create()
    fork = await world.consumer("pr-1")
    await world.start()
    bodies = await world.send("pr-1", "pr-1")
    await until(lambda: list(fork._choices.lives()))
    got = None
    while got is None:
        got = await fork.get(fail=False)
    deleting = asyncio.create_task(world.delete())
    await until(lambda: any("end what they have begun" in progress.waiting for progress in world.told))
    assert await world.owners(bodies[1:]) == ["baseline"]
    assert not deleting.done()
    await got.ack()
    assert (await deleting).state is State.NONE
    assert bodies[0] not in world.handled


async def test_a_decorated_handler_is_not_asked_twice(world: World) -> None:
    """A selective queue has decided; the decorator makes the key current, and nothing else."""
    queue, fork = await world.consumer(), await world.consumer("pr-1")
    await world.create(queues={world.queue: ""})
    found: list[Any] = []
    for of, name in ((queue, None), (fork, "pr-1")):
        become(name)

        @consumer(routes=world.store.live())
        async def handle(message: Any, name: Any = name) -> None:
            found.append((name, tenancy.routing_key()))
            await message.ack()

        await of.consume(handle)
    await asyncio.to_thread(world.broker.close_in, world.names(), key=tenancy.RoutingKey("pr-1"))
    await world.send("pr-1", None)
    await until(lambda: len(found) == 2)
    assert sorted(found, key=str) == [(None, None), (None, "pr-1")]


async def test_run_acknowledges_what_was_handled_and_rejects_what_failed(world: World) -> None:
    """What a sandbox rejects goes to a queue of its own, where it can be seen."""
    await world.start()
    fork = await world.consumer("pr-1")
    await world.create()

    async def handle(message: Any) -> None:
        world.note("pr-1", message)
        if message.body.startswith(b"2:"):
            raise ValueError("poison")

    running = asyncio.create_task(fork.run(handle))
    bodies = await world.send(*["pr-1"] * 3)
    assert await world.owners(bodies) == ["pr-1"] * 3

    async def dead() -> int:
        return int((await world.state(world.names().dead)).ready)

    for _ in range(100):
        if await dead():
            break
        await asyncio.sleep(0.05)
    assert await dead() == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"exclusive": True}, "exclusive=True"),
        ({"auto_delete": True}, "auto_delete=True"),
        ({"arguments": {"x-queue-type": "stream"}}, "is a stream"),
        ({"arguments": {"x-single-active-consumer": True}}, "x-single-active-consumer"),
    ],
)
async def test_what_cannot_be_handed_over_is_refused_by_name(world: World, options: dict[str, Any], named: str) -> None:
    """Where the queue is declared."""
    become(None)
    with pytest.raises(ConfigurationError, match=named):
        await selective_queue(world.connection, world.queue, routes=world.store.live(), **options)


@pytest.mark.parametrize("option", ["no_ack", "exclusive"])
async def test_ways_to_consume_that_lose_messages_are_refused(world: World, option: str) -> None:
    """By name, and why."""
    queue = await world.consumer()
    with pytest.raises(ConfigurationError, match=f"{option}=True"):
        await queue.consume(lambda message: message.ack(), **{option: True})
    if option == "no_ack":
        with pytest.raises(ConfigurationError, match="no_ack=True"):
            await queue.get(no_ack=True)


async def test_a_headers_exchange_routes_by_itself(world: World) -> None:
    """What has the plain header goes straight to the sandbox, and all else by the alternate exchange to the baseline."""
    await world.start()
    await world.start("pr-1")
    back = await world.channel.declare_exchange(f"{world.queue}.base", "fanout", auto_delete=True)
    await (await world.channel.get_queue(world.queue)).bind(back, "")
    arguments = {"alternate-exchange": back.name}
    exchange = await world.channel.declare_exchange(f"{world.queue}.in", "headers", arguments=arguments)
    try:
        await world.create(queues={world.queue: exchange.name})
        bodies = await world.send("pr-1", headers={"sd-routing-key": "pr-1"}, exchange=exchange)
        bodies += await world.send("pr-9", None, exchange=exchange)
        assert await world.owners(bodies) == ["pr-1", "baseline", "baseline"]
        assert (await world.delete()).state is State.NONE
        assert await world.owners(await world.send("pr-1", headers={"sd-routing-key": "pr-1"}, exchange=exchange)) == ["baseline"]
    finally:
        await exchange.delete()


async def test_switched_off_it_is_a_queue(world: World) -> None:
    """Everything is handed on, without a key, and nothing is registered."""
    tenancy.configure(enabled=False)
    queue = await selective_queue(world.connection, world.queue, durable=True)
    bodies = await world.send("pr-1", None)
    found = []
    async with queue.iterator() as messages:
        async for message in messages:
            found.append(message.body.decode())
            await message.ack()
            if len(found) == 2:
                break
    assert found == bodies
    await queue.close()
    assert not world.store.members("shop/orders")


async def test_a_table_without_lives_is_refused(world: World, tmp_path: Any) -> None:
    """It cannot say when a message is to be forwarded."""
    from tests.messaging.support import live, write_table

    write_table(tmp_path / "routes.json", "pr-1")
    become(None)
    with pytest.raises(ConfigurationError, match="use a route store"):
        await selective_queue(world.connection, world.queue, routes=live(tmp_path / "routes.json"))


async def test_a_mark_on_what_came_another_way_means_nothing(world: World) -> None:
    """Whoever can publish can write one, and after a dead-letter exchange RabbitMQ 4 may count as many deaths as before."""
    await world.start()
    await world.start("pr-1")
    await world.create()
    assert await world.owners(await world.send("pr-1", headers={"x-tenancy-forwarded": "1:0"})) == ["pr-1"]
    assert await world.owners(await world.send("pr-1", None, headers={"x-stream-offset": 5})) == ["pr-1", "baseline"]


async def test_what_goes_back_does_not_go_elsewhere_as_well(world: World) -> None:
    """The queue that CC names had its copy when the message was published."""
    exchange = await world.channel.declare_exchange(f"{world.queue}.in", "fanout", auto_delete=True)
    await (await world.channel.get_queue(world.queue)).bind(exchange)
    other = await world.channel.declare_queue(f"{world.queue}.other", exclusive=True)
    queue = await world.start()
    await world.create()
    (body,) = await world.send("pr-1", exchange=exchange, headers={"CC": [other.name]})
    await until(lambda: not queue._running[0]._sources[None].busy)
    await world.delete()
    assert await world.owners([body]) == ["baseline"]
    assert world.seen[body][0].headers["CC"] == [other.name]
    assert await other.get(fail=False) is None


async def test_who_gets_one_by_one_keeps_the_queue(world: World) -> None:
    """What he has in his hands is lost if the queue is deleted before he has acknowledged it, or has given it back."""
    await world.start()
    await world.create()
    queue = await world.consumer("pr-1")
    (body,) = await world.send("pr-1")
    message = None
    while message is None:
        message = await queue.get(fail=False)
        await asyncio.sleep(0.02)
    deleting = asyncio.create_task(world.delete())
    done, _ = await asyncio.wait({deleting}, timeout=6 * LEASE)
    assert not done
    await message.nack(requeue=True)
    assert (await deleting).state is State.NONE
    assert await world.owners([body]) == ["baseline"]


async def test_who_gets_one_by_one_is_not_taken_for_a_consumer(world: World) -> None:
    """Else a consumer without this library would pass for the one that is known."""
    queue = await world.consumer()
    assert await queue.get(fail=False) is None
    stranger = await world.channel.get_queue(world.queue)
    tag = await stranger.consume(_take)
    with pytest.raises(HandoverError, match=f"1 of {world.queue}"):
        await world.create(deadline=3.0)
    await stranger.cancel(tag)


async def test_closing_does_not_wait_for_what_nobody_takes(world: World) -> None:
    """Neither for what is decided on only then, nor for a message whose handler has failed."""
    queue = await world.consumer()
    undecided = await world.send("pr-1")
    async with queue.iterator() as messages:
        (source,) = queue._running[0]._sources.values()
        message = await asyncio.wait_for(anext(messages), 5)
        await message.nack(requeue=True)
        await source.cancel()  # and what comes now is decided on after what was ready was given back
    assert not source.busy

    async def fail(message: Any) -> None:
        raise ValueError(message.body)

    await queue.consume(fail)
    await asyncio.sleep(0.3)
    await asyncio.wait_for(queue.close(), 5)
    await world.start()
    assert await world.owners(undecided) == ["baseline"]


@pytest.mark.parametrize("way", ["consume", "iterator"])
async def test_what_was_not_begun_goes_back(world: World, way: str) -> None:
    """Also what was this process's and waited for those before it, and what can be decided on only now."""
    queue = await world.consumer(prefetch_count=1)
    bodies = await world.send(None, None, "pr-1")
    begun = asyncio.Event()

    async def slow(message: Any) -> None:
        begun.set()
        await asyncio.sleep(0.5)
        await message.ack()

    if way == "consume":
        tag = await queue.consume(slow)
        await begun.wait()
        await asyncio.sleep(0.2)
        await asyncio.wait_for(queue.cancel(tag), 5)
        bodies = bodies[1:]
    else:
        async with queue.iterator():
            await asyncio.sleep(0.2)
    await world.start()
    assert await world.owners(bodies) == ["baseline"] * len(bodies)
