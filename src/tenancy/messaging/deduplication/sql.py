"""
Deduplication in a SQL database: in PostgreSQL, or in a SQLite file. The mark can be a part of the handler's own transaction.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from weakref import WeakSet

from ..._optional import extra
from ...errors import ClaimLostError, ConfigurationError, DeduplicationError, RouteSourceError
from ...observe import warn_once
from ...routes.stores._shared import DAY, TIMEOUT, NoTableError
from ...routes.stores._urls import hidden, without_secrets
from ._base import RETENTION, TTL, InThreads, counted
from ._records import CLAIMED, DONE, Claim, Outcome, Record, check_seconds, finished, given_up, judged, name_of, new_token, owner_of

with extra("sqlalchemy", "sqlalchemy"):
    import sqlalchemy
    from sqlalchemy import Column, Connection, Double, Index, MetaData, Table, Text, and_, or_
    from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

    from ...routes.stores.sql import Database

__all__ = ["TABLE", "SQLDeduplication", "open_deduplication"]

T = TypeVar("T")

#: The name of the table.
TABLE = "tenancy_messages"

_TABLES = MetaData()
_MESSAGES = Table(
    TABLE,
    _TABLES,
    Column("scope", Text, primary_key=True),
    Column("message_id", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("token", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("until", Double, nullable=False),  # by the server's clock
)
_COLUMNS = _MESSAGES.c
_KEY = (_COLUMNS.scope, _COLUMNS.message_id)
Index(f"{TABLE}_until", _COLUMNS.until)

# A cleaning takes away ten times what was claimed since the last one, so what is there is at most what is remembered.
_CLEAN_EVERY = 100
_CLEAN_AT_ONCE = 1000

# Connections that are kept; more are made and closed again where more calls are made at once.
_KEPT = 5


class SQLDeduplication(InThreads):
    """
    A deduplication in a SQL database: a row for each message id. The table is made when it is missed, or by `install`.

    Every call is answered or fails within the time-out. A process that was forked makes connections of its own. The methods for asyncio
    call the others in threads.

    Args:
        url: ``postgresql://user@host/database`` or ``sqlite:///path/to/messages.db``.
        ttl: Seconds after which a claim expires.
        retention: Seconds for which it is remembered that a message was handled.
        timeout: Seconds for which a call waits: for the connection, and for the answer.

    Raises:
        ConfigurationError: If the URL is not one of these, or a time is none.
        MissingDependencyError: If the database's driver is not installed.
    """

    def __init__(self, url: str, *, ttl: float = TTL, retention: float = RETENTION, timeout: float = TIMEOUT) -> None:
        self.url = url
        self.name = f"the deduplication {hidden(url)}"
        self.ttl = check_seconds("ttl", ttl)
        self.retention = check_seconds("retention", retention)
        self._database = _database(url, timeout)
        self._claims = itertools.count()
        self._within: WeakSet[Claim] = WeakSet()

    def install(self) -> None:
        """
        Make the table, unless it is there.

        Raises:
            DeduplicationError: If it cannot be made.
        """
        self._transact(_TABLES.create_all, making=True)

    def claim(self, scope: str, message_id: str, *, owner: str | None = None) -> Claim:
        """
        Ask whether a message is to be handled now; see `Deduplication.claim`.

        Raises:
            DeduplicationError: If the database cannot be had; nobody knows then whether there is a claim, which expires if there is.
        """
        row = {**_key(scope, message_id), "state": CLAIMED, "token": new_token(), "owner": owner_of(owner)}
        claim = self._transact(lambda connection: self._claimed(connection, row, scope, message_id))
        if claim.ours and next(self._claims) % _CLEAN_EVERY == 0:
            self._clean_up()
        return counted(claim)

    def done(self, claim: Claim) -> bool:
        """
        Note that the message was handled; see `Deduplication.done`. For what was marked by `done_within` nothing more is done.

        Raises:
            DeduplicationError: If the database cannot be had.
        """
        if not claim.token:
            return claim.ours
        if claim in self._within:
            return True
        row = {**_key(claim.scope, claim.message_id), "state": DONE, "token": claim.token, "owner": claim.owner}
        return self._transact(lambda connection: self._finished(connection, row))

    def done_within(self, claim: Claim, connection: Connection | Session) -> None:
        """
        Note that the message was handled, in a transaction of the caller's: what the handler writes and the mark are committed together, or
        neither is. So the handler's rows are written once, even where a claim expires while its handler runs.

        The row stays locked until the transaction ends; who claims the message meanwhile finds it busy.

        Args:
            claim: A claim that is ours.
            connection: A connection or session of SQLAlchemy's, to the same database and schema, in a transaction.

        Raises:
            ClaimLostError: If somebody else has claimed or handled the message meanwhile. Roll back what was done.
            ConfigurationError: If the connection is one for asyncio; use `adone_within`.
            DeduplicationError: If the claim is none of ours.
        """
        if hasattr(connection, "run_sync"):
            raise ConfigurationError(f"{type(connection).__name__} is for asyncio; await adone_within(claim, connection) instead")
        if not claim.ours:
            raise DeduplicationError(
                f"message {claim.message_id!r} of {claim.scope} is {claim.outcome.value}, so it is not ours to mark"
            )
        if not claim.token:
            return
        own = connection if isinstance(connection, Connection) else connection.connection()
        mark = sqlalchemy.update(_MESSAGES).where(*_matches(_key(claim.scope, claim.message_id)), _COLUMNS.token == claim.token)
        marked = own.execute(mark.values(state=DONE, until=self._database.clock + self.retention))
        if marked.rowcount != 1:
            raise ClaimLostError(
                f"{self.name}: the claim of message {claim.message_id!r} of {claim.scope} expired, after {self.ttl:g} s, and somebody else "
                "has claimed it since; roll this transaction back. Where that happens often, ttl is too short for the handler"
            )
        self._within.add(claim)

    async def adone_within(self, claim: Claim, connection: AsyncConnection | AsyncSession) -> None:
        """
        Like `done_within`, for a connection or session of SQLAlchemy's asyncio.
        """
        await connection.run_sync(functools.partial(self.done_within, claim))

    def release(self, claim: Claim) -> bool:
        """
        Give a claim back; see `Deduplication.release`.

        Raises:
            DeduplicationError: If the database cannot be had; the claim expires.
        """
        if not claim.token:
            return claim.ours
        key = _key(claim.scope, claim.message_id)
        return self._transact(lambda connection: self._released(connection, key, claim.token))

    def clean(self, at_once: int = _CLEAN_AT_ONCE) -> int:
        """
        Remove rows whose time is over, and return how many they were. The first and every hundredth claim of a process do so, too.

        Args:
            at_once: How many at most.

        Raises:
            DeduplicationError: If the database cannot be had.
        """
        return self._transact(lambda connection: self._cleaned(connection, at_once))

    def close(self) -> None:
        """
        Close all connections; the next call makes new ones.
        """
        self._database.close()

    def _claimed(self, connection: Connection, row: dict[str, str], scope: str, message_id: str) -> Claim:
        token = row["token"]
        until = self._database.clock + self.ttl
        # Where a row is seen nothing is inserted: an INSERT waits for whoever is changing the row, even to do nothing then.
        absent = ~sqlalchemy.exists().where(*_matches(row))
        values = sqlalchemy.select(*map(sqlalchemy.literal, row.values()), until).where(absent)
        insert = self._database.insert(_MESSAGES).from_select([*row, "until"], values).on_conflict_do_nothing()
        for _ in range(3):  # since a row may be removed by somebody between two of these statements
            connection.execute(insert)
            # Without a lock: where somebody marks the row within a long transaction, nobody waits for that.
            claim = judged(self._found(connection, row), scope, message_id, token)
            if claim is None:
                # Of all that find it expired one gets it, and the others, as long as it is locked, nothing.
                locked = self._found(connection, row, lock="or nothing")
                if locked is None:
                    continue
                claim = judged(locked, scope, message_id, token)
            if claim is None:
                connection.execute(sqlalchemy.update(_MESSAGES).where(*_matches(row)).values(**row, until=until))
                claim = Claim(scope, message_id, Outcome.OURS, token, self.ttl, row["owner"])
            return claim
        # Somebody is taking it or settling it at this moment.
        return Claim(scope, message_id, Outcome.BUSY)

    def _finished(self, connection: Connection, row: dict[str, str]) -> bool:
        writes, ours = finished(self._found(connection, row, lock="wait"), row["token"])
        if writes:
            insert = self._database.insert(_MESSAGES).values(**row, until=self._database.clock + self.retention)
            changed = {name: insert.excluded[name] for name in ("state", "token", "owner", "until")}
            # Also where there was no row to lock, and somebody has come in between.
            connection.execute(insert.on_conflict_do_update(index_elements=_KEY, set_=changed))
        return ours

    def _released(self, connection: Connection, key: dict[str, str], token: str) -> bool:
        writes, ours = given_up(self._found(connection, key, lock="wait"), token)
        if writes:
            connection.execute(sqlalchemy.delete(_MESSAGES).where(*_matches(key)))
        return ours

    def _cleaned(self, connection: Connection, at_once: int) -> int:
        now = float(connection.execute(sqlalchemy.select(self._database.clock)).scalar_one())
        # A claim that has expired is kept for a day: unless somebody else takes it, a transaction that began under it may still mark it.
        past = and_(_COLUMNS.until < now, or_(_COLUMNS.state == DONE, _COLUMNS.until < now - DAY))
        chosen = sqlalchemy.select(*_KEY).where(past).order_by(_COLUMNS.until).limit(at_once).with_for_update(skip_locked=True)
        removed: int = connection.execute(sqlalchemy.delete(_MESSAGES).where(sqlalchemy.tuple_(*_KEY).in_(chosen))).rowcount
        return removed

    def _clean_up(self) -> None:
        try:
            self.clean()
        except DeduplicationError as error:
            warn_once(f"deduplication:{self.name}", "%s cannot be cleaned up, and grows: %s", self.name, error)

    def _found(
        self, connection: Connection, key: dict[str, str], *, lock: Literal["wait", "or nothing"] | None = None
    ) -> Record | None:
        left = (_COLUMNS.until - self._database.clock).label("left")
        chosen = sqlalchemy.select(_COLUMNS.state, _COLUMNS.token, _COLUMNS.owner, left).where(*_matches(key))
        if lock is not None:
            chosen = chosen.with_for_update(skip_locked=lock == "or nothing")
        row = connection.execute(chosen).first()
        return None if row is None else Record(row.state, row.token, row.owner, float(row.left))

    def _transact(self, work: Callable[[Connection], T], *, making: bool = False) -> T:
        """
        Do some work in a transaction. Where there is no table, one is made.
        """
        try:
            try:
                return self._once(work, making)
            except NoTableError:
                if making:
                    raise
            except sqlalchemy.exc.DBAPIError as error:
                if making or not self._database.missing(error):
                    raise
            self.install()
            return self._once(work, making)
        except sqlalchemy.exc.DBAPIError as error:
            raise DeduplicationError(f"{self.name}: {without_secrets(str(error.orig), self.url)}") from error
        except (sqlalchemy.exc.SQLAlchemyError, RouteSourceError, OSError) as error:
            raise DeduplicationError(f"{self.name}: {without_secrets(str(error), self.url)}") from error

    def _once(self, work: Callable[[Connection], T], making: bool) -> T:
        with self._database.connect(writing=True, making=making) as connection:
            result = work(connection)
            connection.commit()
        return result


def _key(scope: str, message_id: str) -> dict[str, str]:
    return {"scope": name_of(scope, "scope"), "message_id": name_of(message_id, "message id")}


def _matches(key: dict[str, str]) -> tuple[Any, ...]:
    return _COLUMNS.scope == key["scope"], _COLUMNS.message_id == key["message_id"]


def _database(url: str, timeout: float) -> Database:
    if url.startswith("sqlite"):
        from ...routes.stores._sqlite import SQLite

        return SQLite(url, timeout)
    from ...routes.stores._postgresql import PostgreSQL

    return PostgreSQL(url, timeout, kept=_KEPT)


def open_deduplication(url: str, *, ttl: float = TTL, retention: float = RETENTION) -> SQLDeduplication:
    """
    Return the deduplication at a ``sqlite:`` or ``postgresql:`` URL.

    Raises:
        ConfigurationError: If the URL is not one of a database that is known, or a time is none.
        MissingDependencyError: If the database's driver is not installed.
    """
    return SQLDeduplication(url, ttl=ttl, retention=retention)
