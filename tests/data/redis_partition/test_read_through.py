"""
Reading through: a key's name is the baseline's until the routing key changes it, and then all its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis as client_library

import tenancy
from tenancy.data.redis import RedisPartition
from tenancy.errors import PartitionError
from tests.data.redis_partition.conftest import Side, done

pytestmark = pytest.mark.service


async def baseline(side: Side) -> None:
    """
    Give the baseline a value of each type.
    """
    plain = side.plain
    plain.set(side.n("s"), "10")
    plain.set(side.n("e"), "soon", ex=100)
    plain.rpush(side.n("l"), "a", "b")
    plain.hset(side.n("h"), mapping={"f": "1", "g": "2"})
    plain.sadd(side.n("t"), "x")
    plain.zadd(side.n("z"), {"m": 1})
    plain.xadd(side.n("st"), {"f": "1"}, id="1-1")


def values(side: Side) -> dict[str, bytes]:
    return {name: side.plain.dump(name) for name in side.raw() if not name.startswith("tenancy:")}


async def test_reads_are_the_baselines_until_something_changes(through: Side) -> None:
    """Also what the baseline changes meanwhile; nothing is copied by a read."""
    await baseline(through)
    c, n = through.client, through.n
    with tenancy.scope("pr-42"):
        assert await done(c.get(n("s"))) == "10"
        through.plain.set(n("s"), "11")
        assert await done(c.get(n("s"))) == "11"
        assert await done(c.hgetall(n("h"))) == {"f": "1", "g": "2"}
        assert await done(c.lrange(n("l"), 0, -1)) == ["a", "b"]
        assert await done(c.smembers(n("t"))) == {"x"}
        assert await done(c.zrange(n("z"), 0, -1)) == ["m"]
        assert await done(c.xrange(n("st"))) == [("1-1", {"f": "1"})]
        assert 0 < await done(c.ttl(n("e"))) <= 100
        assert await done(c.exists(n("s"), n("h"), n("none"))) == 2
        assert await done(c.type(n("h"))) == "hash"
        assert await done(c.get(n("none"))) is None
    assert not [name for name in through.raw() if name.startswith("tenancy:")]


CHANGES: list[tuple[Callable[[Any, Callable[[str], str]], Any], Callable[[Any, Callable[[str], str]], Any], Any]] = [
    (lambda c, n: c.incr(n("s")), lambda c, n: c.get(n("s")), "11"),
    (lambda c, n: c.append(n("s"), "0"), lambda c, n: c.get(n("s")), "100"),
    (lambda c, n: c.set(n("s"), "x", nx=True), lambda c, n: c.get(n("s")), "10"),
    (lambda c, n: c.set(n("s"), "x"), lambda c, n: c.get(n("s")), "x"),
    (lambda c, n: c.delete(n("s")), lambda c, n: c.get(n("s")), None),
    (lambda c, n: c.unlink(n("s"), n("h")), lambda c, n: c.exists(n("s"), n("h"), n("l")), 1),
    (lambda c, n: c.getdel(n("s")), lambda c, n: c.exists(n("s")), 0),
    (lambda c, n: c.expire(n("s"), 0), lambda c, n: c.get(n("s")), None),
    (lambda c, n: c.rename(n("s"), n("r")), lambda c, n: c.mget(n("s"), n("r")), [None, "10"]),
    (lambda c, n: c.copy(n("s"), n("r")), lambda c, n: c.mget(n("s"), n("r")), ["10", "10"]),
    (lambda c, n: c.lpop(n("l"), 5), lambda c, n: c.lrange(n("l"), 0, -1), []),
    (lambda c, n: c.rpush(n("l"), "c"), lambda c, n: c.lrange(n("l"), 0, -1), ["a", "b", "c"]),
    (lambda c, n: c.hdel(n("h"), "f"), lambda c, n: c.hgetall(n("h")), {"g": "2"}),
    (lambda c, n: c.srem(n("t"), "x"), lambda c, n: c.exists(n("t")), 0),
    (lambda c, n: c.sunionstore(n("u"), n("t"), n("none")), lambda c, n: c.smembers(n("u")), {"x"}),
    (lambda c, n: c.zincrby(n("z"), 2, "m"), lambda c, n: c.zscore(n("z"), "m"), 3.0),
    (lambda c, n: c.xadd(n("st"), {"f": "2"}, id="1-2"), lambda c, n: c.xlen(n("st")), 2),
    (lambda c, n: c.xtrim(n("st"), 0), lambda c, n: c.xlen(n("st")), 0),
    (lambda c, n: c.persist(n("e")), lambda c, n: c.ttl(n("e")), -1),
    (lambda c, n: c.mset({n("s"): 1, n("new"): 2}), lambda c, n: c.mget(n("s"), n("new"), n("e")), ["1", "2", "soon"]),
    (
        lambda c, n: c.eval("return redis.call('INCRBY', KEYS[1], ARGV[1])", 1, n("s"), 5),
        lambda c, n: c.get(n("s")),
        "15",
    ),
]


@pytest.mark.parametrize("number", range(len(CHANGES)))
async def test_a_change_is_of_a_copy(through: Side, number: int) -> None:
    """It begins with the baseline's value, which stays; what is deleted does not come back; another key sees nothing of it."""
    await baseline(through)
    change, look, expected = CHANGES[number]
    before = values(through)
    with tenancy.scope("pr-43"):
        unchanged = await done(look(through.client, through.n))
    with tenancy.scope("pr-42"):
        await done(change(through.client, through.n))
        assert await done(look(through.client, through.n)) == expected
    assert values(through) == before
    with tenancy.scope("pr-43"):
        assert await done(look(through.client, through.n)) == unchanged
    assert await done(through.partition.drop(through.client, "pr-42")) >= 0
    assert not [name for name in through.raw() if name.startswith("tenancy:pr-42")]
    with tenancy.scope("pr-42"):
        assert await done(look(through.client, through.n)) == unchanged


POPS: list[Callable[[Any, Callable[[str], str]], Any]] = [
    lambda c, n: c.lpop(n("l")),
    lambda c, n: c.rpop(n("l")),
    lambda c, n: c.lmove(n("l"), n("l2")),
    lambda c, n: c.rpoplpush(n("l"), n("l2")),
    lambda c, n: c.spop(n("t")),
    lambda c, n: c.zpopmin(n("z")),
    lambda c, n: c.zpopmax(n("z")),
    lambda c, n: c.eval("return redis.call('LPOP', KEYS[1])", 1, n("l")),
    lambda c, n: c.execute_command("LMPOP", 1, n("l"), "LEFT"),
    lambda c, n: c.execute_command("ZMPOP", 1, n("z"), "MIN"),
]


@pytest.mark.parametrize("number", range(len(POPS)))
async def test_what_pops_takes_from_a_copy(through: Side, number: int) -> None:
    """As the page warns: the key gets what the baseline gets too."""
    if number >= len(POPS) - 2 and int(through.plain.info("server")["redis_version"].partition(".")[0]) < 7:
        pytest.skip("this Redis does not know the command")
    await baseline(through)
    before = values(through)
    with tenancy.scope("pr-42"):
        assert await done(POPS[number](through.client, through.n))
    assert values(through) == before
    with tenancy.scope("pr-43"):
        assert await done(POPS[number](through.client, through.n))


async def test_drop_needs_no_partition_that_reads_through(through: Side) -> None:
    """What a client that reads through has left beside the part is found by the partition of one that does not."""
    through.plain.set(through.n("a"), 1)
    with tenancy.scope("pr-42"):
        await done(through.client.delete(through.n("a")))
    assert through.raw() == sorted([through.n("a"), f"tenancy:pr-42:{through.name}"])
    assert await done(RedisPartition(through.name).drop(through.bare, "pr-42")) == 0
    assert through.raw() == [through.n("a")]


async def test_a_copy_keeps_its_time_to_live_and_expires_for_good(through: Side) -> None:
    """What has expired for the key does not become the baseline's again."""
    through.plain.set(through.n("a"), 1, px=150)
    through.plain.set(through.n("b"), 1)
    with tenancy.scope("pr-42"):
        await done(through.client.incr(through.n("a")))
        assert 0 < await done(through.client.pttl(through.n("a"))) <= 150
        await done(through.client.pexpire(through.n("b"), 20))
    through.plain.persist(through.n("a"))
    through.plain.set(through.n("a"), 7)
    await asyncio.sleep(0.3)
    with tenancy.scope("pr-42"):
        assert await done(through.client.mget(through.n("a"), through.n("b"))) == [None, None]
    assert through.plain.get(through.n("b")) == b"1"


async def test_pipelines_and_watching(through: Side) -> None:
    """What is used in one becomes the key's own first, reads too."""
    await baseline(through)
    n, before = through.n, values(through)
    with tenancy.scope("pr-42"):
        pipe = through.client.pipeline()
        pipe.get(n("s"))
        pipe.incr(n("s"))
        pipe.hgetall(n("h"))
        pipe.ping()
        assert await done(pipe.execute()) == ["10", 11, {"f": "1", "g": "2"}, True]
        await done(pipe.watch(n("e")))
        assert await done(pipe.get(n("e"))) == "soon"
        through.plain.append(n("e"), "er")
        pipe.multi()
        pipe.append(n("e"), "!")
        pipe.append(n("l2"), "!")
        assert await done(pipe.execute()) == [5, 1]
        through.plain.set(n("e"), "soon", ex=100)

        await done(pipe.watch(n("e")))
        await done(through.client.append(n("e"), "?"))
        pipe.multi()
        pipe.get(n("e"))
        with pytest.raises(client_library.WatchError):
            await done(pipe.execute())
    assert values(through) == before


@pytest.mark.parametrize(
    "command",
    [
        ("KEYS", "*"),
        ("SCAN", 0),
        ("SORT", "a"),
        ("BLPOP", "a", 1),
        ("XREAD", "STREAMS", "a", "0"),
        ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "a", ">"),
        ("FLUSHDB",),
        ("EVAL", "return 1", 0),
    ],
)
async def test_what_cannot_be_read_through_truly_is_refused(through: Side, command: tuple[Any, ...]) -> None:
    """Queues, whose work would be done twice, and listings; in pipelines too. Without a key they are as they were."""
    with tenancy.scope("pr-42"):
        with pytest.raises(PartitionError):
            await done(through.client.execute_command(*command))
        with pytest.raises(PartitionError):
            through.client.pipeline().execute_command(*command)
    assert through.raw() == []
    if command[0] == "KEYS":
        assert isinstance(await done(through.client.keys(through.n("*"))), list)


async def test_the_baseline_is_as_before(through: Side) -> None:
    """Neither values nor listings of the key's are its own; channels are as without reading through."""
    await baseline(through)
    names = sorted(name for name in through.raw())
    with tenancy.scope("pr-42"):
        await done(through.client.incr(through.n("s")))
        assert await done(through.client.publish("ch", "x")) == 0
        assert await done(through.client.ping())
    assert await done(through.client.get(through.n("s"))) == "10"
    assert sorted(await done(through.client.keys(f"*{through.name}*"))) == names
    found = await done(through.partition.status(through.client))
    assert {key: part.keys for key, part in found.items()} == {"pr-42": 1}


async def test_many_at_once_copy_once(through: Side) -> None:
    """Of many that change the same name first, none loses another's change."""
    through.plain.set(through.n("a"), 1000)

    async def task() -> None:
        with tenancy.scope("pr-42"):
            await through.client.incr(through.n("a"))

    def thread(_: int) -> None:
        with tenancy.scope("pr-42"):
            through.client.incr(through.n("a"))

    if through.asyncio:
        await asyncio.gather(*(task() for _ in range(50)))
    else:
        with ThreadPoolExecutor(20) as pool:
            list(pool.map(thread, range(50)))
    with tenancy.scope("pr-42"):
        assert await done(through.client.get(through.n("a"))) == "1050"
    assert through.plain.get(through.n("a")) == b"1000"


async def test_locks_work(through: Side) -> None:
    """A lock that the baseline holds is held for the key too, until its time is over; its own it releases."""
    assert through.plain.lock(through.n("lock"), timeout=100).acquire(blocking=False)
    with tenancy.scope("pr-42"):
        assert not await done(through.client.lock(through.n("lock"), timeout=10).acquire(blocking=False))
        own = through.client.lock(through.n("own"), timeout=10)
        assert await done(own.acquire(blocking=False))
        await done(own.release())
        assert await done(own.acquire(blocking=False))


def test_a_client_side_cache_reads_through(redis: str, unique: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """redis-py's own cache keeps whose a name is for each key, until something changes it here or elsewhere."""
    cache = pytest.importorskip("redis.cache", reason="this redis-py has no client-side cache")
    # redis-py wants a newer server than tests must have; what it needs of it, Redis has had since version 6.
    monkeypatch.setattr(client_library.connection.CacheProxyConnection, "MIN_ALLOWED_VERSION", "6.0.0")
    options = {"protocol": 3, "decode_responses": True}
    side = Side(redis, unique, asyncio=False, read_through=True, cache_config=cache.CacheConfig(), **options)
    other = client_library.Redis.from_url(redis, **options)
    side.partition.install(other)
    client, name, second = side.client, side.n("a"), side.n("b")
    now: dict[str | None, str | None] = {"pr-42": "1", "pr-43": "1", None: "1"}
    reads: list[Callable[[], Any]] = [
        lambda: client.get(name),
        lambda: client.mget(name, second)[0],
        lambda: client.execute_command("GETRANGE", name, 0, -1, keys=[name]) or None,
        lambda: client.dump(name) and client.get(name),
    ]

    def check() -> None:
        time.sleep(0.05)  # invalidations arrive by themselves
        for read in reads:
            for owner in (*now, *now):
                with tenancy.scope(owner):
                    assert read() == now[owner]

    try:
        side.plain.set(name, 1)
        check()
        before = client.get_cache().size
        assert before >= 6
        check()
        assert client.get_cache().size == before  # they were answered by it
        for writer, owner, value in (
            *((client, "pr-42", "2"), (other, None, "3"), (other, "pr-43", "4"), (client, None, "5"), (other, "pr-42", None)),
            *((client, "pr-43", None), (client, None, None)),
        ):
            with tenancy.scope(owner):
                writer.delete(name) if value is None else writer.set(name, value)
            now.update({owner: value})
            for key in ("pr-42", "pr-43"):  # what is nobody's own is the baseline's
                if owner is None and not side.plain.sismember(f"tenancy:{key}:{unique}", name):
                    now[key] = value
            check()
        side.partition.drop(client, "pr-42")
        side.plain.set(name, "6")
        now.update({"pr-42": "6", None: "6"})
        check()
    finally:
        other.close()
        asyncio.run(side.close())
