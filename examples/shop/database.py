"""
The shop's database: of PostgreSQL each key sees the baseline's rows and changes none; in SQLite a column tells whose a row is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from sqlalchemy import Engine, create_engine, text

from tenancy.data.postgresql import PostgresIsolation

from .plan import BASELINE

__all__ = ["Database"]


class Database:
    """
    A database of one run of the shop.

    Args:
        server: The address of PostgreSQL; None: SQLite takes its place.
        run: The directory of this run.
        id: By what this run's things are told from others'.
        keys: The routing keys that have data of their own.

    Raises:
        RuntimeError: If PostgreSQL does not make the database.
    """

    def __init__(self, server: str | None, run: Path, id: str, keys: Iterable[str]) -> None:  # noqa: A002 - what it is called everywhere
        self._server, self._id, self._keys = server, id, sorted(keys)
        name = f"shop_{id}"
        plain = f"sqlite:///{run / 'shop.db'}" if server is None else urlsplit(server)._replace(path=f"/{name}").geturl()
        #: What the services connect to.
        self.url = plain.replace("postgresql://", "postgresql+psycopg://", 1)
        self._engine: Engine | None = None
        if server is not None:
            try:
                with psycopg.connect(server, autocommit=True) as connection:
                    connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload,unused-ignore]
            except psycopg.Error as error:
                raise RuntimeError(f"PostgreSQL does not create the shop's database: {error}") from error

    def partition(self) -> None:
        """
        Make the partitions of all keys; the tables are there.
        """
        self._engine = create_engine(self.url)
        if self._server is not None:
            isolation = PostgresIsolation(self._engine)
            isolation.install()
            for key in self._keys:
                isolation.create(key)

    def rows(self, tables: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
        """
        Return for each table the pairs of order and whose row it is.
        """
        return {table: [(order, owner) for owner in self._owners() for order in self._own(table, owner)] for table in tables}

    def seen(self, table: str) -> dict[str, dict[str, int]]:
        """
        Return whose rows of a table, and how many, work without a key sees, and work of each key. Empty where a column tells rows apart.
        """
        if self._server is None:
            return {}
        owners = {order: owner for owner in self._owners() for order in self._own(table, owner)}
        return {owner: dict(Counter(owners[order] for order in self._select(table, owner).values())) for owner in self._owners()}

    def _owners(self) -> list[str]:
        return [BASELINE, *self._keys]

    def _own(self, table: str, owner: str) -> list[str]:
        found = self._select(table, owner)
        baseline = {} if self._server is None or owner == BASELINE else self._select(table, BASELINE)
        return [order for number, order in found.items() if number not in baseline]

    def _select(self, table: str, owner: str) -> dict[int, str]:
        assert self._engine is not None
        name = f"{table}_{self._id}"
        with self._engine.connect() as connection:
            if self._server is None:
                sql = text(f"SELECT id, order_id FROM {name} WHERE tenant = :owner").bindparams(owner=owner)
            else:
                if owner != BASELINE:  # as any driver's transaction can
                    connection.execute(text("SELECT tenancy.enter(:key)"), {"key": owner})
                sql = text(f"SELECT id, order_id FROM {name}")
            return {row[0]: row[1] for row in connection.execute(sql)}

    def drop(self) -> None:
        """
        Drop it, with all that is in it.
        """
        if self._engine is not None:
            self._engine.dispose()
        if self._server is not None:
            with psycopg.connect(self._server, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE IF EXISTS shop_{self._id} WITH (FORCE)")  # type: ignore[call-overload,unused-ignore]
