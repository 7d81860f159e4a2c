"""
Databases of a test's own on a PostgreSQL that tests share, owned by a role that is no superuser.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine, create_engine, make_url

from tests.services.pgbouncer import USERS

__all__ = ["OWNER", "address_of", "own_database", "run"]

#: The role that owns the databases, and what is in them.
OWNER = USERS[1]


def address_of(address: str, database: str, *, user: str = OWNER, driver: str = "psycopg") -> str:
    """
    Return SQLAlchemy's URL of a database on a server.
    """
    return (
        make_url(address)
        .set(drivername=f"postgresql+{driver}", database=database, username=user)
        .render_as_string(hide_password=False)
    )


@contextmanager
def own_database(address: str, template: str = "template1") -> Iterator[str]:
    """
    Make a database, owned by a role that is no superuser and may make roles; yield its name, and drop it.

    Args:
        address: The server's address.
        template: The database that it is made after, to which nobody is connected.
    """
    name = f"t{uuid4().hex[:11]}"
    admin = create_engine(address_of(address, "postgres", user="postgres"), isolation_level="AUTOCOMMIT", **options(address))
    with admin.connect() as connection:
        if connection.exec_driver_sql(f"SELECT FROM pg_roles WHERE rolname = '{OWNER}'").first() is None:
            connection.exec_driver_sql(f"CREATE ROLE {OWNER} LOGIN CREATEROLE")
        connection.exec_driver_sql(f"CREATE DATABASE {name} OWNER {OWNER} TEMPLATE {template}")
    superuser = create_engine(address_of(address, name, user="postgres"), **options(address))
    with superuser.begin() as connection:
        connection.exec_driver_sql(f"ALTER SCHEMA public OWNER TO {OWNER}")
    superuser.dispose()
    try:
        yield name
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        admin.dispose()


def options(_address: str) -> dict[str, Any]:
    """
    Return what an engine by psycopg needs behind PgBouncer, where a prepared statement may be another session's.
    """
    return {"connect_args": {"prepare_threshold": None}}


def run(engine: Engine, *statements: str) -> list[tuple[Any, ...]]:
    """
    Execute statements in one transaction, and return the rows of the last one.
    """
    rows: list[tuple[Any, ...]] = []
    with engine.begin() as connection:
        for statement in statements:
            result = connection.exec_driver_sql(statement.replace("%", "%%"))
            rows = [tuple(row) for row in result] if result.returns_rows else []
    return rows
