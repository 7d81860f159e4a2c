from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import psycopg
import psycopg2
import psycopg2.extras
import pytest
from psycopg.rows import class_row, dict_row, kwargs_row, namedtuple_row, scalar_row

import tenancy
from tenancy.data.postgresql import enter, enter_async
from tenancy.data.postgresql import transaction as policies
from tenancy.errors import ConfigurationError, InvalidRoutingKeyError, PartitionError
from tenancy.testing import Configure
from tests.data.postgresql.compatibility import KEY, OTHER, Place, place, unchanged

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def where(postgresql: str) -> Iterator[Place]:
    """A database with the partitions of two keys, and one that was dropped; its baseline is the same when all tests are over."""
    with place(postgresql) as made, unchanged(made):
        made.isolation.create("gone")
        made.isolation.drop("gone")
        yield made


class Row:
    """A row that has nothing of a tuple."""

    def __init__(self, **values: Any) -> None:
        self.values = values


CONNECT: dict[str, Callable[[str], Any]] = {
    "psycopg": psycopg.connect,
    "psycopg, dictionaries": lambda dsn: psycopg.connect(dsn, row_factory=dict_row),
    "psycopg, named tuples": lambda dsn: psycopg.connect(dsn, row_factory=namedtuple_row),
    "psycopg, one value": lambda dsn: psycopg.connect(dsn, row_factory=scalar_row),
    "psycopg, a class": lambda dsn: psycopg.connect(dsn, row_factory=class_row(Row)),
    "psycopg, a function": lambda dsn: psycopg.connect(dsn, row_factory=kwargs_row(Row)),
    "psycopg, bound by the client": lambda dsn: psycopg.connect(dsn, cursor_factory=psycopg.ClientCursor),
    "psycopg2": psycopg2.connect,
    "psycopg2, dictionaries": lambda dsn: psycopg2.connect(dsn, cursor_factory=psycopg2.extras.RealDictCursor),
    "psycopg2, lists": lambda dsn: psycopg2.connect(dsn, cursor_factory=psycopg2.extras.DictCursor),
    "psycopg2, named tuples": lambda dsn: psycopg2.connect(dsn, cursor_factory=psycopg2.extras.NamedTupleCursor),
}


@pytest.fixture(params=CONNECT)
def connection(where: Place, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A connection of each driver, with all that rows are made into there."""
    made = CONNECT[request.param](where.application)
    yield made
    made.close()


@asynccontextmanager
async def _psycopg(where: Place, **options: Any) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(where.application, **options) as made:
        yield made


@asynccontextmanager
async def _asyncpg(where: Place) -> AsyncIterator[Any]:
    made = await asyncpg.connect(where.application)
    try:
        async with made.transaction():
            yield made
    finally:
        await made.close()


ASYNC = {
    "psycopg": _psycopg,
    "psycopg, a class": lambda where: _psycopg(where, row_factory=class_row(Row)),
    "asyncpg": _asyncpg,
}


def schema(connection: Any) -> str:
    plain = {"row_factory": psycopg.rows.tuple_row} if isinstance(connection, psycopg.Connection) else {}
    if not plain:
        plain = {"cursor_factory": psycopg2.extensions.cursor}
    with connection.cursor(**plain) as cursor:
        cursor.execute("SELECT current_schema()")
        return str(cursor.fetchone()[0])


# One at a time


def test_a_transaction_is_in_the_partition_to_its_end(connection: Any) -> None:
    """The next one is the baseline's again, whether the first was committed or not."""
    for end in (connection.commit, connection.rollback):
        with tenancy.scope(KEY):
            assert enter(connection) is True
            assert enter(connection) is True  # twice is once
        assert schema(connection) == "public__pr_42"
        end()
        assert schema(connection) == "public"
        connection.rollback()
        assert enter(connection, OTHER) is True
        assert schema(connection) == "public__pr_43"
        end()


def test_without_a_key_nothing_is_done(connection: Any) -> None:
    """Not even a transaction begins."""
    assert enter(connection) is False
    assert connection.info.transaction_status == 0


def test_outside_of_a_transaction(connection: Any) -> None:
    """Autocommit is refused, and what to do is said."""
    connection.autocommit = True
    with tenancy.scope(KEY), pytest.raises(PartitionError, match=r"in no transaction.*with connection\.transaction\(\)"):
        enter(connection)
    assert connection.info.transaction_status == 0


def test_a_transaction_in_autocommit(where: Place) -> None:
    """psycopg's block opens one."""
    with psycopg.connect(where.application, autocommit=True) as connection:
        with tenancy.scope(KEY), connection.transaction():
            assert enter(connection)
            assert schema(connection) == "public__pr_42"
        assert schema(connection) == "public"


def test_a_change_of_key(connection: Any) -> None:
    """The transaction stays what it was."""
    enter(connection, KEY)
    with tenancy.scope(OTHER), pytest.raises(PartitionError, match="is of pr-42, and cannot become one of pr-43: end it first"):
        enter(connection)
    assert schema(connection) == "public__pr_42"
    connection.rollback()
    assert enter(connection, OTHER)


def test_a_transaction_that_has_written_already(where: Place) -> None:
    """It has an owner, the baseline; one that has only read may become a key's."""
    with psycopg.connect(where.application) as connection:
        connection.execute("SELECT count(*) FROM users")
        assert enter(connection, KEY)
        connection.execute("UPDATE users SET name = 'x'")
        assert enter(connection, KEY)
        connection.rollback()
        connection.execute("UPDATE users SET name = 'x'")
        with pytest.raises(PartitionError, match="has written to the baseline's tables already"):
            enter(connection, KEY)
        connection.rollback()


def test_a_transaction_that_has_failed(where: Place) -> None:
    """It is said to be one."""
    with psycopg.connect(where.application) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1 / 0")
        with pytest.raises(PartitionError, match="has failed"):
            enter(connection, KEY)
        connection.rollback()
        assert enter(connection, KEY)


def test_savepoints(where: Place) -> None:
    """Entered before one, the partition is not left by a rollback to it."""
    with psycopg.connect(where.application) as connection:
        enter(connection, KEY)
        with connection.transaction(force_rollback=True):
            connection.execute("DELETE FROM users WHERE id = 3")
        assert connection.execute("SELECT count(*), current_schema() FROM users").fetchone() == (3, "public__pr_42")
        connection.rollback()
        with connection.transaction():
            assert enter(connection, KEY)
        connection.rollback()
        with connection.transaction(), connection.transaction(force_rollback=True):
            with pytest.raises(PartitionError, match="nested transaction"):
                enter(connection, KEY)
            assert schema(connection) == "public"


async def test_savepoints_in_asyncio(where: Place) -> None:
    """The same."""
    async with _psycopg(where) as connection, connection.transaction(), connection.transaction():
        with pytest.raises(PartitionError, match="nested transaction"):
            await enter_async(connection, KEY)


def test_keys_without_a_partition(connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By policy the baseline's, and counted, or refused."""
    counted: list[str] = []
    monkeypatch.setattr(policies, "count", lambda name, *rest, **more: counted.append(name))
    assert enter(connection, "nobodys") is False
    assert counted == ["tenancy.partition.unknown_keys"]
    assert schema(connection) == "public"
    connection.rollback()
    for key, options in (("nobodys", {"unknown": "refuse"}), ("gone", {})):
        with pytest.raises(PartitionError, match=f"routing key '{key}'"):
            enter(connection, key, **options)  # type: ignore[arg-type]
        connection.rollback()
    assert enter(connection, "gone", late="baseline") is False
    connection.rollback()


@pytest.mark.parametrize("key", ["", "pr'42", "PR-42", "a" * 64, "pr-42'); DROP TABLE users; --", "none", "pr_42", "pr-42\0"])
def test_what_is_no_key(where: Place, key: str) -> None:
    """It does not come to the server."""
    with psycopg.connect(where.application) as connection:
        with pytest.raises(InvalidRoutingKeyError):
            enter(connection, key)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_options_and_connections_of_another_kind(where: Place) -> None:
    """The error says what to use instead."""
    with psycopg.connect(where.application) as connection, where.engine.connect() as other:
        with pytest.raises(ConfigurationError, match="unknown='x'"):
            enter(connection, KEY, unknown="x")  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match=r"use cover\(engine\)"):
            enter(other, KEY)
        with pytest.raises(ConfigurationError, match=r"execute SELECT tenancy\.enter"):
            enter(object(), KEY)


def test_switched_off(where: Place, tenancy_settings: Configure) -> None:
    """Nothing is done."""
    tenancy_settings(enabled=False)
    with psycopg.connect(where.application) as connection:
        assert enter(connection, KEY) is False
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_a_database_that_is_not_prepared(where: Place, postgresql: str) -> None:
    """The error says what to call: for the database, or for the role."""
    with psycopg.connect(postgresql) as connection, pytest.raises(ConfigurationError, match=r"install\(\) once"):
        enter(connection, KEY)
    with psycopg.connect(where.owner, autocommit=True) as owner:
        owner.execute("CREATE ROLE compat_stranger LOGIN")
    try:
        with (
            psycopg.connect(where.application.replace("compat_app", "compat_stranger")) as connection,
            pytest.raises(ConfigurationError, match="grant_to"),
        ):
            enter(connection, KEY)
    finally:
        with psycopg.connect(where.owner, autocommit=True) as owner:
            owner.execute("DROP ROLE compat_stranger")


# In asyncio


@pytest.mark.parametrize("driver", ASYNC)
async def test_asynchronous_drivers(where: Place, driver: str) -> None:
    """The same."""
    async with ASYNC[driver](where) as connection:
        assert await enter_async(connection) is False
        with pytest.raises(ConfigurationError, match=r"use enter_async\(\)"):
            enter(connection, KEY)
        with tenancy.scope(KEY):
            assert await enter_async(connection) is True
        await connection.execute("INSERT INTO users (email) VALUES ('new@x')")
        with pytest.raises(PartitionError, match="cannot become one of pr-43"):
            await enter_async(connection, OTHER)
    async with ASYNC[driver](where) as connection:
        assert await enter_async(connection, KEY)
        await connection.execute("DELETE FROM users WHERE email = 'new@x'")
    async with ASYNC[driver](where) as connection:
        assert await enter_async(connection, "nobodys") is False
        with pytest.raises(PartitionError, match="was dropped"):
            await enter_async(connection, "gone")


async def test_asynchronous_drivers_outside_of_a_transaction(where: Place) -> None:
    """It is refused."""
    made = await asyncpg.connect(where.application)
    with pytest.raises(PartitionError, match=r"async with connection\.transaction\(\)"):
        await enter_async(made, KEY)
    await made.close()
    async with _psycopg(where, autocommit=True) as connection:
        with pytest.raises(PartitionError, match=r"with connection\.transaction\(\)"):
            await enter_async(connection, KEY)
    with psycopg.connect(where.application) as sync, pytest.raises(ConfigurationError, match=r"use enter\(\)"):
        await enter_async(sync, KEY)


async def test_a_pool_of_asyncpg(where: Place) -> None:
    """What it hands out next knows nothing of it."""
    async with asyncpg.create_pool(where.application, min_size=1, max_size=1) as pool:
        for key, own in ((KEY, "public__pr_42"), (None, "public"), (OTHER, "public__pr_43"), (None, "public")):
            with tenancy.scope(key):
                async with pool.acquire() as connection, connection.transaction():
                    assert await enter_async(connection) is (key is not None)
                    assert await connection.fetchval("SELECT current_schema()") == own
