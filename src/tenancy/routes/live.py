"""
The route table as this process sees it: read from a source at start, kept up to date, never older than the last good one.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol
from weakref import WeakSet

from ..config import Settings, settings
from ..errors import ConfigurationError, RoutesNotSyncedError, RouteSourceError
from ..observe import count, warn_once
from .lease import View, now
from .stores._urls import hidden
from .table import RouteTable

__all__ = ["LiveRoutes", "RouteSource", "open_routes", "routes_for"]


class RouteSource(Protocol):
    """
    Where a route table is read from.
    """

    name: str

    def read(self) -> RouteTable:
        """
        Read the whole table; raises `RouteSourceError` if that is not possible.
        """
        ...

    def mark(self) -> object:
        """
        Return something that is equal as long as the table has not changed, at little cost; None where it can never change.
        """
        ...


# Sources are leaves: each is imported only when a URL names it.
_SCHEMES = {
    "env": "tenancy.routes.sources.env:open_source",
    "file": "tenancy.routes.sources.file:open_source",
    "signadot": "tenancy.routes.sources.signadot:open_source",
    **dict.fromkeys(("sqlite", "postgresql", "redis", "rediss"), "tenancy.routes.sources.store:open_source"),
}


_alive: WeakSet[LiveRoutes] = WeakSet()


class LiveRoutes:
    """
    A route table that follows its source.

    A background thread looks at the source every *interval* seconds; it starts with the first use, again after a fork, and never
    keeps the process alive. A source that fails, or holds what is not a table, leaves the last good one in force, is counted
    (``tenancy.routes.reload_failures``) and logged once for each error.

    Args:
        source: The source.
        interval: Seconds between two looks at it.
    """

    def __init__(self, source: RouteSource, *, interval: float = 1.0) -> None:
        self.source = source
        self._interval = interval
        self._view: View | None = None
        self._mark: object = None
        self._error: Exception | None = None
        self._closed = False
        self._reset()
        _alive.add(self)

    @property
    def table(self) -> RouteTable:
        """
        The table as last read.

        Raises:
            RoutesNotSyncedError: If it was not read yet; wait for `wait_synced` first.
        """
        table = self.peek()
        if table is None:
            raise RoutesNotSyncedError(f"{self.source.name} was not read yet{self._because()}; call wait_synced() at start")
        return table

    def peek(self) -> RouteTable | None:
        """
        Return the table as last read, or None before the first time.
        """
        view = self.view()
        return None if view is None else view.table

    def view(self) -> View | None:
        """
        Return the table as last read and when that was, or None before the first time.
        """
        if self._process != os.getpid():
            self._follow()
        return self._view

    def wait_synced(self, deadline: float = 10.0) -> RouteTable:
        """
        Wait until the table was read for the first time, and return it.

        Args:
            deadline: Seconds to wait at most.

        Raises:
            RoutesNotSyncedError: If the deadline passed; the message says why.
        """
        end = time.monotonic() + deadline
        while True:
            table = self.peek()
            if table is None:
                self.refresh()
                table = self.peek()
            if table is not None:
                return table
            if time.monotonic() >= end:
                raise RoutesNotSyncedError(
                    f"{self.source.name} could not be read within {deadline:g} s{self._because()}. Nothing that has a routing key is decided "
                    "without a route table: correct the source (TENANCY_ROUTES) or raise TENANCY_ROUTES_DEADLINE"
                )
            time.sleep(min(0.05, self._interval))

    async def synced(self, deadline: float = 10.0) -> RouteTable:
        """
        Like `wait_synced`, without blocking the event loop.
        """
        if self._view is not None and self._process == os.getpid():
            return self._view.table
        return await asyncio.to_thread(self.wait_synced, deadline)

    def refresh(self) -> None:
        """
        Look at the source now, and read it if it changed.
        """
        with self._lock:
            self._look()

    def hurry(self) -> None:
        """
        Have the source looked at soon, by the thread that follows it.
        """
        self._wake.set()

    def _look(self) -> None:
        taken, seen = now(), self._view
        try:
            mark = self.source.mark()
            if seen is not None and self._error is None and mark == self._mark:
                self._view = View(seen.table, taken)
                return
            table = self.source.read()
            if seen is not None:
                _check_later(table, seen.table, self.source.name)
            if self.source.mark() == mark:  # else it was written meanwhile, and this may be the half of it: look again
                self._view, self._mark, self._error = View(table, taken), mark, None
        except Exception as raised:  # noqa: BLE001 - a broken source must not end the thread that would read the mended one
            known = isinstance(raised, RouteSourceError)
            self._failed(raised if known else RouteSourceError(f"{self.source.name}: {type(raised).__name__}: {raised}"))

    def close(self) -> None:
        """
        Stop following the source; the last table stays.
        """
        self._closed = True
        self._wake.set()

    def _reset(self) -> None:
        # Also right after a fork: the thread is gone then, and a lock that it held would stay locked for ever.
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._process: int | None = None

    def _failed(self, error: Exception) -> None:
        again = str(error) == str(self._error)
        self._error = error
        if self._view is not None and not again:
            count("tenancy.routes.reload_failures")
            version = self._view.table.version
            warn_once(f"routes:{error}", "%s The last good route table (version %d) stays in force.", error, version)

    def _because(self) -> str:
        return "" if self._error is None else f": {self._error}"

    def _follow(self) -> None:
        with self._lock:
            if self._process == os.getpid():
                return
            # Whoever comes meanwhile waits for this one look: after a fork the table may be of any age.
            self._look()
            self._process = os.getpid()
        if not self._closed and self._may_change():
            threading.Thread(target=self._run, name=f"tenancy-routes {self.source.name}", daemon=True).start()

    def _may_change(self) -> bool:
        try:
            return self.source.mark() is not None
        except Exception:  # noqa: BLE001 - whoever asks for the table is not to meet this; `refresh` keeps it
            return True

    def _run(self) -> None:
        watch = getattr(self.source, "watch", None)
        if watch is not None:
            name = f"tenancy-watch {self.source.name}"
            threading.Thread(target=watch, args=(self.hurry, lambda: self._closed), name=name, daemon=True).start()
        while not self._closed:
            self._wake.wait(self._pause())
            self._wake.clear()
            self.refresh()
            time.sleep(_SHORTEST_PAUSE)  # whoever holds records hurries us with every poll

    def _pause(self) -> float:
        lease = None if self._view is None else self._view.table.lease
        return self._interval if lease is None else lease * _READS_IN_A_LEASE


# Three in a lease: one that fails or is slow is made good by the next.
_READS_IN_A_LEASE = 0.3
_SHORTEST_PAUSE = 0.02


def _check_later(table: RouteTable, seen: RouteTable, name: str) -> None:
    """
    Make sure that a table is a later one than what was seen: a store that was put back to an earlier time would have records handled anew.
    """
    if seen.id and (table.id != seen.id or table.version < seen.version):
        raise RouteSourceError(
            f"{name} holds table {table.id or 'without a name'}, version {table.version}, where table {seen.id}, version {seen.version}, "
            "was seen before: it was put back, or is another one. Nothing that has a routing key is decided by it; restart the consumers "
            "once it is certain which table is the right one"
        )


_opened: dict[str, LiveRoutes] = {}
_opening = threading.Lock()


def _after_fork() -> None:
    global _opening
    _opening = threading.Lock()
    for routes in list(_alive):
        routes._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def open_routes(url: str) -> LiveRoutes:
    """
    Return the live route table of a source; the same one for the same URL.

    Args:
        url: ``file:///etc/tenancy/routes.yaml``; ``env:`` or ``env:VARIABLE``; that of a route store; or
            ``signadot+http://routeserver.signadot.svc:7778``.

    Raises:
        ConfigurationError: If the URL names no source that exists.
    """
    with _opening:
        found = _opened.get(url)
        if found is None:
            scheme = url.partition(":")[0].partition("+")[0]
            if ":" not in url or scheme not in _SCHEMES:
                raise ConfigurationError(
                    f"routes (TENANCY_ROUTES) is {hidden(url)!r}; use a URL whose scheme is one of {', '.join(sorted(_SCHEMES))}, such as "
                    "file:///etc/tenancy/routes.yaml"
                )
            module, _, name = _SCHEMES[scheme].partition(":")
            opener: Callable[[str], Any] = getattr(import_module(module), name)
            found = _opened[url] = LiveRoutes(opener(url))
        return found


def routes_for(using: Settings | None = None) -> LiveRoutes | None:
    """
    Return the live route table that the settings name, or None where they name none.
    """
    using = settings() if using is None else using
    return None if using.routes is None else open_routes(using.routes)
