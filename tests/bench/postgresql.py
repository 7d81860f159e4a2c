"""
What a partition of a shared PostgreSQL costs against the plain tables: a million rows, five hundred of them changed by the key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import psycopg
from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    ForeignKey,
    Identity,
    MetaData,
    Numeric,
    String,
    Table,
    create_engine,
    insert,
    text,
)

import tenancy
from tenancy.data.postgresql import PostgresIsolation, cover

from .harness import Case

__all__ = ["NAMES", "cases"]

#: What `cases` yields.
NAMES = (
    "overlay_point",
    "overlay_range",
    "overlay_join",
    "overlay_order_limit",
    "overlay_page",
    "overlay_join_page",
    "overlay_insert",
    "overlay_bulk_insert",
    "overlay_bulk_insert_returning",
    "overlay_create_50_tables",
    "overlay_empty_50_tables",
    "tx_hook_no_key",
    "tx_hook_key",
)

_KEY = "pr-1"
_ORDERS, _USERS, _CHANGED = 1_000_000, 200_000, 500
_MANY = 2000  # rows of a bulk insert
# As PostgreSQL counts them (https://www.postgresql.org/docs/current/config-setting.html#CONFIG-SETTING-NAMES-VALUES).
_MEGABYTE, _GIGABYTE = 2**20, 2**30
_ROW = 8000  # bytes of a row that fills the golden database up to a gigabyte

_metadata = MetaData()
_users = Table(
    "users",
    _metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("email", String, unique=True, nullable=False),
    Column("name", String),
)
_orders = Table(
    "orders",
    _metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("user_id", BigInteger, ForeignKey("users.id"), index=True),
    Column("amount", Numeric),
    Column("status", String),
)
_QUERIES = {
    "overlay_point": ("SELECT * FROM orders WHERE id = %s", "a row by its primary key"),
    "overlay_range": ("SELECT * FROM orders WHERE id BETWEEN %s AND %s + 1000", "a thousand rows by their primary key"),
    "overlay_join": (
        "SELECT o.*, u.email FROM orders o JOIN users u ON u.id = o.user_id WHERE o.id = %s",
        "a row with the one that it refers to",
    ),
    "overlay_order_limit": ("SELECT * FROM orders ORDER BY id LIMIT 20", "the first twenty rows in their order"),
    "overlay_page": ("SELECT * FROM orders WHERE id > %s ORDER BY id LIMIT 20", "the next twenty rows after one"),
    "overlay_join_page": (
        "SELECT o.*, u.email FROM orders o JOIN users u ON u.id = o.user_id WHERE o.id BETWEEN %s AND %s + 20",
        "twenty rows, each with the one that it refers to",
    ),
}
# The last two are for information.
_BARS = {"overlay_point": 1.8, "overlay_range": 1.2, "overlay_join": 1.3, "overlay_order_limit": 1.7}
_TIMES = {"overlay_range": 30}


def _engine(url: str, database: str, **options: Any) -> Engine:
    address = url.replace("postgresql://", "postgresql+psycopg://", 1).rpartition("/")[0]
    return create_engine(f"{address}/{database}", connect_args={"options": "-csynchronous_commit=off"}, **options)


class _World:
    """
    A database with the tables and a partition, and a golden one of a gigabyte with fifty tables.
    """

    def __init__(self, url: str, stack: ExitStack) -> None:
        self.url = url
        self.admin = psycopg.connect(url, autocommit=True)
        stack.callback(self.admin.close)
        self.admin.execute("DROP DATABASE IF EXISTS bench_data WITH (FORCE)")
        self.admin.execute("CREATE DATABASE bench_data")
        self.engine = _engine(url, "bench_data")
        self.covered = _engine(url, "bench_data")
        stack.callback(self.engine.dispose)
        stack.callback(self.covered.dispose)
        _metadata.create_all(self.engine)
        with self.engine.begin() as connection:
            connection.execute(
                text("INSERT INTO users (email, name) SELECT 'u' || g || '@example.com', 'n' || g FROM generate_series(1, :n) g"),
                {"n": _USERS},
            )
            row = "(g::bigint * 7919) % :users + 1, g % 1000, 's' || g % 5"
            sql = f"INSERT INTO orders (user_id, amount, status) SELECT {row} FROM generate_series(1, :n) g"
            connection.execute(text(sql), {"n": _ORDERS, "users": _USERS})
        isolation = PostgresIsolation(self.engine)
        isolation.install()
        isolation.create(_KEY)
        cover(self.covered)
        with tenancy.scope(_KEY), self.covered.begin() as connection:
            for table, rows in (("orders", _ORDERS), ("users", _USERS)):
                connection.execute(
                    text(f"UPDATE {table} SET {'status' if table == 'orders' else 'name'} = 'changed' WHERE id % :every = 0"),
                    {"every": rows // _CHANGED},
                )
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
        self.plain_reads, self.key_reads = (self._reader(stack, inside=inside) for inside in (False, True))

    def _reader(self, stack: ExitStack, *, inside: bool) -> psycopg.Connection[Any]:
        connection = psycopg.connect(self.engine.url.set(drivername="postgresql").render_as_string(hide_password=False))
        stack.callback(connection.close)
        if inside:
            connection.execute(f"SELECT tenancy.enter('{_KEY}')")
        return connection

    def reading(self, name: str, connection: psycopg.Connection[Any]) -> Callable[[int], float]:
        """
        Return what runs a query some times, each for other rows, and says how long one took, in seconds by the clock on the wall: the work
        is the server's.
        """
        sql, _ = _QUERIES[name]
        places, times, at = sql.count("%s"), _TIMES.get(name, 200), 0

        def work(_: int) -> float:
            nonlocal at
            began = time.perf_counter()
            for _ in range(times):
                at = (at + 99_991) % (_ORDERS - 2000)
                connection.execute(sql, (at,) * places).fetchall()
            return (time.perf_counter() - began) / times

        return work

    def inserting(self, engine: Engine, key: str | None, rows: int, *, returning: bool = False) -> Callable[[int], float]:
        """
        Return what inserts rows within a transaction, one after the other or all at once, and takes them back.

        Args:
            engine: The engine.
            key: The routing key; None: the baseline's.
            rows: How many at once.
            returning: Whether their ids are asked for, as the ORM does: then SQLAlchemy sends them as few statements, and not one for each.
        """

        def work(_: int) -> float:
            with tenancy.scope(key), engine.connect() as connection:
                connection.execute(text("SELECT 1"))  # the transaction begins
                began = time.perf_counter()
                if rows == 1:
                    for number in range(100):
                        connection.execute(
                            insert(_orders).returning(_orders.c.id), {"user_id": number + 1, "amount": 1, "status": "new"}
                        )
                    seconds = (time.perf_counter() - began) / 100
                else:
                    many = [{"user_id": number + 1, "amount": number, "status": "new"} for number in range(rows)]
                    statement = insert(_orders)
                    connection.execute(statement.returning(_orders.c.id) if returning else statement, many)
                    seconds = (time.perf_counter() - began) / rows
                connection.rollback()
            return seconds

        return work

    def transacting(self, engine: Engine, key: str | None) -> Callable[[int], float]:
        """
        Return what runs transactions of one statement, and says how much of this process's CPU time one of them took, in seconds.
        """

        def work(_: int) -> float:
            with tenancy.scope(key), engine.connect() as connection:
                began = time.process_time_ns()
                for _ in range(200):
                    connection.exec_driver_sql("SELECT 1")
                    connection.commit()
                return (time.process_time_ns() - began) / 1e9 / 200

        return work


class _Golden:
    """
    A golden database of a gigabyte with fifty tables, and another one with the same tables in which partitions are made.
    """

    def __init__(self, url: str, admin: psycopg.Connection[Any], stack: ExitStack) -> None:
        self._admin = admin
        for name in ("bench_golden", "bench_small"):
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            admin.execute(f"CREATE DATABASE {name}")
            engine = _engine(url, name)
            with engine.begin() as connection:
                for number in range(50):
                    parent = f" REFERENCES t{number - 1}(id)" if number else ""
                    connection.execute(
                        text(
                            f"CREATE TABLE t{number} (id bigserial PRIMARY KEY, name text UNIQUE, parent bigint{parent}, amount numeric, "
                            f"created timestamptz DEFAULT now()); CREATE INDEX ON t{number} (parent)"
                        )
                    )
                if name == "bench_golden":
                    connection.execute(
                        text("CREATE TABLE padding (line text); ALTER TABLE padding ALTER line SET STORAGE EXTERNAL")
                    )
                    for _ in range(2):  # what is around the rows is known once some are there
                        (size,) = connection.execute(text("SELECT pg_database_size(current_database())")).one()
                        row = f"repeat(md5(g::text), {_ROW // 32})"
                        rows = max(0, _GIGABYTE - size) // _ROW
                        connection.execute(text(f"INSERT INTO padding SELECT {row} FROM generate_series(1, {rows}) g"))
            engine.dispose()
        self.isolation = PostgresIsolation(small := _engine(url, "bench_small"))
        stack.callback(small.dispose)
        self.isolation.install()
        (size,) = admin.execute("SELECT pg_database_size('bench_golden')").fetchone() or (0,)
        if size < _GIGABYTE:
            raise RuntimeError(f"the golden database has {size} bytes, and is to have a gigabyte")

    def clone(self, _: int) -> float:
        began = time.perf_counter()
        self._admin.execute("CREATE DATABASE bench_clone TEMPLATE bench_golden")
        seconds = time.perf_counter() - began
        self._admin.execute("DROP DATABASE bench_clone")
        return seconds

    def create(self, _: int) -> float:
        began = time.perf_counter()
        self.isolation.create("pr-2")
        seconds = time.perf_counter() - began
        self.isolation.drop("pr-2", forget=True)
        return seconds

    def megabytes(self, _: int) -> float:
        size = self.isolation.create("pr-3").size
        self.isolation.drop("pr-3", forget=True)
        return size / _MEGABYTE


def cases(url: str, stack: ExitStack, wanted: set[str]) -> Iterator[Case]:
    """
    Yield the cases.

    Args:
        url: A PostgreSQL server.
        stack: Ends what they use.
        wanted: Which ones.
    """

    def over(seconds: Mapping[str, float]) -> float:
        return seconds["overlay"] / seconds["plain"]

    world = _World(url, stack)
    for name, (_, what) in _QUERIES.items():
        variants = {"plain": world.reading(name, world.plain_reads), "overlay": world.reading(name, world.key_reads)}
        yield Case(name, _BARS.get(name), variants, over, "plain", f"{what}: overlay / plain table")
    for name, rows, what in (("overlay_insert", 1, "rows one by one"), ("overlay_bulk_insert", _MANY, f"{_MANY} rows at once")):
        variants = {"plain": world.inserting(world.engine, None, rows), "overlay": world.inserting(world.covered, _KEY, rows)}
        yield Case(name, 1.5, variants, over, "plain", f"{what}, by SQLAlchemy: overlay / plain table")
    variants = {
        "plain": world.inserting(world.engine, None, _MANY, returning=True),
        "overlay": world.inserting(world.covered, _KEY, _MANY, returning=True),
    }
    what = f"{_MANY} rows at once whose ids are asked for, as by the ORM: overlay / plain table"
    yield Case("overlay_bulk_insert_returning", None, variants, over, "plain", what)
    plain = world.transacting(world.engine, None)
    for name, key, bar in (("tx_hook_no_key", None, 10.0), ("tx_hook_key", _KEY, None)):
        yield Case(
            name,
            bar,
            {"plain": plain, "covered": world.transacting(world.covered, key)},
            lambda seconds: (seconds["covered"] - seconds["plain"]) * 1e6,
            "plain",
            f"CPU time that the engine's hook adds to a transaction {'with' if key else 'without'} a key",
            "us",
        )
    if wanted.intersection({"overlay_create_50_tables", "overlay_empty_50_tables"}):
        golden = _Golden(url, world.admin, stack)
        yield Case(
            "overlay_create_50_tables",
            0.2,
            {"clone": golden.clone, "overlay": golden.create},
            lambda seconds: seconds["overlay"] / seconds["clone"],
            "clone",
            "a partition of 50 tables / CREATE DATABASE ... TEMPLATE of 1 GB",
        )
        yield Case(
            "overlay_empty_50_tables",
            2.0,
            {"size": golden.megabytes},
            lambda sizes: sizes["size"],
            "size",
            "what a partition of 50 tables takes before anything was changed in it",
            "MB",
        )
