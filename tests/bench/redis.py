"""
What a partition adds to redis-py: real Redis, this process's CPU time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import redis as client_library
import redis.asyncio

import tenancy
from tenancy.data.redis import RedisPartition

from .harness import Case

__all__ = ["NAMES", "cases"]

#: What `cases` yields.
NAMES = ("redis_prefix", "redis_prefix_baseline", "redis_prefix_asyncio", "redis_prefix_pipeline")

_BASE = "bench"
_NAME = "session:8f14e45fceea167a"
_VALUE = b"x" * 100
_QUEUED = 100  # commands of one pipeline

Work = Callable[[int], object]


def _calls(client: client_library.Redis) -> Work:
    def work(times: int) -> None:
        for _ in range(times):
            client.set(_NAME, _VALUE, ex=60)
            client.get(_NAME)

    return work


def _pipelines(client: client_library.Redis) -> Work:
    def work(times: int) -> None:
        for _ in range(times):
            pipe = client.pipeline(transaction=False)
            for _ in range(_QUEUED // 2):
                pipe.set(_NAME, _VALUE, ex=60)
                pipe.get(_NAME)
            pipe.execute()

    return work


def _awaited(loop: asyncio.AbstractEventLoop, client: redis.asyncio.Redis) -> Work:
    async def calls(times: int) -> None:
        for _ in range(times):
            await client.set(_NAME, _VALUE, ex=60)
            await client.get(_NAME)

    return lambda times: loop.run_until_complete(calls(times))


def _keyed(work: Work) -> Work:
    def keyed(times: int) -> None:
        with tenancy.scope("pr-42"):
            work(times)

    return keyed


def _case(name: str, bar: float | None, bare: Work, ours: Work, what: str) -> Case:
    return Case(name, bar, {"bare": bare, "ours": ours}, lambda seconds: seconds["ours"] / seconds["bare"], "bare", what)


def cases(url: str, stack: ExitStack) -> Iterator[Case]:
    """
    Yield the cases.

    Args:
        url: A Redis.
        stack: Closes what the cases use.
    """
    partition = RedisPartition(_BASE)
    bare, ours = (stack.enter_context(client_library.Redis.from_url(url)) for _ in range(2))
    partition.install(ours)
    stack.callback(partition.drop, ours, "pr-42")
    loop = asyncio.new_event_loop()
    stack.callback(loop.close)
    waiting: list[Any] = [redis.asyncio.Redis.from_url(url) for _ in range(2)]
    for client in waiting:
        stack.callback(lambda client=client: loop.run_until_complete(client.connection_pool.disconnect()))
    partition.install(waiting[1])

    yield _case("redis_prefix", 1.10, _calls(bare), _keyed(_calls(ours)), "redis-py's SET and GET under a key: ours / bare")
    yield _case("redis_prefix_baseline", 1.10, _calls(bare), _calls(ours), "the same without a key")
    yield _case(
        "redis_prefix_asyncio",
        1.10,
        _awaited(loop, waiting[0]),
        _keyed(_awaited(loop, waiting[1])),
        "redis-py's asyncio, SET and GET under a key: ours / bare",
    )
    yield _case(
        "redis_prefix_pipeline",
        None,
        _pipelines(bare),
        _keyed(_pipelines(ours)),
        f"a pipeline of {_QUEUED} commands under a key: ours / bare",
    )
