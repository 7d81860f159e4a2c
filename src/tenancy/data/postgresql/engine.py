"""
SQLAlchemy engines whose transactions run in the partition of the routing key at hand.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..._optional import extra
from ...config import switched_on
from ...context import routing_key
from ...errors import ConfigurationError, PartitionError
from ...key import RoutingKey
from .ending import ends, refusal
from .inserts import Inserts
from .registry import entering
from .transaction import BASELINE, Policies, Policy, Transaction, advice, unprepared

with extra("postgresql", "sqlalchemy"):
    from sqlalchemy import Connection, Dialect, Engine, event
    from sqlalchemy.engine import ExceptionContext

    from .._sqlalchemy_session import SessionGuard

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["cover", "uncover"]

# https://www.postgresql.org/docs/current/libpq-status.html#LIBPQ-PQTRANSACTIONSTATUS
_IDLE = 0
#: Where a connection has in mind whose transaction it is in.
_INFO = "tenancy.transaction"
#: While the statement is executed by which a transaction enters a partition.
_ENTERING = Transaction(None, None)


def cover(
    engine: Engine | AsyncEngine,
    *,
    unknown: Policy = "baseline",
    late: Policy = "refuse",
) -> None:
    """
    Run every transaction of an engine in the partition of the routing key under which it begins; without a key nothing is done. Does nothing
    where tenancy is switched off.

    One statement enters the partition, for that transaction alone; so pools, and poolers between transactions, carry nothing on.

    Args:
        engine: An engine for PostgreSQL, with psycopg, psycopg2, asyncpg or pg8000, in transactions.
        unknown: What becomes of work whose key has no partition in the database: ``baseline`` serves it as work without a key, and counts
            it in ``tenancy.partition.unknown_keys``; ``refuse`` raises.
        late: The same for a key whose partition was dropped.

    Raises:
        ConfigurationError: If the database is another one, or the engine is covered already.
        IdentityError: If tenancy is switched off in a sandbox.
    """
    policies = Policies("cover", unknown, late)
    if not switched_on():
        return
    engine = engine if isinstance(engine, Engine) else engine.sync_engine
    if engine.dialect.name != "postgresql":
        raise ConfigurationError(f"cover() is made for postgresql, not for {engine.dialect.name}")
    if engine in _covered:
        raise ConfigurationError(f"{engine!r} is covered already")
    _covered[engine] = _Cover(engine, policies)


def uncover(engine: Engine | AsyncEngine) -> None:
    """
    Undo `cover`; does nothing if it was not called.
    """
    found = _covered.pop(engine if isinstance(engine, Engine) else engine.sync_engine, None)
    if found is not None:
        found.remove()


class _Cover:
    def __init__(self, engine: Engine, policies: Policies) -> None:
        self._engine = engine
        self._policies = policies
        self._inserts = Inserts()
        self._copied: Any = None
        self._guard = SessionGuard(engine, lambda key: key)
        self._listeners: tuple[tuple[str, Any, dict[str, Any]], ...] = (
            ("begin", self._begin, {}),
            ("begin_twophase", self._begin_twophase, {}),
            ("before_execute", self._before_execute, {}),
            ("before_cursor_execute", self._before_cursor_execute, {"retval": True}),
            ("handle_error", self._handle_error, {}),
        )
        for name, function, options in self._listeners:
            event.listen(engine, name, function, **options)
        self._guard.listen()

    def remove(self) -> None:
        for name, function, _ in self._listeners:
            event.remove(self._engine, name, function)
        self._guard.remove()

    def _together(self) -> Dialect:
        dialect: Any = self._engine.dialect
        # Not before its first use, since it learns what it is of the first connection that is made.
        if self._copied is None:
            self._copied = copy.copy(dialect)
            self._copied.use_insertmanyvalues_wo_returning = True
        self._copied._has_events = dialect._has_events
        copied: Dialect = self._copied
        return copied

    def _begin(self, connection: Connection) -> None:
        key = routing_key()
        if key is None:
            connection.info[_INFO] = BASELINE
            return
        connection.info[_INFO] = _ENTERING
        try:
            connection.info[_INFO] = self._entered(connection, key)
        except BaseException:
            _given_up(connection)
            raise

    def _begin_twophase(self, connection: Connection, _: Any) -> None:
        key = routing_key()
        connection.info[_INFO] = BASELINE
        if key is not None:
            # The driver begins it later, and not where something was executed before.
            _given_up(connection)
            raise PartitionError(f"a two-phase transaction cannot be one of {key}: use begin(), or do it without a routing key")

    def _entered(self, connection: Connection, key: RoutingKey) -> Transaction:
        raw: Any = connection.connection.dbapi_connection
        autocommit = getattr(raw, "autocommit", None)
        if autocommit is not False:
            how = (
                "is in AUTOCOMMIT"
                if autocommit
                else f"is of a driver ({self._engine.dialect.driver}) that does not say whether it is in a transaction"
            )
            raise PartitionError(
                f"this connection {how}, where nothing holds for one transaction, so work of {key} would be done in the baseline's tables: "
                "use a transaction, or do it without a routing key"
            )
        return self._policies.settled(key, _answer(connection, entering(key)))

    def _before_execute(self, connection: Connection, statement: Any, multiparams: Any, params: Any, _: Mapping[str, Any]) -> None:
        inside, together = self._inside(connection), False
        if inside.revision is not None:
            self._inserts.prepare(connection, inside, statement, list(multiparams) or [dict(params or {})])
            together = self._inserts.together(connection, inside, statement, len(multiparams))
        # What SQLAlchemy does for an INSERT with RETURNING, and with some drivers for each
        # (https://docs.sqlalchemy.org/en/20/core/connections.html#insert-many-values-behavior-for-insert-statements).
        if together:
            connection.dialect = self._together()
        elif connection.dialect is not self._engine.dialect:
            connection.dialect = self._engine.dialect

    def _inside(self, connection: Connection) -> Transaction:
        if not connection.in_transaction():
            if routing_key() is None:
                return BASELINE
            # SQLAlchemy would begin one, but not before it has asked what it is to execute.
            connection._autobegin()
        found: Transaction = connection.info.get(_INFO, BASELINE)
        return found

    def _before_cursor_execute(
        self, connection: Connection, _cursor: Any, statement: str, parameters: Any, context: Any, _many: bool
    ) -> tuple[str, Any]:
        key = routing_key()
        inside = connection.info.get(_INFO)
        if key is None and (inside is None or inside.revision is None):  # most work
            return statement, parameters
        if inside is None:
            raise PartitionError(f"this transaction began before the engine was covered, so it is not one of {key}: begin another")
        inside.continues(key, "use a connection or Session for each routing key, or end the transaction in between")
        if inside.revision is not None:
            if _ended(connection.connection.driver_connection):
                raise PartitionError(
                    f"this transaction of {inside.key} was ended by SQL or by the driver, so the statement would be the baseline's: "
                    "end it by commit() or rollback() of the Connection or Session"
                )
            # After COMMIT AND CHAIN the driver is in a transaction as before, and the partition is left.
            if ends(statement):
                raise PartitionError(refusal(inside.key, "use commit() or rollback() of the Connection or Session"))
            statement = self._inserts.redirected(connection, inside, statement, context)
            if context is not None and context.dialect is self._copied:
                connection.dialect = self._engine.dialect
        return statement, parameters

    def _handle_error(self, context: ExceptionContext) -> None:
        connection = context.connection
        if connection is None or context.sqlalchemy_exception is None or connection.closed:
            return
        inside = connection.info.get(_INFO, BASELINE)
        original = context.original_exception
        state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
        if inside is _ENTERING and (found := unprepared(original)) is not None:
            raise found from original
        if inside.revision is None:
            return
        text = advice(state, str(original), "sqlalchemy.dialects.postgresql.insert")
        if text is not None:
            raise PartitionError(text) from original


_covered: dict[Engine, _Cover] = {}


def _answer(connection: Connection, sql: str) -> str:
    # By the driver's own cursor, which takes half the time that SQLAlchemy adds to a statement.
    cursor: Any = None
    try:
        cursor = connection.connection.cursor()
        cursor.execute(sql)
        answer = str(cursor.fetchone()[0])
        cursor.close()
    except BaseException as error:  # noqa: BLE001 - it is raised again
        # As an error of any other statement: it wraps it, tells listeners, and throws a connection away that is lost or was cancelled.
        connection._handle_dbapi_exception(error, sql, None, cursor, None)
    return answer


def _given_up(connection: Connection) -> None:
    """
    Leave nothing of a transaction that could not begin. SQLAlchemy takes it for one that begins still, and would execute what comes next
    without entering anything; so this Connection is closed.
    """
    if not connection.invalidated:
        connection.info.pop(_INFO, None)
        try:
            # A pool that resets nothing would hand the open transaction on.
            connection.connection.rollback()
        except BaseException as error:  # noqa: BLE001 - whatever it is, another is on its way already
            connection.invalidate(error)
    connection.close()


def _ended(raw: Any) -> bool:
    """
    Return whether a driver's connection is in no transaction any more, as far as the driver says.
    """
    if (inside := getattr(raw, "is_in_transaction", None)) is not None:  # asyncpg
        return not inside()
    info = getattr(raw, "info", None)  # psycopg, psycopg2
    return info is not None and getattr(info, "transaction_status", None) == _IDLE
