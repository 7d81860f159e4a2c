"""
The clients, pipelines and subscriptions of redis-py that wait.
"""

from __future__ import annotations

from typing import Any

from ..context import routing_key
from ..scope import scope
from ._redis_hooks import ORDINARY, Deriving, listing
from ._redis_pipeline import PipelineHook
from ._redis_pubsub import PubSubHook
from ._redis_rewrite import Plan, rewrite
from ._redis_through import claim, owned, owned_options

__all__ = ["Client", "Pipeline", "PubSub"]


class Client(Deriving):
    """
    A client.
    """

    def execute_command(self, *words: Any, **options: Any) -> Any:
        key = routing_key()
        execute = super().execute_command  # type: ignore[misc]
        if key is None:
            if words and type(words[0]) is str and words[0] in ORDINARY:
                return execute(*words, **options)
            visible, reply = listing(words), execute(*words, **options)
            return reply if visible is None else visible(reply)
        part = self._tenancy_parts[key]
        if len(words) > 1 and type(words[1]) is str and type(words[0]) is str and words[0] in self._tenancy_simple:
            own = part.prefix + words[1]
            if "keys" in options:
                options["keys"] = [own]
            return execute(words[0], own, *words[2:], **options)
        if self._tenancy.read_through:
            plan = Plan(words, self._tenancy_encode)
            if plan.names and plan.reads:
                words, options = plan.mixed(part, options, execute(*owned(part, plan.names), **owned_options(part)))
                return execute(*words, **options)
            if plan.names:
                execute(*claim(part, plan.names))
        words, options, plain = rewrite(part, words, options, self._tenancy_encode)
        reply = execute(*words, **options)
        return reply if plain is None else plain(part, reply)


class Pipeline(PipelineHook):
    """
    A pipeline.
    """

    def immediate_execute_command(self, *words: Any, **options: Any) -> Any:
        key = self._tenancy_pinned()
        execute = super().immediate_execute_command  # type: ignore[misc]
        if key is None:
            visible, reply = listing(words), execute(*words, **options)
            return reply if visible is None else visible(reply)
        part = self._tenancy_parts[key]
        if self._tenancy.read_through:
            names = Plan(words, self._tenancy_encode).names
            if names:
                execute(*claim(part, names))
        words, options, plain = rewrite(part, words, options, self._tenancy_encode)
        reply = execute(*words, **options)
        return reply if plain is None else plain(part, reply)

    def execute(self, *args: Any, **options: Any) -> Any:
        execute = super().execute  # type: ignore[misc]
        if not self._tenancy_begun():
            return execute(*args, **options)
        key, replies, claims = self._tenancy_key, self._tenancy_replies, self._tenancy_claims
        if routing_key() != key:
            with scope(key):
                return self.execute(*args, **options)
        if claims and key is not None:
            super().immediate_execute_command(*claim(self._tenancy_parts[key], list(claims)))  # type: ignore[misc]
            claims.clear()
        return self._tenancy_answered(replies, execute(*args, **options))


class PubSub(PubSubHook):
    """
    A subscription.
    """

    def execute_command(self, *words: Any) -> Any:
        return super().execute_command(*self._tenancy_words(words))  # type: ignore[misc]

    def parse_response(self, *args: Any, **options: Any) -> Any:
        return self._tenancy_plain(super().parse_response(*args, **options))  # type: ignore[misc]

    def handle_message(self, *args: Any, **options: Any) -> Any:
        if routing_key() == self._tenancy_key:
            return super().handle_message(*args, **options)  # type: ignore[misc]
        with scope(self._tenancy_key):
            return super().handle_message(*args, **options)  # type: ignore[misc]

    def on_connect(self, connection: Any) -> None:
        # Whoever it was that found the connection broken.
        with scope(self._tenancy_key):
            super().on_connect(connection)  # type: ignore[misc]
