"""
Channels: a message reaches the subscriptions of the routing key under which it was published, and no others.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis as client_library

import tenancy
from tenancy.data._redis_globs import could_match
from tenancy.errors import PartitionError
from tests import services
from tests.data.redis_partition.conftest import Side, closed, done, text

pytestmark = pytest.mark.service


async def messages(subscription: Any, count: int, seconds: float = 5) -> list[Any]:
    """
    Return the next messages, without confirmations; fewer where no more come.
    """
    found: list[Any] = []
    end = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < end:
        message = await done(subscription.get_message(ignore_subscribe_messages=True, timeout=0.05))
        if message is not None:
            found.append((text(message["type"]), *(text(message[field]) for field in ("pattern", "channel", "data"))))
    return found


async def silent(subscription: Any) -> bool:
    return await messages(subscription, 1, 0.3) == []


async def confirmed(subscription: Any, count: int = 1) -> list[Any]:
    """
    Wait until Redis has confirmed some subscriptions, and return what it said.
    """
    found: list[Any] = []
    while len(found) < count:
        message = await done(subscription.get_message(timeout=5))
        assert message is not None
        found.append((text(message["type"]), text(message["channel"]), message["data"]))
    return found


async def test_a_channel_is_the_keys_own(every: Side) -> None:
    """By name and by pattern, with plain names in messages and confirmations."""
    subscriptions = {}
    for owner in ("pr-42", "pr-43", None):
        with tenancy.scope(owner):
            subscriptions[owner] = every.client.pubsub()
            await done(subscriptions[owner].subscribe(every.n("ch"), every.n("di").encode()))
            await done(subscriptions[owner].psubscribe(every.n("c?")))
            assert await confirmed(subscriptions[owner], 3) == [
                ("subscribe", every.n("ch"), 1),
                ("subscribe", every.n("di"), 2),
                ("psubscribe", every.n("c?"), 3),
            ]
    for owner, subscription in subscriptions.items():
        with tenancy.scope(owner):
            assert text(await done(every.client.pubsub_channels(every.n("*")))) == sorted([every.n("ch"), every.n("di")]) or sorted(
                text(await done(every.client.pubsub_channels(every.n("*"))))
            ) == [every.n("ch"), every.n("di")]
            assert text([tuple(pair) for pair in await done(every.client.pubsub_numsub(every.n("ch")))]) == [(every.n("ch"), 1)]
            assert await done(every.client.publish(every.n("ch"), str(owner))) == 2
        expected = [("message", None, every.n("ch"), str(owner)), ("pmessage", every.n("c?"), every.n("ch"), str(owner))]
        assert await messages(subscription, 2) == expected
        for other in subscriptions.values():
            assert await messages(other, 1, 0.1) == []
    for subscription in subscriptions.values():  # whoever ends it
        await done(subscription.unsubscribe(every.n("ch")))
        await done(subscription.punsubscribe())
        assert await confirmed(subscription, 2) == [("unsubscribe", every.n("ch"), 2), ("punsubscribe", every.n("c?"), 1)]
        await closed(subscription)


async def test_the_baselines_patterns_do_not_hear_routing_keys(side: Side) -> None:
    """Even where they match everything: each message has one owner."""
    subscription = side.client.pubsub()
    await done(subscription.psubscribe(f"*{side.name}*"))
    await confirmed(subscription)
    with tenancy.scope("pr-42"):
        await done(side.client.publish(side.n("ch"), "theirs"))
    await done(side.client.publish(side.n("ch"), "mine"))
    assert await messages(subscription, 1) == [("pmessage", f"*{side.name}*", side.n("ch"), "mine")]
    assert await silent(subscription)
    await closed(subscription)


async def test_handlers_run_under_the_key_of_the_subscription(side: Side) -> None:
    """Whoever reads the message, and for the baseline's without a key; what they get are plain names."""
    seen: list[Any] = []

    def handler(message: Any) -> None:
        seen.append((tenancy.routing_key(), message["channel"], message["data"]))

    for owner, reader in (("pr-42", None), ("pr-42", "pr-43"), (None, "pr-43"), (None, None)):
        with tenancy.scope(owner):
            subscription = side.client.pubsub()
            await done(subscription.subscribe(**{side.n("ch"): handler}))
            await confirmed(subscription)
            await done(side.client.publish(side.n("ch"), "x"))
        with tenancy.scope(reader):
            await messages(subscription, 1, 0.3)
            assert tenancy.routing_key() == reader
        assert seen == [(owner, side.n("ch"), "x")]
        seen.clear()
        await closed(subscription)


async def test_async_handlers(redis: str, unique: str) -> None:
    """A coroutine function is awaited under the key."""
    side = Side(redis, unique, asyncio=True, decode_responses=True)
    seen: list[Any] = []

    async def handler(message: Any) -> None:
        await asyncio.sleep(0)
        seen.append((tenancy.routing_key(), message["channel"]))

    with tenancy.scope("pr-42"):
        subscription = side.client.pubsub()
        await subscription.psubscribe(**{"c*": handler})
        await confirmed(subscription)
        await side.client.publish("ch", "x")
    await messages(subscription, 1, 0.3)
    assert seen == [("pr-42", "ch")]
    await closed(subscription)
    await side.close()


def test_a_thread_of_redis_py(redis: str, unique: str) -> None:
    """`run_in_thread` runs handlers under the key, though its thread has none."""
    partition_side = Side(redis, unique, asyncio=False, decode_responses=True)
    seen: list[Any] = []
    there = threading.Event()

    def handler(message: Any) -> None:
        seen.append((tenancy.routing_key(), message["channel"], message["data"]))
        there.set()

    with tenancy.scope("pr-42"):
        subscription = partition_side.client.pubsub()
        subscription.subscribe(ch=handler)
        assert subscription.get_message(timeout=5)
    thread = subscription.run_in_thread(sleep_time=0.01)
    try:
        with tenancy.scope("pr-42"):
            assert partition_side.client.publish("ch", "x") == 1
        assert there.wait(5)
    finally:
        thread.stop()
        thread.join(5)
    assert seen == [("pr-42", "ch", "x")]
    asyncio.run(partition_side.close())


async def test_a_subscription_is_of_one_key(side: Side) -> None:
    """Another key's channels are refused, until nothing is left of the first's."""
    subscription = side.client.pubsub()
    with tenancy.scope("pr-42"):
        await done(subscription.subscribe("ch"))
    for other in ("pr-43", None):
        with tenancy.scope(other), pytest.raises(PartitionError, match=r"make one for each with client.pubsub\(\)"):
            await done(subscription.subscribe("di"))
    await done(subscription.unsubscribe())
    await confirmed(subscription, 2)
    with tenancy.scope("pr-43"):
        await done(subscription.psubscribe("di"))
        await confirmed(subscription)
        await done(side.client.publish("di", "x"))
        assert await messages(subscription, 1) == [("pmessage", "di", "di", "x")]
    await closed(subscription)


async def test_a_broken_connection_is_subscribed_again_for_its_key(side: Side) -> None:
    """Whoever finds it broken: the channels are those of the subscription's key."""
    with tenancy.scope("pr-42"):
        subscription = side.client.pubsub()
        await done(subscription.subscribe("ch", di=lambda message: None))
        await done(subscription.psubscribe("c*"))
        await confirmed(subscription, 3)
    side.plain.client_kill_filter(_type="pubsub")
    with tenancy.scope("pr-43"):
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with tenancy.scope("pr-42"):
                heard = await done(side.client.publish("ch", "x"))
            if heard == 2:
                break
            try:
                await done(subscription.get_message(timeout=0.05))
            except client_library.ConnectionError:
                pass
        assert heard == 2
        found = await messages(subscription, 20, 0.5)
    assert ("message", None, "ch", "x") in found
    assert ("pmessage", "c*", "ch", "x") in found
    await closed(subscription)


async def test_what_a_subscription_cannot_keep_to_its_key(side: Side) -> None:
    """Notifications about everybody's keys, and commands that are none of a subscription's."""
    with tenancy.scope("pr-42"):
        subscription = side.client.pubsub()
        for channel in ("__keyspace@0__:a", b"__keyevent@0__:del"):
            with pytest.raises(PartitionError, match="everybody"):
                await done(subscription.subscribe(channel))
            with pytest.raises(PartitionError, match="everybody"):
                await done(subscription.psubscribe(channel))
        await done(subscription.subscribe("ch"))
        with pytest.raises(PartitionError, match="use the client itself"):
            await done(subscription.execute_command("GET", "a"))
        await confirmed(subscription)
        bare = side.bare.pubsub()
        await done(bare.subscribe(side.n("ch")))
        await confirmed(bare)
        answers = []
        for one in (subscription, bare):
            await done(one.ping("hello"))
            answers.append(await done(one.get_message(timeout=5)))
        assert answers[0] == answers[1]
    await closed(bare)
    await closed(subscription)


NOTIFICATIONS = [
    *(
        "__key*__:*",
        "__key*",
        "__*",
        "__*__:*",
        "__*:set",
        "__key????e@*",
        "__k[e]y[es]*:*",
        "__key[^x]vent@0__:del",
        "__keyspace*foo",
    ),
    *("[_]_key*", "\\__keyspace@0__:*", "__keyspac[a-f]@*", "__keyspac[f-a]@*", "__subkey*", "__sub*@0__:*", "__keyspace@[0-9]*"),
]
NO_NOTIFICATIONS = [
    *(
        "*",
        "**",
        "?*",
        "_*",
        "__x*",
        "__key",
        "__key[x]*",
        "__keyspace[@",
        "__keyspace[^@]*",
        "*__:*",
        "orders:*",
        "__keyspacex*",
        "__[]*",
        "__keyev@*",
        "__x__:*",
    ),
]


async def test_patterns_of_notifications_are_refused(side: Side) -> None:
    """They would never match; those that may be for channels of the application's stay, and match these."""
    with tenancy.scope("pr-42"):
        subscription = side.client.pubsub()
        for pattern in NOTIFICATIONS:
            for given in (pattern, pattern.encode()):
                with pytest.raises(PartitionError, match="without a key"):
                    await done(subscription.psubscribe(given))
        for pattern in NO_NOTIFICATIONS:
            await done(subscription.psubscribe(pattern))
        await confirmed(subscription, len(NO_NOTIFICATIONS))
        await done(side.client.publish("__x__:a", "x"))
        assert len(await messages(subscription, 7)) == 7
    other = side.client.pubsub()
    await done(other.psubscribe("__key*__:*"))
    await confirmed(other)
    for one in (subscription, other):
        await closed(one)


def test_patterns_match_what_redis_takes_them_for(own_service: Callable[[str], services.Service]) -> None:
    """Patterns of all signs, against texts of the same."""
    chance, signs = random.Random(5), "ab_-^[]\\*?"
    with client_library.Redis.from_url(own_service("redis").address) as server:
        texts = sorted({"".join(chance.choices(signs, k=chance.randrange(1, 4))) for _ in range(300)})
        patterns = sorted({"".join(chance.choices(signs, k=chance.randrange(1, 8))) for _ in range(3000)})
        server.mset(dict.fromkeys(texts, 1))
        with server.pipeline(transaction=False) as pipe:
            for pattern in patterns:
                pipe.keys(pattern)
            answers = pipe.execute()
        literal = {text: re.sub(r"(.)", r"\\\1", text).encode() for text in texts}
        for pattern, found in zip(patterns, answers, strict=True):
            assert {text.encode() for text in texts if could_match(pattern.encode(), literal[text])} == set(found), pattern


@pytest.mark.parametrize("mode", ["sync", "asyncio"])
async def test_notifications_to_the_baseline_are_about_its_own(own_service: Callable[[str], services.Service], mode: str) -> None:
    """A pattern on keyspace events does not hear of routing keys' names, in the channel or in the message."""
    side = Side(own_service("redis").address, "shop", asyncio=mode == "asyncio", decode_responses=True)
    side.plain.config_set("notify-keyspace-events", "KEA")
    subscription = side.client.pubsub()
    await done(subscription.psubscribe("__key*__:*"))
    await done(subscription.subscribe("__keyevent@0__:set"))
    await confirmed(subscription, 2)
    with tenancy.scope("pr-42"):
        await done(side.client.set("a", 1))
    await done(side.client.set("b", 1))
    found = await messages(subscription, 3)
    assert sorted(found, key=str) == [
        ("message", None, "__keyevent@0__:set", "b"),
        ("pmessage", "__key*__:*", "__keyevent@0__:set", "b"),
        ("pmessage", "__key*__:*", "__keyspace@0__:b", "set"),
    ]
    assert await silent(subscription)
    await closed(subscription)
    await side.close()
