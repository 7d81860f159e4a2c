"""
Subscriptions of redis-py, sync and asyncio: of the routing key under which they were made.
"""

from __future__ import annotations

from typing import Any, Final

from ..context import routing_key
from ..errors import PartitionError
from ..key import RoutingKey
from ._redis_hooks import Hook, whose
from ._redis_names import Part, shown
from ._redis_rewrite import check_channel

__all__ = ["PubSubHook"]

_SUBSCRIBES: Final = frozenset({"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"})
_ENDS: Final = frozenset({"UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"})


class PubSubHook(Hook):
    """
    A subscription. What redis-py keeps in it are plain names; only what goes to Redis and comes from it is the key's own.
    """

    _tenancy_key: RoutingKey | None
    # Of redis-py
    channels: dict[Any, Any]
    patterns: dict[Any, Any]
    encoder: Any

    def _tenancy_begin(self) -> None:
        self._tenancy_key = None

    def _tenancy_subscribed(self) -> bool:
        return bool(self.channels or self.patterns or getattr(self, "shard_channels", None))

    def _tenancy_words(self, words: tuple[Any, ...]) -> tuple[Any, ...]:
        given = words[0] if words else None
        name = given.decode("latin-1").upper() if isinstance(given, bytes) else str(given).upper()
        key = routing_key()
        if name in _SUBSCRIBES and self._tenancy_subscribed():
            if key != self._tenancy_key:
                raise PartitionError(
                    f"a subscription of {whose(self._tenancy_key)} was given channels of {whose(key)}: make one for each with "
                    "client.pubsub()"
                )
        elif name in _SUBSCRIBES:
            self._tenancy_key = key
        # What ends, ends what was begun, whoever ends it.
        owner = self._tenancy_key
        if owner is None or name == "PING":
            return words
        if name not in _SUBSCRIBES and name not in _ENDS:
            raise PartitionError(
                f"{shown(given)} of a subscription of routing key {str(owner)!r} cannot be kept to it: use the client itself"
            )
        part = self._tenancy_parts[owner]
        if name in _SUBSCRIBES:
            for channel in words[1:]:
                check_channel(part, channel, self.encoder.encode)
        return (given, *(part.own(channel, self.encoder.encode) for channel in words[1:]))

    def _tenancy_plain(self, reply: Any) -> Any:
        # [kind, channel, data], or [kind, pattern, channel, data]; of the answer to PING no channel.
        if not isinstance(reply, (list, tuple)) or len(reply) < 3:
            return reply
        kind = reply[0].decode("latin-1") if isinstance(reply[0], bytes) else reply[0]
        owner = self._tenancy_key
        if owner is None:
            return None if self._tenancy_hidden(kind, reply) else reply
        part = self._tenancy_parts[owner]
        last = 2 if kind == "pmessage" else 1
        return [_plain(part, word) if 1 <= position <= last else word for position, word in enumerate(reply)]

    def _tenancy_hidden(self, kind: str, reply: Any) -> bool:
        # What the baseline hears by a pattern that is somebody's: it would have two owners.
        hidden = self._tenancy.names.hidden
        if kind == "pmessage":
            return hidden(reply[2]) or (_is_event(reply[2]) and hidden(reply[3]))
        return kind == "message" and _is_event(reply[1]) and hidden(reply[2])


def _plain(part: Part, name: Any) -> Any:
    return None if name is None else part.plain(name)


def _is_event(channel: Any) -> bool:
    # Of these the message is the name of a key.
    return channel[:11] in ("__keyevent@", b"__keyevent@") if isinstance(channel, (str, bytes)) else False
