"""
Record keys of a compacted topic, told apart by routing key. Pure.

Such a topic keeps the last record of each record key, so a record of ``pr-42`` under the baseline's record key would take the place of the
baseline's. Under a record key of its own it stands beside it.
"""

from __future__ import annotations

from typing import Any, TypeVar

from ...context import routing_key as current
from ...key import RoutingKey
from ...propagator import CURRENT

__all__ = ["is_namespaced", "record_key", "split_record_key"]

KeyT = TypeVar("KeyT", str, bytes)

_CURRENT: Any = CURRENT
_PREFIX = "tenancy:"


def record_key(key: KeyT, *, routing_key: RoutingKey | str | None = _CURRENT) -> KeyT:
    """
    Return the record key under which a routing key has its own version of *key*: ``tenancy:pr-42:order-7`` for ``order-7``.

    Two different pairs of routing key and record key never share one. Without a routing key it is *key* itself, but for a key that begins
    like one of ours (``tenancy:``), which is told apart as well.

    Args:
        key: The record key of the baseline, as text or bytes; the result is of the same type.
        routing_key: The routing key; None: there is none. Default: the current one.

    Raises:
        InvalidRoutingKeyError: If *routing_key* is given and is not one.
    """
    space = current() if routing_key is _CURRENT else routing_key
    if space is None:
        return _joined("", key) if key.startswith(_like(_PREFIX, key)) else key
    return _joined(RoutingKey(space), key)


def split_record_key(key: KeyT) -> tuple[RoutingKey | None, KeyT]:
    """
    Return the routing key and the record key that `record_key` has made one of: ``(None, key)`` for a key of the baseline.

    Args:
        key: The record key, as a reader of the topic has it.
    """
    prefix, separator = _like(_PREFIX, key), _like(":", key)
    if not key.startswith(prefix):
        return None, key
    space, found, rest = key[len(prefix) :].partition(separator)
    if not found:
        return None, key
    if not space:
        return None, rest
    owner = RoutingKey.parse(_text(space))
    return (None, key) if owner is None else (owner, rest)


def is_namespaced(key: Any, routing_key: RoutingKey) -> bool:
    """
    Return whether a record key is one that `record_key` made for a routing key; what is neither text nor bytes never is.
    """
    if isinstance(key, str):
        return key.startswith(f"{_PREFIX}{routing_key}:")
    return isinstance(key, bytes) and key.startswith(f"{_PREFIX}{routing_key}:".encode())


def _joined(space: str, key: KeyT) -> KeyT:
    joined: KeyT = _like(f"{_PREFIX}{space}:", key) + key
    return joined


def _like(text: str, key: Any) -> Any:
    return text if isinstance(key, str) else text.encode()


def _text(space: Any) -> str:
    return space if isinstance(space, str) else str(space, "latin-1")
