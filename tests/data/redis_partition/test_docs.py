"""
What the page about redis-py says, on a real server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis as client_library
import redis.asyncio as redis_asyncio
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import tenancy
from tenancy.data.redis import RedisPartition
from tests import services
from tests.data.redis_partition.conftest import closed, done
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "how-to" / "redis.md"

pytestmark = pytest.mark.service


def test_the_snippets(own_service: Callable[[str], services.Service]) -> None:
    """Its functions do on a server what they say."""
    server = urlsplit(own_service("redis").address)
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(PAGE)
    for example in document.examples():
        example.evaluate()
    page = document.namespace
    for name in ("client", "reading"):  # which have not connected yet
        page[name].connection_pool.connection_kwargs.update(host=server.hostname, port=server.port)
    for name in ("use", "subscribe", "refused", "clean", "read_through"):
        page[name]()
    assert page["orders"] == ["one book"]


def test_the_user(own_service: Callable[[str], services.Service]) -> None:
    """The page's user of Redis can work under its key, and neither without one nor under another."""
    address = own_service("redis").address
    line, _ = blocks(PAGE, "text")
    admin: Any = client_library.Redis.from_url(address)
    admin.execute_command(*line.split())
    client: Any = client_library.Redis.from_url(address.replace("//", "//pr-42:password@"), decode_responses=True)
    RedisPartition("shop").install(client)
    with tenancy.scope("pr-42"):
        client.set("a", 1)
        assert client.get("a") == "1"
        assert client.keys() == ["a"]
        assert list(client.scan_iter()) == ["a"]
        assert client.lock("l", timeout=1).acquire(blocking=False)
        assert client.publish("ch", "x") == 0
        subscription = client.pubsub()
        subscription.subscribe("ch")
        assert subscription.get_message(timeout=5)
        subscription.close()
    for owner in ("pr-43", None):
        with tenancy.scope(owner), pytest.raises(client_library.exceptions.NoPermissionError):
            client.set("a", 1)
        with tenancy.scope(owner), pytest.raises(client_library.exceptions.NoPermissionError):
            client.publish("ch", "x")
    with tenancy.scope("pr-42"):
        assert RedisPartition("shop").drop(client, "pr-42") == 2  # the lock too
        assert client.keys() == []
    admin.set("tenancy:pr-43:shop:a", 1)
    with pytest.raises(client_library.exceptions.NoPermissionError):
        RedisPartition("shop").drop(client, "pr-43")


@pytest.mark.parametrize("mode", ["sync", "asyncio"])
async def test_the_user_who_reads_through(own_service: Callable[[str], services.Service], mode: str) -> None:
    """The page's other user gets the baseline's values, changes copies of them alone, and drops these."""
    address = own_service("redis").address
    _, line = blocks(PAGE, "text")
    admin: Any = client_library.Redis.from_url(address, decode_responses=True)
    if int(admin.info("server")["redis_version"].partition(".")[0]) < 7:
        pytest.skip("this Redis knows no rights to read alone")
    admin.execute_command(*line.split())
    admin.mset({"a": 1, "b": 2, "c": 3})
    admin.rpush("l", "x", "y")
    kind: Any = redis_asyncio.Redis if mode == "asyncio" else client_library.Redis
    client = kind.from_url(address.replace("//", "//pr-42:password@"), decode_responses=True)
    partition = RedisPartition("shop", read_through=True)
    partition.install(client)
    with tenancy.scope("pr-42"):
        assert await done(client.mget("a", "b")) == ["1", "2"]
        assert await done(client.incr("a")) == 2
        assert await done(client.lpop("l")) == "x"
        pipe = client.pipeline()
        pipe.append("b", "!")
        pipe.delete("c")
        assert await done(pipe.execute()) == [2, 1]
        assert await done(client.mget("a", "b", "c")) == ["2", "2!", None]
    for owner in ("pr-43", None):
        with tenancy.scope(owner), pytest.raises(client_library.exceptions.NoPermissionError):
            await done(client.set("a", 1))
    assert admin.mget("a", "b", "c") == ["1", "2", "3"]
    assert admin.lrange("l", 0, -1) == ["x", "y"]
    assert await done(partition.drop(client, "pr-42")) == 3
    assert sorted(admin.keys()) == ["a", "b", "c", "l"]
    with tenancy.scope("pr-42"):
        assert await done(client.get("c")) == "3"
    await closed(client)
