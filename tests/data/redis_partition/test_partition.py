"""
Whose keys are whose: with each kind of client, against a real server.
"""

from __future__ import annotations

import asyncio
import copy
import enum
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis as client_library
import redis.asyncio as redis_asyncio
import redis.asyncio.cluster as redis_cluster
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.sentinel import Sentinel

import tenancy
from tenancy import config
from tenancy.data.redis import PartSize, RedisPartition
from tenancy.errors import ConfigurationError, IdentityError, InvalidRoutingKeyError, PartitionError
from tenancy.naming import partition_name
from tests.data.redis_partition.conftest import Side, closed, done, text

pytestmark = pytest.mark.service


class Name(str, enum.Enum):
    FIRST = "enumerated"


# What a user of redis-py does, and gets: the same under a key as without. Names are made by `n`, so that nobody else has them.
Do = Callable[[Any, Callable[[str], str]], Any]
CALLS: list[Do] = [
    lambda c, n: c.set(n("s"), "v"),
    lambda c, n: c.get(n("s")),
    lambda c, n: c.get(n("s").encode()),
    lambda c, n: c.execute_command("get", memoryview(n("s").encode())),
    lambda c, n: c.execute_command(b"GET", n("s")),
    lambda c, n: c.mset({n("a"): 1, n("b").encode(): 2}),
    lambda c, n: c.mget(n("a"), n("b"), n("none")),
    lambda c, n: c.exists(n("a"), n("b"), n("none")),
    lambda c, n: c.append(n("s"), "w"),
    lambda c, n: c.incr(n("i"), 3),
    lambda c, n: c.getset(n("i"), 5),
    lambda c, n: c.set(n("i"), 6, get=True, keepttl=True),
    lambda c, n: c.set(n("e"), "v", ex=100),
    lambda c, n: c.expire(n("i"), 100),
    lambda c, n: c.persist(n("i")),
    lambda c, n: c.ttl(n("none")),
    lambda c, n: c.type(n("i")),
    lambda c, n: c.rename(n("i"), n("j")),
    lambda c, n: c.copy(n("j"), n("k")),
    lambda c, n: c.bitop("XOR", n("x"), n("a"), n("b")),
    lambda c, n: c.setbit(n("x"), 7, 1),
    lambda c, n: c.bitfield(n("x")).set("u8", "#0", 5).get("u8", "#0").execute(),
    lambda c, n: c.object("encoding", n("s")),
    lambda c, n: c.dump(n("s")),
    lambda c, n: c.touch(n("s"), n("none")),
    lambda c, n: c.lcs(n("s"), n("s")),
    lambda c, n: c.hset(n("h"), mapping={"f": 1, "g": "x"}),
    lambda c, n: c.hgetall(n("h")),
    lambda c, n: c.hscan(n("h")),
    lambda c, n: c.hincrby(n("h"), "f", 2),
    lambda c, n: c.hmget(n("h"), "f", "none"),
    lambda c, n: c.rpush(n("l"), 3, 1, 2),
    lambda c, n: c.lrange(n("l"), 0, -1),
    lambda c, n: c.mset({n("w_1"): 3, n("w_2"): 2, n("w_3"): 1}),
    lambda c, n: c.sort(n("l")),
    lambda c, n: c.sort(n("l"), by=n("w_*"), get=["#", n("w_*")], desc=True),
    lambda c, n: c.sort(n("l"), by="nosort", get=n("w_*"), start=0, num=2),
    lambda c, n: c.sort(n("l"), by=n("w_*"), get=["#", n("w_*")], groups=True),
    lambda c, n: c.sort(n("l"), store=n("sorted")),
    lambda c, n: c.lrange(n("sorted"), 0, -1),
    lambda c, n: c.lmove(n("l"), n("m")),
    lambda c, n: c.blmove(n("l"), n("m"), 1),
    lambda c, n: c.rpoplpush(n("m"), n("l")),
    lambda c, n: c.brpoplpush(n("m"), n("l"), timeout=1),
    lambda c, n: c.lpos(n("l"), "2"),
    lambda c, n: c.blpop([n("none"), n("l")], timeout=1),
    lambda c, n: c.brpop(n("l"), timeout=1),
    lambda c, n: c.execute_command("blpop", n("l"), 1),
    lambda c, n: c.rpush(n("l"), 1, 2, 3),
    lambda c, n: c.lmpop(2, n("none"), n("l"), direction="LEFT", count=2),
    lambda c, n: c.lmpop(1, n("none"), direction="LEFT"),
    lambda c, n: c.blmpop(1, 1, n("l"), direction="RIGHT"),
    lambda c, n: c.sadd(n("t"), "1", "2"),
    lambda c, n: c.sadd(n("u"), "2", "3"),
    lambda c, n: sorted_answer(c.sunion(n("t"), n("u"))),
    lambda c, n: sorted_answer(c.sinter([n("t"), n("u")])),
    lambda c, n: c.sdiffstore(n("v"), n("t"), n("u")),
    lambda c, n: c.sintercard(2, [n("t"), n("u")]),
    lambda c, n: c.smove(n("t"), n("u"), "1"),
    lambda c, n: c.smismember(n("u"), ["1", "9"]),
    lambda c, n: c.pfadd(n("p"), "1"),
    lambda c, n: c.pfadd(n("q"), "2"),
    lambda c, n: c.pfcount(n("p"), n("q")),
    lambda c, n: c.pfmerge(n("r"), n("p"), n("q")),
    lambda c, n: c.zadd(n("z"), {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6}),
    lambda c, n: c.zadd(n("y"), {"a": 10}),
    lambda c, n: c.zrange(n("z"), 0, 1, withscores=True),
    lambda c, n: c.zunionstore(n("zz"), {n("z"): 1, n("y"): 2}, aggregate="MAX"),
    lambda c, n: c.zinter([n("z"), n("y")], withscores=True),
    lambda c, n: c.zdiff([n("z"), n("y")]),
    lambda c, n: c.zrangestore(n("zr"), n("z"), 0, 1),
    lambda c, n: c.bzpopmin([n("none"), n("z")], timeout=1),
    lambda c, n: c.bzpopmax(n("z"), timeout=1),
    lambda c, n: c.zmpop(2, [n("none"), n("z")], min=True),
    lambda c, n: c.bzmpop(1, 1, [n("z")], max=True),
    lambda c, n: c.zscan(n("z")),
    lambda c, n: c.geoadd(n("g"), (13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania")),
    lambda c, n: c.georadius(n("g"), 15, 37, 200, unit="km", store=n("gs")),
    lambda c, n: c.georadiusbymember(n("g"), "Palermo", 200, unit="km", withdist=True),
    lambda c, n: c.geosearchstore(n("gd"), n("g"), longitude=15, latitude=37, radius=200, unit="km"),
    lambda c, n: c.zcard(n("gs")),
    lambda c, n: c.xadd(n("st"), {"f": "1"}, id="1-1"),
    lambda c, n: c.xadd(n("st"), {"f": "2"}, id="1-2"),
    lambda c, n: c.xread({n("st"): "1-1", n("none"): 0}, count=5),
    lambda c, n: c.xread({n("none"): 0}, block=1),
    lambda c, n: c.xgroup_create(n("st"), "group", id="0"),
    lambda c, n: c.xreadgroup("group", "consumer", {n("st"): ">"}, count=1),
    lambda c, n: c.xreadgroup("group", "consumer", {n("st"): ">"}, noack=True),
    lambda c, n: c.xpending(n("st"), "group"),
    lambda c, n: c.xack(n("st"), "group", "1-1"),
    lambda c, n: c.xautoclaim(n("st"), "group", "other", 0),
    lambda c, n: c.xinfo_stream(n("st"))["length"] if not is_asyncio(c) else c.xlen(n("st")),
    lambda c, n: c.xrange(n("st")),
    lambda c, n: c.xtrim(n("st"), 1),
    lambda c, n: sorted_answer(c.keys(n("w_*"))),
    lambda c, n: sorted_answer(c.keys(n("w_[12]"))),
    lambda c, n: sorted_answer(c.execute_command("keys", n("w_?"))),
    lambda c, n: c.keys(n("nothing*")),
    lambda c, n: (
        c.eval("return {KEYS[1], redis.call('GET', KEYS[2]), ARGV[1]}", 2, n("a"), n("b"), "x")[1:] if not is_asyncio(c) else None
    ),
    lambda c, n: c.eval("return redis.call('INCR', KEYS[1])", 1, n("a")),
    lambda c, n: c.script_exists("0" * 40),
    lambda c, n: c.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")(keys=[n("a")], args=[2]),
    lambda c, n: c.pubsub_channels(n("ch*")),
    lambda c, n: c.pubsub_numsub(n("ch"), n("ci")),
    lambda c, n: c.publish(n("ch"), "x"),
    lambda c, n: c.unlink(n("a"), n("b")),
    lambda c, n: c.delete(n("none")),
    lambda c, n: c.ping(),
    lambda c, n: c.echo("x"),
    lambda c, n: c.config_get("maxmemory-policy"),
    lambda c, n: c.client_getname(),
    lambda c, n: c.set(n("{user}.a"), 1),
    lambda c, n: c.get(n("{user}.a")),
]


def is_asyncio(client: Any) -> bool:
    return isinstance(client, redis_asyncio.Redis)


def sorted_answer(answer: Any) -> Any:
    if not asyncio.iscoroutine(answer):
        return sorted(answer)

    async def later() -> Any:
        return sorted(await answer)

    return later()


async def test_a_users_calls_are_answered_as_without_a_partition(every: Side) -> None:
    """Every call has the same answer under a key, with the names that were asked for, and nothing is where the baseline has its names."""
    theirs = [text(await done(call(every.bare, every.n))) for call in CALLS]
    left = every.raw()
    assert len(left) > 20
    for name in left:
        every.plain.delete(name)
    with tenancy.scope("pr-42"):
        ours = [text(await done(call(every.client, every.n))) for call in CALLS]
    for number, (mine, expected) in enumerate(zip(ours, theirs, strict=True)):
        assert mine == expected, f"call {number}"
        assert type(mine) is type(expected)
    prefix = partition_name("pr-42", every.name, kind="redis-prefix")
    assert every.raw() == sorted(prefix + name for name in left)


async def test_a_pipelines_answers_are_the_same_too(every: Side) -> None:
    """As above, for what can be queued, in a transaction and without one."""
    calls: list[Do] = [
        lambda c, n: c.mset({n("a"): 1, n("b"): 2}),
        lambda c, n: c.get(n("a")),
        lambda c, n: c.rpush(n("l"), 1, 2, 3),
        lambda c, n: c.blpop(n("l"), timeout=1),
        lambda c, n: c.lmpop(1, n("l"), direction="LEFT"),
        lambda c, n: c.zadd(n("z"), {"a": 1, "b": 2}),
        lambda c, n: c.bzpopmin(n("z")),
        lambda c, n: c.xadd(n("st"), {"f": "1"}, id="1-1"),
        lambda c, n: c.xread({n("st"): 0}),
        lambda c, n: c.keys(n("a*")),
        lambda c, n: c.pubsub_numsub(n("ch")),
        lambda c, n: c.eval("return redis.call('INCR', KEYS[1])", 1, n("a")),
        lambda c, n: c.incr(n("l")),  # an error, as it is a list
        lambda c, n: c.sort(n("l"), by=n("w_*")),
        lambda c, n: c.delete(*map(n, ("a", "b", "l", "z", "st"))),
    ]

    async def answers(client: Any, transaction: bool) -> list[Any]:
        pipe = client.pipeline(transaction=transaction)
        for call in calls:
            assert call(pipe, every.n) is pipe
        assert len(pipe) == len(calls)
        return [str(type(answer)) if isinstance(answer, Exception) else text(answer) for answer in await done(pipe.execute(False))]

    for transaction in (True, False):
        theirs = await answers(every.bare, transaction)
        with tenancy.scope("pr-42"):
            assert await answers(every.client, transaction) == theirs
        # The baseline's, of a client that has a partition
        assert await answers(every.client, transaction) == theirs
    assert every.raw() == []


async def test_each_key_has_its_own_value(every: Side) -> None:
    """Text, bytes, numbers and members of an enumeration are names as without a partition, and none meets another key's."""
    names: list[Any] = [every.n("a"), every.n("b").encode(), memoryview(every.n("c").encode()), Name.FIRST, 12.5, 0]
    try:
        for owner in ("pr-42", "pr-4", "pr-42-2", None):
            with tenancy.scope(owner):
                for name in names:
                    await done(every.client.set(name, str(owner)))
        for owner in ("pr-42", "pr-4", "pr-42-2", None):
            with tenancy.scope(owner):
                for name in names:
                    assert text(await done(every.client.get(name))) == str(owner)
        assert every.plain.get(partition_name("pr-4", every.name, kind="redis-prefix") + "enumerated") == b"pr-4"
        assert every.plain.get(every.n("a")) == b"None"
        assert every.plain.get("12.5") == b"None"
    finally:
        for name in names:
            every.plain.delete(name)


@pytest.mark.parametrize("name", [None, True, [], {}, object()])
async def test_what_is_no_name_is_the_clients_error(side: Side, name: Any) -> None:
    """The same error as without a partition."""
    with pytest.raises(Exception) as theirs:
        await done(side.bare.get(name))
    with tenancy.scope("pr-42"), pytest.raises(type(theirs.value)):
        await done(side.client.get(name))


@pytest.mark.parametrize(
    "name", ["", "*", "a\x00b", "a\r\nSET b c", "tenancy:pr-43:x:", "é" * 50, "x" * 100_000, "a b", "{", "}{", "\udcff"]
)
async def test_hostile_names_stay_in_the_part(side: Side, name: str) -> None:
    """Whatever is in a name, it is one name, in this key's part."""
    if name == "\udcff":
        with tenancy.scope("pr-42"), pytest.raises(UnicodeEncodeError):
            await done(side.client.set(name, "v"))
        return
    with tenancy.scope("pr-42"):
        await done(side.client.set(name, "v"))
        assert await done(side.client.get(name)) == "v"
        assert await done(side.client.keys()) == [name]
    assert [item.encode("latin-1").decode() for item in side.raw()] == [f"tenancy:pr-42:{side.name}:{name}"]


async def test_the_baseline_does_not_see_what_is_a_keys(every: Side) -> None:
    """KEYS and SCAN of the baseline answer as before there were routing keys, and so does PUBSUB CHANNELS."""
    pattern = f"*{every.name}*"
    client = every.client
    await done(client.set(every.n("mine"), 1))
    with tenancy.scope("pr-42"):
        for number in range(50):
            await done(client.set(every.n(f"theirs{number}"), 1))
        assert len(await done(client.keys(pattern))) == 50
    assert text(await done(client.keys(pattern))) == [every.n("mine")]
    assert text(await done(client.execute_command(b"KEYS", pattern))) == [every.n("mine")]
    assert await scanned(client, pattern) == [every.n("mine")]
    pipe = client.pipeline()
    pipe.ping()
    pipe.keys(pattern)
    assert text(await done(pipe.execute()))[1] == [every.n("mine")]
    # Of another base no part is this one's.
    with tenancy.scope("pr-42"):
        assert await scanned(client, every.n("theirs1?")) == sorted(every.n(f"theirs1{number}") for number in range(10))


async def scanned(client: Any, pattern: str) -> list[str]:
    if is_asyncio(client):
        return sorted([text(name) async for name in client.scan_iter(pattern, count=7)])
    return sorted(text(list(client.scan_iter(pattern, count=7))))


async def test_a_scan_goes_through_all_of_a_part(side: Side) -> None:
    """With and without a pattern, with a type, in many steps."""
    for number in range(60):
        side.plain.set(side.n(f"a{number}"), 1)
    with tenancy.scope("pr-42"):
        for number in range(60):
            await done(side.client.set(f"a{number}", 1))
            await done(side.client.sadd(f"b{number}", 1))
        assert len(await scanned(side.client, "*")) == 120
        assert len(await scanned(side.client, "a*")) == 60
        if side.asyncio:
            assert len([name async for name in side.client.scan_iter(_type="set")]) == 60
        else:
            assert len(list(side.client.scan_iter(_type="set"))) == 60
        cursor, found = 0, set()
        while True:
            cursor, names = await done(side.client.scan(cursor, count=50))
            found.update(names)
            if cursor == 0:
                break
        assert found == {f"{letter}{number}" for letter in "ab" for number in range(60)}


REFUSED: list[Callable[[Any], Any]] = [
    lambda c: c.flushall(),
    lambda c: c.flushdb(asynchronous=True),
    lambda c: c.dbsize(),
    lambda c: c.randomkey(),
    lambda c: c.swapdb(0, 1),
    lambda c: c.select(1),
    lambda c: c.move("a", 1),
    lambda c: c.copy("a", "b", destination_db=1),
    lambda c: c.migrate("127.0.0.1", 1, "a", 0, 10),
    lambda c: c.config_set("maxmemory", 1),
    lambda c: c.script_flush(),
    lambda c: c.function_load("#!lua name=x"),
    lambda c: c.shutdown(),
    lambda c: c.eval("return redis.call('GET', 'a')", 0),
    lambda c: c.json().set("a", "$", 1),
    lambda c: c.ft("a").search("b"),
    lambda c: c.execute_command("SUBSCRIBE", "a"),
    lambda c: c.execute_command("FLUSHALL ASYNC"),
    lambda c: c.monitor(),
    lambda c: c.pipeline().flushall(),
    lambda c: c.pipeline().json().set("a", "$", 1),
    lambda c: c.pipeline().pipeline().flushall(),
    lambda c: c.json().pipeline().flushall(),
    lambda c: c.client().flushall(),
    lambda c: copy.copy(c).flushall(),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
async def test_what_would_be_everybodys_is_refused(side: Side, number: int) -> None:
    """Before Redis hears of it, and by an error that says what to do."""
    side.plain.set(side.n("a"), "there")
    with tenancy.scope("pr-42"), pytest.raises(PartitionError):
        await done(REFUSED[number](side.client))
    assert side.plain.get(side.n("a")) == b"there"


async def test_modules_are_covered_by_the_way_they_take(side: Side) -> None:
    """What `json()` and its like send goes by the client, also in pipelines of theirs; a plain command in one is the key's own."""
    with pytest.raises(client_library.ResponseError, match="unknown command"):
        await done(side.client.json().set(side.n("a"), "$", 1))  # the baseline's: it is only that this server has none
    if side.asyncio:
        return  # redis-py's pipelines of modules are for its sync client
    with tenancy.scope("pr-42"):
        pipe = side.client.json().pipeline()
        pipe.execute_command("SET", "a", 1)
        pipe.execute()
        with pytest.raises(PartitionError, match=r"JSON\.SET"):
            pipe.set("a", "$", 1)
    assert side.raw() == [f"tenancy:pr-42:{side.name}:a"]


async def test_other_clients_that_a_client_makes_are_covered(side: Side) -> None:
    """One with a connection of its own, and a copy."""
    with tenancy.scope("pr-42"):
        own = side.client.client()
        await done(own.set("a", 1))
        await done(copy.copy(side.client).set("b", 1))
        await closed(own)
    assert side.raw() == [f"tenancy:pr-42:{side.name}:a", f"tenancy:pr-42:{side.name}:b"]


async def test_the_key_is_that_of_the_call(redis: str, unique: str) -> None:
    """Of a coroutine that is awaited elsewhere, the key is that under which it was made."""
    side = Side(redis, unique, asyncio=True)
    try:
        with tenancy.scope("pr-42"):
            work = side.client.set(side.n("a"), 1)
        with tenancy.scope("pr-43"):
            await work
        assert side.raw() == [f"tenancy:pr-42:{side.name}:{side.n('a')}"]
    finally:
        await side.close()


async def test_a_crowd_does_not_mix(side: Side) -> None:
    """Of 40 tasks or threads at once, each finds its own."""
    owners = [f"k{number}" if number % 4 else None for number in range(40)]
    if side.asyncio:

        async def work(owner: str | None) -> list[str]:
            with tenancy.scope(owner):
                seen = []
                for step in range(10):
                    await side.client.set(side.n("a"), f"{owner} {step}")
                    await asyncio.sleep(0)
                    seen.append(await side.client.get(side.n("a")))
                return seen

        found = await asyncio.gather(*map(work, owners))
    else:
        gate = threading.Barrier(40)

        def thread(owner: str | None) -> list[str]:
            with tenancy.scope(owner):
                gate.wait(30)
                seen = []
                for step in range(10):
                    side.client.set(side.n("a"), f"{owner} {step}")
                    seen.append(side.client.get(side.n("a")))
                return seen

        with ThreadPoolExecutor(40) as pool:
            found = list(pool.map(thread, owners))
    for owner, seen in zip(owners, found, strict=True):
        # The baseline's ten write the same name.
        assert (
            all(value.startswith("None ") for value in seen) if owner is None else seen == [f"{owner} {step}" for step in range(10)]
        )
    assert side.raw() == sorted({f"tenancy:{owner}:{side.name}:{side.n('a')}" if owner else side.n("a") for owner in owners})


async def test_locks_and_scripts(side: Side) -> None:
    """A lock is the key's own, a second key does not wait for it, and a script that the server has forgotten is loaded again."""
    lock: Any = side.client.lock
    with tenancy.scope("pr-42"):
        mine = lock(side.n("lock"), timeout=10)
        assert await done(mine.acquire(blocking=False))
        assert not await done(lock(side.n("lock"), timeout=10).acquire(blocking=False))
    with tenancy.scope("pr-43"):
        assert await done(lock(side.n("lock"), timeout=10).acquire(blocking=False))
    assert await done(lock(side.n("lock"), timeout=10).acquire(blocking=False))
    assert len(side.raw()) == 3
    with tenancy.scope("pr-42"):
        assert await done(mine.extend(10))
        await done(mine.release())
    assert len(side.raw()) == 2

    script = side.client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    with tenancy.scope("pr-42"):
        side.plain.script_flush()
        assert await done(script(keys=["n"], args=[2])) == 2
        side.plain.script_flush()
        pipe = side.client.pipeline()
        await done(script(keys=["n"], args=[3], client=pipe))
        pipe.get("n")
    with tenancy.scope("pr-43"):  # whoever executes it
        assert await done(pipe.execute()) == [5, "5"]


async def test_a_pipeline_is_of_one_key(side: Side) -> None:
    """A command of another key is refused; what was queued stays, and is executed for its own, whoever does it."""
    pipe = side.client.pipeline()
    with tenancy.scope("pr-42"):
        pipe.set("a", 1)
    for other in ("pr-43", None):
        with tenancy.scope(other), pytest.raises(PartitionError, match="use a pipeline for each"):
            pipe.set("b", 1)
    with tenancy.scope("pr-43"):
        assert await done(pipe.execute()) == [True]
        pipe.set("c", 1)  # it is empty again
        await done(pipe.execute())
    pipe.set(side.n("d"), 1)
    with tenancy.scope("pr-42"), pytest.raises(PartitionError, match="the baseline was given one of routing key 'pr-42'"):
        pipe.set("e", 1)
    await done(pipe.reset())
    with tenancy.scope("pr-42"):
        pipe.set("e", 1)
        await done(pipe.execute())
    assert side.raw() == sorted([f"tenancy:pr-42:{side.name}:a", f"tenancy:pr-43:{side.name}:c", f"tenancy:pr-42:{side.name}:e"])


async def test_watching(side: Side) -> None:
    """WATCH is of the key's own value: nobody else's change is seen, one's own is; and while it lasts the key may not change."""
    pipe = side.client.pipeline()
    with tenancy.scope("pr-42"):
        await done(pipe.watch("a"))
        side.plain.set("a" + side.name, 1)
        assert await done(pipe.get("a")) is None
        assert await done(pipe.keys()) == []
        pipe.multi()
        pipe.set("a", 1)
        assert await done(pipe.execute()) == [True]

        await done(pipe.watch("a"))
        await done(side.client.set("a", 2))
        pipe.multi()
        pipe.set("a", 3)
        with pytest.raises(client_library.WatchError):
            await done(pipe.execute())
        assert await done(side.client.get("a")) == "2"

        await done(pipe.watch("a"))
    with tenancy.scope("pr-43"), pytest.raises(PartitionError, match="use a pipeline for each"):
        await done(pipe.get("a"))
    await done(pipe.reset())


async def test_transaction_helper(side: Side) -> None:
    """`client.transaction` watches and changes the key's own."""

    def work(pipe: Any) -> Any:
        if side.asyncio:

            async def body() -> None:
                value = int(await pipe.get("n") or 0)
                pipe.multi()
                pipe.set("n", value + 1)

            return body()
        value = int(pipe.get("n") or 0)
        pipe.multi()
        pipe.set("n", value + 1)
        return None

    with tenancy.scope("pr-42"):
        for _ in range(3):
            assert await done(side.client.transaction(work, "n")) == [True]
        assert await done(side.client.get("n")) == "3"


def test_a_client_side_cache_keeps_keys_apart(redis: str, unique: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """redis-py's own cache goes by the names that Redis has, for one key, for many, and for invalidations."""
    cache = pytest.importorskip("redis.cache", reason="this redis-py has no client-side cache")
    # redis-py wants a newer server than tests must have; what it needs of it, Redis has had since version 6.
    monkeypatch.setattr(client_library.connection.CacheProxyConnection, "MIN_ALLOWED_VERSION", "6.0.0")
    side = Side(redis, unique, asyncio=False, protocol=3, decode_responses=True, cache_config=cache.CacheConfig())
    client = side.client
    other = client_library.Redis.from_url(redis)
    try:
        now: dict[str | None, str | None] = {"pr-42": None, "pr-43": None, None: None}
        for step, changed in enumerate(["pr-42", "pr-43", None, "pr-42", None, "pr-43"]):
            now[changed] = f"{changed} {step}"
            other.set(f"tenancy:{changed}:{unique}:{side.n('a')}" if changed else side.n("a"), f"{changed} {step}")
            time.sleep(0.05)  # invalidations arrive by themselves
            for read in (lambda: client.get(side.n("a")), lambda: client.mget(side.n("a"), side.n("b"))[0]):
                for owner in (*now, *now):
                    with tenancy.scope(owner):
                        assert read() == now[owner]
        assert client.get_cache().size >= 6
    finally:
        other.close()
        asyncio.run(side.close())


# What a whole part is


async def test_drop_deletes_a_part_and_nothing_else(every: Side) -> None:
    """Names that are patterns, names that are no text, more than one batch; and what only looks like the key's stays."""
    client, part = every.client, f"tenancy:pr-42:{every.name}:"
    others = [
        *(f"tenancy:pr-42:{every.name}x:a", f"tenancy:pr-42:{every.name}", f"tenancy:pr-420:{every.name}:a", f"x{part}a"),
        *(f"tenancy:pr-4:{every.name}:pr-42:{every.name}:a", f"tenancy:pr*:{every.name}:a", every.n("a")),
    ]
    for name in others:
        every.plain.set(name, 1)
    with every.plain.pipeline() as pipe:
        for number in range(2500):
            pipe.set(f"{part}{number}", 1)
        pipe.execute()
    for name in (b"*", b"[a]", b"\\", b"\xff\xfe", b"", b"a\nb"):
        every.plain.set(part.encode() + name, 1)
    others.remove(f"tenancy:pr-42:{every.name}")  # beside the part, and this library's
    with tenancy.scope("pr-43"):  # whoever does it
        assert await done(every.partition.drop(client, "pr-42")) == 2506
    assert await done(every.partition.drop(every.bare, "pr-42")) == 0
    assert every.raw() == sorted(others)


@pytest.mark.parametrize("key", ["", "*", "PR", "baseline", "pr-42:", None])
async def test_drop_takes_only_routing_keys(side: Side, key: Any) -> None:
    """What is no key has no part."""
    side.plain.set(side.n("a"), 1)
    with pytest.raises(InvalidRoutingKeyError):
        await done(side.partition.drop(side.client, key))
    assert side.raw() == [side.n("a")]


async def test_status_tells_what_each_key_has(every: Side) -> None:
    """Keys of Redis and bytes, of this base alone."""
    for owner, count in (("pr-42", 3), ("pr-43", 1)):
        with tenancy.scope(owner):
            for number in range(count):
                await done(every.client.set(f"a{number}", "x" * 1000))
    for name in (f"tenancy:pr-42:{every.name}x:a", every.n("a"), f"tenancy:PR:{every.name}:a", f"tenancy:none:{every.name}:a"):
        every.plain.set(name, 1)
    with tenancy.scope("pr-43"):
        found = await done(every.partition.status(every.client))
    assert {key: part.keys for key, part in found.items()} == {"pr-42": 3, "pr-43": 1}
    assert 3000 < found[tenancy.RoutingKey("pr-42")].size < 10_000
    assert isinstance(found[tenancy.RoutingKey("pr-43")], PartSize)
    assert await done(every.partition.status(every.bare)) == found


# How it is set up


async def test_uninstall_undoes_it(side: Side) -> None:
    """The client is as it was; what it made before stays restricted."""
    pipe = side.client.pipeline()
    assert type(side.client) is not type(side.bare)
    RedisPartition(side.name).uninstall(side.client)  # another one's
    assert type(side.client) is not type(side.bare)
    side.partition.uninstall(side.client)
    side.partition.uninstall(side.client)
    assert type(side.client) is type(side.bare)
    with tenancy.scope("pr-42"):
        await done(side.client.set(side.n("a"), 1))
        pipe.set("b", 1)
        await done(pipe.execute())
    assert set(side.raw()) == {side.n("a"), f"tenancy:pr-42:{side.name}:b"}
    side.partition.install(side.client)


@pytest.mark.parametrize("base", ["", "a:b", "a b", "a{b}", "a*", "é", "x" * 65, "a\n", None, 5, b"shop", ["shop"]])
def test_a_base_that_cannot_be_used(base: Any) -> None:
    """The error shows it."""
    with pytest.raises(ConfigurationError, match="RedisPartition"):
        RedisPartition(base)
    with pytest.raises(ConfigurationError, match="read_through"):
        RedisPartition("shop", read_through="yes")  # type: ignore[arg-type]


def test_what_is_no_client_is_refused() -> None:
    """A cluster by name, a pipeline, a pool, a subscription, and a client that has a partition."""
    partition = RedisPartition("shop")
    client = client_library.Redis()
    async_cluster = redis_cluster.RedisCluster(host="127.0.0.1", port=1)
    for wrong in (
        client.pipeline(),
        client.connection_pool,
        client.pubsub(),
        None,
        async_cluster,
        object.__new__(client_library.RedisCluster),
    ):
        with pytest.raises(ConfigurationError, match="cluster" if "Cluster" in type(wrong).__name__ else "no client"):
            partition.install(wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError):
            partition.drop(wrong, "pr-42")  # type: ignore[call-overload]
    partition.install(client)
    for other in (partition, RedisPartition("other")):
        with pytest.raises(ConfigurationError, match="already"):
            other.install(client)


def test_a_client_that_was_changed_by_hand_is_refused() -> None:
    """What stands in the client itself would be found before the partition."""
    client = client_library.Redis()
    before = client.execute_command
    client.execute_command = lambda *words, **options: before(*words, **options)  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError, match="execute_command of its own"):
        RedisPartition("shop").install(client)
    with pytest.raises(ConfigurationError, match="utf-16"):
        RedisPartition("shop").install(client_library.Redis(encoding="utf-16"))


def test_subclasses_and_sentinels_clients_are_clients(redis: str, unique: str) -> None:
    """A user's own class keeps its methods."""

    class Mine(client_library.Redis):
        def double(self, name: str) -> Any:
            return self.incrby(name, 2)

    partition = RedisPartition(unique)
    mine = Mine.from_url(redis)
    partition.install(mine)
    assert isinstance(mine, Mine)
    assert type(mine).__name__ == "Mine"
    with tenancy.scope("pr-42"):
        assert mine.double("a") == 2
        assert partition.drop(mine, "pr-42") == 1
    mine.close()
    partition.install(Sentinel([("127.0.0.1", 1)]).master_for("shop"))
    partition.install(AsyncSentinel([("127.0.0.1", 1)]).master_for("shop"))


def test_switched_off_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In production, and never in a sandbox."""
    client = client_library.Redis()
    config.configure(enabled=False)
    RedisPartition("shop").install(client)
    assert type(client) is client_library.Redis
    config.configure(enabled=False, sandbox="pr-42")
    with pytest.raises(IdentityError):
        RedisPartition("shop").install(client)


def test_many_keys_are_forgotten_again() -> None:
    """What is kept in mind for each key has an end."""
    names = RedisPartition("shop")._names
    for number in range(5000):
        assert names.parts[tenancy.RoutingKey(f"k{number}")].prefix == f"tenancy:k{number}:shop:"
    assert len(names.parts) <= 1024
