"""
Pipelines and transactions of redis-py, sync and asyncio: of one routing key, from the first command to the last.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..context import routing_key
from ..errors import PartitionError
from ..key import RoutingKey
from ._redis_hooks import ORDINARY, Deriving, listing, whose
from ._redis_rewrite import Plan, rewrite

__all__ = ["PipelineHook"]

_Plain = Callable[[Any], Any]


class PipelineHook(Deriving):
    """
    A pipeline, or what is done while keys are watched.
    """

    # Made when the first command is given, and void when all have been executed.
    _tenancy_key: RoutingKey | None
    _tenancy_replies: dict[int, _Plain]
    _tenancy_claims: dict[bytes, None]
    # Of redis-py
    command_stack: list[Any]
    watching: bool

    def _tenancy_begin(self) -> None:
        self._tenancy_key, self._tenancy_replies, self._tenancy_claims = None, {}, {}

    def pipeline_execute_command(self, *words: Any, **options: Any) -> Any:
        key = routing_key()
        if not self.command_stack or key is not self._tenancy_key:
            self._tenancy_pin(key)
        queue = super().pipeline_execute_command  # type: ignore[misc]
        if key is None:
            if words and type(words[0]) is str and words[0] in ORDINARY:
                return queue(*words, **options)
            visible = listing(words)
            if visible is not None:
                self._tenancy_replies[len(self.command_stack)] = visible
            return queue(*words, **options)
        part = self._tenancy_parts[key]
        if len(words) > 1 and type(words[1]) is str and type(words[0]) is str and words[0] in self._tenancy_simple:
            own = part.prefix + words[1]
            if "keys" in options:
                options["keys"] = [own]
            return queue(words[0], own, *words[2:], **options)
        if self._tenancy.read_through:
            self._tenancy_claims.update(dict.fromkeys(Plan(words, self._tenancy_encode).names))
        words, options, plain = rewrite(part, words, options, self._tenancy_encode)
        if plain is not None:
            self._tenancy_replies[len(self.command_stack)] = partial(plain, part)
        return queue(*words, **options)

    def _tenancy_pinned(self) -> RoutingKey | None:
        key = routing_key()
        self._tenancy_pin(key)
        return key

    def _tenancy_pin(self, key: RoutingKey | None) -> None:
        if not self._tenancy_begun():
            self._tenancy_key, self._tenancy_replies, self._tenancy_claims = key, {}, {}
        elif key != self._tenancy_key:
            raise PartitionError(
                f"a pipeline with commands of {whose(self._tenancy_key)} was given one of {whose(key)}: use a pipeline for each"
            )

    def _tenancy_begun(self) -> bool:
        return bool(self.command_stack or self.watching)

    def _tenancy_answered(self, replies: dict[int, _Plain], answers: Any) -> Any:
        for position, plain in replies.items():
            if position < len(answers) and not isinstance(answers[position], Exception):
                answers[position] = plain(answers[position])
        return answers
