"""
How what makes, changes and drops partitions is sent to the server.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ..._optional import extra
from ...errors import ConfigurationError
from ...scope import scope

with extra("postgresql", "sqlalchemy"):
    from sqlalchemy import URL, Connection, Engine, create_engine

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["PLAIN", "begun", "kept_path", "run", "scalar", "synchronous", "unchecked"]

#: Options of a statement in which a per cent sign is one; drivers differ where there are no parameters.
PLAIN = {"no_parameters": True}
# asyncpg's own options in a URL, which libpq does not have; for ``ssl`` it has another name.
_ASYNCPG = ("prepared_statement_cache_size", "prepared_statement_name_func", "statement_cache_size", "command_timeout", "timeout")


def synchronous(engine: Engine | AsyncEngine) -> Engine:
    """
    Return an engine by psycopg or psycopg2, whose transactions see what was committed while they waited for a lock.
    """
    if not isinstance(engine, Engine) or engine.dialect.is_async or engine.dialect.driver not in ("psycopg", "psycopg2"):
        engine = create_engine(_by_psycopg(engine.url))
    return engine.execution_options(isolation_level="READ COMMITTED")


def _by_psycopg(url: URL) -> URL:
    query = {name: value for name, value in url.query.items() if name not in _ASYNCPG}
    if "ssl" in query:
        query["sslmode"] = query.pop("ssl")
    return url.set(drivername="postgresql+psycopg", query=query)


@contextlib.contextmanager
def begun(engine: Engine, connection: Connection | None = None) -> Iterator[Connection]:
    """
    Begin a transaction that is the baseline's, whatever the routing key; or go on with somebody's.

    Args:
        engine: The engine.
        connection: A connection in a transaction.

    Raises:
        ConfigurationError: If *connection* is in AUTOCOMMIT, or by another driver than psycopg or psycopg2.
    """
    with scope(None):  # an engine may be covered
        if connection is None:
            with engine.begin() as connection:
                yield connection
            return
        if not connection.dialect.driver.startswith("psycopg"):
            raise ConfigurationError(
                f"this connection is by {connection.dialect.driver}, which executes one statement at a time: "
                "give one by psycopg or psycopg2; an env.py of Alembic can make an engine for itself"
            )
        if getattr(connection.connection.dbapi_connection, "autocommit", False):
            raise ConfigurationError(
                "this connection is in AUTOCOMMIT, where the tables and the partitions would not change together: give one in a transaction"
            )
        yield connection


def run(connection: Connection, statements: Iterable[str]) -> None:
    """
    Execute statements in one message to the server, and without parameters, so that a per cent sign is one.
    """
    text = ";\n".join(statements)
    if text:
        cursor: Any = connection.connection.cursor()
        try:
            cursor.execute(text)
        finally:
            cursor.close()


def scalar(connection: Connection, statement: str) -> Any:
    """
    Return the first column of a statement's only row; a per cent sign is one.
    """
    return connection.exec_driver_sql(statement, execution_options=PLAIN).scalar_one()


@contextlib.contextmanager
def kept_path(connection: Connection) -> Iterator[None]:
    """
    Leave a transaction's ``search_path`` as it was, where nothing was raised; what is raised has ended the transaction.
    """
    with _kept(connection, "search_path"):
        yield


@contextlib.contextmanager
def unchecked(connection: Connection) -> Iterator[None]:
    """
    Have functions made within this block without a look at what is in them, which takes longer than to make them.
    """
    with _kept(connection, "check_function_bodies"):
        connection.exec_driver_sql("SELECT set_config('check_function_bodies', 'off', true)")
        yield


@contextlib.contextmanager
def _kept(connection: Connection, setting: str) -> Iterator[None]:
    before = connection.exec_driver_sql(f"SELECT current_setting('{setting}')").scalar_one()
    yield
    connection.exec_driver_sql(f"SELECT set_config('{setting}', %(before)s, true)", {"before": before})
