"""
What the page about deduplication says of consumers, roles and users, on real servers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aio_pika
import psycopg
import pytest
import redis as client_library
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import tenancy
from tenancy.errors import DeduplicationError
from tenancy.messaging.deduplication import open_deduplication
from tenancy.messaging.deduplication.sql import SQLDeduplication
from tests import services
from tests.docs.pages import ROOT, blocks
from tests.messaging.deduplication.contract import SCOPE
from tests.messaging.support import WORKLOAD, write_table

PAGE = ROOT / "docs" / "how-to" / "deduplication.md"

pytestmark = pytest.mark.service


async def test_the_consumer(rabbitmq: str, unique: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is published twice is handled once; one that failed comes again; one that is busy waits; each is acknowledged."""
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "routes.json", "pr-42")
    tenancy.configure(workload=WORKLOAD, role="baseline", routes=f"file://{tmp_path}/routes.json")
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(PAGE)
    for example in document.examples():
        example.evaluate()
    page = document.namespace
    failed: list[str] = []

    class Orders(list[str]):
        def append(self, item: str) -> None:
            if item == "c" and not failed:
                failed.append(item)
                raise LookupError(item)
            super().append(item)

    orders = page["orders"] = Orders()
    other = page["deduplication"]
    held = other.claim(page["queue"], "d")
    connection = await aio_pika.connect_robust(rabbitmq)
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=10)
        exchange = await channel.declare_exchange(unique, "fanout", auto_delete=True)
        queue = await channel.declare_queue(unique, auto_delete=True)
        await queue.bind(exchange)
        for name in ("a", "a", "b", "c", "a", "d", "b"):
            await exchange.publish(aio_pika.Message(name.encode(), message_id=name), "")
        await queue.consume(page["on_order"])
        await asyncio.sleep(0.5)
        assert sorted(orders) == ["a", "b", "c"]
        assert failed == ["c"]
        other.release(held)
        end = time.monotonic() + 10
        while len(orders) < 4 and time.monotonic() < end:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        assert sorted(orders) == ["a", "b", "c", "d"]
        assert (await channel.declare_queue(unique, passive=True)).declaration_result.message_count == 0


def check_user(handle: Any, age: Callable[[], None]) -> None:
    """Claims, also one that expired, marks, gives back and cleans up."""
    late = handle.claim(SCOPE, "m-1")
    age()
    claim = handle.claim(SCOPE, "m-1")
    assert claim.ours
    assert handle.done(claim) is True
    assert handle.done(late) is False
    assert handle.claim(SCOPE, "m-1").done
    assert handle.release(handle.claim(SCOPE, "m-2")) is True
    assert handle.claim(SCOPE, "m-2").ours
    assert handle.claim(SCOPE, "m-2").busy
    handle.close()


def test_the_role_of_postgresql(own_service: Callable[[str], services.Service]) -> None:
    """The page's statements let a consumer do all of it, and nothing to the table itself."""
    address = own_service("postgresql").address
    owner = open_deduplication(address)
    assert isinstance(owner, SQLDeduplication)
    consumer = address.replace("postgres@", "tenancy_consumer@")
    (statements,) = blocks(PAGE, "sql")
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("CREATE ROLE tenancy_consumer_of_before LOGIN")
        with pytest.raises(DeduplicationError, match="permission denied for schema"):
            open_deduplication(address.replace("postgres@", "tenancy_consumer_of_before@")).claim(SCOPE, "m-1")
        owner.install()
        connection.execute(statements.encode())
        handle: Any = open_deduplication(consumer, ttl=30)
        handle.install()
        check_user(handle, lambda: connection.execute("UPDATE tenancy_messages SET until = until - 31") and None)
        connection.execute("UPDATE tenancy_messages SET until = until - 200000")
        assert handle.clean() == 2
        handle.close()
    with psycopg.connect(consumer, autocommit=True) as connection:
        for statement in (b"DROP TABLE tenancy_messages", b"TRUNCATE tenancy_messages", b"CREATE TABLE another (id int)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
    owner.close()


async def test_the_user_of_redis(own_service: Callable[[str], services.Service]) -> None:
    """The page's user can do all of it, and reads and writes no other key."""
    address = own_service("redis").address
    (lines,) = (text for text in blocks(PAGE, "text") if "ACL SETUSER" in text)
    admin: Any = client_library.Redis.from_url(address)
    for line in lines.splitlines():
        assert admin.execute_command(*line.split()) == b"OK"
    as_consumer = address.replace("//", "//tenancy-consumer:password@")
    handle = open_deduplication(as_consumer, ttl=30)
    check_user(handle, lambda: admin.delete(f"tenancy::message:{SCOPE} m-1"))
    claim = await handle.aclaim(SCOPE, "m-3")
    assert await handle.adone(claim) is True
    await handle.aclose()
    consumer: Any = client_library.Redis.from_url(as_consumer)
    for command in (("GET", "tenancy::routes"), ("SET", "another", "1"), ("KEYS", "*"), ("FLUSHALL",)):
        with pytest.raises(client_library.exceptions.NoPermissionError):
            consumer.execute_command(*command)
