"""
What the clients, pipelines and subscriptions of redis-py do otherwise, sync and asyncio: the decisions that both take alike.

A class here is put in front of the class that an object has, so that whatever the object makes of its own class is kept to the key too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from .._optional import extra

with extra("redis", "redis"):
    from redis.commands.redismodules import RedisModuleCommands

from ..context import routing_key
from ..errors import ConfigurationError, PartitionError
from ..key import RoutingKey
from ._redis_commands import COMMANDS, FIRST, LISTING, find
from ._redis_names import Names, Part

__all__ = ["Adoption", "Deriving", "Hook", "ORDINARY", "SIMPLE", "listing", "whose"]


class Adoption:
    """
    One partition's classes for the objects of redis-py.

    Args:
        names: The names of all keys.
        read_through: Whether reads fall back to the baseline's values.
    """

    def __init__(self, names: Names, *, read_through: bool) -> None:
        self.names = names
        self.read_through = read_through
        self._classes: dict[type, type] = {}
        self._hooks: list[tuple[type, type]] = []

    def register(self, base: type, hook: type) -> None:
        """
        Say which class stands in front of *base* and its subclasses; those registered first are looked at first.
        """
        self._hooks.append((base, hook))

    def adopt(self, target: Any) -> Any:
        """
        Keep an object of redis-py's to the key from now on, and return it.

        Raises:
            ConfigurationError: If it is nothing that can be kept to a key.
        """
        before = type(target)
        if isinstance(target, Hook):
            return target
        made = self._classes.get(before)
        if made is None:
            hook = next((hook for base, hook in self._hooks if isinstance(target, base)), None)
            if hook is None:
                raise ConfigurationError(
                    f"{before.__module__}.{before.__qualname__} cannot be kept to a routing key by RedisPartition"
                )
            members = {
                "_tenancy": self,
                "_tenancy_before": before,
                "_tenancy_parts": self.names.parts,
                "_tenancy_simple": frozenset() if self.read_through else SIMPLE,
                "__module__": before.__module__,
                "__doc__": before.__doc__,
            }
            made = self._classes[before] = type(before.__name__, (hook, before), members)
        target.__class__ = made
        target._tenancy_begin()
        return target


class Hook:
    """
    What stands in front of every class. No `__slots__`: the class of an object can only be changed for one of the same layout.
    """

    _tenancy: ClassVar[Adoption]
    _tenancy_before: ClassVar[type]
    _tenancy_simple: ClassVar[frozenset[str]]
    _tenancy_parts: ClassVar[Mapping[RoutingKey, Part]]

    def _tenancy_begin(self) -> None:
        """
        Called once, when an object has got its new class.
        """


#: Names of commands with one key, which is the first word, as redis-py writes them: nothing else has to be looked at.
SIMPLE: Final = frozenset(name for name, command in COMMANDS.items() if command is FIRST)
#: Names of commands, as redis-py writes them, whose answers to the baseline need no look.
ORDINARY: Final = frozenset(COMMANDS) - LISTING.keys()


def listing(words: tuple[Any, ...]) -> Callable[[Any], Any] | None:
    """
    Return what leaves the names of routing keys out of a command's answer to the baseline; None where it tells none that were not asked for.
    """
    name = words[0] if words else None
    if type(name) is str and name in ORDINARY:
        return None
    if not isinstance(name, (str, bytes)):
        return None
    try:
        return LISTING.get(find(words)[0])
    except PartitionError:
        return None


def whose(key: RoutingKey | None) -> str:
    """
    Return in words who owns what is done under *key*.
    """
    return "the baseline" if key is None else f"routing key {str(key)!r}"


class Deriving(Hook):
    """
    The ways by which a client or a pipeline makes other objects that talk to Redis.
    """

    def pipeline(self, *args: Any, **options: Any) -> Any:
        return self._tenancy.adopt(super().pipeline(*args, **options))  # type: ignore[misc]

    def pubsub(self, *args: Any, **options: Any) -> Any:
        return self._tenancy.adopt(super().pubsub(*args, **options))  # type: ignore[misc]

    def monitor(self, *args: Any, **options: Any) -> Any:
        key = routing_key()
        if key is not None:
            raise PartitionError(f"MONITOR shows everybody's commands, not those of routing key {str(key)!r}: use it without a key")
        return super().monitor(*args, **options)  # type: ignore[misc]

    def _tenancy_encode(self, value: Any) -> Any:
        return self.connection_pool.get_encoder().encode(value)  # type: ignore[attr-defined]


def _module(name: str) -> Callable[..., Any]:
    # `client.json()` and its like send what they have to say by their client, but make pipelines by themselves.
    def method(self: Deriving, *args: Any, **options: Any) -> Any:
        made = getattr(super(Deriving, self), name)(*args, **options)
        before = getattr(made, "pipeline", None)
        if before is not None:
            made.pipeline = lambda *args, **options: self._tenancy.adopt(before(*args, **options))
        return made

    method.__name__ = name
    return method


for _name in vars(RedisModuleCommands):
    if not _name.startswith("_"):
        setattr(Deriving, _name, _module(_name))
