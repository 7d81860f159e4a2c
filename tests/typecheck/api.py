"""
The public API as a type checker sees it. Never run; read by mypy and by pyright in strict mode.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio

import tenancy
from tenancy import testing
from tenancy.data.postgresql import enter, enter_async
from tenancy.data.redis import PartSize, RedisPartition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import assert_type

    from tenancy.data.databases import Command, Database, DatabasePerKey, Provider, SQLiteFile
    from tenancy.data.databases.postgresql import PostgresClone

    key = tenancy.RoutingKey("pr-42")
    assert_type(tenancy.routing_key(), tenancy.RoutingKey | None)
    assert_type(tenancy.RoutingKey.parse("x"), tenancy.RoutingKey | None)
    assert_type(tenancy.inject(), dict[str, str])
    maybe: dict[str, str] | None = {}
    assert_type(tenancy.inject(maybe), dict[str, str])
    assert_type(tenancy.inject([("a", b"1")]), list[tuple[str, bytes]])
    assert_type(tenancy.inject({"a": "1"}, key=key), dict[str, str])
    assert_type(tenancy.extract({"a": "1"}), tenancy.RoutingKey | None)
    assert_type(tenancy.partition_name(key, "shop", kind="kafka-topic"), str)
    assert_type(tenancy.cache_key("user:1"), str)
    assert_type(tenancy.instrument("httpx"), tuple[str, ...])

    with tenancy.scope("pr-42") as current:
        assert_type(current, tenancy.RoutingKey | None)

    @tenancy.scope("pr-42")
    def function(number: int, *, text: str) -> bool:
        return bool(number or text)

    @tenancy.scope(None)
    async def coroutine(number: int) -> str:
        return str(number)

    @tenancy.scope(key)
    def generator(number: int) -> Iterator[int]:
        yield number

    @tenancy.scope(key)
    async def async_generator(number: int) -> AsyncIterator[int]:
        yield number

    assert_type(function(1, text="a"), bool)
    assert_type(generator(1), Iterator[int])
    assert_type(async_generator(1), AsyncIterator[int])

    async def calls() -> None:
        assert_type(await coroutine(1), str)

    function("wrong")  # type: ignore[call-arg,arg-type]  # pyright: ignore[reportCallIssue,reportArgumentType]
    tenancy.partition_name(key, "shop", kind="wrong")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    partition = RedisPartition("shop", read_through=True)
    assert_type(partition.drop(redis.Redis(), "pr-42"), int)
    assert_type(partition.drop(redis.asyncio.Redis(), key), Awaitable[int])
    assert_type(partition.status(redis.Redis()), dict[tenancy.RoutingKey, PartSize])
    assert_type(partition.status(redis.asyncio.Redis()), Awaitable[dict[tenancy.RoutingKey, PartSize]])
    partition.install(object())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    with testing.record_hops(key="pr-42", ignore=["otel-collector"], check=False) as hops:
        assert_type(hops, testing.Hops)
    assert_type(hops[0], testing.Hop)
    assert_type(hops[1:], list[testing.Hop])
    assert_type(hops.to("orders"), list[testing.Hop])
    assert_type(hops[0].key, tenancy.RoutingKey | None)
    assert_type(hops[0].problem, str | None)

    class Producer:
        def produce(self, topic: str) -> None: ...

    assert_type(hops.wrap(Producer()), Producer)
    with testing.isolated_settings(role="baseline") as configure:
        assert_type(configure(workload="shop/orders"), tenancy.Settings)
    routes = testing.MemoryRoutes({"shop/orders": ["pr-42"], "shop/notify": {"pr-42": "team-a"}, "shop/pricing": []})
    assert_type(routes.environment(), dict[str, str])
    testing.assert_propagates(object(), "/", keys=["pr-42"], seen=lambda response: response.text or None, headers={"a": "1"})
    assert_type(testing.carrier("kafka", [("a", "1")], key="pr-42"), Any)
    assert_type(testing.header_lines({"a": "1"}), list[tuple[str, str]])
    assert_type(testing.kafka_message(b"", key="pr-42").topic(), str)
    assert_type(testing.rabbitmq_message(b"", key="pr-42").answers, list[testing.Answer])
    testing.carrier("soap")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    testing.record_hops("pr-42")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    command = Command(["make", "{key}"], drop=["drop", "{key}"], registry="sqlite:///registry.db")
    providers: list[Provider] = [SQLiteFile("golden.db", "made"), PostgresClone("golden", "postgresql://host/postgres"), command]
    assert_type(providers[0].create(key), str)
    assert_type(providers[0].databases(), Mapping[tenancy.RoutingKey, Database])
    DatabasePerKey(providers[0], unknown="refuse")
    DatabasePerKey(providers[0], unknown="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    DatabasePerKey("postgresql://host")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(enter(object(), "pr-42", unknown="refuse", late="baseline"), bool)
    enter(object(), unknown="wrong")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    async def entered() -> None:
        assert_type(await enter_async(object()), bool)
