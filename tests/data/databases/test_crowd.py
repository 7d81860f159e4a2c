"""
Fifty keys at once, by threads and by tasks, over few pools, with databases made and dropped meanwhile: no row in a wrong database.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import AsyncAdaptedQueuePool, MetaData, QueuePool, Table, insert, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

import tenancy
from tenancy.data.databases import DatabasePerKey
from tenancy.errors import PartitionError
from tests.data.databases.places import DRIVERS, Place

KEYS = 50
THREADS = 8
TASKS = 40
STEPS = 60


def own_keys(place: Place) -> list[str]:
    # A copy of a file is quick, a clone on a server is not: there fewer have one, and the others are the baseline's.
    count = {"sqlite": KEYS, "command": 10}.get(place.kind, 12)
    keys = [f"k{number}" for number in range(count)]
    for key in keys:
        place.provider().create(key)
    return keys


@pytest.mark.parametrize(
    ("shared", "driver"),
    [
        pytest.param(kind, driver, id=driver, marks=pytest.mark.service if kind != "sqlite" else ())
        for kind, driver in (
            ("sqlite", DRIVERS["sqlite"][1]),
            ("postgresql", DRIVERS["postgresql"][1]),
            ("mariadb", DRIVERS["mariadb"][1]),
        )
    ],
    indirect=["shared"],
)
def test_threads_and_tasks(place: Place, driver: str) -> None:
    """Each row says whose it is, and each database has its key's rows, all of them; the baseline those of keys without one."""
    owned = own_keys(place)
    options: dict[str, Any] = {"connect_args": {"timeout": 60}} if place.kind == "sqlite" else {}
    engine = place.engine(poolclass=QueuePool, pool_size=2, **options)
    other = create_async_engine(place.url(place.baseline, driver), poolclass=AsyncAdaptedQueuePool, pool_size=2, **options)
    databases = DatabasePerKey(place.provider(), max_pools=5, idle=0.2, max_age=0.1)
    databases.install(engine)
    databases.install(other)
    marks = Table("marks", MetaData(), autoload_with=engine)
    written: Counter[str] = Counter()
    lock = threading.Lock()
    chance = random.Random(7)
    plan = [
        (f"k{chance.randrange(KEYS)}" if chance.random() < 0.9 else "none-at-all", number)
        for number in range(STEPS * (THREADS + 2))
    ]

    def wrote(key: str, number: int = 1) -> None:
        with lock:
            written[key] += number

    def thread(mine: list[tuple[str, int]]) -> None:
        for key, number in mine:
            with tenancy.scope(key), engine.connect() as connection:
                connection.execute(insert(marks).values(id=number, owner=key, n=0))
                if number % 7 == 0:
                    with tenancy.scope(f"k{(number + 1) % KEYS}"):
                        try:
                            connection.execute(insert(marks).values(id=number + 100000, owner="wrong", n=0))
                            # Both have none, so both are the baseline's.
                            assert not {key, f"k{(number + 1) % KEYS}"} & set(owned)
                            connection.rollback()
                            continue
                        except PartitionError:
                            pass
                if number % 5 == 0:
                    connection.rollback()
                    continue
                connection.commit()
            wrote(key)

    async def task(mine: list[tuple[str, int]]) -> None:
        for key, number in mine:
            with tenancy.scope(key):
                async with other.connect() as connection:
                    await connection.execute(insert(marks).values(id=200000 + number, owner=key, n=0))
                    await asyncio.sleep(0)
                    found = await connection.execute(select(marks.c.owner).where(marks.c.id == 200000 + number))
                    assert found.scalar() == key
                    await connection.commit()
            wrote(key)

    async def tasks() -> None:
        await asyncio.gather(*(task(plan[number :: TASKS * 3]) for number in range(TASKS)))
        await other.dispose()

    with ThreadPoolExecutor(THREADS + 1) as pool:
        running = [pool.submit(thread, plan[number::THREADS]) for number in range(THREADS)]
        running.append(pool.submit(asyncio.run, tasks()))
        for each in running:
            each.result()
    engine.dispose()
    databases.uninstall(engine)
    databases.uninstall(other)

    found = {key: database.address for key, database in place.provider().databases().items()}
    assert set(found) == set(owned)
    counts: Counter[str] = Counter()
    for key, address in found.items():
        rows = [row[0] for row in place.rows(address, "SELECT owner FROM marks")]
        assert set(rows) <= {key}
        counts.update(rows)
    baseline = [row[0] for row in place.rows(place.baseline, "SELECT owner FROM marks")]
    assert not set(baseline) & set(owned)
    counts.update(baseline)
    assert counts == written
    assert len(counts) > KEYS // 2


@pytest.mark.parametrize("shared", [pytest.param("sqlite"), pytest.param("postgresql", marks=pytest.mark.service)], indirect=True)
def test_while_databases_are_dropped_and_made(place: Place) -> None:
    """Whatever is dropped under a transaction: a row is in its key's database, in the baseline while there is none, or nowhere."""
    engine = place.engine(poolclass=QueuePool, pool_size=2)
    place.provider().create("pr-1")
    databases = DatabasePerKey(place.provider(), max_age=0, unknown="refuse")
    databases.install(engine)
    marks = Table("marks", MetaData(), autoload_with=engine)
    ending = threading.Event()
    failed: Counter[str] = Counter()

    def thread(key: str, begin: int) -> int:
        number = begin
        while not ending.is_set():
            number += 1
            try:
                with tenancy.scope(key), engine.begin() as connection:
                    connection.execute(insert(marks).values(id=number, owner=key, n=0))
            except (PartitionError, DBAPIError) as error:
                failed[type(error).__name__] += 1
        return number - begin

    keys = ("pr-1", "pr-2")
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(thread, key, 1_000_000 * number) for number, key in enumerate(keys * 2)]
        for _ in range(4):
            for key in keys:
                place.provider().drop(key)
                place.provider().create(key)
                ending.wait(0.1)
        ending.set()
        assert all(each.result() > 10 for each in running)
    engine.dispose()
    databases.uninstall(engine)
    assert failed["PartitionError"]
    for key, database in place.provider().databases().items():
        assert {row[0] for row in place.rows(database.address, "SELECT owner FROM marks")} == {key}
    assert place.rows(place.baseline, "SELECT owner FROM marks") == []


@pytest.mark.parametrize(
    ("shared", "driver"),
    [
        pytest.param(kind, DRIVERS[kind][1], id=DRIVERS[kind][1], marks=pytest.mark.service if kind != "sqlite" else ())
        for kind in ("postgresql", "mariadb")
    ],
    indirect=["shared"],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of drivers whose connecting is cut off
async def test_tasks_that_are_cancelled(place: Place, driver: str) -> None:
    """Cut off at any moment, while pools are made and closed all the time: what is written is right, and all pools close in the end."""
    keys = ("pr-1", "pr-2", "pr-3")
    for key in keys:
        place.provider().create(key)
    engine = create_async_engine(place.url(place.baseline, driver), pool_size=2, max_overflow=1)
    databases = DatabasePerKey(place.provider(), max_pools=1, idle=0.05, max_age=0.02)
    databases.install(engine)
    chance = random.Random(11)

    async def task(key: str, number: int) -> None:
        with tenancy.scope(key):
            async with engine.begin() as connection:
                await connection.exec_driver_sql(f"INSERT INTO marks VALUES ({number}, '{key}', 0)")

    ended: Counter[str] = Counter()
    for step in range(12):
        running = [asyncio.create_task(task(chance.choice(keys), step * 8 + number)) for number in range(8)]
        await asyncio.sleep(chance.random() * 0.03)
        for each in running:
            if chance.random() < 0.6:
                each.cancel()
        for result in await asyncio.gather(*running, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError), result
            ended[type(result).__name__] += 1
    assert min(ended.values()) > 5
    await asyncio.sleep(0.1)
    async with engine.connect():
        assert databases.open_keys(engine) == []
    await engine.dispose()
    databases.uninstall(engine)
    for key, database in place.provider().databases().items():
        assert {row[0] for row in place.rows(database.address, "SELECT owner FROM marks")} <= {key}
    assert place.rows(place.baseline, "SELECT owner FROM marks") == []
