"""
The connections of each key's database: a pool for each, as many as are used, and the pool that an engine has in their place.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from typing import Any, Final
from weakref import WeakSet

from sqlalchemy import URL, Engine, Pool, event
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from ...errors import PartitionError
from ...key import RoutingKey
from ...routes.stores._urls import hidden
from ._provider import Database, parsed, place
from ._servers import Server, database_of, server_of

__all__ = ["BEGUN", "KeyPool", "KeyPools", "RoutedPool", "of_connection"]

# In what SQLAlchemy keeps beside a connection: the pool that it is of (none: the baseline's), and the key that it was taken for.
_POOL: Final = "tenancy_pool"
BEGUN: Final = "tenancy_key"

# Connections that a parent has open must not be closed by its child, not even by the garbage collector.
_inherited: list[Any] = []

_all: WeakSet[KeyPools] = WeakSet()


class KeyPool:
    """
    The pool of one key's database.

    Args:
        key: The key.
        database: Its database.
        pool: The connections, whoever has them at the moment.
    """

    def __init__(self, key: RoutingKey, database: Database, pool: Pool) -> None:
        self.key = key
        self.database = database
        self.pool = pool
        self.used = time.monotonic()
        self.retired = False
        self.asking = 0
        #: The baseline's server, and its database's name; None until asked, and where there is no need to ask.
        self.baseline: tuple[Server, str] | None = None
        self._out: WeakSet[Any] = WeakSet()

    def __str__(self) -> str:
        return f"the database of routing key {str(self.key)!r}"

    def gave(self, connection: PoolProxiedConnection) -> None:
        self._out.add(connection)

    def is_idle(self) -> bool:
        return self.asking == 0 and not any(connection.is_valid for connection in list(self._out))


_target: ContextVar[KeyPool | None] = ContextVar("tenancy_target", default=None)


def of_connection(connection: Any) -> KeyPool | None:
    """
    Return the key's pool that a connection of SQLAlchemy's is from; None for the baseline's.
    """
    found: KeyPool | None = connection.connection.info.get(_POOL)
    return found


class KeyPools:
    """
    All key's pools of one engine, each like the engine's own but for the database.

    Args:
        engine: The engine.
        maximum: How many pools; more only while all of them are in use.
        idle: Seconds without use after which one is closed.
    """

    def __init__(self, engine: Engine, maximum: int, idle: float) -> None:
        self.base = engine.pool
        self._engine = engine
        self._maximum = maximum
        self._idle = idle
        self._lock = threading.Lock()
        self._pools: OrderedDict[RoutingKey, KeyPool] = OrderedDict()
        self._retired: list[KeyPool] = []
        self._swept = time.monotonic()
        #: Whether SQLAlchemy has had a connection to the baseline.
        self.initialised = False
        _all.add(self)

    def listen(self) -> None:
        event.listen(self._engine, "do_connect", self._do_connect)
        event.listen(self._engine, "checkin", self._checkin)

    def remove(self) -> None:
        event.remove(self._engine, "do_connect", self._do_connect)
        event.remove(self._engine, "checkin", self._checkin)

    def connect(self, key: RoutingKey, database: Database) -> PoolProxiedConnection:
        """
        Return a connection to a key's database.

        Raises:
            PartitionError: If it led elsewhere.
        """
        if not self.initialised:
            # What SQLAlchemy asks on the first connection of an engine, and takes to be so on all, it is to ask the baseline.
            self.base.connect().close()
            self.initialised = True
        with self._asking(key, database) as pool:
            files = self._engine.dialect.name == "sqlite"
            if not files and pool.baseline is None and _has_server(parsed(database.address, f"the address of {pool}")):
                pool.baseline = self._ask_baseline()
            before = _target.set(pool)
            try:
                connection = pool.pool.connect()
            except PartitionError:
                pool.baseline = None  # to be asked again: either server may be another one then
                raise
            finally:
                _target.reset(before)
            if connection.info.get(_POOL) is not pool:
                connection.invalidate()
                raise PartitionError(
                    f"{self._engine!r} makes its connections by creator= or another listener of do_connect, so none can be made to "
                    f"{pool}: make the engine from a URL, and install before others listen"
                )
            connection.info[BEGUN] = key
            with self._lock:
                pool.gave(connection)
            return connection

    def sweep(self) -> None:
        """
        Close what is idle for too long, too much, or of a database that is no more. Looks only once in a while.
        """
        now = time.monotonic()
        if now - self._swept < min(1.0, self._idle):
            return
        with self._lock:
            self._swept = now
            closing = [pool for pool in self._pools.values() if now - pool.used >= self._idle and pool.is_idle()]
            for pool in closing:
                self._retire(pool)
            closing = self._closable()
        self._close(closing)

    def dispose(self) -> None:
        """
        Close all pools: connections that are in use when they come back.
        """
        with self._lock:
            for pool in list(self._pools.values()):
                self._retire(pool)
            closing = list(self._retired)
            self._retired = [pool for pool in closing if not pool.is_idle()]
        self._close(closing)

    def abandon(self) -> None:
        """
        Forget all pools, and close nothing.
        """
        with self._lock:
            _inherited.extend((*self._pools.values(), *self._retired))
            self._pools.clear()
            self._retired.clear()

    def forked(self) -> None:
        self._lock = threading.Lock()
        self.abandon()

    def keys(self) -> list[RoutingKey]:
        """
        Return the keys with an open pool, the least recently used first.
        """
        with self._lock:
            return list(self._pools)

    @contextmanager
    def _asking(self, key: RoutingKey, database: Database) -> Iterator[KeyPool]:
        with self._lock:
            pool = self._pools.get(key)
            if pool is not None and pool.database != database:
                self._retire(pool)  # an earlier life
                pool = None
            if pool is None:
                pool = self._pools[key] = KeyPool(key, database, self._new())
            self._pools.move_to_end(key)
            pool.used = time.monotonic()
            pool.asking += 1
            surplus = [other for other in self._pools.values() if other.is_idle()]
            for other in surplus[: max(0, len(self._pools) - self._maximum)]:
                self._retire(other)
            closing = self._closable()
        # Not with the lock: with asyncio other tasks of this thread run while a connection is closed.
        try:
            self._close(closing)
            yield pool
        finally:
            with self._lock:
                pool.asking -= 1

    def _ask_baseline(self) -> tuple[Server, str]:
        # On a connection of its own: those of the pool may all be in use, by this very thread.
        spare = self._new()
        try:
            with closing(spare.connect()) as connection:
                dialect, raw = self._engine.dialect, connection.dbapi_connection
                return server_of(dialect, raw), database_of(dialect, raw)
        finally:
            spare.dispose()

    def _new(self) -> Pool:
        pool = self.base.recreate()
        # One set of listeners for all: what an application listens for later it is to hear of each.
        pool.__dict__["dispatch"] = self.base.dispatch
        return pool

    def _retire(self, pool: KeyPool) -> None:
        pool.retired = True
        del self._pools[pool.key]
        self._retired.append(pool)

    def _closable(self) -> list[KeyPool]:
        closing = [pool for pool in self._retired if pool.is_idle()]
        self._retired = [pool for pool in self._retired if pool not in closing]
        return closing

    def _close(self, pools: list[KeyPool]) -> None:
        left = list(pools)
        try:
            while left:
                left[-1].pool.dispose()
                left.pop()
        finally:
            # Of a task that is cancelled meanwhile: the next one goes on.
            if left:
                with self._lock:
                    self._retired.extend(pool for pool in left if pool not in self._retired)

    def _checkin(self, _connection: Any, record: ConnectionPoolEntry) -> None:
        pool: KeyPool | None = record.info.get(_POOL)
        if pool is not None and pool.retired:
            record.close()

    def _do_connect(self, dialect: Dialect, record: Any, _arguments: Any, parameters: Any) -> DBAPIConnection | None:
        pool = _target.get()
        if pool is None:
            return None
        base = self._engine.url
        url = _url(base, pool)
        usual = dialect.create_connect_args(base)[1]
        own, options = dialect.create_connect_args(url)
        # What was given in connect_args=, or put in by another listener, is for this connection, too.
        added = {name: value for name, value in parameters.items() if name not in usual or usual[name] != value}
        connection = dialect.connect(*own, **{**options, **added})
        try:
            _check(dialect, connection, base, url, pool)
        except BaseException:
            dialect.do_close(connection)
            raise
        record.info[_POOL] = pool
        return connection


def _url(base: URL, pool: KeyPool) -> URL:
    address = parsed(pool.database.address, f"the address of {pool}")
    kinds = {"mariadb": "mysql"}
    kind, wanted = address.get_backend_name(), base.get_backend_name()
    if kinds.get(kind, kind) != kinds.get(wanted, wanted):
        raise PartitionError(f"{pool} is on {kind}, but the engine is for {wanted}: {hidden(pool.database.address)}")
    whole = _has_server(address) or kind == "sqlite"
    url = address.set(drivername=base.drivername) if whole else base.set(database=address.database)
    if place(url) == place(base):
        raise _baselines(pool)
    return url


def _has_server(address: URL) -> bool:
    return bool(address.host) or "host" in address.query


def _baselines(pool: KeyPool) -> PartitionError:
    return PartitionError(
        f"the address of {pool} is the baseline's own database, {hidden(pool.database.address)}: drop it and create it anew"
    )


def _check(dialect: Dialect, connection: DBAPIConnection, base: URL, url: URL, pool: KeyPool) -> None:
    """
    Raise unless a new connection is where it is to be, and not in the baseline's database by another name.
    """
    found, expected = database_of(dialect, connection), url.database or ""
    files = dialect.name == "sqlite"
    if os.path.realpath(found) != os.path.realpath(expected) if files else found != expected:
        raise PartitionError(
            f"a connection to {pool} is in {found!r} instead of {expected!r}: see what connect_args=, the URL's options "
            "or a pooler make of it"
        )
    if files:
        own = base.database or ""
        if os.path.exists(own) and os.path.exists(found) and os.path.samefile(own, found):
            raise _baselines(pool)
    elif pool.baseline is not None:
        server, database = pool.baseline
        if found == database and server_of(dialect, connection).is_same(server):
            raise _baselines(pool)


class RoutedPool(Pool):
    """
    The pool of an engine that goes to several databases: it hands on connections of other pools.

    Args:
        pools: Those of the keys, and the baseline's.
        connect: Returns a connection for the work at hand.
    """

    def __init__(self, pools: KeyPools, connect: Callable[[], PoolProxiedConnection]) -> None:
        super().__init__(_nothing, dialect=pools.base._dialect)
        self._key_pools = pools
        self._connect = connect
        self.__dict__["dispatch"] = pools.base.dispatch

    def connect(self) -> PoolProxiedConnection:
        return self._connect()

    def dispose(self) -> None:
        self._key_pools.base.dispose()
        self._key_pools.dispose()

    def recreate(self) -> RoutedPool:
        # Of a dispose(close=False), after a fork, nothing may be closed.
        self._key_pools.abandon()
        self._key_pools.base = self._key_pools.base.recreate()
        return RoutedPool(self._key_pools, self._connect)

    def status(self) -> str:
        keys = len(self._key_pools.keys())
        return f"{self._key_pools.base.status()}; the pools of {keys} routing keys"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_key_pools":
            raise AttributeError(name)
        return getattr(self._key_pools.base, name)


def _nothing() -> Any:
    raise PartitionError("a pool that hands on connections makes none")


def _forked() -> None:
    for pools in list(_all):
        pools.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
