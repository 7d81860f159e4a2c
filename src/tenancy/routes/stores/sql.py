"""
A route table in a SQL database: in a SQLite file, or in PostgreSQL.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from ..._optional import extra
from ...errors import RouteSourceError
from ..lease import DEFAULT_LEASE
from ._base import SCHEMA, Head, Member, Put, Snapshot
from ._shared import (
    DAY,
    TIMEOUT,
    NoTableError,
    check_lease,
    check_puts,
    check_writable,
    conflict,
    decoded,
    encoded,
    is_same,
    member_of,
)
from ._urls import hidden, without_secrets

with extra("sqlalchemy", "sqlalchemy"):
    import sqlalchemy
    from sqlalchemy import BigInteger, CheckConstraint, Column, Connection, Double, Integer, MetaData, Table, Text

__all__ = ["SQLStore", "open_store"]

_TABLES = MetaData()
_META = Table(
    "tenancy_meta",
    _TABLES,
    Column("one", Integer, CheckConstraint("one = 1"), primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("lease", Double, nullable=False),
    Column("schema", Integer, nullable=False),
)
# Documents are text: JSON of PostgreSQL's own kind takes fewer values than JSON has, and nobody looks into them there.
_DOCUMENTS = Table(
    "tenancy_documents",
    _TABLES,
    Column("name", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
)
_MEMBERS = Table(
    "tenancy_members",
    _TABLES,
    Column("workload", Text, primary_key=True),
    Column("member", Text, primary_key=True),
    Column("seen", Double, nullable=False),
    Column("document", Text, nullable=False),
)

_HEAD = (_META.c.id, _META.c.version, _META.c.lease, _META.c.schema)

# Old SQLite takes 999 parameters.
_AT_ONCE = 500


class Database(Protocol):
    """
    One kind of database, as far as kinds differ.
    """

    #: The SQL expression for the server's time, in seconds.
    clock: sqlalchemy.ColumnElement[Any]
    #: The SQL expression for whether the server is a replica.
    replica: sqlalchemy.ColumnElement[Any]

    def insert(self, table: Table) -> Any:
        """
        Return an INSERT that can have an ON CONFLICT.
        """
        ...

    def connect(self, *, writing: bool = False, making: bool = False) -> Any:
        """
        Return a context manager around a connection: for one statement, or for one transaction that keeps other writers out, which the
        caller commits. *making*: also where nothing is there yet.
        """
        ...

    def missing(self, error: sqlalchemy.exc.DBAPIError) -> bool:
        """
        Return whether an error says that there is no such table.
        """
        ...

    def announce(self, connection: Connection, version: int) -> None:
        """
        Wake whoever watches, once this transaction is committed.
        """
        ...

    def watch(self, changed: Callable[[], None], closed: Callable[[], bool]) -> None:
        """
        See `SQLStore.watch`.
        """
        ...

    def close(self) -> None:
        """
        Close its connections.
        """
        ...


class SQLStore:
    """
    A route store in a SQL database.

    Every call is answered or fails within the time-out. A process that was forked makes connections of its own.

    Args:
        url: ``sqlite:///path/to/routes.db`` or ``postgresql://user@host/database``.
        timeout: Seconds for which a call waits: for the connection, and for the answer.

    Raises:
        ConfigurationError: If the URL is not one of these.
        MissingDependencyError: If the database's driver is not installed.
    """

    def __init__(self, url: str, *, timeout: float = TIMEOUT) -> None:
        self.url = url
        self.name = f"the route store {hidden(url)}"
        self._database = _database(url, timeout)

    def create(self, lease: float = DEFAULT_LEASE) -> Head:
        """
        Make an empty table, unless there is one, which then stays as it is, its lease included.

        Args:
            lease: Seconds for which a read of the table may be acted on.

        Raises:
            ConfigurationError: If the lease is not a time.
            RouteSourceError: If the table cannot be made.
        """
        check_lease(lease)
        try:
            return self.head()
        except NoTableError:
            pass
        with self._connected(writing=True, making=True) as connection:
            _TABLES.create_all(connection)
            row = {"one": 1, "id": secrets.token_hex(8), "version": 0, "lease": float(lease), "schema": SCHEMA}
            connection.execute(self._database.insert(_META).values(row).on_conflict_do_nothing())
            head = self._head(connection)
            connection.commit()
        return head

    def head(self) -> Head:
        """
        Return the table's id and version, in one statement.

        Raises:
            RouteSourceError: If it cannot be read.
        """
        with self._connected() as connection:
            return self._head(connection)

    def snapshot(self) -> Snapshot:
        """
        Read the whole table, in one statement, which sees the table as it was at one moment.

        Raises:
            RouteSourceError: If it cannot be read.
        """
        columns = (*_HEAD, self._database.replica, _DOCUMENTS.c.name, _DOCUMENTS.c.version, _DOCUMENTS.c.document)
        joined = _META.outerjoin(_DOCUMENTS, sqlalchemy.true())
        with self._connected() as connection:
            rows = connection.execute(sqlalchemy.select(*columns).select_from(joined)).all()
        head = self._checked(rows[0] if rows else None)
        documents = {name: (version, decoded(text, self.name, name)) for *_, name, version, text in rows if name is not None}
        return Snapshot(head, documents)

    def write(self, puts: Sequence[Put]) -> int:
        """
        Write documents, all or none, and return the table's new version.

        Args:
            puts: What to write, each document once.

        Raises:
            ConflictError: If one of them was written since it was read; nothing is changed then.
            RouteSourceError: If it cannot be written, or if it is not known whether it was.
        """
        check_puts(puts)
        with self._connected(writing=True) as connection:
            # The first statement has all other writers wait.
            connection.execute(sqlalchemy.update(_META).values(version=_META.c.version + 1))
            head = self._head(connection)
            check_writable(head.schema, self.name)
            self._check_unchanged(connection, puts)
            self._put(connection, puts, head.version)
            self._database.announce(connection, head.version)
            try:
                connection.commit()
            except sqlalchemy.exc.DBAPIError as error:
                said = without_secrets(str(error.orig), self.url)
                raise RouteSourceError(
                    f"{self.name}: it is not known whether this was written: {said}. Read the table again"
                ) from error
        return head.version

    def watch(self, changed: Callable[[], None], closed: Callable[[], bool]) -> None:
        """
        Call *changed* soon after each write of anybody, until *closed* returns true. What is missed is found by the next look.
        """
        self._database.watch(changed, closed)

    def register(self, member: Member) -> None:
        """
        Note that a consumer runs.

        Raises:
            RouteSourceError: If it cannot be written.
        """
        clock = self._database.clock
        insert = self._database.insert(_MEMBERS)
        row = {"workload": member.workload, "member": member.member, "seen": clock, "document": encoded(member._asdict())}
        insert = insert.values(row).on_conflict_do_update(
            index_elements=["workload", "member"], set_={"seen": insert.excluded.seen, "document": insert.excluded.document}
        )
        with self._connected(writing=True) as connection:
            connection.execute(insert)
            connection.execute(sqlalchemy.delete(_MEMBERS).where(_MEMBERS.c.seen < clock - DAY))
            connection.commit()

    def unregister(self, member: Member) -> None:
        """
        Forget a consumer, if it is the one that is registered: of the same group, sandbox and table.

        Raises:
            RouteSourceError: If it cannot be written.
        """
        with self._connected(writing=True) as connection:
            at = sqlalchemy.and_(_MEMBERS.c.workload == member.workload, _MEMBERS.c.member == member.member)
            text = connection.execute(sqlalchemy.select(_MEMBERS.c.document).where(at)).scalar()
            if text is not None and is_same(member_of(decoded(text, self.name, "member"), self.name), member):
                connection.execute(sqlalchemy.delete(_MEMBERS).where(at, _MEMBERS.c.document == text))
            connection.commit()

    def members(self, workload: str) -> list[Member]:
        """
        Return the consumers of a workload that were registered within the last day.

        Raises:
            RouteSourceError: If they cannot be read.
        """
        recent = _MEMBERS.c.seen >= self._database.clock - DAY
        chosen = sqlalchemy.select(_MEMBERS.c.document).where(_MEMBERS.c.workload == workload, recent).order_by(_MEMBERS.c.member)
        with self._connected() as connection:
            texts = connection.execute(chosen).scalars().all()
        return [member_of(decoded(text, self.name, "member"), self.name) for text in texts]

    def close(self) -> None:
        """
        Close all connections; the next call makes new ones.
        """
        self._database.close()

    def _head(self, connection: Connection) -> Head:
        return self._checked(connection.execute(sqlalchemy.select(*_HEAD, self._database.replica)).first())

    def _checked(self, row: Any) -> Head:
        if row is None:
            raise NoTableError(hidden(self.url))
        id_, version, lease, schema, replica, *_ = row
        if replica:
            raise RouteSourceError(
                f"{self.name} is a replica, which lags behind; use the primary's address, or add target_session_attrs=read-write to the URL"
            )
        return Head(id_, version, lease, schema)

    def _check_unchanged(self, connection: Connection, puts: Sequence[Put]) -> None:
        found: dict[str, int] = {}
        for names in _portions([put.name for put in puts]):
            chosen = sqlalchemy.select(_DOCUMENTS.c.name, _DOCUMENTS.c.version).where(_DOCUMENTS.c.name.in_(names))
            found.update((name, version) for name, version in connection.execute(chosen))
        for put in puts:
            if found.get(put.name, 0) != put.expected:
                raise conflict(self.name, put, found.get(put.name, 0))

    def _put(self, connection: Connection, puts: Sequence[Put], version: int) -> None:
        gone = [put.name for put in puts if put.document is None]
        for names in _portions(gone):
            connection.execute(sqlalchemy.delete(_DOCUMENTS).where(_DOCUMENTS.c.name.in_(names)))
        rows = [
            {"name": put.name, "version": version, "document": encoded(put.document)} for put in puts if put.document is not None
        ]
        if rows:
            insert = self._database.insert(_DOCUMENTS)
            kept = {"version": insert.excluded.version, "document": insert.excluded.document}
            connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_=kept), rows)

    @contextmanager
    def _connected(self, *, writing: bool = False, making: bool = False) -> Iterator[Connection]:
        try:
            with self._database.connect(writing=writing, making=making) as connection:
                yield connection
        except sqlalchemy.exc.DBAPIError as error:
            if self._database.missing(error):
                raise NoTableError(hidden(self.url)) from error
            raise RouteSourceError(f"{self.name}: {without_secrets(str(error.orig), self.url)}") from error
        except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:
            raise RouteSourceError(f"{self.name}: {without_secrets(str(error), self.url)}") from error


def _database(url: str, timeout: float) -> Database:
    if url.startswith("sqlite"):
        from ._sqlite import SQLite

        return SQLite(url, timeout)
    from ._postgresql import PostgreSQL

    return PostgreSQL(url, timeout)


def _portions(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), _AT_ONCE):
        yield names[start : start + _AT_ONCE]


def open_store(url: str) -> SQLStore:
    """
    Return the store at a ``sqlite:`` or ``postgresql:`` URL.

    Raises:
        ConfigurationError: If the URL is not one of a database that is known.
        MissingDependencyError: If the database's driver is not installed.
    """
    return SQLStore(url)
