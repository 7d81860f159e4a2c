"""
Subscriptions of redis-py, sync and asyncio: of the routing key under which they were made.
"""

from __future__ import annotations

from typing import Any, Final

from ..context import routing_key
from ..errors import PartitionError
from ..key import RoutingKey
from ._redis_hooks import Hook, whose
from ._redis_names import Part, hidden, shown
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
                check_channel(part, channel, self.encoder.encode, pattern=name == "PSUBSCRIBE")
        return (given, *(part.own(channel, self.encoder.encode) for channel in words[1:]))

    def _tenancy_plain(self, reply: Any) -> Any:
        # [kind, channel, data], or [kind, pattern, channel, data]; of the answer to PING no channel.
        if not isinstance(reply, (list, tuple)) or len(reply) < 3:
            return reply
        kind = reply[0].decode("latin-1") if isinstance(reply[0], bytes) else reply[0]
        owner = self._tenancy_key
        if owner is None:
            return None if _is_theirs(kind, reply) else reply
        part = self._tenancy_parts[owner]
        last = 2 if kind == "pmessage" else 1
        return [_plain(part, word) if 1 <= position <= last else word for position, word in enumerate(reply)]


def _is_theirs(kind: str, reply: Any) -> bool:
    # What the baseline hears by a pattern that is somebody's: it would have two owners.
    if kind == "pmessage":
        return hidden(reply[2]) or _tells(reply[2], reply[3])
    return kind == "message" and _tells(reply[1], reply[2])


def _tells(channel: Any, message: Any) -> bool:
    # Of these channels the message is the name of a key, or begins with its length and the name.
    if not isinstance(channel, (str, bytes)) or not isinstance(message, (str, bytes)):
        return False
    if channel[:11] in ("__keyevent@", b"__keyevent@"):
        return hidden(message)
    if channel[:14] in ("__subkeyevent@", b"__subkeyevent@"):
        return hidden(message.partition(":")[2] if isinstance(message, str) else message.partition(b":")[2])
    return False


def _plain(part: Part, name: Any) -> Any:
    return None if name is None else part.plain(name)
