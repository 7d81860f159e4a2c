from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis as redis_py
import redis.asyncio as redis_asyncio

from tenancy.data.redis import RedisPartition


def text(value: Any) -> Any:
    """
    Return an answer with text in the place of bytes.
    """
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {text(name): text(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(text(item) for item in value)
    return value


async def done(value: Any) -> Any:
    """
    Return what a client has answered, whether it has to be awaited or not.
    """
    return await value if inspect.isawaitable(value) else value


async def closed(thing: Any) -> None:
    """
    Close a client or a subscription; the first versions with asyncio had another name for it.
    """
    await done(thing.aclose() if hasattr(thing, "aclose") else thing.close())


class Side:
    """
    A client with a partition, and one without any.

    Args:
        url: The server.
        name: What no other test uses: the base, and what the baseline's names begin with.
        options: Options of the client.
    """

    def __init__(self, url: str, name: str, *, asyncio: bool, read_through: bool = False, **options: Any) -> None:
        kind: Any = redis_asyncio.Redis if asyncio else redis_py.Redis
        self.asyncio = asyncio
        self.name = name
        self.url = url
        self.options = options
        self.client: Any = kind.from_url(url, **options)
        self.bare: Any = kind.from_url(url, **options)
        self.plain: Any = redis_py.Redis.from_url(url)
        self.partition = RedisPartition(name, read_through=read_through)
        self.partition.install(self.client)

    def n(self, name: str) -> str:
        """
        Return a name of the baseline's that no other test has.
        """
        return f"{self.name}-{name}"

    def raw(self) -> list[str]:
        """
        Return all names on the server that are this test's, those of routing keys without `self.name` of their own.
        """
        return sorted(text(list(self.plain.scan_iter(f"*{self.name}*", count=1000))))

    async def close(self) -> None:
        for name in list(self.plain.scan_iter(f"*{self.name}*", count=1000)):
            self.plain.delete(name)
        self.plain.close()
        for client in (self.client, self.bare):
            await closed(client)
            await done(client.connection_pool.disconnect())


VARIANTS = [
    pytest.param((mode, protocol, decode), id=f"{mode}-resp{protocol}-{'text' if decode else 'bytes'}")
    for mode in ("sync", "asyncio")
    for protocol in (2, 3)
    for decode in (False, True)
]


@pytest.fixture(params=VARIANTS)
async def every(request: pytest.FixtureRequest, redis: str, unique: str) -> AsyncIterator[Side]:
    """
    A client of each kind, with each protocol, with and without decoding.
    """
    mode, protocol, decode = request.param
    side = Side(redis, unique, asyncio=mode == "asyncio", protocol=protocol, decode_responses=decode)
    yield side
    await side.close()


@pytest.fixture(params=["sync", "asyncio"])
async def side(request: pytest.FixtureRequest, redis: str, unique: str) -> AsyncIterator[Side]:
    """
    A client of each kind.
    """
    side = Side(redis, unique, asyncio=request.param == "asyncio", decode_responses=True)
    yield side
    await side.close()


@pytest.fixture(params=["sync", "asyncio"])
async def through(request: pytest.FixtureRequest, redis: str, unique: str) -> AsyncIterator[Side]:
    """
    A client of each kind that reads through to the baseline.
    """
    side = Side(redis, unique, asyncio=request.param == "asyncio", read_through=True, decode_responses=True)
    yield side
    await side.close()


@pytest.fixture
def plain(redis: str) -> Iterator[redis_py.Redis]:
    """
    A client without a partition.
    """
    with redis_py.Redis.from_url(redis) as client:
        yield client
