"""
redis-py: the keys and channels of each routing key apart from all others', by a prefix of their names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import dataclass
from typing import Any, Final, overload

from .._optional import extra

with extra("redis", "redis"):
    import redis.asyncio
    import redis.client
    from redis.client import NEVER_DECODE

from ..config import switched_on
from ..errors import ConfigurationError
from ..key import RoutingKey
from . import _redis_asyncio, _redis_sync
from ._redis_hooks import Adoption, Hook
from ._redis_names import Names, Part

__all__ = ["PartSize", "RedisPartition"]

_BATCH: Final = 1000


@dataclass(frozen=True)
class PartSize:
    """
    How much a routing key has in a Redis.

    Args:
        keys: How many keys of Redis it has.
        size: What they take of Redis' memory, in bytes; of large ones Redis estimates it.
    """

    keys: int
    size: int


class RedisPartition:
    """
    Keeps every command of a client to the routing key at hand, by a prefix of the names of keys and channels: ``tenancy:pr-42:shop:``.

    The application goes on using plain names, and gets plain names back. Work without a key uses names as they are, and does not see those
    of routing keys in ``KEYS``, ``SCAN`` and what a pattern subscribes to. A command that cannot be kept to the key raises
    `PartitionError` before Redis hears of it; the message says what to do.

    Args:
        base: What the data is called, the same in all services that share it: 1 to 64 of the characters a-z, A-Z, 0-9, ``_``, ``.``
            and ``-``.
        read_through: Whether reads of what the key has not changed yet are answered with the baseline's value. What changes a value copies
            it whole first. Needs Redis 6.2, and a further round trip for each command with a key.

    Raises:
        ConfigurationError: If an argument cannot be used.
    """

    def __init__(self, base: str, *, read_through: bool = False) -> None:
        if not isinstance(read_through, bool):
            raise ConfigurationError(f"RedisPartition(read_through={read_through!r}): use True or False")
        self._names = Names(base)
        self._adoption = Adoption(self._names, read_through=read_through)
        # A pipeline of redis-py is a client, too.
        for base_class, hook in (
            (redis.client.Pipeline, _redis_sync.Pipeline),
            (redis.asyncio.client.Pipeline, _redis_asyncio.Pipeline),
            (redis.client.Redis, _redis_sync.Client),
            (redis.asyncio.client.Redis, _redis_asyncio.Client),
            (redis.client.PubSub, _redis_sync.PubSub),
            (redis.asyncio.client.PubSub, _redis_asyncio.PubSub),
        ):
            self._adoption.register(base_class, hook)

    def install(self, client: redis.Redis | redis.asyncio.Redis) -> None:
        """
        Restrict everything that is sent by *client* from now on, and by the pipelines and subscriptions that it makes. Does nothing where
        tenancy is switched off.

        Args:
            client: A client of a single Redis, or of one found by Sentinel; sync or asyncio.

        Raises:
            ConfigurationError: If it is something else, such as a client of a cluster, or has a partition already.
            IdentityError: If tenancy is switched off in a sandbox.
        """
        if not switched_on():
            return
        _check(client)
        if isinstance(client, Hook):
            raise ConfigurationError(f"{client!r} has a RedisPartition already: uninstall that one first")
        covered = sorted(name for name in ("execute_command", "pipeline", "pubsub", "monitor") if name in vars(client))
        if covered:
            raise ConfigurationError(
                f"{client!r} has a {covered[0]} of its own, which would not be kept to a routing key: install the partition before "
                "whatever put it there, such as an instrumentation of this client"
            )
        encoder = client.get_encoder()
        if encoder.encode("tenancy:") != b"tenancy:":
            raise ConfigurationError(f"the client's encoding {encoder.encoding!r} does not leave ASCII as it is: use 'utf-8'")
        self._adoption.adopt(client)

    def uninstall(self, client: redis.Redis | redis.asyncio.Redis) -> None:
        """
        Undo `install`; does nothing if it was not called. Pipelines and subscriptions made before stay restricted.
        """
        target: Any = client
        if isinstance(target, Hook) and target._tenancy is self._adoption:
            target.__class__ = target._tenancy_before

    @overload
    def drop(self, client: redis.Redis, key: RoutingKey | str) -> int: ...

    @overload
    def drop(self, client: redis.asyncio.Redis, key: RoutingKey | str) -> Awaitable[int]: ...

    def drop(self, client: Any, key: RoutingKey | str) -> int | Awaitable[int]:
        """
        Delete all that a routing key has in this Redis, and nothing else's. What is written meanwhile may stay: let everything that could
        still write end first.

        Args:
            client: A client of that Redis, with or without a partition; with one of asyncio, await what is returned.
            key: The routing key.

        Returns:
            How many keys of Redis were deleted.

        Raises:
            InvalidRoutingKeyError: If *key* is not a routing key.
            ConfigurationError: If *client* is not one.
        """
        _check(client)
        part = self._names.parts[RoutingKey(key)]
        # With what stands beside the part: where nothing does, a user of Redis need not be allowed to delete it.
        found = _Scan(client, f"{part.prefix[:-1]}*")
        if isinstance(client, redis.asyncio.Redis):
            return _adrop(found, part)
        count, marked = 0, False
        for names in found.batches():
            own = [name for name in names if name.startswith(part.raw)]
            marked = marked or part.marker in names
            count += found.run("UNLINK", *own) if own else 0
        if marked:
            found.run("UNLINK", part.marker)
        return count

    @overload
    def status(self, client: redis.Redis) -> dict[RoutingKey, PartSize]: ...

    @overload
    def status(self, client: redis.asyncio.Redis) -> Awaitable[dict[RoutingKey, PartSize]]: ...

    def status(self, client: Any) -> dict[RoutingKey, PartSize] | Awaitable[dict[RoutingKey, PartSize]]:
        """
        Return for each routing key how much it has in this Redis. It looks at all keys of the database, so it is nothing for a request.

        Args:
            client: A client of that Redis, with or without a partition; with one of asyncio, await what is returned.

        Raises:
            ConfigurationError: If *client* is not one.
        """
        _check(client)
        found = _Scan(client, self._names.everything())
        if isinstance(client, redis.asyncio.Redis):
            return _astatus(found, self._names)
        tally = _Tally(self._names)
        for names in found.batches():
            own = tally.own(names)
            tally.add(own, found.sizes(own).execute() if own else [])
        return tally.parts


class _Scan:
    """
    All names that match a pattern, and other commands, past any partition of the client's.
    """

    def __init__(self, client: Any, pattern: str) -> None:
        self._client = client
        self._class: Any = client._tenancy_before if isinstance(client, Hook) else type(client)
        self._pattern = pattern

    def run(self, *words: Any, **options: Any) -> Any:
        return self._class.execute_command(self._client, *words, **options)

    def scan(self, cursor: Any) -> Any:
        # Names need not be text in the client's encoding.
        return self.run("SCAN", cursor, "MATCH", self._pattern, "COUNT", _BATCH, **{NEVER_DECODE: []})

    def sizes(self, names: list[bytes]) -> Any:
        pipeline = self._class.pipeline(self._client, transaction=False)
        for name in names:
            pipeline.execute_command("MEMORY USAGE", name)
        return pipeline

    def batches(self) -> Iterator[list[bytes]]:
        cursor: Any = 0
        while True:
            cursor, names = self.scan(cursor)
            yield names
            if int(cursor) == 0:
                return

    async def abatches(self) -> AsyncIterator[list[bytes]]:
        cursor: Any = 0
        while True:
            cursor, names = await self.scan(cursor)
            yield names
            if int(cursor) == 0:
                return


class _Tally:
    # Redis may tell a name more than once.
    def __init__(self, names: Names) -> None:
        self._names = names
        self._seen: set[bytes] = set()
        self.parts: dict[RoutingKey, PartSize] = {}

    def own(self, names: list[bytes]) -> list[bytes]:
        fresh = [name for name in dict.fromkeys(names) if name not in self._seen and self._names.owner(name) is not None]
        self._seen.update(fresh)
        return fresh

    def add(self, names: list[bytes], sizes: list[int | None]) -> None:
        for name, size in zip(names, sizes, strict=True):
            key = self._names.owner(name)
            if key is None or size is None:  # gone meanwhile
                continue
            part = self.parts.get(key, PartSize(0, 0))
            self.parts[key] = PartSize(part.keys + 1, part.size + size)


async def _adrop(found: _Scan, part: Part) -> int:
    count, marked = 0, False
    async for names in found.abatches():
        own = [name for name in names if name.startswith(part.raw)]
        marked = marked or part.marker in names
        count += await found.run("UNLINK", *own) if own else 0
    if marked:
        await found.run("UNLINK", part.marker)
    return count


async def _astatus(found: _Scan, names: Names) -> dict[RoutingKey, PartSize]:
    tally = _Tally(names)
    async for batch in found.abatches():
        own = tally.own(batch)
        tally.add(own, await found.sizes(own).execute() if own else [])
    return tally.parts


def _check(client: Any) -> None:
    kind = type(client)
    pipelines = (redis.client.Pipeline, redis.asyncio.client.Pipeline)
    if isinstance(client, (redis.Redis, redis.asyncio.Redis)) and not isinstance(client, pipelines):
        return
    what = f"{kind.__module__}.{kind.__qualname__}"
    if "Cluster" in kind.__name__:
        raise ConfigurationError(f"{what}: RedisPartition is made for a single Redis, not for a cluster; give a redis.Redis")
    raise ConfigurationError(f"{what} is no client: give a redis.Redis or a redis.asyncio.Redis")
