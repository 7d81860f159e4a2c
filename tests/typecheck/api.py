"""
The public API as a type checker sees it. Never run; read by mypy and by pyright in strict mode.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import tenancy

if TYPE_CHECKING:
    from typing_extensions import assert_type

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
