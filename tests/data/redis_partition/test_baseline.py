"""
What the baseline sees and hears: nothing of routing keys, in whichever base, and all that is its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

import tenancy
from tenancy.data.redis import RedisPartition
from tenancy.errors import PartitionError
from tests.data.redis_partition.conftest import Side, closed, done, text

pytestmark = pytest.mark.service


async def scanned(client: Any, pattern: str) -> list[str]:
    """
    Return all names that SCAN tells.
    """
    found = client.scan_iter(pattern, count=100)
    return sorted(text([name async for name in found] if hasattr(found, "__aiter__") else list(found)))


async def listed(client: Any, pattern: str) -> list[list[str]]:
    """
    Return the names that KEYS and SCAN tell, and a pipeline's and a transaction's KEYS and SCAN.
    """
    found = [sorted(text(await done(client.keys(pattern)))), await scanned(client, pattern)]
    for transaction in (True, False):
        pipe = client.pipeline(transaction=transaction)
        pipe.keys(pattern)
        pipe.scan(0, pattern, 1_000_000)
        keys, (_, page) = await done(pipe.execute())
        found += [sorted(text(list(keys))), sorted(text(list(page)))]
    return found


async def heard(subscription: Any, last: str) -> list[tuple[str, str]]:
    """
    Return the channels and the data of all messages up to one with *last*.
    """
    found: list[tuple[str, str]] = []
    end = time.monotonic() + 10
    while not found or found[-1][1] != last:
        assert time.monotonic() < end, found
        message = await done(subscription.get_message(timeout=1))
        if message is not None and text(message["type"]).endswith("message"):
            found.append((text(message["channel"]), text(message["data"])))
    return found


async def test_another_bases_routing_keys_are_hidden(every: Side) -> None:
    """Their keys, their channels, what they publish, and what stands beside a part that is read through."""
    cart, pattern = RedisPartition(f"{every.name}-cart", read_through=True), f"*{every.name}*"
    cart.install(every.bare)
    await done(every.client.set(every.n("a"), 1))
    subscription = every.client.pubsub()
    await done(subscription.psubscribe(pattern))
    with tenancy.scope("pr-42"):
        await done(every.bare.set("session:1", 1))
        theirs = every.bare.pubsub()
        await done(theirs.subscribe("ch"))
        assert await done(theirs.get_message(timeout=5))
        assert await done(every.bare.publish("ch", "theirs")) == 2
    await done(every.client.publish(every.n("ch"), "mine"))
    assert f"tenancy:pr-42:{every.name}-cart" in every.raw()
    assert await listed(every.client, pattern) == [[every.n("a")]] * 6
    assert text(await done(every.client.pubsub_channels(pattern))) == []
    assert await heard(subscription, "mine") == [(every.n("ch"), "mine")]
    for name in await done(every.client.keys(pattern)):
        await done(every.client.delete(name))
    with tenancy.scope("pr-42"):
        assert text(await done(every.bare.get("session:1"))) == "1"
    assert set(await done(cart.status(every.bare))) == {"pr-42"}
    assert await done(every.partition.status(every.client)) == {}
    assert await done(every.partition.drop(every.client, "pr-42")) == 0
    assert await done(cart.drop(every.client, "pr-42")) == 1
    await closed(subscription)
    await closed(theirs)


async def test_what_looks_like_a_routing_keys_only_is_the_baselines(side: Side) -> None:
    """Names of the route stores and of deduplication, of no key, and of words that are none."""
    own = [
        *(
            f"tenancy::routes{side.name}",
            f"tenancy::members:shop/{side.name}",
            f"tenancy::message:{side.name}",
            f"tenancy:{side.name}",
        ),
        *(f"tenancy:PR:{side.name}:a", f"tenancy:none:{side.name}:a", f"tenancy:default:{side.name}", f"tenancy:-a:{side.name}:a"),
        *(
            f"x:tenancy:pr-42:{side.name}:a",
            f"{side.name}:tenancy:pr-42:a",
            f"Tenancy:pr-42:{side.name}:a",
            tenancy.cache_key(side.n("a")),
        ),
        tenancy.cache_key(f"tenancy:pr-42:{side.name}"),
    ]
    for name in own:
        side.plain.set(name, 1)
    with tenancy.scope("pr-42"):
        side.plain.set(tenancy.cache_key(side.n("a b")), 1)
    assert await listed(side.client, f"*{side.name}*") == [sorted(own)] * 6
    subscription = side.client.pubsub()
    await done(subscription.psubscribe(f"*{side.name}*"))
    assert await done(subscription.get_message(timeout=5))
    for name in own:
        side.plain.publish(name, name)
    assert await heard(subscription, own[-1]) == [(name, name) for name in own]
    await closed(subscription)


async def test_notifications_of_redis_8_8_about_routing_keys_are_hidden(side: Side) -> None:
    """As a server of that version sends them: with the name of the key in the channel, or with its length in the message."""
    theirs, mine = f"tenancy:pr-42:{side.name}:h", side.n("h")
    subscription = side.client.pubsub()
    await done(subscription.psubscribe(f"__subkey*{side.name}*"))
    await done(subscription.subscribe(f"__subkeyevent@0__:{side.name}"))
    for name in (theirs, mine):
        side.plain.publish(f"__subkeyspace@0__:{name}", "hset|1:f")
        side.plain.publish(f"__subkeyevent@0__:{side.name}", f"{len(name)}:{name}|1:f")
        side.plain.publish(f"__subkeyspaceitem@0__:{name}\nf", "hset")
        side.plain.publish(f"__subkeyspaceevent@0__:hset|{name}", "1:f")
    found = await heard(subscription, "1:f")
    while len(found) < 5:
        found += await heard(subscription, "1:f")
    assert [*dict.fromkeys(found)] == [
        (f"__subkeyspace@0__:{mine}", "hset|1:f"),
        (f"__subkeyevent@0__:{side.name}", f"{len(mine)}:{mine}|1:f"),
        (f"__subkeyspaceitem@0__:{mine}\nf", "hset"),
        (f"__subkeyspaceevent@0__:hset|{mine}", "1:f"),
    ]
    await closed(subscription)


@pytest.mark.parametrize("make", [set, frozenset, tuple, list, iter])
async def test_a_response_callback_may_make_something_else_of_names(every: Side, make: Callable[[Any], Any]) -> None:
    """Routing keys' are left out of it, under a key what it has becomes plain."""
    await done(every.client.set(every.n("a"), 1))
    with tenancy.scope("pr-42"):
        await done(every.client.set(every.n("b"), 1))
    scan = every.client.response_callbacks.get("SCAN", lambda reply, **options: reply)
    every.client.set_response_callback("KEYS", lambda reply, **options: make(reply))
    every.client.set_response_callback("SCAN", lambda reply, **options: (0, make(scan(reply, **options)[1])))
    every.client.set_response_callback("PUBSUB CHANNELS", lambda reply, **options: make(reply))
    for owner, name in ((None, "a"), ("pr-42", "b")):
        with tenancy.scope(owner):
            assert text(list(await done(every.client.keys(f"*{every.name}*")))) == [every.n(name)]
            _, page = await done(every.client.execute_command("SCAN", 0, "MATCH", f"*{every.name}*", "COUNT", 1_000_000))
            assert text(list(page)) == [every.n(name)]
            assert list(await done(every.client.pubsub_channels(every.n("*")))) == []
    if make is not iter:
        assert type(await done(every.client.keys(every.n("*")))) is make


@pytest.mark.parametrize(
    "make",
    [
        lambda reply: {"keys": reply},
        lambda reply: {"a": reply, "b": reply},
        lambda reply: (reply, ["a"]),
        lambda reply: [reply, reply],
        lambda reply: ",".join(map(str, reply)),
        len,
        lambda reply: None,
    ],
)
async def test_what_cannot_be_looked_through_is_refused(side: Side, make: Callable[[Any], Any]) -> None:
    """With and without a key, in a pipeline too: it would show everybody's names."""
    side.client.set_response_callback("KEYS", lambda reply, **options: make(reply))
    side.client.set_response_callback("SCAN", lambda reply, **options: make(reply))
    await done(side.client.set(side.n("a"), 1))
    for owner in (None, "pr-42"):
        with tenancy.scope(owner):
            for command in (("KEYS", f"*{side.name}*"), ("SCAN", 0)):
                with pytest.raises(PartitionError, match="response callback"):
                    await done(side.client.execute_command(*command))
                pipe = side.client.pipeline()
                pipe.execute_command(*command)
                with pytest.raises(PartitionError, match="response callback"):
                    await done(pipe.execute())
