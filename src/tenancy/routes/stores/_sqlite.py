"""
SQLite, for a route table in a file on one machine, and for which messages were handled there.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import sqlalchemy
from sqlalchemy import ColumnElement, Connection, Engine, NullPool, Table
from sqlalchemy.dialects.sqlite import insert

from ...errors import ConfigurationError, RouteSourceError
from ._shared import NoTableError
from ._urls import hidden

__all__ = ["SQLite"]

_PAUSE = 0.1  # seconds between two looks of a watcher: a few microseconds each

# SQLite remembers which locks its process has; a child that is forked meanwhile would believe to have them, too, and read what is half
# written. So nobody forks while SQLite works.
_calls = threading.RLock()


def _forked() -> None:
    global _calls
    _calls = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lambda: _calls.acquire(), after_in_parent=lambda: _calls.release(), after_in_child=_forked)


class SQLite:
    """
    A database in a file.

    A connection for each call: the file may have been put back or replaced since. The journal is SQLite's default, not the write-ahead
    log: a table is small and seldom written, a copy of the file is all of it, and no memory has to be shared.

    Args:
        url: ``sqlite:///path``.
        timeout: Seconds to wait for other processes that write.
    """

    clock: ColumnElement[Any] = sqlalchemy.literal_column("(julianday('now') - 2440587.5) * 86400.0")
    replica: ColumnElement[Any] = sqlalchemy.literal(False)

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        rest = url.partition(":///")[2]
        path = unquote(rest)
        if not url.startswith("sqlite:///") or "?" in rest or path in ("", ":memory:") or path.startswith("file:"):
            raise ConfigurationError(f"{url!r} is no file; write sqlite:///routes.db, or sqlite:////var/lib/tenancy/routes.db")
        self._path = Path(path).absolute()
        self._timeout = timeout
        self._engines: dict[tuple[int, bool], Engine] = {}

    def insert(self, table: Table) -> sqlalchemy.dialects.sqlite.Insert:
        """
        Return an INSERT of SQLite's.
        """
        return insert(table)

    @contextmanager
    def connect(self, *, writing: bool = False, making: bool = False) -> Iterator[Connection]:
        """
        Yield a connection to the file, which is made only if *making*.
        """
        calls = _calls
        if not calls.acquire(timeout=self._timeout):
            raise RouteSourceError(f"{self._url} was in use by other threads for {self._timeout:g} s")
        try:
            # Asked before it is opened: when that has failed, somebody may have made it meanwhile.
            if not making and not self._path.exists():
                raise NoTableError(hidden(self._url))
            with self._engine(making).connect() as connection:
                if writing:
                    # At once, since a transaction that begins by reading could not wait for another writer.
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection
        finally:
            calls.release()

    def missing(self, error: sqlalchemy.exc.DBAPIError) -> bool:
        """
        Return whether there is no table, or no file.
        """
        said = str(error.orig)
        return said.startswith("no such table: tenancy_") or (
            said.startswith("unable to open database file") and not self._path.exists()
        )

    def announce(self, connection: Connection, version: int) -> None:
        """
        SQLite counts the commits itself.
        """

    def watch(self, changed: Callable[[], None], closed: Callable[[], bool]) -> None:
        """
        Call *changed* after each commit of anybody, whatever it changed.
        """
        looker: sqlite3.Connection | None = None
        seen: object = None
        while not closed():
            try:
                status = os.stat(self._path)
                with _calls:
                    if looker is None:
                        looker = self._opened()
                    now = (status.st_dev, status.st_ino, looker.execute("PRAGMA data_version").fetchone()[0])
                    if seen is not None and now[:2] != seen[:2]:  # type: ignore[index]
                        looker.close()  # it has the file that was there before
                        looker = None
            except (OSError, sqlite3.Error):
                now = None
                if looker is not None:
                    looker.close()
                    looker = None
            if now != seen:
                if seen is not None:
                    changed()
                seen = now
            time.sleep(_PAUSE)
        if looker is not None:
            looker.close()

    def close(self) -> None:
        """
        Nothing is open between calls.
        """

    def _engine(self, making: bool) -> Engine:
        process = os.getpid(), making
        engine = self._engines.get(process)
        if engine is None:
            made = sqlalchemy.create_engine(
                "sqlite://", creator=lambda: self._opened("rwc" if making else "rw"), poolclass=NullPool
            )
            engine = self._engines.setdefault(process, made)
        return engine

    def _opened(self, mode: str = "rw") -> sqlite3.Connection:
        if mode == "rwc" and not self._path.parent.is_dir():
            raise RouteSourceError(f"there is no folder {self._path.parent} to make {self._path.name} in; make it first")
        return sqlite3.connect(
            f"file:{quote(str(self._path))}?mode={mode}",
            uri=True,
            timeout=self._timeout,
            isolation_level=None,  # so that transactions begin where we say
            check_same_thread=False,
        )
