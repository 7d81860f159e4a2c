from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError, ResourceClosedError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import tenancy
from tenancy.data.postgresql import PostgresIsolation, cover, uncover
from tenancy.errors import ConfigurationError, PartitionError
from tests.data.postgresql.crowd import Crowd
from tests.data.postgresql.isolated import address_of, options, own_database, run

pytestmark = pytest.mark.service

DRIVERS: Any = ("psycopg", "asyncpg")


class Place:
    """
    A database with two partitions, and an engine for its owner that is not covered.
    """

    def __init__(self, address: str, name: str) -> None:
        self.address, self.name = address, name
        self.admin = create_engine(address_of(address, name), **options(address))
        run(self.admin, "CREATE TABLE entries (id integer PRIMARY KEY, owner text)", "INSERT INTO entries VALUES (0, 'baseline')")
        self.isolation = PostgresIsolation(self.admin)
        self.isolation.install()
        for key in ("pr-1", "pr-2"):
            self.isolation.create(key)

    def engine(self, **given: Any) -> Engine:
        return create_engine(address_of(self.address, self.name), pool_size=1, max_overflow=0, **given)

    def async_engine(self, driver: str, **given: Any) -> AsyncEngine:
        return create_async_engine(address_of(self.address, self.name, driver=driver), pool_size=1, max_overflow=0, **given)


@pytest.fixture(scope="module")
def place(postgresql: str) -> Iterator[Place]:
    with own_database(postgresql) as name:
        made = Place(postgresql, name)
        yield made
        made.admin.dispose()


@pytest.fixture
def covered(place: Place) -> Iterator[Engine]:
    engine = place.engine()
    cover(engine)
    yield engine
    uncover(engine)
    engine.dispose()


# Many at once.


def test_no_row_of_a_crowd_is_in_the_wrong_partition_behind_pgbouncer(pgbouncer: str) -> None:
    with own_database(pgbouncer) as name:
        found = Crowd(pgbouncer, name, keys=20).work(2_000, seconds_between_kills=0.3)
    assert found.wrong == []
    # All that was to go wrong in the middle did.
    assert found.outcomes["done"] > 1_500
    assert all(found.outcomes[name] for name in ("_Deliberate", "DataError", "CancelledError", "connections killed")), (
        found.outcomes
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_row_of_100_000_transactions_is_in_the_wrong_partition_behind_pgbouncer(pgbouncer: str) -> None:
    with own_database(pgbouncer) as name:
        found = Crowd(pgbouncer, name).work(100_000)
    assert found.wrong == []
    assert found.outcomes["done"] > 80_000


def test_a_row_that_is_in_the_wrong_partition_is_found(pgbouncer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenancy.data.postgresql.engine.entering", lambda key: f"SELECT tenancy.enter('{_neighbour(key)}')")
    with own_database(pgbouncer) as name:
        crowd = Crowd(pgbouncer, name, keys=4)
        found = crowd.work(200, seconds_between_kills=60)
    assert any(wrong.startswith("in the place of pr-1") for wrong in found.wrong)


def _neighbour(key: str) -> str:
    return {"pr-0": "pr-1", "pr-2": "pr-3"}.get(key, key)


# One connection, and what comes after something went wrong on it.


@pytest.mark.parametrize("reset", ["rollback", None])
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_cancelled_entrance_leaves_nothing_for_the_next_user(place: Place, driver: str, reset: Any) -> None:
    engine = place.async_engine(driver, pool_reset_on_return=reset)
    cover(engine)
    try:
        with place.admin.begin() as lock:
            # As while the partition is dropped or follows a migration.
            lock.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('tenancy.pr-1', 0))")
            with tenancy.scope("pr-1"), pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(_owners(engine), 0.3)
        assert await _owners(engine) == (["baseline"], "tenancy_app")
        with tenancy.scope("pr-2"):
            assert await _owners(engine) == (["baseline"], "tenancy_keyed")
    finally:
        uncover(engine)
        await engine.dispose()


async def _owners(engine: AsyncEngine) -> tuple[list[str], str]:
    async with engine.begin() as connection:
        rows = await connection.execute(text("SELECT owner, current_user::text FROM entries ORDER BY id"))
        found = rows.all()
        return [row[0] for row in found], found[0][1]


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_transaction_cancelled_in_its_middle_is_rolled_back_in_its_partition(place: Place, driver: str) -> None:
    engine = place.async_engine(driver, pool_reset_on_return=None)
    cover(engine)

    async def slow() -> None:
        async with engine.begin() as connection:
            await connection.execute(text("INSERT INTO entries VALUES (7, 'pr-1')"))
            await connection.execute(text("SELECT pg_sleep(30)"))

    try:
        with tenancy.scope("pr-1"), pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(slow(), 0.3)
        assert await _owners(engine) == (["baseline"], "tenancy_app")
        with tenancy.scope("pr-1"):
            assert await _owners(engine) == (["baseline"], "tenancy_keyed")
    finally:
        uncover(engine)
        await engine.dispose()


def test_a_killed_connection_is_an_error_of_sqlalchemy_and_the_pool_makes_another(place: Place, covered: Engine) -> None:
    with tenancy.scope("pr-1"):
        assert run(covered, "SELECT current_user::text") == [("tenancy_keyed",)]
        _kill(place)
        # The statement that enters is the first that finds out.
        with pytest.raises(OperationalError) as raised:
            run(covered, "SELECT 1")
        assert raised.value.connection_invalidated
        assert run(covered, "SELECT current_user::text") == [("tenancy_keyed",)]
    assert run(covered, "SELECT current_user::text") == [("tenancy_app",)]


def test_a_connection_killed_in_a_transaction_loses_it_and_enters_again(place: Place, covered: Engine) -> None:
    with tenancy.scope("pr-1"), covered.connect() as connection:
        connection.exec_driver_sql("INSERT INTO entries VALUES (8, 'pr-1')")
        _kill(place)
        with pytest.raises(OperationalError):
            connection.exec_driver_sql("SELECT 1")
        connection.rollback()
        assert connection.exec_driver_sql("SELECT count(*), current_user::text FROM entries").one() == (1, "tenancy_keyed")


def _kill(place: Place) -> None:
    run(
        place.admin,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND backend_type = 'client backend'",
    )


@pytest.mark.parametrize("reset", ["rollback", None])
def test_a_timeout_while_entering_leaves_nothing(place: Place, reset: Any) -> None:
    engine = place.engine(pool_reset_on_return=reset, connect_args={"options": "-cstatement_timeout=200"})
    cover(engine)
    try:
        with place.admin.begin() as lock:
            lock.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('tenancy.pr-1', 0))")
            with tenancy.scope("pr-1"), pytest.raises(OperationalError, match="statement timeout"):
                run(engine, "SELECT 1")
        assert run(engine, "SELECT current_user::text") == [("tenancy_app",)]
    finally:
        uncover(engine)
        engine.dispose()


def test_a_connection_whose_transaction_could_not_begin_does_nothing_any_more(place: Place) -> None:
    engine = place.engine()
    cover(engine, unknown="refuse")
    try:
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar() == 1  # so that it has been in a transaction
            connection.rollback()
            with tenancy.scope("pr-9"):
                for refused in (PartitionError, ResourceClosedError):
                    with pytest.raises(refused):
                        connection.exec_driver_sql("INSERT INTO entries VALUES (9, 'pr-9')")
        with Session(engine) as session:
            with tenancy.scope("pr-9"), pytest.raises(PartitionError, match="'pr-9' has no partition"):
                session.execute(text("SELECT 1"))
            assert session.execute(text("SELECT owner FROM entries")).all() == [("baseline",)]
    finally:
        uncover(engine)
        engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "async psycopg", "asyncpg"])
def test_a_transaction_that_was_ended_behind_sqlalchemy_is_found(place: Place, driver: str) -> None:
    def work(connection: Any) -> None:
        connection.exec_driver_sql("INSERT INTO entries VALUES (10, 'pr-1')")
        connection.connection.dbapi_connection.rollback()
        with pytest.raises(PartitionError, match="was ended by SQL or by the driver"):
            connection.exec_driver_sql("INSERT INTO entries VALUES (11, 'pr-1')")

    async def asynchronous() -> None:
        engine = place.async_engine(driver.rpartition(" ")[2])
        cover(engine)
        async with engine.connect() as connection:
            await connection.run_sync(work)
        uncover(engine)
        await engine.dispose()

    with tenancy.scope("pr-1"):
        if driver == "psycopg":
            engine = place.engine()
            cover(engine)
            with engine.connect() as connection:
                work(connection)
            uncover(engine)
            engine.dispose()
        else:
            asyncio.run(asynchronous())
    assert run(place.admin, "SELECT id FROM entries") == [(0,)]
    run(place.admin, "DELETE FROM public__pr_1.entries__delta")


@pytest.mark.parametrize(
    "sql",
    [
        "COMMIT",
        "ROLLBACK",
        "COMMIT AND CHAIN",
        "ROLLBACK AND CHAIN",
        "ABORT AND CHAIN",
        "COMMIT; BEGIN",
        "/* over */ END",
        "SELECT 1; END;",
    ],
)
@pytest.mark.parametrize("how", [text, None])
def test_sql_that_ends_the_transaction_is_refused_to_a_key(place: Place, covered: Engine, sql: str, how: Any) -> None:
    with covered.connect() as connection:
        with tenancy.scope("pr-1"), pytest.raises(PartitionError, match=r"would end the transaction.*pr-1.*use commit\(\)"):
            connection.execute(how(sql)) if how else connection.exec_driver_sql(sql)
        connection.rollback()
        with tenancy.scope("pr-1"):
            connection.execute(text("UPDATE entries SET owner = 'pr-1'"))
            connection.rollback()
        connection.execute(text("ROLLBACK AND CHAIN"))  # without a key as ever
    assert run(place.admin, "SELECT * FROM entries") == [(0, "baseline")]


def test_sql_with_such_words_is_executed(covered: Engine) -> None:
    with tenancy.scope("pr-1"), covered.connect() as connection:
        for sql in (
            "SELECT CASE WHEN id = 0 THEN '; COMMIT' ELSE ';' END FROM entries;",
            "DO $$ BEGIN NULL; END $$",
            "SAVEPOINT here",
            "ROLLBACK TO SAVEPOINT here",
            "ROLLBACK WORK TO here",
        ):
            connection.exec_driver_sql(sql)


class _Base(DeclarativeBase):
    pass


class _Entry(_Base):
    __tablename__ = "entries"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str]


@pytest.mark.parametrize(("first", "then"), [("pr-1", None), ("pr-1", "pr-2"), (None, "pr-1")])
@pytest.mark.parametrize("how", ["add", "change", "delete"])
def test_an_object_that_was_added_by_one_is_not_written_by_another(
    place: Place, covered: Engine, first: str | None, then: str | None, how: str
) -> None:
    with Session(place.admin) as session:
        found = session.get_one(_Entry, 0)
    with Session(covered) as session:
        with tenancy.scope(first):
            if how == "add":
                session.add(_Entry(id=12, owner="x"))
            elif how == "change":
                session.add(found)
                found.owner = "x"
            else:
                session.delete(found)
        with tenancy.scope(then), pytest.raises(PartitionError, match="was added to its Session by"):
            session.commit()
    assert run(place.admin, "SELECT * FROM entries") == [(0, "baseline")]


def test_a_two_phase_transaction_is_refused_to_a_key(covered: Engine) -> None:
    with tenancy.scope("pr-1"), covered.connect() as connection:
        for refused in (PartitionError, ResourceClosedError):
            with pytest.raises(refused):
                connection.begin_twophase()
    with covered.connect() as connection:
        transaction = connection.begin_twophase()
        assert connection.exec_driver_sql("SELECT current_user::text").scalar() == "tenancy_app"
        transaction.rollback()


# What the database is not prepared for.


def test_a_database_without_partitions_is_refused_to_a_key_and_serves_the_baseline(postgresql: str) -> None:
    with own_database(postgresql) as name:
        engine = create_engine(address_of(postgresql, name))
        cover(engine)
        with tenancy.scope("pr-1"), pytest.raises(ConfigurationError, match=r"call PostgresIsolation.install\(\) once"):
            run(engine, "SELECT 1")
        assert run(engine, "SELECT 1") == [(1,)]
        uncover(engine)
        engine.dispose()


def test_a_login_that_may_not_become_the_keyed_role_is_told_what_to_do(place: Place, unique: str) -> None:
    superuser = create_engine(address_of(place.address, place.name, user="postgres"))
    run(superuser, f"CREATE ROLE {unique} LOGIN")
    engine = create_engine(address_of(place.address, place.name, user=unique))
    cover(engine)
    with tenancy.scope("pr-1"):
        with pytest.raises(ConfigurationError, match=r"install\(grant_to=\[...\]\)"):
            run(engine, "SELECT 1")
        place.isolation.install(grant_to=[unique])
        assert run(engine, "SELECT current_user::text") == [("tenancy_keyed",)]
    uncover(engine)
    engine.dispose()
    run(superuser, f"REVOKE tenancy_keyed FROM {unique}", f"DROP ROLE {unique}")
    superuser.dispose()
