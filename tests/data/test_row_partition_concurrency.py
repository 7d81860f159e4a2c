"""
Many owners at once over few connections: nobody sees another's rows, and no connection carries a key on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import AsyncAdaptedQueuePool, Engine, QueuePool, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, selectinload

from tenancy.data.sqlalchemy import ANY, RowPartition
from tenancy.scope import scope
from tests.data.conftest import ASYNC, SYNC, Database, drop_database, make_database
from tests.data.shop import Order, User, orders, users

WORKERS, KEYS = 200, 20


@pytest.fixture(params=[*SYNC, *ASYNC])
def small_pool(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Database]:
    options: dict[str, Any] = {"pool_size": 4, "max_overflow": 0, "pool_timeout": 90}
    if request.param.startswith("sqlite"):
        options["connect_args"] = {"timeout": 90}
        options["poolclass"] = AsyncAdaptedQueuePool if "aio" in request.param else QueuePool
    made = make_database(request.param, request, str(tmp_path / "shop.db"), **options)
    with made.plain.begin() as connection:
        for n in range(WORKERS * 2):
            owner = f"k{n % KEYS}" if n < WORKERS else None
            connection.execute(insert(users).values(id=n, org_id=owner, name=f"of {owner}", email=str(n)))
            connection.execute(insert(orders).values(id=n, org_id=owner, user_id=n, amount=0))
    rows = RowPartition("org_id", baseline=ANY)
    rows.install(made.engine)
    yield made
    drop_database(made)


def _steps(n: int) -> Iterator[Any]:
    """What a worker does: it yields what it wants to be executed, and is sent the result."""
    key = f"k{n % KEYS}"
    mine = [f"of {key}"]
    assert (yield select(User.name).distinct()) == mine
    assert (yield select(func.count()).select_from(User)) == [WORKERS // KEYS]
    assert (yield update(orders).where(orders.c.id < 1000).values(amount=orders.c.amount + 1).returning(orders.c.org_id)) == [
        key
    ] * (WORKERS // KEYS)
    assert (yield insert(orders).values(id=1000 + n, user_id=n, amount=1).returning(orders.c.org_id)) == [key]
    loaded = yield select(User).options(selectinload(User.orders))
    assert {user.org_id for user in loaded} == {order.org_id for user in loaded for order in user.orders} == {key}
    assert (yield delete(orders).where(orders.c.id == 1000 + n).returning(orders.c.id)) == [1000 + n]
    assert (yield delete(orders).where(orders.c.user_id == n + 1).returning(orders.c.id)) == []


def _thread(engine: Engine, n: int) -> None:
    with scope(f"k{n % KEYS}"):
        steps = _steps(n)
        statement = next(steps)
        while statement is not None:
            # A transaction for each, so that the connections go round.
            with Session(engine, expire_on_commit=False) as session:
                result = session.scalars(statement).all()
                session.commit()
            try:
                statement = steps.send(result)
            except StopIteration:
                return


async def _task(engine: AsyncEngine, n: int) -> None:
    with scope(f"k{n % KEYS}"):
        steps = _steps(n)
        statement = next(steps)
        while statement is not None:
            async with AsyncSession(engine, expire_on_commit=False) as session:
                result = (await session.scalars(statement)).all()
                await asyncio.sleep(0)
                await session.commit()
            try:
                statement = steps.send(result)
            except StopIteration:
                return


def test_interleaved(small_pool: Database) -> None:
    """200 threads, or tasks, of 20 keys over 4 connections."""
    engine = small_pool.engine
    if isinstance(engine, Engine):
        with ThreadPoolExecutor(WORKERS) as pool:
            for done in [pool.submit(_thread, engine, n) for n in range(WORKERS)]:
                done.result()
    else:

        async def everyone() -> None:
            await asyncio.gather(*(_task(engine, n) for n in range(WORKERS)))

        assert small_pool.loop is not None
        small_pool.loop.run_until_complete(everyone())

    def look(session: Session) -> None:
        # Without a key on the same connections, and the baseline's rows as they were.
        for _ in range(8):
            assert session.scalar(select(func.count()).select_from(User)) == WORKERS * 2
        amounts = dict(
            session.execute(
                select(orders.c.org_id, func.max(orders.c.amount)).where(orders.c.id < 1000).group_by(orders.c.org_id)
            ).all()
        )
        assert amounts == {None: 0, **{f"k{n}": WORKERS // KEYS for n in range(KEYS)}}
        assert session.scalar(select(func.count()).select_from(Order).where(Order.org_id.is_(None))) == WORKERS

    small_pool.in_session(look)
