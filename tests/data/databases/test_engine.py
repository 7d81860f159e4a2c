"""
An engine that goes to the database of the key at hand: what applications do with it, on every server, sync and asyncio.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import (
    AsyncAdaptedQueuePool,
    Column,
    Engine,
    Integer,
    MetaData,
    NullPool,
    String,
    Table,
    event,
    func,
    insert,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import tenancy
from tenancy.data.databases import Database, DatabasePerKey
from tenancy.data.databases import _routing as routing
from tenancy.errors import ConfigurationError, PartitionError
from tenancy.key import RoutingKey
from tests.data.databases.conftest import ALL
from tests.data.databases.places import DRIVERS, Place, drop_place, make_place

KEYS = ("pr-42", "pr-43")


class Base(DeclarativeBase):
    pass


class Mark(Base):
    __tablename__ = "marks"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    owner: Mapped[str] = mapped_column(String(80))
    n: Mapped[int]


@pytest.fixture(scope="module", params=[kind for kind in ALL if kind.values != ("command",)])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place for each kind of engine."""
    made = make_place(request.param, tmp_path_factory.mktemp("databases"), request.getfixturevalue)
    yield made
    drop_place(made, request.getfixturevalue)


@pytest.fixture
def place(shared: Place) -> Iterator[Place]:
    """A place where the databases of two keys stay from test to test, and are emptied after each."""
    yield replace(shared)
    shared.clear(keep=KEYS)


@pytest.fixture
def addresses(place: Place) -> dict[str, str]:
    """The databases of two keys."""
    return {key: place.provider().create(key) for key in KEYS}


@pytest.fixture
def databases(place: Place, addresses: dict[str, str]) -> DatabasePerKey:
    return DatabasePerKey(place.provider())


@pytest.fixture
def engine(place: Place, databases: DatabasePerKey) -> Iterator[Engine]:
    made = place.engine()
    databases.install(made)
    yield made
    made.dispose()
    databases.uninstall(made)
    made.dispose()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(routing, "count", lambda name, *_: found.append(name))
    return found


def owners(place: Place, addresses: dict[str, str]) -> dict[str, list[str]]:
    every = {"baseline": place.baseline, **addresses}
    return {name: [row[0] for row in place.rows(url, "SELECT owner FROM marks ORDER BY id")] for name, url in every.items()}


def add(engine: Engine, owner: str, number: int = 1) -> None:
    with Session(engine) as session:
        session.add(Mark(id=number, owner=owner, n=0))
        session.commit()


def test_work_goes_to_the_database_of_its_key(place: Place, engine: Engine, addresses: dict[str, str]) -> None:
    """By ORM, Core, text, and the driver's own cursor; and without a key to the baseline, on the connections that were there before."""
    make = sessionmaker(engine)
    for key in (None, "pr-42", None, "pr-43", "pr-42"):
        with tenancy.scope(key), make() as session:
            found = session.scalar(select(func.count()).select_from(Mark)) or 0
            session.add(Mark(id=found + 1, owner=str(key), n=0))
            session.commit()
    with tenancy.scope("pr-43"):
        with engine.begin() as connection:
            connection.execute(insert(Mark), [{"id": 2, "owner": "pr-43", "n": 0}, {"id": 3, "owner": "pr-43", "n": 0}])
            connection.execute(text("INSERT INTO marks VALUES (4, 'pr-43', 0)"))
        raw = engine.raw_connection()
        cursor = raw.cursor()
        cursor.execute("INSERT INTO marks VALUES (5, 'pr-43', 0)")
        raw.commit()
        raw.close()
    assert owners(place, addresses) == {"baseline": ["None"] * 2, "pr-42": ["pr-42"] * 2, "pr-43": ["pr-43"] * 5}


def test_what_is_rolled_back_is_nowhere(place: Place, engine: Engine, addresses: dict[str, str]) -> None:
    """Transactions and savepoints are those of one database."""
    with tenancy.scope("pr-42"), Session(engine) as session:
        session.add(Mark(id=1, owner="kept", n=0))
        session.flush()
        with session.begin_nested() as nested:
            session.add(Mark(id=2, owner="rolled back", n=0))
            session.flush()
            nested.rollback()
        session.commit()
        session.add(Mark(id=3, owner="rolled back", n=0))
        session.flush()
        session.rollback()
    assert owners(place, addresses) == {"baseline": [], "pr-42": ["kept"], "pr-43": []}


@pytest.mark.parametrize(
    ("first", "second"), [("pr-42", "pr-43"), ("pr-42", None), (None, "pr-42"), ("pr-44", "pr-42"), ("pr-42", "pr-44")]
)
def test_one_connection_serves_one_database(
    place: Place, engine: Engine, addresses: dict[str, str], first: str | None, second: str | None
) -> None:
    """Another key's statement on it raises before the server hears of it, in a transaction and between two; pr-44 has no database."""
    with tenancy.scope(first):
        connection = engine.connect()
        connection.execute(insert(Mark).values(id=1, owner="first", n=0))
    with tenancy.scope(second):
        for _ in range(2):
            with pytest.raises(PartitionError, match="one transaction cannot go to two databases"):
                connection.execute(insert(Mark).values(id=2, owner="second", n=0))
            with pytest.raises(PartitionError, match="one transaction cannot go to two databases"):
                connection.exec_driver_sql("DELETE FROM marks")
            connection.commit()
    with tenancy.scope(first):
        assert connection.execute(select(Mark.owner)).scalars().all() == ["first"]
    connection.close()
    found = owners(place, addresses)
    assert found.pop(first if first in KEYS else "baseline") == ["first"]
    assert list(found.values()) == [[], []]


@pytest.mark.parametrize(("first", "second"), [("pr-42", "pr-43"), ("pr-42", None), (None, "pr-42"), ("pr-42", "pr-44")])
def test_one_session_serves_one_database(
    place: Place, engine: Engine, addresses: dict[str, str], first: str | None, second: str | None
) -> None:
    """Objects of one are not written to another: not in the transaction, not after it, not without any; after close() it is as new."""
    with Session(engine) as session:
        with tenancy.scope(first):
            mark = Mark(id=1, owner="first", n=0)
            session.add(mark)
            session.commit()
            assert session.get_one(Mark, 1) is mark
        with tenancy.scope(second):
            with pytest.raises(PartitionError, match="Session"):
                session.scalars(select(Mark)).all()
            # Nor by who tries again at once.
            with pytest.raises((PartitionError, SQLAlchemyError)):
                session.scalars(select(Mark)).all()
            session.rollback()
            mark.n = 5
            with pytest.raises(PartitionError, match="Session"):
                session.flush()
            session.rollback()
            mark.n = 5
            with pytest.raises(PartitionError, match="Session"):
                session.commit()
            session.rollback()
            with pytest.raises(PartitionError, match="Session"):
                session.connection()
            session.close()
            session.add(Mark(id=2, owner="second", n=0))
            session.commit()
    found = owners(place, addresses)
    assert found.pop(first if first in KEYS else "baseline") == ["first"]
    assert found.pop(second if second in KEYS else "baseline") == ["second"]
    assert list(found.values()) == [[]]


def test_a_session_that_holds_nothing(engine: Engine) -> None:
    """It is refused, too, since nobody knows what was made of what it has read; the error says no more than is so."""
    with Session(engine) as session:
        with tenancy.scope("pr-42"):
            session.execute(text("SELECT 1"))
            session.commit()
        with (
            tenancy.scope("pr-43"),
            pytest.raises(PartitionError, match="has worked in a routing key's and is now used for another"),
        ):
            session.execute(text("SELECT 1"))


@pytest.mark.parametrize(("first", "second"), [("pr-42", None), (None, "pr-42"), ("pr-42", "pr-43")])
def test_what_one_adds_to_a_session_another_does_not_write(engine: Engine, first: str | None, second: str | None) -> None:
    with Session(engine) as session:
        with tenancy.scope(first):
            session.add(Mark(id=1, owner="first", n=0))
        with tenancy.scope(second), pytest.raises(PartitionError, match=r"(?s)Mark was added.*by"):
            session.commit()
    for key in (first, second):
        with tenancy.scope(key), Session(engine) as session:
            assert session.scalars(select(Mark)).all() == []


def test_a_key_without_a_database(place: Place, engine: Engine, addresses: dict[str, str], counted: list[str]) -> None:
    """It is served as work without a key, and each statement is counted; or refused."""
    with tenancy.scope("pr-44"):
        add(engine, "pr-44")
    assert counted == ["tenancy.partition.unknown_keys"]
    with tenancy.scope("pr-42"):
        add(engine, "pr-42")
    add(engine, "None", 2)
    assert len(counted) == 1
    strict = place.engine()
    refusing = DatabasePerKey(place.provider(), unknown="refuse")
    refusing.install(strict)
    with tenancy.scope("pr-44"), pytest.raises(PartitionError, match="'pr-44' has no database"):
        add(strict, "pr-44", 3)
    with tenancy.scope("pr-43"):
        add(strict, "pr-43")
    connection = strict.connect()
    with tenancy.scope("pr-44"), pytest.raises(PartitionError, match="'pr-44' has no database"):
        connection.execute(select(Mark))
    connection.close()
    strict.dispose()
    refusing.uninstall(strict)
    assert owners(place, addresses) == {"baseline": ["pr-44", "None"], "pr-42": ["pr-42"], "pr-43": ["pr-43"]}


def test_a_database_made_amid_a_transaction(
    place: Place, engine: Engine, databases: DatabasePerKey, addresses: dict[str, str]
) -> None:
    """Work that began in the baseline ends there; the next begins in the key's own, and not with the same Session's objects."""
    with tenancy.scope("pr-44"), Session(engine) as session:
        session.add(Mark(id=1, owner="before", n=0))
        session.flush()
        addresses["pr-44"] = place.provider().create("pr-44")
        databases.refresh()
        session.add(Mark(id=2, owner="before", n=0))
        session.commit()
        with pytest.raises(PartitionError, match="Session"):
            session.scalars(select(Mark)).all()
        with pytest.raises((PartitionError, SQLAlchemyError)):
            session.scalars(select(Mark)).all()
    with tenancy.scope("pr-44"):
        add(engine, "after")
    assert owners(place, addresses) == {"baseline": ["before"] * 2, "pr-42": [], "pr-43": [], "pr-44": ["after"]}


def test_a_database_that_is_being_made_or_dropped(place: Place, addresses: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Work of its key is refused, not served by the baseline: while it is made, when that failed, and until it is gone."""
    engine = place.engine()
    databases = DatabasePerKey(place.provider(), max_age=0)
    databases.install(engine)
    said: list[str] = []

    def refused() -> None:
        with tenancy.scope("pr-44"), pytest.raises(PartitionError, match="'pr-44'") as caught:
            add(engine, "pr-44")
        said.append(str(caught.value))
        with tenancy.scope("pr-44"), held, pytest.raises(PartitionError, match="'pr-44'"):
            held.execute(select(Mark))
        add(engine, "None", len(said))

    def fails(_url: str) -> None:
        refused()
        raise LookupError("no such revision")

    held = engine.connect()
    with pytest.raises(PartitionError, match="no such revision"):
        place.provider(migrate=fails).create("pr-44")
    held = engine.connect()
    refused()
    provider: Any = place.provider()
    if hasattr(provider, "registry"):
        provider.create("pr-44")

        def stuck(*_: Any) -> None:
            raise PartitionError("somebody is in the way")

        monkeypatch.setattr(provider, "remove", stuck)
        with pytest.raises(PartitionError, match="in the way"):
            provider.drop("pr-44")
        held = engine.connect()
        refused()
        assert "being dropped" in said[-1]
    place.provider().drop("pr-44")
    with tenancy.scope("pr-44"):
        add(engine, "pr-44", 9)
    engine.dispose()
    databases.uninstall(engine)
    assert all("being made" in each for each in said[:2])
    assert owners(place, addresses) == {"baseline": ["None"] * len(said) + ["pr-44"], "pr-42": [], "pr-43": []}


def test_what_another_process_makes_and_drops_is_seen_in_time(place: Place, addresses: dict[str, str]) -> None:
    """After max_age: a new database is used, a dropped one is not, and of one made anew nothing old is left."""
    engine = place.engine()
    databases = DatabasePerKey(place.provider(), max_age=0.2)
    databases.install(engine)
    with tenancy.scope("pr-44"):
        with engine.connect() as connection:
            assert connection.execute(select(func.count()).select_from(Mark)).scalar() == 0
        addresses["pr-44"] = place.provider().create("pr-44")
        time.sleep(0.25)
        add(engine, "pr-44")
        place.provider().drop("pr-44")
        addresses["pr-44"] = place.provider().create("pr-44")
        time.sleep(0.25)
        add(engine, "again")
        assert owners(place, addresses) == {"baseline": [], "pr-42": [], "pr-43": [], "pr-44": ["again"]}
        place.provider().drop("pr-44")
        time.sleep(0.25)
        add(engine, "baseline")
    del addresses["pr-44"]
    engine.dispose()
    databases.uninstall(engine)
    assert owners(place, addresses) == {"baseline": ["baseline"], "pr-42": [], "pr-43": []}


def test_pools_are_bounded(place: Place, addresses: dict[str, str]) -> None:
    """The least recently used is closed, but never one in use; and one that is idle for too long."""
    for key in ("pr-44", "pr-45"):
        place.provider().create(key)
    engine = place.engine()
    databases = DatabasePerKey(place.provider(), max_pools=2, idle=0.3)
    databases.install(engine)
    closed: list[Any] = []
    event.listen(engine, "close", lambda connection, _record: closed.append(connection))

    def use(key: str) -> None:
        with tenancy.scope(key), engine.connect() as connection:
            connection.execute(select(Mark)).all()

    use("pr-42")
    use("pr-43")
    use("pr-42")
    use("pr-44")
    assert databases.open_keys(engine) == ["pr-42", "pr-44"]
    assert len(closed) == 1
    with tenancy.scope("pr-42"):
        held = engine.connect()
        held.execute(select(Mark)).all()
    use("pr-43")
    use("pr-45")
    assert databases.open_keys(engine) == ["pr-42", "pr-45"]
    with tenancy.scope("pr-45"):
        other = engine.connect()
    use("pr-43")
    assert databases.open_keys(engine) == ["pr-42", "pr-45", "pr-43"]
    time.sleep(0.35)
    with engine.connect():
        assert databases.open_keys(engine) == ["pr-42", "pr-45"]
    with tenancy.scope("pr-42"):
        assert held.execute(select(Mark)).all() == []
    held.close()
    other.close()
    time.sleep(0.35)
    with engine.connect():
        assert databases.open_keys(engine) == []
    engine.dispose()
    databases.uninstall(engine)


def test_dispose_closes_what_is_not_in_use(place: Place, engine: Engine, databases: DatabasePerKey) -> None:
    """The rest when it comes back; and then all works again."""
    closed: list[Any] = []
    event.listen(engine, "close", lambda connection, _record: closed.append(connection))
    with tenancy.scope("pr-43"), engine.connect() as connection:
        connection.execute(select(Mark)).all()
    with tenancy.scope("pr-42"):
        held = engine.connect()
        before = len(closed)
        engine.dispose()
        assert len(closed) > before
        assert held.execute(select(Mark)).all() == []
        before = len(closed)
        held.close()
        assert len(closed) == before + 1
        assert databases.open_keys(engine) == []
        add(engine, "pr-42")
    assert databases.open_keys(engine) == ["pr-42"]


def test_a_forked_child_has_connections_of_its_own(place: Place, engine: Engine, addresses: dict[str, str]) -> None:
    """The parent's stay open, and a transaction that it has begun stays its own."""
    with tenancy.scope("pr-42"):
        connection, idle = engine.connect(), engine.connect()
        parents = [each.connection.driver_connection for each in (connection, idle)]
        idle.close()
        connection.execute(insert(Mark).values(id=1, owner="parent", n=0))
        if place.kind in ("sqlite", "command"):
            connection.commit()  # SQLite has one writer
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with engine.connect() as own:
                    assert own.connection.driver_connection not in parents
                add(engine, "child", 2)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        connection.execute(insert(Mark).values(id=3, owner="parent", n=0))
        connection.commit()
        connection.close()
        add(engine, "parent", 4)
    assert owners(place, addresses) == {"baseline": [], "pr-42": ["parent", "child", "parent", "parent"], "pr-43": []}


def test_listeners_and_options_hold_for_all(place: Place, engine: Engine, addresses: dict[str, str]) -> None:
    """What was listened for before and after, on the engine and its pool, is heard of; options make an engine that is routed, too."""
    heard: list[str] = []
    event.listen(engine, "connect", lambda _connection, _record: heard.append("connect"))
    event.listen(engine.pool, "checkout", lambda *_: heard.append("checkout"))
    event.listen(engine, "before_cursor_execute", lambda *_: heard.append("execute"))
    with tenancy.scope("pr-42"):
        add(engine, "pr-42")
        assert heard[-1] == "execute"
        assert heard[:2] == ["connect", "checkout"] or heard[:3].count("connect") >= 1
        with engine.execution_options(isolation_level="SERIALIZABLE").begin() as connection:
            connection.execute(insert(Mark).values(id=2, owner="pr-42", n=0))
    event.listen(engine, "checkin", lambda *_: heard.append("checkin"))
    with tenancy.scope("pr-42"):
        add(engine, "pr-42", 3)
    assert heard[-1] == "checkin"
    assert owners(place, addresses)["pr-42"] == ["pr-42"] * 3
    assert "1 routing keys" in engine.pool.status()


@pytest.mark.parametrize("pool", [{"poolclass": NullPool}, {"pool_pre_ping": True, "pool_size": 1, "max_overflow": 0}])
def test_pools_of_other_kinds(place: Place, addresses: dict[str, str], pool: dict[str, Any]) -> None:
    """A key's pool is of the engine's kind."""
    engine = place.engine(**pool)
    databases = DatabasePerKey(place.provider())
    databases.install(engine)
    for number in range(1, 4):
        for key in (None, *KEYS):
            with tenancy.scope(key):
                add(engine, str(key), number)
    engine.dispose()
    databases.uninstall(engine)
    assert owners(place, addresses) == {"baseline": ["None"] * 3, "pr-42": ["pr-42"] * 3, "pr-43": ["pr-43"] * 3}


def test_reflection_and_definitions_are_the_keys(place: Place, engine: Engine, addresses: dict[str, str]) -> None:
    """Tables are made, and seen, in the key's database alone; also where the first connection of all is a key's."""
    table = Table("late", MetaData(), Column("id", Integer, primary_key=True))
    with tenancy.scope("pr-42"):
        assert not inspect(engine).has_table("late")
        table.metadata.create_all(engine)
        assert "late" in inspect(engine).get_table_names()
        assert [column["name"] for column in inspect(engine).get_columns("late")] == ["id"]
    for key in (None, "pr-43"):
        with tenancy.scope(key):
            assert not inspect(engine).has_table("late")
            assert "marks" in inspect(engine).get_table_names()
            assert "late" not in inspect(engine).get_table_names()
    with tenancy.scope("pr-43"):
        table.metadata.create_all(engine)
    assert place.rows(addresses["pr-43"], "SELECT * FROM late") == []
    with pytest.raises(DBAPIError):
        place.rows(place.baseline, "SELECT * FROM late")


def test_uninstalled_it_is_as_before(place: Place, databases: DatabasePerKey, addresses: dict[str, str]) -> None:
    """The pool, the dialect and the listeners are those of before, and a key changes nothing."""
    engine = place.engine()
    before = engine.pool, type(engine.dialect)
    databases.install(engine)
    with pytest.raises(ConfigurationError, match="already"):
        DatabasePerKey(place.provider()).install(engine)
    with tenancy.scope("pr-42"):
        add(engine, "pr-42")
    databases.uninstall(engine)
    databases.uninstall(engine)
    assert (engine.pool, type(engine.dialect)) == before
    with tenancy.scope("pr-42"):
        add(engine, "plain")
    with Session(engine) as session, tenancy.scope("pr-43"):
        assert session.scalars(select(Mark.owner)).all() == ["plain"]
    engine.dispose()
    assert owners(place, addresses) == {"baseline": ["plain"], "pr-42": ["pr-42"], "pr-43": []}


def test_switched_off_it_does_nothing(place: Place, databases: DatabasePerKey) -> None:
    """The engine's pool is its own, and the provider is not asked."""
    tenancy.configure(enabled=False)
    engine = place.engine()
    pool = engine.pool
    databases.install(engine)
    assert engine.pool is pool
    with tenancy.scope("pr-42"):
        add(engine, "plain")
    engine.dispose()
    assert place.rows(place.baseline, "SELECT owner FROM marks") == [("plain",)]


def test_without_the_registry_work_without_a_key_goes_on(place: Place, addresses: dict[str, str]) -> None:
    """With a key it is refused: nobody knows whose database to take."""
    provider = place.provider()
    engine = place.engine()
    databases = DatabasePerKey(provider, max_age=0)
    databases.install(engine)

    def lost() -> Any:
        raise PartitionError("the registry is gone")

    provider.databases = lost  # type: ignore[method-assign]
    add(engine, "None")
    with tenancy.scope("pr-42"), pytest.raises(PartitionError, match="the registry is gone"):
        add(engine, "pr-42")
    engine.dispose()
    databases.uninstall(engine)
    assert owners(place, addresses) == {"baseline": ["None"], "pr-42": [], "pr-43": []}


class Fixed:
    """A provider with an address for pr-42."""

    def __init__(self, address: str) -> None:
        self.address = address

    def create(self, key: RoutingKey | str) -> str:
        return self.address

    def drop(self, key: RoutingKey | str) -> None: ...

    def databases(self) -> dict[RoutingKey, Database]:
        return {RoutingKey("pr-42"): Database(self.address, "1")}


def refused(place: Place, provider: Any, **options: Any) -> str:
    engine = place.engine(**options)
    databases = DatabasePerKey(provider)
    databases.install(engine)
    with tenancy.scope("pr-42"), pytest.raises((PartitionError, ConfigurationError)) as caught:
        add(engine, "pr-42")
    engine.dispose()
    databases.uninstall(engine)
    assert place.rows(place.baseline, "SELECT * FROM marks") == []
    return str(caught.value)


def test_addresses_that_lead_elsewhere(place: Place, addresses: dict[str, str]) -> None:
    """The baseline's own, another kind of server's, none at all; the error names the key."""
    assert "the baseline's own database" in refused(place, Fixed(place.baseline))
    other = "postgresql://user:secret@host/x" if place.kind != "postgresql" else "mysql://user:secret@host/x"
    shown = refused(place, Fixed(other))
    assert "'pr-42'" in shown
    assert "secret" not in shown
    assert "'pr-42'" in refused(place, Fixed("no url"))
    assert "names no database" in refused(place, Fixed(f"{make_url(place.baseline).get_backend_name()}://host"))


def test_the_baselines_database_by_another_name(place: Place, addresses: dict[str, str], tmp_path: Any) -> None:
    """A server has many addresses, and a file many names: it is asked which it is. Another database at such an address is a key's own."""
    url = make_url(place.baseline)
    if place.kind == "sqlite":
        for number, link in enumerate((os.symlink, os.link)):
            link(url.database or "", tmp_path / f"{number}.db")
            assert "the baseline's own database" in refused(place, Fixed(f"sqlite:///{tmp_path / f'{number}.db'}"))
        return
    assert url.host == "127.0.0.1"
    for host in ("localhost", "0.0.0.0"):
        other = url.set(host=host)
        fixed = Fixed(other.render_as_string(hide_password=False))
        databases = DatabasePerKey(fixed)
        engine = place.engine(pool_size=1, max_overflow=0)
        databases.install(engine)
        with engine.connect() as connection:
            connection.execute(select(Mark)).all()  # all of the baseline's pool is in use
            for _ in range(2):
                with tenancy.scope("pr-42"), pytest.raises(PartitionError, match="the baseline's own database"):
                    add(engine, "pr-42")
            fixed.address = other.set(database=make_url(addresses["pr-42"]).database).render_as_string(hide_password=False)
            databases.refresh()
            with tenancy.scope("pr-42"):
                add(engine, f"by {host}", 1 if host == "localhost" else 2)
        engine.dispose()
        databases.uninstall(engine)
    assert owners(place, addresses) == {"baseline": [], "pr-42": ["by localhost", "by 0.0.0.0"], "pr-43": []}


def test_engines_whose_connections_are_made_elsewhere(place: Place, addresses: dict[str, str]) -> None:
    """creator=, and a listener that makes the connection: there is no telling whose database it is."""
    spare = place.engine().dialect
    arguments, options = spare.create_connect_args(place.url(place.baseline))

    def creator() -> Any:
        return spare.connect(*arguments, **options)

    shown = refused(place, place.provider(), creator=creator)
    assert "creator=" in shown


def test_what_is_given_to_install_and_to_the_class(place: Place) -> None:
    """Values that cannot be used are named."""
    provider = place.provider()
    wrong: list[tuple[Any, dict[str, Any]]] = [
        (object(), {}),
        (provider, {"unknown": "ignore"}),
        (provider, {"max_age": -1}),
        (provider, {"idle": float("nan")}),
        (provider, {"max_pools": 0}),
    ]
    for given, options in wrong:
        with pytest.raises(ConfigurationError, match=r"DatabasePerKey\("):
            DatabasePerKey(given, **options)
    with pytest.raises(ConfigurationError, match="execution_options"):
        DatabasePerKey(provider).install(place.engine().execution_options(a=1))


def test_an_engine_with_options_made_before(place: Place, databases: DatabasePerKey, addresses: dict[str, str]) -> None:
    """It is the same engine, so it is routed and guarded, too."""
    engine = place.engine()
    other = engine.execution_options(isolation_level="SERIALIZABLE")
    databases.install(engine)
    with tenancy.scope("pr-42"):
        add(other, "pr-42")
        connection = other.connect()
    with pytest.raises(PartitionError, match="one transaction cannot go to two"):
        connection.execute(select(Mark))
    connection.close()
    other.dispose()
    databases.uninstall(engine)
    assert owners(place, addresses) == {"baseline": [], "pr-42": ["pr-42"], "pr-43": []}


# asyncio


def async_engines() -> Any:
    for kind, drivers in DRIVERS.items():
        for driver in drivers[1:]:
            if kind != "command":
                yield pytest.param(kind, driver, marks=pytest.mark.service if kind != "sqlite" else (), id=driver)


@pytest.mark.parametrize(("shared", "driver"), list(async_engines()), indirect=["shared"])
async def test_asyncio(place: Place, addresses: dict[str, str], driver: str) -> None:
    """Tasks of several keys at once, over one engine; the loop goes on while it is looked up which databases there are."""
    url = place.url(place.baseline, driver.replace("psycopg_async", "psycopg"))
    engine: AsyncEngine = create_async_engine(url, poolclass=AsyncAdaptedQueuePool, pool_size=2)
    databases = DatabasePerKey(place.provider(), max_age=0.05, max_pools=1, idle=0.1)
    databases.install(engine)

    async def work(key: str | None, number: int) -> None:
        with tenancy.scope(key):
            for step in range(3):
                async with AsyncSession(engine) as session:
                    session.add(Mark(id=number * 10 + step, owner=str(key), n=0))
                    await asyncio.sleep(0.01)
                    await session.commit()

    await asyncio.gather(*(work(key, number) for number in range(1, 5) for key in (None, *KEYS)))
    async with engine.connect() as connection:
        with tenancy.scope("pr-42"), pytest.raises(PartitionError, match="one transaction cannot go to two"):
            await connection.execute(select(Mark))
    await engine.dispose()
    databases.uninstall(engine)
    assert owners(place, addresses) == {"baseline": ["None"] * 12, "pr-42": ["pr-42"] * 12, "pr-43": ["pr-43"] * 12}


@pytest.mark.parametrize(("shared", "driver"), list(async_engines()), indirect=["shared"])
async def test_asyncio_and_a_server_by_another_name(place: Place, addresses: dict[str, str], driver: str) -> None:
    """The baseline's own database is refused, another one on that server used."""
    if place.kind == "sqlite":
        return
    other = make_url(place.baseline).set(host="localhost")
    fixed = Fixed(other.render_as_string(hide_password=False))
    engine = create_async_engine(place.url(place.baseline, driver.replace("psycopg_async", "psycopg")))
    databases = DatabasePerKey(fixed)
    databases.install(engine)
    with tenancy.scope("pr-42"):
        with pytest.raises(PartitionError, match="the baseline's own database"):
            async with engine.connect() as connection:
                await connection.execute(select(Mark))
        fixed.address = other.set(database=make_url(addresses["pr-42"]).database).render_as_string(hide_password=False)
        databases.refresh()
        async with engine.begin() as connection:
            await connection.execute(insert(Mark).values(id=1, owner="pr-42", n=0))
    await engine.dispose()
    databases.uninstall(engine)
    assert owners(place, addresses) == {"baseline": [], "pr-42": ["pr-42"], "pr-43": []}
