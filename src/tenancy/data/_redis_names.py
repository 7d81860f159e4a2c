"""
The names of a key's part of a Redis: how a name becomes the key's own, and how it becomes plain again. No input or output.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from ..errors import ConfigurationError, PartitionError
from ..key import GRAMMAR, RESERVED, RoutingKey
from ..naming import partition_name

__all__ = ["Names", "Part", "hidden", "raw_name", "shown"]

Encode = Callable[[Any], Any]

# Nothing that a pattern of Redis gives a meaning to (`*?[]^\\`); no braces, which would be the hash tag of every name
# (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags); and no colon, so that no base's part lies inside
# another's.
_BASE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MEMO: Final = 1024

# What begins so is a routing key's, whatever follows: every base's part, what stands beside one, and `tenancy.cache_key`. The names of
# route stores and of deduplication begin with "tenancy::", where no key can be. The channel of a notification has the name of the key
# that changed at its end: https://redis.io/docs/latest/develop/pubsub/keyspace-notifications/ and, from Redis 8.8 on,
# https://redis.io/docs/latest/develop/pubsub/subkeyspace-notifications/
_HIDDEN: Final = re.compile(
    r"(?:__(?:sub)?keyspace(?:item)?@\d+__:|__subkeyspaceevent@\d+__:[^|]*\|)?"
    rf"tenancy:(?!(?:{'|'.join(sorted(RESERVED))}):){GRAMMAR}:"
)


class Part:
    """
    The names of one routing key.

    Args:
        key: The key.
        prefix: What each of its names begins with; ASCII.
    """

    __slots__ = ("key", "marker", "prefix", "raw")

    def __init__(self, key: RoutingKey, prefix: str) -> None:
        self.key = key
        self.prefix = prefix
        self.raw = prefix.encode("ascii")
        #: Outside of the part, as it does not have the colon that each of its names has: what no name of the key's can be.
        self.marker = self.raw[:-1]

    def own(self, name: Any, encode: Encode) -> Any:
        """
        Return the key's own name for what the caller calls *name*.

        Args:
            name: A name, a pattern or a channel, as redis-py takes it: text, bytes or a number.
            encode: Makes bytes of what is neither text nor bytes; the client's own encoder.
        """
        if isinstance(name, str):
            return str.__add__(self.prefix, name)
        if isinstance(name, bytes):
            return self.raw + name
        return self.raw + bytes(encode(name))

    def plain(self, name: Any) -> Any:
        """
        Return what the caller calls one of the key's own names.

        Raises:
            PartitionError: If it is none of the key's.
        """
        if isinstance(name, bytes):
            if name.startswith(self.raw):
                return name[len(self.raw) :]
        elif isinstance(name, str) and name.startswith(self.prefix):
            return name[len(self.prefix) :]
        raise PartitionError(
            f"Redis answered with {shown(name)}, which is no name of routing key {str(self.key)!r}; a response callback of your own may have "
            "changed the answer: remove it"
        )


class _Parts(dict[RoutingKey, Part]):
    # A mapping, since nothing that can be called is found as fast.
    def __init__(self, base: str) -> None:
        super().__init__()
        self._base = base

    def __missing__(self, key: RoutingKey) -> Part:
        part = Part(key, partition_name(key, self._base, kind="redis-prefix"))
        if len(self) >= _MEMO:
            self.clear()
        self[key] = part
        return part


class Names:
    """
    The names of all routing keys in one base of a Redis.

    Args:
        base: What the data is called: 1 to 64 of the characters a-z, A-Z, 0-9, ``_``, ``.`` and ``-``.

    Raises:
        ConfigurationError: If *base* is anything else.
    """

    def __init__(self, base: str) -> None:
        given: Any = base
        if not (isinstance(given, str) and _BASE.fullmatch(given)):
            raise ConfigurationError(
                f"RedisPartition({shown(base)}): give 1 to 64 of the characters a-z, A-Z, 0-9, '_', '.' and '-', such as 'shop'"
            )
        self.base = base
        #: The names of each routing key.
        self.parts: Mapping[RoutingKey, Part] = _Parts(base)
        self._named = re.compile(rf"tenancy:({GRAMMAR}):{re.escape(base)}:")

    def everything(self) -> str:
        """
        Return a pattern that the names of all keys match, and maybe some others.
        """
        return f"tenancy:*:{self.base}:*"

    def owner(self, name: bytes) -> RoutingKey | None:
        """
        Return the routing key that a name belongs to, or None where it is the baseline's.
        """
        found = self._named.match(name.decode("latin-1"))
        return None if found is None else RoutingKey.parse(found[1])


def hidden(name: Any) -> bool:
    """
    Return whether a name, or the channel of a notification about it, belongs to a routing key: in whichever base.
    """
    if isinstance(name, bytes):
        return b"tenancy:" in name[:64] and _HIDDEN.match(name.decode("latin-1")) is not None
    return isinstance(name, str) and _HIDDEN.match(name) is not None


def raw_name(name: Any, encode: Encode) -> bytes:
    """
    Return a name as Redis gets it.
    """
    return bytes(encode(name))


def shown(value: Any) -> str:
    """
    Return a value for a message, cut where it is long.
    """
    if isinstance(value, (str, bytes)) and len(value) > 64:
        return f"{value[:64]!r}..."
    text = repr(value)
    return text if len(text) <= 96 else f"{text[:96]}..."
