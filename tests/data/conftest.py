from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, StaticPool, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from tenancy.data.sqlalchemy import RowPartition
from tests.data.shop import OWNERS, Base, seed

SYNC: Any = ("sqlite", pytest.param("postgresql+psycopg", marks=pytest.mark.service))
ASYNC: Any = (
    "sqlite+aiosqlite",
    pytest.param("postgresql+asyncpg", marks=pytest.mark.service),
    pytest.param("postgresql+psycopg_async", marks=pytest.mark.service),
)
_SYNC_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}


@dataclass
class Database:
    """
    A database with the shop's tables, and two engines to it: one for the tests to restrict, one to prepare and look.
    """

    engine: Engine | AsyncEngine
    plain: Engine
    loop: asyncio.AbstractEventLoop | None
    holds: tuple[str | None, ...] | None = None  # whose seeds; None after they may have been changed

    @property
    def name(self) -> str:
        return self.plain.dialect.name

    def hold(self, owners: tuple[str | None, ...] = OWNERS) -> None:
        """
        Make sure that the database has the seeds of *owners*.
        """
        if self.holds != owners:
            with self.plain.begin() as connection:
                seed(connection, owners)
            self.holds = owners

    def in_session(self, work: Callable[[Session], Any], **options: Any) -> Any:
        """
        Call *work* with a Session on the engine to restrict, and commit; the Session of an asyncio engine, if it is one.
        """
        if isinstance(self.engine, Engine):
            with Session(self.engine, **options) as session:
                result = work(session)
                session.commit()
                return result
        return self._run(self._in_async_session(self.engine, work, options))

    async def _in_async_session(self, engine: AsyncEngine, work: Callable[[Session], Any], options: dict[str, Any]) -> Any:
        async with AsyncSession(engine, **options) as session:
            result = await session.run_sync(work)
            await session.commit()
            return result

    def _run(self, coroutine: Any) -> Any:
        assert self.loop is not None
        return self.loop.run_until_complete(coroutine)

    def close(self) -> None:
        if isinstance(self.engine, Engine):
            self.engine.dispose()
        else:
            self._run(self.engine.dispose())
        if self.loop is not None:
            self.loop.close()
        self.plain.dispose()


def make_database(driver: str, request: pytest.FixtureRequest, path: str, **options: Any) -> Database:
    """
    Return a new database, to be closed by the caller.
    """
    asynchronous = driver not in _SYNC_DRIVERS.values()
    if driver.startswith("sqlite"):
        url, plain = f"{driver}:///{path}", create_engine(f"sqlite:///{path}")
        event.listen(plain, "connect", _fast)
    else:
        base = str(request.getfixturevalue("postgresql"))
        schema = f"rows_{uuid4().hex[:12]}"
        base = base.replace("postgresql://", "postgresql+psycopg://", 1)
        plain = create_engine(base, connect_args={"options": f"-csearch_path={schema} -csynchronous_commit=off"})
        with plain.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
        url = base.replace("postgresql+psycopg://", f"{driver.replace('psycopg_async', 'psycopg')}://", 1)
        setting: dict[str, Any] = {"options": f"-csearch_path={schema} -csynchronous_commit=off"}
        if "asyncpg" in driver:
            setting: dict[str, Any] = {"server_settings": {"search_path": schema, "synchronous_commit": "off"}}
        options = {"connect_args": setting, **options}
    Base.metadata.create_all(plain)
    engine = create_async_engine(url, **options) if asynchronous else create_engine(url, **options)
    if driver.startswith("sqlite"):
        event.listen(engine.sync_engine if isinstance(engine, AsyncEngine) else engine, "connect", _fast)
    return Database(engine, plain, asyncio.new_event_loop() if asynchronous else None)


def _fast(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = OFF")
    cursor.close()


def drop_database(database: Database) -> None:
    if database.name == "postgresql":
        with database.plain.begin() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {connection.exec_driver_sql('SELECT current_schema()').scalar()} CASCADE")
    database.close()


@pytest.fixture(scope="module", params=SYNC)
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """
    A database of each kind.
    """
    made = make_database(request.param, request, str(tmp_path_factory.mktemp("rows") / "shop.db"))
    yield made
    drop_database(made)


@pytest.fixture(scope="module", params=ASYNC)
def async_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """
    A database of each kind, by each asyncio driver.
    """
    made = make_database(request.param, request, str(tmp_path_factory.mktemp("rows") / "shop.db"))
    yield made
    drop_database(made)


@pytest.fixture(scope="module")
def reference(request: pytest.FixtureRequest, database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """
    A second database of the same kind, which is never restricted.
    """
    made = make_database(_SYNC_DRIVERS[database.name], request, str(tmp_path_factory.mktemp("reference") / "shop.db"))
    yield made
    drop_database(made)


@pytest.fixture(scope="module")
def async_reference(
    request: pytest.FixtureRequest, async_database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    """
    A second database of the same kind, which is never restricted.
    """
    made = make_database(_SYNC_DRIVERS[async_database.name], request, str(tmp_path_factory.mktemp("reference") / "shop.db"))
    yield made
    drop_database(made)


@pytest.fixture
def memory() -> Iterator[Engine]:
    """
    An empty SQLite database in memory.
    """
    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def install(memory: Engine) -> Iterator[Callable[..., RowPartition]]:
    """
    Install a partition on the seeded database in memory.
    """
    with memory.begin() as connection:
        seed(connection)
    made: list[RowPartition] = []

    def install(*args: Any, **kwargs: Any) -> RowPartition:
        made.append(RowPartition(*args, **kwargs))
        made[-1].install(memory)
        return made[-1]

    yield install
    for partition in made:
        partition.uninstall(memory)
