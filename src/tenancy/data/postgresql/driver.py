"""
Transactions of a driver of PostgreSQL's own: psycopg 3, psycopg2 and asyncpg, without SQLAlchemy or Django in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...config import switched_on
from ...context import routing_key
from ...errors import ConfigurationError, PartitionError
from ...key import RoutingKey
from .registry import entering
from .transaction import Policies, Policy, entering_failed

__all__ = ["enter", "enter_async"]

# https://www.postgresql.org/docs/current/libpq-status.html#LIBPQ-PQTRANSACTIONSTATUS
_IDLE, _IN_TRANSACTION = 0, 2


def enter(connection: Any, key: str | None = None, *, unknown: Policy = "baseline", late: Policy = "refuse") -> bool:
    """
    Run the transaction that a connection is in, or now begins, in a key's partition, to its end. Call it before any other statement of the
    transaction; one statement does it, and the next transaction knows nothing of it.

    Also a transaction begun by ``COMMIT AND CHAIN`` or ``ROLLBACK AND CHAIN`` is a next one, of the baseline; and a rollback to a savepoint
    that was there before this call leaves the partition, so call it before any savepoint.

    Args:
        connection: A connection of psycopg 3 or psycopg2, in a transaction, or not in autocommit.
        key: The routing key; default the one at hand. Without one nothing is done.
        unknown: What becomes of work whose key has no partition in the database: ``baseline`` serves it as work without a key, and counts
            it in ``tenancy.partition.unknown_keys``; ``refuse`` raises.
        late: The same for a key whose partition was dropped.

    Returns:
        Whether the transaction is in a partition now; if not, it is the baseline's.

    Raises:
        PartitionError: If no transaction is open, it is in another key's partition, or the key is refused; or in a nested
            ``transaction()`` of psycopg 3.
        ConfigurationError: If an argument cannot be used, or the database was not prepared.
        InvalidRoutingKeyError: If the key is none.
        IdentityError: If tenancy is switched off in a sandbox.
    """
    policies = Policies("enter", unknown, late)
    info = getattr(connection, "info", None)
    if not hasattr(info, "transaction_status") or not hasattr(connection, "cursor") or _asynchronous(connection):
        raise ConfigurationError(
            f"enter() is made for connections of psycopg and psycopg2, not for {_kind(connection)}: {_instead(connection)}"
        )
    found = _key(key)
    if found is None:
        return False
    _refuse_outside(connection, found)
    cursor = connection.cursor(**_tuples(connection))
    try:
        with entering_failed():
            cursor.execute(entering(found))
        row = cursor.fetchone()
    finally:
        cursor.close()
    return policies.settled(found, _first(row)).revision is not None


async def enter_async(connection: Any, key: str | None = None, *, unknown: Policy = "baseline", late: Policy = "refuse") -> bool:
    """
    Do what `enter` does, on a connection of asyncpg or an ``AsyncConnection`` of psycopg 3; a chained transaction leaves the partition here
    too, and so does a rollback to a savepoint that was there before.

    Args:
        connection: The connection, in a transaction; of psycopg 3 it may also be one that is not in autocommit.
        key: The routing key; default the one at hand. Without one nothing is done.
        unknown: What becomes of work whose key has no partition in the database.
        late: The same for a key whose partition was dropped.

    Returns:
        Whether the transaction is in a partition now; if not, it is the baseline's.

    Raises:
        PartitionError: If no transaction is open, it is in another key's partition, or the key is refused; or in a nested
            ``transaction()`` of psycopg 3.
        ConfigurationError: If an argument cannot be used, or the database was not prepared.
        InvalidRoutingKeyError: If the key is none.
        IdentityError: If tenancy is switched off in a sandbox.
    """
    policies = Policies("enter_async", unknown, late)
    asyncpg = hasattr(connection, "is_in_transaction") and hasattr(connection, "fetchval")
    if not asyncpg and not _asynchronous(connection):
        raise ConfigurationError(
            f"enter_async() is made for asyncpg and psycopg's AsyncConnection, not for {_kind(connection)}: {_instead(connection)}"
        )
    found = _key(key)
    if found is None:
        return False
    if asyncpg:
        if not connection.is_in_transaction():
            raise _outside(found, "async with connection.transaction()")
        with entering_failed():
            answer = str(await connection.fetchval(entering(found)))
    else:
        _refuse_outside(connection, found)
        async with connection.cursor(**_tuples(connection)) as cursor:
            with entering_failed():
                await cursor.execute(entering(found))
            answer = _first(await cursor.fetchone())
    return policies.settled(found, answer).revision is not None


def _key(key: str | None) -> RoutingKey | None:
    found = routing_key() if key is None else RoutingKey(key)
    return found if switched_on() else None


def _refuse_outside(connection: Any, key: RoutingKey) -> None:
    status = int(connection.info.transaction_status)
    # How many transaction() blocks of psycopg 3 are open; all but the first are savepoints. It is not public, and may be gone some day.
    if getattr(connection, "_num_transactions", 0) > 1:
        raise PartitionError(
            f"this connection is in a nested transaction(), a savepoint: rolled back, it would leave the partition of {key}, and the rest of "
            "the transaction would be the baseline's: enter at the beginning of the outermost one"
        )
    if status == _IN_TRANSACTION or (status == _IDLE and not connection.autocommit):
        return
    if status == _IDLE:
        raise _outside(key, "with connection.transaction(), or autocommit=False")
    raise PartitionError(
        f"this connection is in a transaction that has failed, or is at work, so it cannot enter the partition of {key}: end it first"
    )


def _outside(key: RoutingKey, advice: str) -> PartitionError:
    return PartitionError(
        f"this connection is in no transaction, where nothing would hold for more than one statement, so work of {key} would be done in the "
        f"baseline's tables: {advice}"
    )


def _asynchronous(connection: Any) -> bool:
    # psycopg's AsyncConnection; of asyncpg's every method is a coroutine.
    return hasattr(connection, "__aenter__") and hasattr(connection, "pgconn")


def _tuples(connection: Any) -> dict[str, Any]:
    # Whatever rows are made into on this connection (https://www.psycopg.org/psycopg3/docs/advanced/rows.html).
    return {"row_factory": lambda _: tuple} if hasattr(connection, "pgconn") else {}


def _first(row: Any) -> str:
    # psycopg2's RealDictCursor.
    return str(next(iter(row.values())) if isinstance(row, Mapping) else row[0])


def _kind(connection: Any) -> str:
    return f"{type(connection).__module__}.{type(connection).__qualname__}"


def _instead(connection: Any) -> str:
    if _asynchronous(connection) or hasattr(connection, "is_in_transaction"):
        return "use enter_async()"
    module = type(connection).__module__.partition(".")[0]
    if module == "sqlalchemy":
        return "use cover(engine)"
    if module == "django":
        return "use tenancy.data.postgresql.django.cover()"
    if hasattr(connection, "pgconn") or module == "psycopg2":
        return "use enter()"
    return "execute SELECT tenancy.enter('<key>') first in the transaction, and go on only if it returns 'ready ...'"
