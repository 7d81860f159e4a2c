"""
Which keys have a database: a table that all processes read, and a lock for each key that dies with its holder.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import sqlalchemy
from sqlalchemy import URL, Column, Connection, Double, Engine, MetaData, NullPool, String, Table, Text, make_url
from sqlalchemy.dialects import mysql

from ..._optional import extra
from ...errors import ConfigurationError, PartitionError
from ...key import RoutingKey
from ...routes.stores._urls import hidden, without_secrets

__all__ = ["CREATING", "DROPPING", "READY", "TABLE", "Attempt", "Entry", "Registry", "admin_url", "file_lock", "shown_url"]

T = TypeVar("T")

#: The name of the table.
TABLE: Final = "tenancy_databases"

CREATING, READY, DROPPING = "creating", "ready", "dropping"

_INSTALLING = 7368732916  # PostgreSQL's advisory lock of whoever makes the table


def _text(length: int) -> Any:
    # MySQL compares without regard to case unless it is told to; two golden databases may differ by nothing else.
    return String(length).with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")


_TABLES = MetaData()
_DATABASES = Table(
    TABLE,
    _TABLES,
    Column("name", _text(255), primary_key=True),
    Column("routing_key", _text(63), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("life", String(32), nullable=False),
    Column("address", Text),
    Column("place", String(64), unique=True),  # a hash of where it is: two keys are never in one database
    Column("since", Double, nullable=False),  # seconds since 1970, for people
)
_COLUMNS = _DATABASES.c


@dataclass(frozen=True)
class Entry:
    """
    What is noted of a key's database.

    Args:
        state: ``creating``, ``ready`` or ``dropping``; one that stays in the first or last was left by a crash or an error.
        life: A token of this making.
        address: The URL; empty until it is ready.
        since: When the state was noted, in seconds since 1970, by the clock of who noted it.
    """

    state: str
    life: str
    address: str = field(repr=False)
    since: float


class Registry:
    """
    The table of databases, in a database that all processes can reach.

    Who only reads needs ``SELECT`` on ``tenancy_databases``. Locks belong to a session of the server, so the URL must lead to the server
    itself, or to a pooler in session mode.

    Args:
        url: ``postgresql://user@host/database``, ``mysql://user@host/database`` or ``sqlite:///path/to/registry.db``.
        timeout: Seconds to wait for a server, and for another process that is making or dropping the same key's database.

    Raises:
        ConfigurationError: If the URL is not one of these.
        MissingDependencyError: If the database's driver is not installed.
    """

    def __init__(self, url: str | URL, *, timeout: float = 120.0) -> None:
        self._url = admin_url(url, "Registry")
        self._secret = self._url.render_as_string(hide_password=False)
        self.name = f"the registry {hidden(self._secret)}"
        self.timeout = timeout
        self._kind = "mysql" if self._url.get_backend_name() == "mariadb" else self._url.get_backend_name()
        # A connection for each call: there is one in a while, and nothing has to be thought of when a process forks.
        options: dict[str, Any] = {"connect_args": {"connect_timeout": 10}} if self._kind != "sqlite" else {}
        with extra(self._kind, "psycopg", "pymysql"):
            self._engine: Engine = sqlalchemy.create_engine(
                self._url, poolclass=NullPool, isolation_level="AUTOCOMMIT", hide_parameters=True, **options
            )

    @property
    def url(self) -> URL:
        """
        The URL, with the driver that is used.
        """
        return self._url

    def install(self) -> None:
        """
        Make the table, unless it is there.

        Raises:
            PartitionError: If it cannot be made.
        """
        if self.installed():
            return

        def make(connection: Connection) -> None:
            if self._kind == "postgresql":
                connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_lock(_INSTALLING)))
            _DATABASES.create(connection, checkfirst=True)

        try:
            self._call(make)
        except PartitionError:
            if not self.installed():  # by another process at the same moment
                raise

    def installed(self) -> bool:
        """
        Return whether the table is there.

        Raises:
            PartitionError: If the database cannot be had.
        """
        return self._call(lambda connection: bool(connection.dialect.has_table(connection, TABLE)))

    def entries(self, name: str) -> dict[RoutingKey, Entry]:
        """
        Return what is noted of each key, whatever its state.

        Args:
            name: What the databases are of.

        Raises:
            PartitionError: If the table cannot be read, or is not there.
        """

        def read(connection: Connection) -> dict[RoutingKey, Entry]:
            rows = connection.execute(_DATABASES.select().where(_COLUMNS.name == name))
            return {RoutingKey(row.routing_key): Entry(row.state, row.life, row.address or "", row.since) for row in rows}

        try:
            return self._call(read)
        except PartitionError as error:
            if isinstance(error.__cause__, sqlalchemy.exc.DBAPIError) and not self.installed():
                raise PartitionError(
                    f"{self.name} has no table {TABLE}; call install() of the provider once, or create a database"
                ) from error
            raise

    @contextmanager
    def attempt(self, name: str, key: RoutingKey) -> Iterator[Attempt]:
        """
        Hold a key's entry, so that nobody else makes or drops its database meanwhile. If this process dies the hold ends, and only after
        the server has finished what it was doing for it on the same connection.

        Args:
            name: What the databases are of.
            key: The routing key.

        Raises:
            PartitionError: If somebody else holds it for longer than the timeout, or the database cannot be had.
        """
        with self._translated(), self._engine.connect() as connection, self._lock(connection, name, key):
            yield Attempt(self, connection, name, key)

    @contextmanager
    def _lock(self, connection: Connection, name: str, key: RoutingKey) -> Iterator[None]:
        digest = hashlib.sha256(f"{TABLE}\0{name}\0{key}".encode("utf-8", "surrogatepass")).digest()
        busy = PartitionError(
            f"another process has been making or dropping the database of routing key {str(key)!r} for {self.timeout:g} s: "
            "wait for it and try again"
        )
        if self._kind == "sqlite":
            with file_lock(f"{self._url.database}-lock", self.timeout, busy):
                yield
            return
        if self._kind == "postgresql":
            wait = sqlalchemy.func.set_config("lock_timeout", f"{round(self.timeout * 1000)}ms", False)
            connection.execute(sqlalchemy.select(wait))
            number = int.from_bytes(digest[:8], "big", signed=True)
            try:
                connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_lock(number)))
            except sqlalchemy.exc.OperationalError as error:
                if getattr(error.orig, "sqlstate", None) == "55P03":  # lock_not_available
                    raise busy from error
                raise
        else:
            got = connection.execute(sqlalchemy.select(sqlalchemy.func.get_lock(f"tenancy_{digest.hex()[:48]}", self.timeout)))
            if got.scalar_one() != 1:
                raise busy
        yield  # the lock ends with the connection, which is closed now

    def _call(self, work: Callable[[Connection], T]) -> T:
        with self._translated(), self._engine.connect() as connection:
            return work(connection)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlalchemy.exc.DBAPIError as error:
            raise PartitionError(f"{self.name}: {without_secrets(str(error.orig), self._secret)}") from error
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise PartitionError(f"{self.name}: {without_secrets(str(error), self._secret)}") from error


class Attempt:
    """
    One process's hold on the database of a key, while it makes or drops it.

    Args:
        registry: The registry.
        connection: The connection that the hold is on.
        name: What the database is of.
        key: The routing key.
    """

    def __init__(self, registry: Registry, connection: Connection, name: str, key: RoutingKey) -> None:
        self._registry = registry
        self._name = name
        self._key = key
        self.connection = connection
        #: A token of this making, that no other has.
        self.life = secrets.token_hex(16)
        row = connection.execute(_DATABASES.select().where(*self._matches())).first()
        #: What was noted before; None where nothing was.
        self.entry = None if row is None else Entry(row.state, row.life, row.address or "", row.since)

    @property
    def driver(self) -> Any:
        """
        The driver's own connection to the registry's server, in autocommit mode. What is done on it has ended when the hold has.
        """
        return self.connection.connection.driver_connection

    def begin(self, *, dropping: bool = False) -> None:
        """
        Note that the database is being made, or dropped; from now on nobody uses what there is.
        """
        values = {"state": DROPPING if dropping else CREATING, "life": self.life, "since": time.time()}
        if self.entry is None:
            made = _DATABASES.insert().values(name=self._name, routing_key=self._key, **values)
            self.connection.execute(made)
            return
        changed = _DATABASES.update().where(*self._matches(), _COLUMNS.life == self.entry.life)
        self._one(self.connection.execute(changed.values(**values)))

    def finish(self, address: str, where: str) -> None:
        """
        Note that the database is ready.

        Args:
            address: Its address.
            where: The part of it that says which database it is.

        Raises:
            PartitionError: If another key has the same database.
        """
        place = hashlib.sha256(where.encode("utf-8", "surrogatepass")).hexdigest()
        values = {"state": READY, "address": address, "place": place, "since": time.time()}
        ready = _DATABASES.update().where(*self._matches(), _COLUMNS.life == self.life)
        try:
            self._one(self.connection.execute(ready.values(**values)))
        except sqlalchemy.exc.IntegrityError as error:
            raise PartitionError(
                f"the database that was made for routing key {str(self._key)!r}, {hidden(address)}, is another key's already: "
                "each key needs a database of its own"
            ) from error

    def forget(self) -> None:
        """
        Remove the entry, once the database is gone.
        """
        self._one(self.connection.execute(_DATABASES.delete().where(*self._matches(), _COLUMNS.life == self.life)))

    def _matches(self) -> tuple[Any, ...]:
        return _COLUMNS.name == self._name, _COLUMNS.routing_key == self._key

    def _one(self, result: Any) -> None:
        # The hold is gone with its connection, and SQLAlchemy makes a new connection without a word.
        if result.rowcount != 1:
            raise PartitionError(
                f"{self._registry.name}: the hold on the database of routing key {str(self._key)!r} was lost, and somebody else has "
                "changed it since: try again"
            )


_DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql", "sqlite": "sqlite+pysqlite"}


def admin_url(url: str | URL, owner: str, backends: tuple[str, ...] = tuple(_DRIVERS)) -> URL:
    """
    Return the URL that databases are made by, with the driver that this library uses.

    Args:
        url: The URL as given.
        owner: Who was given it, for the error.
        backends: What it may be.

    Raises:
        ConfigurationError: If it is none of these.
    """
    shown = shown_url(url.render_as_string() if isinstance(url, URL) else str(url))
    try:
        found = make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        raise ConfigurationError(f"{owner}: {shown} is no URL of a database; write {backends[0]}://user@host/database") from error
    backend = found.get_backend_name()
    if backend not in backends:
        raise ConfigurationError(f"{owner}: {shown} is for {backend}; use one of {', '.join(backends)}")
    if backend == "sqlite" and (not found.database or found.database == ":memory:" or found.database.startswith("file:")):
        raise ConfigurationError(f"{owner}: {shown} is no file; write sqlite:///registry.db")
    if backend == "sqlite":
        found = found.set(database=os.path.abspath(found.database or ""))  # whatever the working directory is later
    return found.set(drivername=_DRIVERS[backend])


def shown_url(text: str) -> str:
    """
    Return what was given as a URL as it may be shown: what is none could have a password anywhere.
    """
    return (
        f"{hidden(text)[:200]!r}"
        if "://" in text or "@" not in text
        else "what was given (not shown, as there may be a password in it)"
    )


@contextmanager
def file_lock(path: str, timeout: float, busy: Exception) -> Iterator[None]:
    """
    Hold a lock file for a block; the operating system ends the hold of a process that dies.

    SQLite's own locks, since they are the same on every platform.

    Args:
        path: The file, which is made, and stays.
        timeout: Seconds to wait for it.
        busy: What to raise after that.
    """
    connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    try:
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise busy from error
            raise PartitionError(
                f"{path} cannot be locked: {error}; is its folder there, and may this user write to it?"
            ) from error
        yield
    finally:
        connection.close()
