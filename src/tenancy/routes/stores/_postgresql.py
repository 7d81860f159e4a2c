"""
PostgreSQL, for the route table of a team, and for which messages were handled.
"""

from __future__ import annotations

import math
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..._optional import extra
from ...errors import ConfigurationError, RouteSourceError
from ._urls import hidden

with extra("postgresql", "psycopg", "sqlalchemy"):
    import psycopg
    import sqlalchemy
    from sqlalchemy import ColumnElement, Connection, Engine, Table, func
    from sqlalchemy.dialects.postgresql import insert

__all__ = ["PostgreSQL"]

_CHANNEL = "tenancy_routes"
_CREATING = 7368732915  # the advisory lock of whoever makes the tables
_LOOK = 0.25  # seconds in which a watcher notices that it is to end
_AGAIN = 1.0  # seconds between two attempts of a watcher to connect

# A writer that is stopped must not keep others out; a commit that was confirmed must not be lost with the server's memory.
_BEGIN = """
SELECT set_config('statement_timeout', %(wait)s, true), set_config('lock_timeout', %(wait)s, true),
       set_config('idle_in_transaction_session_timeout', %(idle)s, true),
       set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                                        ELSE current_setting('synchronous_commit') END, true)
"""


class PostgreSQL:
    """
    A database on a PostgreSQL server.

    Args:
        url: ``postgresql://user:password@host/database?option=value``; the options are those of libpq.
        timeout: Seconds for a connection, and for all that one call does with it.
        kept: How many connections are kept open; where more are needed at once, they are closed again.
    """

    clock: ColumnElement[Any] = func.extract("epoch", func.clock_timestamp())
    replica: ColumnElement[Any] = func.pg_is_in_recovery()

    def __init__(self, url: str, timeout: float, *, kept: int = 1) -> None:
        try:
            parsed = sqlalchemy.make_url(url)
        except (sqlalchemy.exc.ArgumentError, ValueError) as error:
            raise ConfigurationError(f"{hidden(url)!r} is no URL of a database; write postgresql://user@host/database") from error
        if parsed.drivername not in ("postgresql", "postgresql+psycopg"):
            raise ConfigurationError(
                f"{hidden(url)!r} asks for the driver {parsed.drivername.partition('+')[2]}; write postgresql://, which is psycopg 3"
            )
        self._url = parsed.set(drivername="postgresql+psycopg")
        self._name = hidden(url)
        self._timeout = timeout
        self._kept = kept
        # By process: a connection that a parent has open is not to be used, nor closed, in its child.
        self._engines: dict[int, Engine] = {}
        self._local = threading.local()

    def insert(self, table: Table) -> sqlalchemy.dialects.postgresql.Insert:
        """
        Return an INSERT of PostgreSQL's.
        """
        return insert(table)

    @contextmanager
    def connect(self, *, writing: bool = False, making: bool = False) -> Iterator[Connection]:
        """
        Yield a connection; what is done with it ends when the time is over, even where the server says nothing.
        """
        deadline = _Deadline(self._timeout)
        self._local.deadline = deadline
        try:
            with self._engine().connect() as connection:
                deadline.guard(connection.connection.driver_connection)
                try:
                    self._prepare(connection, writing, making)
                    yield connection
                    connection.rollback()  # of what was not committed
                finally:
                    deadline.release()
                    if deadline.passed:
                        connection.invalidate()
        except sqlalchemy.exc.DBAPIError as error:
            if deadline.passed:
                raise RouteSourceError(f"{self._name} did not answer within {self._timeout:g} s; is the server there?") from error
            raise
        finally:
            deadline.release()
            self._local.deadline = None

    def missing(self, error: sqlalchemy.exc.DBAPIError) -> bool:
        """
        Return whether there is no table.
        """
        return isinstance(error.orig, psycopg.errors.UndefinedTable)

    def announce(self, connection: Connection, version: int) -> None:
        """
        Notify whoever listens, once this transaction is committed.
        """
        connection.execute(sqlalchemy.select(func.pg_notify(_CHANNEL, str(version))))

    def watch(self, changed: Callable[[], None], closed: Callable[[], bool]) -> None:
        """
        Call *changed* for each notification; and after each time that a connection was lost, since one may have been missed.
        """
        first = True
        while not closed():
            try:
                self._listen(changed, closed, first)
            except Exception:  # noqa: BLE001, S110 - whoever reads the table says what is wrong
                pass
            first = False
            end = time.monotonic() + _AGAIN
            while not closed() and time.monotonic() < end:
                time.sleep(_LOOK)

    def close(self) -> None:
        """
        Close the connections of this process.
        """
        engine = self._engines.pop(os.getpid(), None)
        if engine is not None:
            engine.dispose()

    def _prepare(self, connection: Connection, writing: bool, making: bool) -> None:
        if connection.info.setdefault("used", False):
            try:
                connection.exec_driver_sql("SELECT 1")
            except sqlalchemy.exc.DBAPIError:
                if not connection.invalidated or self._local.deadline.passed:
                    raise
            connection.rollback()
        # Whoever waits for another writer has to see what that one wrote, whatever the server's default is.
        connection.execution_options(isolation_level="READ COMMITTED" if writing else "AUTOCOMMIT")
        connection.info["used"] = True
        if writing:
            # Sooner than the deadline, so that the server can say what it waited for.
            wait, idle = (str(round(seconds * 1000)) for seconds in (0.8 * self._timeout, 2 * self._timeout))
            connection.exec_driver_sql(_BEGIN, {"wait": wait, "idle": idle})
        if making:
            connection.execute(sqlalchemy.select(func.pg_advisory_xact_lock(_CREATING)))

    def _engine(self) -> Engine:
        process = os.getpid()
        engine = self._engines.get(process)
        if engine is None:
            options: dict[str, Any] = {
                "application_name": "tenancy",
                "connect_timeout": max(2, math.ceil(self._timeout)),  # libpq knows no shorter one
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            }
            given = {name: value for name, value in options.items() if name not in self._url.query}
            # Prepared statements would be lost on the way through a pooler.
            arguments = {**given, "prepare_threshold": None}
            made = sqlalchemy.create_engine(
                self._url,
                connect_args=arguments,
                pool_size=self._kept,
                max_overflow=32,
                pool_timeout=self._timeout,
                use_native_hstore=False,
            )
            sqlalchemy.event.listen(made, "do_connect", self._connected)
            engine = self._engines.setdefault(process, made)
        return engine

    def _connected(self, dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
        # What SQLAlchemy asks a new server is to be answered in time, too.
        driver = dialect.connect(*arguments, **options)
        deadline: _Deadline | None = getattr(self._local, "deadline", None)
        if deadline is not None:
            deadline.guard(driver)
        return driver

    def _listen(self, changed: Callable[[], None], closed: Callable[[], bool], first: bool) -> None:
        with self.connect() as connection:
            driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
            connection.detach()
            connection.exec_driver_sql(f"LISTEN {_CHANNEL}")
            self._local.deadline.release()
            if not first:
                changed()
            with selectors.DefaultSelector() as selector:
                selector.register(driver.fileno(), selectors.EVENT_READ)
                while not closed():
                    if selector.select(_LOOK):
                        driver.pgconn.consume_input()
                        notified = False
                        while driver.pgconn.notifies() is not None:
                            notified = True
                        if notified:
                            changed()


class _Deadline:
    """
    Ends whatever a connection waits for when the time is over, by shutting its socket: neither a server that is stopped nor a network
    that swallows everything is noticed by anything else.

    Args:
        seconds: From now on.
    """

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._end = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._guarded: socket.socket | None = None
        self._timer: threading.Timer | None = None

    def guard(self, driver: Any) -> None:
        """
        Watch over a connection from now on, and over no other.
        """
        self.release()
        with self._lock:
            # A duplicate: the number of a socket that was closed may be another's a moment later.
            self._guarded = socket.fromfd(driver.fileno(), socket.AF_INET, socket.SOCK_STREAM)
            self._timer = threading.Timer(max(0.0, self._end - time.monotonic()), self._pass)
            self._timer.daemon = True
            self._timer.start()

    def release(self) -> None:
        """
        Watch over nothing any more.
        """
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            if self._guarded is not None:
                self._guarded.close()
            self._timer = self._guarded = None

    def _pass(self) -> None:
        with self._lock:
            if self._guarded is not None:
                self.passed = True
                try:
                    self._guarded.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it is closed already
