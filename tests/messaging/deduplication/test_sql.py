"""
Deduplication in SQLite and PostgreSQL: the contract, the mark within the handler's own transaction, and what is different about databases.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Engine, Integer, MetaData, NullPool, Table, Text, event
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import tenancy
from tenancy import ConfigurationError
from tenancy.data.sqlalchemy import ANY, RowPartition
from tenancy.errors import ClaimLostError, DeduplicationError, PartitionError
from tenancy.messaging.deduplication import Claim, Outcome, once, open_deduplication
from tenancy.messaging.deduplication.sql import TABLE, SQLDeduplication
from tests.messaging.deduplication.contract import SCOPE, Place, ServerContract, outcomes, together
from tests.messaging.deduplication.outages import OutageContract

EFFECTS = Table("effects", MetaData(), Column("id", Integer, primary_key=True), Column("name", Text), Column("org_id", Text))


class SQLPlace(Place):
    url: str

    def open(self, **times: float) -> SQLDeduplication:
        opened = open_deduplication(self.url, **times)
        assert isinstance(opened, SQLDeduplication)
        return opened

    def run(self, statement: str) -> list[Any]:
        """Execute a statement behind everybody's back."""
        raise NotImplementedError

    def engine(self) -> Engine:
        """What an application has: an engine of its own for the same database."""
        raise NotImplementedError

    def async_url(self) -> str:
        """Where SQLAlchemy's asyncio finds the same database."""
        raise NotImplementedError

    def age(self, seconds: float) -> None:
        self.run(f"UPDATE {TABLE} SET until = until - {seconds}")


class SQLitePlace(SQLPlace):
    def __init__(self, path: Path) -> None:
        super().__init__(f"sqlite:///{path}")
        self.path = path

    def run(self, statement: str) -> list[Any]:
        connection = sqlite3.connect(self.path, timeout=5)
        with connection:
            rows = connection.execute(statement).fetchall()
        connection.close()
        return rows

    def engine(self) -> Engine:
        engine = sqlalchemy.create_engine(self.url, poolclass=NullPool, connect_args={"timeout": 20})

        # As SQLAlchemy's pages say: a transaction that writes begins as one that does.
        @event.listens_for(engine, "connect")
        def connected(driver: Any, _record: object) -> None:
            driver.isolation_level = None

        @event.listens_for(engine, "begin")
        def begun(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        return engine

    def async_url(self) -> str:
        return self.url.replace("sqlite:", "sqlite+aiosqlite:")


class PostgreSQLPlace(SQLPlace):
    def __init__(self, dsn: str, schema: str) -> None:
        super().__init__(f"{dsn}?options=-csearch_path%3D{schema}")
        self._dsn, self.schema = dsn, schema

    def run(self, statement: str) -> list[Any]:
        with psycopg.connect(self._dsn, options=f"-csearch_path={self.schema}", autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def engine(self) -> Engine:
        return sqlalchemy.create_engine(self.url.replace("postgresql:", "postgresql+psycopg:"), pool_size=30)

    def async_url(self) -> str:
        return self.url.replace("postgresql:", "postgresql+psycopg:")


class SQLContract(ServerContract):
    """
    What a deduplication in a database does besides.
    """

    @pytest.fixture
    def engine(self, place: SQLPlace) -> Iterator[Engine]:
        """The engine of an application, and a table in which its handler writes a row for each message."""
        engine = place.engine()
        EFFECTS.metadata.create_all(engine)
        yield engine
        engine.dispose()

    @pytest.fixture
    def handle(self, place: SQLPlace) -> Iterator[SQLDeduplication]:
        handle = place.open(ttl=30, retention=600)
        yield handle
        handle.close()

    def effects(self, place: SQLPlace) -> list[str]:
        return [name for (name,) in place.run("SELECT name FROM effects ORDER BY name")]

    def test_the_table_is_made_when_it_is_missed(self, place: SQLPlace, handle: SQLDeduplication) -> None:
        """By many at once, before the first claim, and again after somebody has dropped it."""
        claims = together([lambda: handle.claim(SCOPE, "m-1")] * 10)
        assert outcomes(claims) == {"ours": 1, "busy": 9}
        place.run(f"DROP TABLE {TABLE}")
        claim = next(claim for claim in claims if claim.ours)
        assert handle.done(claim) is False
        assert handle.claim(SCOPE, "m-1").done
        place.run(f"DROP TABLE {TABLE}")
        assert handle.release(claim) is False

    def test_it_can_be_made_before(self, place: SQLPlace, handle: SQLDeduplication) -> None:
        """`install` makes it unless it is there, and what is in it stays."""
        handle.install()
        assert place.run(f"SELECT * FROM {TABLE}") == []
        claim = handle.claim(SCOPE, "m-1", owner="pod 7")
        handle.install()
        columns = "scope, message_id, state, token, owner"
        assert place.run(f"SELECT {columns} FROM {TABLE}") == [("shop/orders:orders", "m-1", "claimed", claim.token, "pod 7")]

    def test_effect_and_mark_are_one_transaction(self, place: SQLPlace, engine: Engine, handle: SQLDeduplication) -> None:
        """Committed, both are there; rolled back, neither is, and the message can be claimed again."""
        for commits in (False, True):
            claim = handle.claim(SCOPE, "m-1")
            assert claim.ours
            with engine.connect() as connection:
                handle.done_within(claim, connection)
                handle.done_within(claim, connection)
                connection.execute(EFFECTS.insert().values(name="m-1"))
                start = time.monotonic()
                assert handle.done(claim) is True
                assert time.monotonic() - start < 0.5, "it has waited for the transaction that it is in"
                if commits:
                    connection.commit()
                else:
                    connection.rollback()
            if not commits:
                assert self.effects(place) == []
                assert handle.claim(SCOPE, "m-1").busy
                assert handle.release(claim) is True
        assert self.effects(place) == ["m-1"]
        told = handle.claim(SCOPE, "m-1")
        assert told.done
        assert 590 < told.seconds <= 600
        assert handle.done(claim) is True
        assert handle.release(claim) is False
        assert handle.claim(SCOPE, "m-1").done

    def test_sessions(self, place: SQLPlace, engine: Engine, handle: SQLDeduplication) -> None:
        """A session of the ORM's will do, and one of a registry; a block of `once` around the transaction is enough."""
        registry = scoped_session(sessionmaker(engine))
        with once(handle, SCOPE, "m-1") as claim, Session(engine) as session, session.begin():
            handle.done_within(claim, session)
            session.execute(EFFECTS.insert().values(name="m-1"))
        with once(handle, SCOPE, "m-2") as claim:
            handle.done_within(claim, registry)  # type: ignore[arg-type]
            registry.execute(EFFECTS.insert().values(name="m-2"))
            registry.commit()

        def fail() -> None:
            with once(handle, SCOPE, "m-3") as claim, Session(engine) as session, session.begin():
                handle.done_within(claim, session)
                session.execute(EFFECTS.insert().values(name="m-3"))
                raise LookupError

        with pytest.raises(LookupError):
            fail()
        assert self.effects(place) == ["m-1", "m-2"]
        assert [handle.claim(SCOPE, f"m-{number}").outcome.value for number in (1, 2, 3)] == ["done", "done", "ours"]

    async def test_sessions_of_asyncio(self, place: SQLPlace, engine: Engine, handle: SQLDeduplication) -> None:
        """`adone_within` takes a connection or session of SQLAlchemy's asyncio, and the other one names it."""
        async_engine = create_async_engine(place.async_url(), poolclass=NullPool)
        async with once(handle, SCOPE, "m-1") as claim, AsyncSession(async_engine) as session, session.begin():
            await handle.adone_within(claim, session)
            await session.execute(EFFECTS.insert().values(name="m-1"))
        async with once(handle, SCOPE, "m-2") as claim, async_engine.begin() as connection:
            await handle.adone_within(claim, connection)
            await connection.execute(EFFECTS.insert().values(name="m-2"))
            with pytest.raises(ConfigurationError, match=r"AsyncConnection is for asyncio; await adone_within"):
                handle.done_within(claim, connection)  # type: ignore[arg-type]
        await async_engine.dispose()
        assert self.effects(place) == ["m-1", "m-2"]
        assert [handle.claim(SCOPE, f"m-{number}").outcome.value for number in (1, 2)] == ["done", "done"]

    def test_a_lost_claim_marks_nothing(self, place: SQLPlace, engine: Engine, handle: SQLDeduplication) -> None:
        """Whether somebody else has it or has handled it: who comes late is told, and rolls back."""
        late = handle.claim(SCOPE, "m-1")
        place.age(31)
        claim = handle.claim(SCOPE, "m-1")
        assert claim.ours
        for others_are in ("at work", "done"):
            with engine.connect() as connection:
                connection.execute(EFFECTS.insert().values(name="late"))
                with pytest.raises(ClaimLostError, match=r"message 'm-1' of shop/orders:orders expired, after 30 s"):
                    handle.done_within(late, connection)
                connection.rollback()
            if others_are == "at work":
                with engine.begin() as connection:
                    handle.done_within(claim, connection)
                    connection.execute(EFFECTS.insert().values(name="m-1"))
        assert handle.done(late) is False
        assert handle.release(late) is False
        assert self.effects(place) == ["m-1"]
        assert handle.claim(SCOPE, "m-1").done

    def test_who_was_late_and_done_is_before_a_mark(self, place: SQLPlace, engine: Engine, handle: SQLDeduplication) -> None:
        """Somebody whose claim was lost handled the message without a transaction: the mark of the other finds that."""
        late = handle.claim(SCOPE, "m-1")
        place.age(31)
        claim = handle.claim(SCOPE, "m-1")
        assert handle.done(late) is False
        with engine.begin() as connection, pytest.raises(ClaimLostError):
            handle.done_within(claim, connection)

    def test_a_claim_that_expired_and_that_nobody_took_can_be_marked(
        self, place: SQLPlace, engine: Engine, handle: SQLDeduplication
    ) -> None:
        """Within the transaction it is certain that nobody did; cleaning up leaves such a claim for a day."""
        claim = handle.claim(SCOPE, "m-1")
        place.age(31 + 86000)
        assert handle.clean() == 0
        with engine.begin() as connection:
            handle.done_within(claim, connection)
        assert handle.claim(SCOPE, "m-1").done

    def test_what_is_not_ours_is_not_marked(self, engine: Engine, handle: SQLDeduplication) -> None:
        """A claim that found the message busy marks nothing; a message without an id has nothing to mark."""
        handle.claim(SCOPE, "m-1")
        with engine.begin() as connection:
            with pytest.raises(DeduplicationError, match="message 'm-1' of shop/orders:orders is busy, so it is not ours to mark"):
                handle.done_within(handle.claim(SCOPE, "m-1") if engine.dialect.name == "postgresql" else _busy(), connection)
            with once(handle, SCOPE, None) as claim:
                handle.done_within(claim, connection)

    @pytest.mark.slow
    def test_handlers_that_are_slower_than_their_claims(self, place: SQLPlace, engine: Engine) -> None:
        """However often claims expire while handlers run: each message has one row in the end."""
        handle = place.open(ttl=0.05, retention=600)
        names = [f"m-{number}" for number in range(4)]
        lost: list[str] = []

        def work(seed: int) -> None:
            chance = random.Random(seed)
            left = set(names)
            end = time.monotonic() + 40
            while left and time.monotonic() < end:
                name = chance.choice(sorted(left))
                try:
                    with once(handle, SCOPE, name) as claim:
                        if claim.done:
                            left.discard(name)
                        if not claim.ours:
                            continue
                        time.sleep(chance.random() * 0.12)
                        with engine.begin() as connection:
                            connection.execute(EFFECTS.insert().values(name=name))
                            chance.choice([int, int, int, int, {}.__getitem__])("0")
                            handle.done_within(claim, connection)
                except ClaimLostError:
                    lost.append(name)
                except LookupError:
                    pass
            assert not left

        together([lambda seed=seed: work(seed) for seed in range(6)])
        handle.close()
        assert self.effects(place) == names
        assert lost, "no claim was lost, so nothing was tried"

    def test_work_of_a_key_may_mark(self, place: SQLPlace, engine: Engine, handle: SQLDeduplication) -> None:
        """With `RowPartition` the table is one of those that are shared."""
        claim = handle.claim(SCOPE, "m-1")
        for shared in ([], [TABLE]):
            partition = RowPartition("org_id", baseline=ANY, shared=shared)
            partition.install(engine)
            with tenancy.scope("pr-42"), engine.begin() as connection:
                connection.execute(EFFECTS.insert().values(name="m-1"))
                if shared:
                    handle.done_within(claim, connection)
                else:
                    with pytest.raises(PartitionError, match=r"shared=\['tenancy_messages'\]"):
                        handle.done_within(claim, connection)
                    connection.rollback()
            partition.uninstall(engine)
        assert handle.claim(SCOPE, "m-1").done
        assert self.effects(place) == ["m-1"]

    def test_what_is_over_is_removed(self, place: SQLPlace, handle: SQLDeduplication) -> None:
        """A bounded number at once, what was done before what was claimed, and nothing that still holds."""
        for number in range(10):
            claim = handle.claim(SCOPE, f"m-{number}")
            if number % 2:
                handle.done(claim)
        assert handle.clean() == 0
        place.age(601)
        assert handle.claim(SCOPE, "m-0").ours
        assert handle.clean(3) == 3
        assert handle.clean(3) == 2
        assert handle.clean(3) == 0
        place.age(86400)
        assert handle.claim(SCOPE, "m-2").ours
        assert handle.clean() == 3
        assert place.run(f"SELECT message_id FROM {TABLE} ORDER BY message_id") == [("m-0",), ("m-2",)]

    def test_claims_clean_up(self, place: SQLPlace, handle: SQLDeduplication) -> None:
        """Whatever comes, what is remembered is all that is there, but for a hundred."""
        most = 0
        for number in range(450):
            handle.done(handle.claim(SCOPE, f"m-{number}"))
            if number % 150 == 149:
                most = max(most, place.run(f"SELECT count(*) FROM {TABLE}")[0][0])
                place.age(601)
        assert most <= 250
        assert place.run(f"SELECT count(*) FROM {TABLE}")[0][0] <= 150


def _busy() -> Claim:
    return Claim(SCOPE, "m-1", Outcome.BUSY)


class TestSQLite(SQLContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> SQLitePlace:
        place = SQLitePlace(tmp_path / "messages.db")
        place.open().install()
        return place

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        """It is made by the first call, whichever that is, and again when somebody has removed it."""
        place = SQLitePlace(tmp_path / "new.db")
        handle = place.open()
        assert outcomes(together([lambda: handle.claim(SCOPE, "m-1")] * 10)) == {"ours": 1, "busy": 9}
        place.path.unlink()
        claim = handle.claim(SCOPE, "m-1")
        assert claim.ours
        place.path.unlink()
        assert handle.done(claim) is False
        assert handle.claim(SCOPE, "m-1").done

    def test_a_database_that_cannot_be_made(self, tmp_path: Path) -> None:
        """The error says why, and what has another table of the name is left as it is."""
        with pytest.raises(DeduplicationError, match=r"there is no folder .*missing to make messages.db in"):
            open_deduplication(f"sqlite:///{tmp_path}/missing/messages.db").claim(SCOPE, "m-1")
        alike = SQLitePlace(tmp_path / "alike.db")
        alike.run(f"CREATE TABLE {TABLE} (name)")
        with pytest.raises(DeduplicationError, match="no column"):
            alike.open().claim(SCOPE, "m-1")
        with pytest.raises(ConfigurationError, match="is no file"):
            open_deduplication("sqlite://")

    def test_a_file_that_is_locked(self, place: SQLitePlace) -> None:
        """A writer that does not end holds nobody up for longer than the time-out."""
        handle = place.open()
        claim = handle.claim(SCOPE, "m-1")
        holder = sqlite3.connect(place.path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        start = time.monotonic()
        with pytest.raises(DeduplicationError, match="locked"):
            handle.done(claim)
        assert 1.5 < time.monotonic() - start < 3
        holder.close()
        assert handle.done(claim) is True


@pytest.mark.service
class TestPostgreSQL(OutageContract, SQLContract):
    service = "postgresql"

    @pytest.fixture
    def place(self, postgresql: str, unique: str) -> Iterator[PostgreSQLPlace]:
        with psycopg.connect(postgresql, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {unique}".encode())
            place = PostgreSQLPlace(postgresql, unique)
            place.open().install()
            yield place
            connection.execute(f"DROP SCHEMA {unique} CASCADE".encode())

    @pytest.mark.parametrize("level", ["serializable", "repeatable read"])
    def test_the_default_of_the_server_does_not_matter(self, place: PostgreSQLPlace, level: str) -> None:
        """Many that claim at once each have an answer, whatever isolation transactions have by default."""
        url = f"{place.url}%20-cdefault_transaction_isolation%3D{level.replace(' ', '%5C%20')}"
        handle = open_deduplication(url, ttl=30)
        for _ in range(3):
            claims = together([lambda: handle.claim(SCOPE, "m-1")] * 20)
            assert outcomes(claims) == {"ours": 1, "busy": 19}
            place.age(31)
        handle.close()

    @pytest.mark.parametrize("commits", [True, False])
    def test_nobody_waits_for_a_long_transaction(
        self, place: PostgreSQLPlace, engine: Engine, handle: SQLDeduplication, commits: bool
    ) -> None:
        """While a mark is not committed the message is busy, also when the claim expires; then it is done, or anybody's."""
        claim = handle.claim(SCOPE, "m-1")
        with engine.connect() as connection:
            handle.done_within(claim, connection)
            start = time.monotonic()
            assert handle.claim(SCOPE, "m-1").busy
            connection.rollback()
            place.age(31)
            handle.done_within(claim, connection)
            told = handle.claim(SCOPE, "m-1")
            assert told.busy
            assert handle.clean() == 0
            assert time.monotonic() - start < 1
            if commits:
                connection.commit()
        assert handle.claim(SCOPE, "m-1").done is commits

    def test_who_may_not_make_tables(self, place: PostgreSQLPlace, unique: str) -> None:
        """A role with the rights that the page names can do all of it once the table is there, and is told of a missing one."""
        role = f"r{unique}"
        place.run(f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {place.schema} TO {role}")
        try:
            place.run(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLE} TO {role}")
            handle = open_deduplication(f"{place.url}%20-crole%3D{role}", ttl=30)
            assert isinstance(handle, SQLDeduplication)
            handle.install()
            claim = handle.claim(SCOPE, "m-1")
            place.age(31)
            again = handle.claim(SCOPE, "m-1")
            assert again.ours
            assert handle.release(again) is True
            assert handle.done(claim) is False
            place.age(86401)
            assert handle.clean() == 1
            place.run(f"DROP TABLE {TABLE}")
            with pytest.raises(DeduplicationError, match="permission denied for schema"):
                handle.claim(SCOPE, "m-1")
            handle.close()
        finally:
            place.run(f"DROP OWNED BY {role}; DROP ROLE {role}")

    def test_connections_are_few(self, place: PostgreSQLPlace) -> None:
        """Five are kept, however many calls are made at once, and none after it was closed."""
        handle = open_deduplication(f"{place.url}&application_name={place.schema}")
        query = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{place.schema}'"
        together([lambda number=number: handle.claim(SCOPE, f"m-{number}") for number in range(30)])
        time.sleep(0.3)
        assert 1 <= place.run(query)[0][0] <= 5
        handle.close()
        time.sleep(0.3)
        assert place.run(query)[0][0] == 0

    @pytest.mark.slow
    def test_a_claimant_that_is_stopped(self, place: PostgreSQLPlace, handle: SQLDeduplication) -> None:
        """Somebody who has begun to claim, and goes no further, keeps others waiting for that one message, and for the time-out only."""
        blocked = threading.Event()
        with handle._database.connect(writing=True) as connection:
            row = {"scope": SCOPE, "message_id": "m-1", "state": "claimed", "token": "t", "owner": "", "until": 0.0}
            connection.execute(sqlalchemy.insert(sqlalchemy.table(TABLE, *map(sqlalchemy.column, row))).values(row))

            def claim() -> None:
                start = time.monotonic()
                with pytest.raises(DeduplicationError, match="timeout"):
                    handle.claim(SCOPE, "m-1")
                if 1 < time.monotonic() - start < 4.5:
                    blocked.set()

            thread = threading.Thread(target=claim)
            thread.start()
            time.sleep(0.2)
            other = place.open()
            assert other.claim(SCOPE, "m-2").ours
            thread.join(5)
            other.close()
        assert blocked.is_set()
        assert handle.claim(SCOPE, "m-1").ours

    @pytest.mark.slow
    def test_random_walks_of_transactions(self, place: PostgreSQLPlace, engine: Engine) -> None:
        """
        Transactions of several handlers that stay open over whatever else happens: no message ever has two effects, and one that is done
        has one, or was said to be done by somebody who was late.
        """
        handle = place.open(ttl=1000, retention=10**9)
        who, which = st.integers(0, 2), st.integers(0, 1)
        actions = ["claim", "claim", "work", "work", "commit", "rollback", "release", "age"]
        step = st.tuples(st.sampled_from(actions), who, which)

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(step, max_size=30))
        def walk(steps: list[tuple[str, int, int]]) -> None:
            scope = f"walk:{uuid4().hex}"
            claims: dict[tuple[int, int], Claim] = {}
            open_: dict[tuple[int, int], Any] = {}
            effects = [0, 0]
            try:
                for action, who, which in steps:
                    at = who, which
                    locked = any(other == which for _, other in open_)
                    if action == "age":
                        # Behind a lock time stands still.
                        place.run(
                            f"UPDATE {TABLE} SET until = until - 1500 WHERE (scope, message_id) IN (SELECT scope, message_id FROM {TABLE} "
                            f"WHERE scope = '{scope}' AND state = 'claimed' FOR UPDATE SKIP LOCKED)"
                        )
                    elif action == "claim":
                        claim = handle.claim(scope, f"m-{which}")
                        assert not (claim.ours and (locked or effects[which])), "claimed while it is being marked, or after it was"
                        assert claim.done == (effects[which] == 1)
                        if claim.ours:
                            claims[at] = claim
                    elif action == "work" and at in claims and at not in open_:
                        connection = engine.connect()
                        try:
                            handle.done_within(claims[at], connection)
                            open_[at] = connection
                        except ClaimLostError:
                            connection.close()
                            assert claims[at].token != _token(place, scope, which)
                    elif action == "commit" and at in open_:
                        connection = open_.pop(at)
                        connection.commit()
                        connection.close()
                        effects[which] += 1
                    elif action == "rollback" and at in open_:
                        open_.pop(at).close()
                    elif action == "release" and at in claims and not locked:
                        handle.release(claims.pop(at))
                    assert max(effects) <= 1
            finally:
                for connection in open_.values():
                    connection.close()

        walk()
        handle.close()


def _token(place: SQLPlace, scope: str, which: int) -> str | None:
    found = place.run(f"SELECT token FROM {TABLE} WHERE scope = '{scope}' AND message_id = 'm-{which}'")
    return found[0][0] if found else None


def test_a_driver_that_is_another_is_refused() -> None:
    """It is told when it is opened, without the password."""
    with pytest.raises(ConfigurationError, match="asks for the driver asyncpg") as caught:
        open_deduplication("postgresql+asyncpg://someone:secret@host/database")
    assert "secret" not in str(caught.value)


def test_a_name_that_leads_nowhere() -> None:
    """The error has the driver's words, in one line."""
    with pytest.raises(DeduplicationError, match="refused") as caught:
        open_deduplication("postgresql://127.0.0.1:1/tenancy").claim(SCOPE, "m-1")
    assert "\n" not in str(caught.value)
