"""
What the page about redis-py says, on a real server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis as client_library
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import tenancy
from tenancy.data.redis import RedisPartition
from tests import services
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
    (line,) = blocks(PAGE, "text")
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
