"""
SQLAlchemy: one engine that goes to the database of the routing key at hand.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from weakref import WeakSet

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import await_only

from ...config import switched_on
from ...context import routing_key
from ...errors import ConfigurationError, PartitionError
from ...key import RoutingKey
from ...observe import count
from .._sqlalchemy_session import AddedObjects
from ._mysql_names import Fence, name_by_key
from ._pools import BEGUN, KeyPools, RoutedPool, of_connection
from ._provider import Database, Databases, Provider, RegisteredProvider, parsed
from ._registry import DROPPING
from ._sessions import SessionOwners

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["DatabasePerKey"]

T = TypeVar("T")

_KINDS = ("postgresql", "mysql", "mariadb", "sqlite")


class DatabasePerKey:
    """
    Sends the work of each routing key to a database of its own, through the engine that the application has; queries, sessions and
    transactions stay as they are.

    An engine takes a connection for each transaction. With a routing key that is one to the key's database, from a pool like the engine's
    own, made when it is first needed; without one it is the engine's. A connection stays with the database that it began in: where the
    routing key has changed meanwhile, the next statement raises `PartitionError`, and so does a Session with objects of another database.

    Args:
        provider: Knows which keys have a database.
        unknown: What becomes of work whose key has none: ``baseline`` serves it as work without a key, and counts its statements in
            ``tenancy.partition.unknown_keys``; ``refuse`` raises. While one is being made or dropped, its key's work always raises.
        max_age: Seconds for which it is remembered which databases there are. Wait this long between `Provider.create` and the first request.
        max_pools: How many keys have an open pool, for each engine; the least recently used one is closed for another. More only while
            connections of all are in use.
        idle: Seconds without use after which a pool is closed.

    Raises:
        ConfigurationError: If an argument cannot be used.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        unknown: Literal["baseline", "refuse"] = "baseline",
        max_age: float = 2.0,
        max_pools: int = 32,
        idle: float = 300.0,
    ) -> None:
        if not isinstance(provider, Provider):
            raise ConfigurationError(f"DatabasePerKey({provider!r}): give a provider, such as PostgresClone or Command")
        if unknown not in ("baseline", "refuse"):
            raise ConfigurationError(f"DatabasePerKey(unknown={unknown!r}): use one of 'baseline', 'refuse'")
        given: tuple[tuple[str, Any], ...] = (("max_age", max_age), ("idle", idle))
        for option, seconds in given:
            if not (isinstance(seconds, int | float) and 0 <= seconds < math.inf):
                raise ConfigurationError(f"DatabasePerKey({option}={seconds!r}): give seconds, 0 or more")
        most: Any = max_pools
        if not (isinstance(most, int) and most >= 1):
            raise ConfigurationError(f"DatabasePerKey(max_pools={max_pools!r}): give a number, 1 or more")
        self._known = _Known(provider, max_age)
        self._unknown = unknown
        self._max_pools = max_pools
        self._idle = idle
        self._installed: dict[Engine, _Installed] = {}

    def install(self, engine: Engine | AsyncEngine) -> None:
        """
        Route all that *engine* does from now on. Does nothing where tenancy is switched off.

        Args:
            engine: An engine for PostgreSQL, MySQL, MariaDB or SQLite, made from a URL, with any driver. It may be one of several.

        Raises:
            ConfigurationError: If the database is another one, or the engine is routed already.
            IdentityError: If tenancy is switched off in a sandbox.
            PartitionError: If the provider cannot tell which databases there are.
        """
        if not switched_on():
            return
        engine = _sync(engine)
        if isinstance(engine, OptionEngine):
            raise ConfigurationError(f"{engine!r} is of execution_options(): install on the engine that it was made of")
        if engine.dialect.name not in _KINDS:
            raise ConfigurationError(f"DatabasePerKey is made for {', '.join(_KINDS)}, not for {engine.dialect.name}")
        if isinstance(engine.pool, RoutedPool):
            raise ConfigurationError(f"{engine!r} has a DatabasePerKey already: uninstall that one first")
        self._known.read()
        installed = _Installed(engine, self._known, self._unknown, KeyPools(engine, self._max_pools, self._idle))
        installed.install()
        self._installed[engine] = installed

    def uninstall(self, engine: Engine | AsyncEngine) -> None:
        """
        Undo `install`, and close the pools of keys; does nothing if it was not called. For an engine of asyncio, await its ``dispose()``
        first.
        """
        installed = self._installed.pop(_sync(engine), None)
        if installed is not None:
            installed.uninstall()

    def refresh(self) -> None:
        """
        Look anew, at the next statement with a key, which databases there are: after a `Provider.create` or `Provider.drop` in this process.
        """
        self._known.forget()

    def open_keys(self, engine: Engine | AsyncEngine) -> list[RoutingKey]:
        """
        Return the keys that have an open pool, the least recently used first.
        """
        installed = self._installed.get(_sync(engine))
        return installed.pools.keys() if installed is not None else []


class _Known:
    """
    Which databases there are, remembered for a while.
    """

    def __init__(self, provider: Provider, max_age: float) -> None:
        self._provider = provider
        self._max_age = max_age
        self._lock = threading.Lock()
        self._found: tuple[float, Mapping[RoutingKey, Database]] | None = None
        self._failed: tuple[float, Exception] | None = None
        _every.add(self)

    def find(self, key: RoutingKey, *, waits: Callable[[Callable[[], Any]], Any]) -> Database | None:
        """
        Return a key's database, or None.

        Args:
            key: The key.
            waits: Calls a function that waits for another server.

        Raises:
            PartitionError: If it is not finished, or not yet gone.
        """
        found = self._found
        if found is None or time.monotonic() - found[0] > self._max_age:
            found = waits(self.read)
        database = found[1].get(key)
        unfinished = found[1].unfinished.get(key) if database is None and isinstance(found[1], Databases) else None
        if unfinished is not None:
            doing = "dropped" if unfinished == DROPPING else "made"
            raise PartitionError(
                f"the database of routing key {str(key)!r} is being {doing}, or that has failed, so its work can go nowhere: "
                + (
                    "call drop() of the provider again"
                    if unfinished == DROPPING
                    else "wait, or call create() or drop() of the provider"
                )
            )
        return database

    def has(self, name: str) -> bool:
        """
        Return whether a database's name, in lower case, is that of a key, or of what keys' databases are made of.
        """
        if isinstance(self._provider, RegisteredProvider) and self._provider.has(name):
            return True
        found = self._found
        known = found[1].values() if found is not None else ()
        return any(name == (parsed(each.address, "an address").database or "").lower() for each in known)

    def read(self) -> tuple[float, Mapping[RoutingKey, Database]]:
        asked = time.monotonic()
        with self._lock:
            found = self._found
            if found is None or found[0] < asked - self._max_age:
                if self._failed is not None and self._failed[0] >= asked:
                    # Those who waited for it wait for no second one.
                    raise PartitionError(str(self._failed[1])) from self._failed[1]
                began = time.monotonic()  # it is as old as the question, not as the answer
                try:
                    found = self._found = (began, self._provider.databases())
                except Exception as error:
                    self._failed = time.monotonic(), error
                    raise
            return found

    def forget(self) -> None:
        self._found = None

    def forked(self) -> None:
        self._lock = threading.Lock()


_every: WeakSet[_Known] = WeakSet()


class _Installed:
    """
    What makes one engine go to several databases.
    """

    def __init__(self, engine: Engine, known: _Known, unknown: str, pools: KeyPools) -> None:
        self.pools = pools
        self._engine = engine
        self._known = known
        self._unknown = unknown
        self._sessions = SessionOwners(engine)
        self._added = AddedObjects(engine, self._owner)
        self._class = type(engine.dialect)
        self._fence = Fence(engine, known.has) if engine.dialect.name in ("mysql", "mariadb") else None

    def install(self) -> None:
        if self._fence is not None:
            name_by_key(self._engine.dialect, self._find)
        self.pools.listen()
        event.listen(self._engine, "before_cursor_execute", self._before_cursor_execute)
        self._sessions.listen()
        self._added.listen()
        self._engine.pool = RoutedPool(self.pools, self._connect)

    def uninstall(self) -> None:
        self._engine.pool = self.pools.base
        self._sessions.remove()
        self._added.remove()
        event.remove(self._engine, "before_cursor_execute", self._before_cursor_execute)
        self.pools.remove()
        if self._fence is not None:
            self._engine.dialect.__class__ = self._class
        self.pools.dispose()

    def _connect(self) -> PoolProxiedConnection:
        self.pools.sweep()
        key = routing_key()
        if key is not None:
            database = self._find(key)
            if database is not None:
                return self.pools.connect(key, database)
        connection = self.pools.base.connect()
        self.pools.initialised = True
        connection.info[BEGUN] = key
        return connection

    def _find(self, key: RoutingKey) -> Database | None:
        database = self._known.find(key, waits=self._waits)
        if database is None and self._unknown == "refuse":
            raise PartitionError(
                f"routing key {str(key)!r} has no database: create it with the provider, and wait until it is seen"
            )
        return database

    def _owner(self, key: RoutingKey | None) -> RoutingKey | None:
        return None if key is None or self._find(key) is None else key

    def _waits(self, work: Callable[[], T]) -> T:
        # The loop goes on meanwhile.
        return await_only(asyncio.to_thread(work)) if self._engine.dialect.is_async else work()

    def _before_cursor_execute(
        self, connection: Connection, _cursor: Any, statement: str, _parameters: Any, context: Any, _many: bool
    ) -> None:
        pool, key = of_connection(connection), routing_key()
        if pool is None:
            if key is None:
                return
            if key != connection.connection.info.get(BEGUN) and self._find(key) is not None:
                raise PartitionError(_changed("the baseline", key))
            count("tenancy.partition.unknown_keys")
        elif pool.key != key:
            raise PartitionError(_changed(str(pool), key))
        elif self._fence is not None:
            self._fence.check(pool, statement, context)


def _changed(began: str, key: RoutingKey | None) -> str:
    now = "without a routing key" if key is None else f"with routing key {str(key)!r}"
    return (
        f"a connection to {began} is now used {now}, and one transaction cannot go to two databases: end it, and take a connection or "
        "Session for each routing key"
    )


def _sync(engine: Engine | AsyncEngine) -> Engine:
    # SQLAlchemy's asyncio cannot be imported without greenlet, which it does not bring from 2.1 on.
    return engine if isinstance(engine, Engine) else engine.sync_engine


def _forked() -> None:
    for known in list(_every):
        known.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
