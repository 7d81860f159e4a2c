"""
The clients, pipelines and subscriptions of redis-py's asyncio. The key of a command is that of the call, not of its await.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from ..context import routing_key
from ..scope import scope
from ._redis_hooks import ORDINARY, Deriving, listing
from ._redis_names import Part
from ._redis_pipeline import PipelineHook
from ._redis_pubsub import PubSubHook
from ._redis_rewrite import Plan, rewrite
from ._redis_through import claim, owned, owned_options

__all__ = ["Client", "Pipeline", "PubSub"]

_Execute = Callable[..., Awaitable[Any]]


async def _plainly(reply: Awaitable[Any], plain: Callable[[Any], Any]) -> Any:
    return plain(await reply)


async def _after(execute: _Execute, first: tuple[Any, ...], words: tuple[Any, ...], options: dict[str, Any]) -> Any:
    await execute(*first)
    return await execute(*words, **options)


async def _read(execute: _Execute, plan: Plan, part: Part, options: dict[str, Any]) -> Any:
    words, options = plan.mixed(part, options, await execute(*owned(part, plan.names), **owned_options(part)))
    return await execute(*words, **options)


class Client(Deriving):
    """
    A client.
    """

    def execute_command(self, *words: Any, **options: Any) -> Awaitable[Any]:
        key = routing_key()
        execute: _Execute = super().execute_command  # type: ignore[misc]
        if key is None:
            if words and type(words[0]) is str and words[0] in ORDINARY:
                return execute(*words, **options)
            visible, reply = listing(words), execute(*words, **options)
            return reply if visible is None else _plainly(reply, visible)
        part = self._tenancy_parts[key]
        if len(words) > 1 and type(words[1]) is str and type(words[0]) is str and words[0] in self._tenancy_simple:
            own = part.prefix + words[1]
            if "keys" in options:
                options["keys"] = [own]
            return execute(words[0], own, *words[2:], **options)
        names: list[bytes] = []
        if self._tenancy.read_through:
            plan = Plan(words, self._tenancy_encode)
            if plan.names and plan.reads:
                return _read(execute, plan, part, options)
            names = plan.names
        words, options, plain = rewrite(part, words, options, self._tenancy_encode)
        reply = _after(execute, claim(part, names), words, options) if names else execute(*words, **options)
        return reply if plain is None else _plainly(reply, partial(plain, part))


class Pipeline(PipelineHook):
    """
    A pipeline.
    """

    def immediate_execute_command(self, *words: Any, **options: Any) -> Awaitable[Any]:
        key = self._tenancy_pinned()
        execute: _Execute = super().immediate_execute_command  # type: ignore[misc]
        if key is None:
            visible, reply = listing(words), execute(*words, **options)
            return reply if visible is None else _plainly(reply, visible)
        part = self._tenancy_parts[key]
        names = Plan(words, self._tenancy_encode).names if self._tenancy.read_through else []
        words, options, plain = rewrite(part, words, options, self._tenancy_encode)
        reply = _after(execute, claim(part, names), words, options) if names else execute(*words, **options)
        return reply if plain is None else _plainly(reply, partial(plain, part))

    async def execute(self, *args: Any, **options: Any) -> Any:
        execute: _Execute = super().execute  # type: ignore[misc]
        if not self._tenancy_begun():
            return await execute(*args, **options)
        key, replies, claims = self._tenancy_key, self._tenancy_replies, self._tenancy_claims
        if routing_key() != key:
            with scope(key):
                return await self.execute(*args, **options)
        if claims and key is not None:
            await super().immediate_execute_command(*claim(self._tenancy_parts[key], list(claims)))  # type: ignore[misc]
            claims.clear()
        return self._tenancy_answered(replies, await execute(*args, **options))


class PubSub(PubSubHook):
    """
    A subscription.
    """

    async def execute_command(self, *words: Any) -> Any:
        return await super().execute_command(*self._tenancy_words(words))  # type: ignore[misc]

    async def parse_response(self, *args: Any, **options: Any) -> Any:
        return self._tenancy_plain(await super().parse_response(*args, **options))  # type: ignore[misc]

    async def handle_message(self, *args: Any, **options: Any) -> Any:
        if routing_key() == self._tenancy_key:
            return await super().handle_message(*args, **options)  # type: ignore[misc]
        with scope(self._tenancy_key):
            return await super().handle_message(*args, **options)  # type: ignore[misc]

    async def on_connect(self, connection: Any) -> None:
        # Whoever it was that found the connection broken.
        with scope(self._tenancy_key):
            await super().on_connect(connection)  # type: ignore[misc]
