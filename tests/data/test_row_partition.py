"""
How a partition is set up, and whose rows are whose.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock
from uuid import uuid4

import pytest
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    MetaData,
    StaticPool,
    String,
    Table,
    TypeDecorator,
    Uuid,
    create_engine,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from tenancy import config
from tenancy.data import sqlalchemy as module
from tenancy.data.sqlalchemy import ANY, RowPartition
from tenancy.errors import ConfigurationError, IdentityError, MissingDependencyError, PartitionError
from tenancy.key import RoutingKey
from tenancy.scope import scope
from tests.data.shop import Base, Country, Order, User, countries, dump, orders, rows, seed, users

Install = Callable[..., RowPartition]


def ids(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.scalars(select(users.c.id).order_by(users.c.id)))


def ids_of(*owners: str | None) -> list[int]:
    return [row["id"] for row in rows()["users"] if row["org_id"] in owners]


# Whose rows


def test_value_is_the_key_by_default(memory: Engine, install: Install) -> None:
    """Without a value function the column holds the routing key."""
    install("org_id", baseline=ANY)
    with scope("a"):
        assert ids(memory) == ids_of("a")


@pytest.mark.parametrize("value", [{"pr-42": "b"}, lambda key: "b" if key == "pr-42" else None], ids=["mapping", "function"])
def test_value(memory: Engine, install: Install, value: Any) -> None:
    """The column's value comes from a mapping or a function of the key."""
    install("org_id", value, baseline=ANY)
    with scope("pr-42"):
        assert ids(memory) == ids_of("b")


def test_value_function_gets_a_routing_key(memory: Engine, install: Install) -> None:
    """The function is given the key, and its errors arrive as they are."""
    seen = []

    def value(key: RoutingKey) -> str:
        seen.append(key)
        raise LookupError(key)

    install("org_id", value, baseline=ANY)
    with scope("pr-42"), pytest.raises(LookupError):
        ids(memory)
    assert seen == ["pr-42"]
    assert type(seen[0]) is RoutingKey


def test_value_is_asked_once_for_a_statement(memory: Engine, install: Install) -> None:
    """So that it may be a function that is not free."""
    value = mock.Mock(return_value="a")
    install("org_id", value, baseline=ANY)
    with scope("pr-42"), memory.connect() as connection:
        connection.execute(select(users).join(orders, users.c.id == orders.c.user_id))
        assert value.call_count == 1
        connection.execute(update(users).where(users.c.id == 1), [{"name": "x"}, {"name": "y"}])
        assert value.call_count == 2


def test_baseline_any(memory: Engine, install: Install) -> None:
    """With ANY, work without a key sees everything and changes everything."""
    install("org_id", baseline=ANY)
    assert ids(memory) == ids_of("a", "b", None)
    with memory.begin() as connection:
        connection.execute(update(users).values(name="x"))
        connection.execute(text("UPDATE users SET org_id = 'c', email = id"))
    with scope("c"):
        assert ids(memory) == ids_of("a", "b", None)


def test_baseline_null(memory: Engine, install: Install) -> None:
    """With None, work without a key owns the rows where the column is NULL."""
    install("org_id", baseline=None)
    assert ids(memory) == ids_of(None)
    with memory.begin() as connection:
        connection.execute(insert(users).values(id=100, name="x", email="x"))
        with pytest.raises(PartitionError, match="the baseline owns"):
            connection.execute(insert(users).values(id=101, org_id="a", name="x", email="x"))
        with pytest.raises(PartitionError):
            connection.execute(update(users).values(org_id="a"))
        with pytest.raises(PartitionError):
            connection.execute(text("SELECT * FROM users"))
        assert connection.execute(update(users).values(name="x", org_id=None)).rowcount == 5


def test_baseline_value(memory: Engine, install: Install) -> None:
    """With a value, work without a key owns the rows with that value."""
    install("org_id", baseline="b")
    assert ids(memory) == ids_of("b")
    with memory.begin() as connection:
        connection.execute(insert(users).values(id=100, name="x", email="x"))
        assert connection.scalar(select(users.c.org_id).where(users.c.id == 100)) == "b"
    with scope("b"), pytest.raises(PartitionError, match="baseline's rows"):
        ids(memory)


def test_unknown_key_is_the_baselines(memory: Engine, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key without a value is served as work without a key, and counted."""
    counted: list[str] = []
    monkeypatch.setattr(module, "count", counted.append)
    install("org_id", {"pr-42": "a"}, baseline="b")
    with scope("pr-43"):
        assert ids(memory) == ids_of("b")
    assert counted == ["tenancy.partition.unknown_keys"]
    with scope("pr-42"):
        ids(memory)
    ids(memory)
    assert len(counted) == 1


def test_unknown_key_refused(memory: Engine, install: Install) -> None:
    """Or it is refused, by policy."""
    install("org_id", {"pr-42": "a"}, baseline=ANY, unknown="refuse")
    with scope("pr-43"), pytest.raises(PartitionError, match="'pr-43' has no value for 'org_id'"):
        ids(memory)
    with scope("pr-43"), memory.connect() as connection, pytest.raises(PartitionError):
        connection.exec_driver_sql("SELECT * FROM users")


def test_new_objects_show_their_owner(memory: Engine, install: Install) -> None:
    """After a flush an object has the value that went into the database, without being loaded again."""
    install("org_id", baseline=ANY)
    with scope("a"), Session(memory) as session:
        user = User(id=100, name="x", email="x")
        session.add(user)
        session.flush()
        assert vars(user)["org_id"] == "a"
    with Session(memory) as session:
        user = User(id=100, name="x", email="x")
        session.add(user)
        session.flush()
        assert user.org_id is None


def test_same_statement_for_all(memory: Engine, install: Install) -> None:
    """A statement that SQLAlchemy has cached for one owner, or for nobody, is right for the next."""
    install("org_id", baseline=ANY)
    statement = select(users.c.id).order_by(users.c.id)
    for _ in range(3):
        for owner in ("a", None, "b", "nobody"):
            with scope(owner), memory.connect() as connection:
                expected = ids_of(owner) if owner else ids_of("a", "b", None)
                assert list(connection.scalars(statement)) == expected
                assert list(connection.scalars(statement, {})) == expected
                assert list(connection.execution_options(compiled_cache=None).scalars(statement)) == expected
            with scope(owner), Session(memory) as session:
                assert len(session.scalars(select(User)).all()) == len(expected)


# Tables


def test_tables_without_the_column(memory: Engine, install: Install) -> None:
    """They can be read under a key, but not written; without a key they can be, whatever the baseline is."""
    partition = install("org_id", baseline=None)
    with scope("a"), Session(memory) as session:
        assert len(session.scalars(select(Country)).all()) == 2
        session.add(Country(code="x", name="x"))
        with pytest.raises(PartitionError, match=r"shared=\['countries'\]"):
            session.flush()
    with memory.begin() as connection:
        connection.execute(insert(countries).values(code="x", name="x"))
    assert partition.uncovered(Base.metadata) == ["countries"]


def test_shared_tables(memory: Engine, install: Install) -> None:
    """A shared table is everyone's, with or without the column."""
    partition = install("org_id", baseline=ANY, shared=["countries", "orders"])
    with scope("a"), memory.begin() as connection:
        connection.execute(insert(countries).values(code="x", name="x"))
        assert connection.scalar(select(func.count()).select_from(orders)) == 24
        connection.execute(update(orders).values(org_id="b"))
    assert partition.uncovered(Base.metadata) == ["countries", "orders"]


def test_schemas(memory: Engine, install: Install) -> None:
    """Tables of other schemas are covered, under their own name as by a schema map; `shared` takes the full name."""
    with memory.begin() as connection:
        connection.exec_driver_sql("ATTACH ':memory:' AS other")
    there = Table("users", MetaData(schema="other"), Column("id", Integer), Column("org_id", String))
    also = Table("more", there.metadata, Column("id", Integer), Column("org_id", String))
    there.metadata.create_all(memory)
    install("org_id", baseline=ANY, shared=["other.more"])
    for owner in ("a", "b"):
        with scope(owner), memory.begin() as connection:
            connection.execute(insert(there), [{"id": 1}, {"id": 2}])
            connection.execute(insert(also), [{"id": 1}])
    with scope("a"), memory.begin() as connection:
        assert connection.scalar(select(func.count()).select_from(there)) == 2
        assert connection.scalar(select(func.count()).select_from(there.join(users, users.c.id == there.c.id + 2))) == 1
        assert connection.scalar(select(func.count()).select_from(also)) == 2
        assert connection.execute(delete(there).where(there.c.id == 1)).rowcount == 1
        mapped = connection.execution_options(schema_translate_map={None: "other"})
        assert mapped.scalar(select(func.count()).select_from(users)) == 1
        assert mapped.execute(update(users).where(users.c.id == 2).values(id=3)).rowcount == 1
    assert [row.org_id for row in memory.connect().execute(select(there).order_by(there.c.id))] == ["b", "b", "a"]


@pytest.mark.parametrize("given", ["org_id", "ORG_ID", "Org_Id"])
def test_case_of_the_column(database: Any, given: str) -> None:
    """A column that was made, and is reflected, as ORG_ID is covered."""
    with database.plain.begin() as connection:
        connection.exec_driver_sql('CREATE TABLE loud (id INTEGER PRIMARY KEY, "ORG_ID" VARCHAR(40))')
        connection.exec_driver_sql("INSERT INTO loud VALUES (1, 'a'), (2, 'b')")
    loud = Table("loud", MetaData(), autoload_with=database.plain)
    upsert: Any = (postgresql if database.name == "postgresql" else sqlite).insert(loud)
    partition = RowPartition(given, baseline=ANY)
    partition.install(database.engine)
    try:
        assert partition.uncovered(loud.metadata) == []
        with scope("a"), database.engine.begin() as connection:
            assert connection.scalars(select(loud.c.id)).all() == [1]
            connection.execute(insert(loud).values(id=3))
            connection.execute(insert(loud).from_select(["id"], select(loud.c.id + 10)))
            assert connection.execute(update(loud).values(id=loud.c.id + 100)).rowcount == 4
            connection.execute(upsert.values(id=5).on_conflict_do_update(index_elements=["id"], set_={"id": 6}))
            for name in ("ORG_ID", "org_id"):
                stolen = upsert.values(id=2).on_conflict_do_update(index_elements=["id"], set_={name: "b"})
                with pytest.raises(PartitionError, match="may not write 'b'"):
                    connection.execute(stolen)
            with pytest.raises(PartitionError, match="may not write 'b'"):
                connection.execute(update(loud).values(ORG_ID="b"))
            assert connection.execute(delete(loud)).rowcount == 5
        with database.plain.connect() as connection:
            assert connection.execute(select(loud)).all() == [(2, "b")]
    finally:
        partition.uninstall(database.engine)
        loud.drop(database.plain)


def test_two_columns_that_differ_in_case(database: Any) -> None:
    """Where a database has both, it is the one that was named."""
    if database.name == "sqlite":
        pytest.skip("not possible on SQLite")
    both = Table("both", MetaData(), Column("ORG_ID", String(40)), Column("org_id", String(40)))
    both.create(database.plain)
    partition = RowPartition("org_id", baseline=ANY)
    partition.install(database.engine)
    try:
        with scope("a"), database.engine.begin() as connection:
            connection.execute(insert(both).values(ORG_ID="b"))
            assert connection.execute(select(both)).all() == [("b", "a")]
    finally:
        partition.uninstall(database.engine)
        both.drop(database.plain)


class _Doubled(TypeDecorator[str]):
    impl = String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return None if value is None else value * 2

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return None if value is None else value[: len(value) // 2]


ONE, TWO = uuid4(), uuid4()


@pytest.mark.parametrize(
    ("type_", "values"),
    [(Integer(), (1, 2)), (Uuid(), (ONE, TWO)), (_Doubled(), ("x", "y")), (String(3), ("x", "y"))],
    ids=["integer", "uuid", "decorated", "string"],
)
def test_types_of_the_column(database: Any, type_: Any, values: tuple[Any, Any]) -> None:
    """The column may have any type, with SQLAlchemy's own conversions, and any name in Python."""
    metadata = MetaData()
    things = Table(
        "things", metadata, Column("id", Integer, primary_key=True, autoincrement=False), Column("tenant", type_, key="owner")
    )
    others = Table("others", metadata, Column("id", Integer, primary_key=True, autoincrement=False), Column("tenant", type_))
    metadata.create_all(database.plain)
    partition = RowPartition("tenant", {"a": values[0], "b": values[1]}, baseline=ANY)
    partition.install(database.engine)
    try:
        for n, owner in enumerate(("a", "b")):
            with scope(owner), database.engine.begin() as connection:
                connection.execute(insert(things), [{"id": n}, {"id": n + 10, "owner": values[n]}])
                connection.execute(insert(things).values(id=n + 20, owner=values[n]))
                connection.execute(insert(others).from_select(["id"], select(things.c.id)))
                with pytest.raises(PartitionError):
                    connection.execute(insert(things), [{"id": n + 30, "owner": values[1 - n]}])
        for n, owner in enumerate(("a", "b")):
            with scope(owner), database.engine.connect() as connection:
                found = connection.execute(
                    select(things.c.id, others.c.tenant).join_from(things, others, others.c.id == things.c.id)
                )
                assert sorted(tuple(row) for row in found) == [(m, values[n]) for m in (n, n + 10, n + 20)]
    finally:
        partition.uninstall(database.engine)
        metadata.drop_all(database.plain)


# Engines


def test_other_engines_are_left_alone(memory: Engine, install: Install) -> None:
    """A partition concerns its engine, not other engines with the same tables."""
    install("org_id", baseline=ANY)
    other = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(other)
    with other.begin() as connection:
        seed(connection)
    with scope("a"):
        assert ids(other) == ids_of("a", "b", None)
        with Session(other) as session:
            session.add(User(id=100, name="x", email="x"))
            session.flush()
            assert session.get_one(User, 100).org_id is None
            assert session.scalar(text("SELECT count(*) FROM users")) == 13
            with scope("b"):
                assert session.get(User, 1) is not None
    other.dispose()


def test_two_engines(memory: Engine, install: Install) -> None:
    """One partition may serve several engines, each may be uninstalled by itself."""
    partition = install("org_id", baseline=ANY)
    other = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(other)
    with other.begin() as connection:
        seed(connection)
    partition.install(other)
    with scope("a"), Session(memory) as one, Session(other) as two:
        assert len(one.scalars(select(User)).all()) == len(two.scalars(select(User)).all()) == 4
    partition.uninstall(other)
    with scope("a"):
        assert ids(other) == ids_of("a", "b", None)
        assert ids(memory) == ids_of("a")
    other.dispose()


def test_engine_with_options(memory: Engine, install: Install) -> None:
    """An engine made by `execution_options()`, before or after, is restricted like its parent."""
    before = memory.execution_options(one=1)
    install("org_id", baseline=ANY)
    with scope("a"):
        assert ids(before) == ids(memory.execution_options(isolation_level="AUTOCOMMIT")) == ids_of("a")
        with Session(before) as session:
            session.add(User(id=100, name="x", email="x"))
            session.flush()
            assert session.get_one(User, 100).org_id == "a"


async def test_asyncio(tmp_path: Any) -> None:
    """An AsyncEngine is installed as such; streams and connections are restricted."""
    path = tmp_path / "shop.db"
    plain = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(plain)
    with plain.begin() as connection:
        seed(connection)
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    partition = RowPartition("org_id", baseline=ANY)
    partition.install(engine)
    with scope("a"):
        async with engine.connect() as connection:
            result = await connection.stream_scalars(select(users.c.id).order_by(users.c.id))
            assert [n async for n in result] == ids_of("a")
            with pytest.raises(PartitionError):
                await connection.execute(text("SELECT * FROM users"))
    partition.uninstall(engine)
    with scope("a"):
        async with engine.connect() as connection:
            assert len((await connection.execute(select(users))).all()) == 12
    await engine.dispose()
    plain.dispose()


def test_uninstall(memory: Engine, install: Install) -> None:
    """Everything is as before, also for statements that were compiled in between."""
    compiler = memory.dialect.statement_compiler
    partition = install("org_id", baseline=ANY)
    with scope("a"):
        assert ids(memory) == ids_of("a")
        partition.uninstall(memory)
        assert ids(memory) == ids_of("a", "b", None)
        partition.uninstall(memory)
        with memory.begin() as connection:
            connection.execute(text("DELETE FROM users"))
    assert memory.dialect.statement_compiler is compiler
    partition.install(memory)
    with scope("a"):
        assert ids(memory) == []


def test_switched_off(memory: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tenancy is off, nothing is installed."""
    monkeypatch.setattr(config, "_current", config.Settings(enabled=False))
    compiler = memory.dialect.statement_compiler
    partition = RowPartition("org_id", baseline=None)
    partition.install(memory)
    assert memory.dialect.statement_compiler is compiler
    with memory.begin() as connection:
        seed(connection)
    with scope("a"):
        assert ids(memory) == ids_of("a", "b", None)
    partition.uninstall(memory)
    assert dump(memory)["users"]


def test_switched_off_in_a_sandbox(memory: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork whose switch is off does not silently write among the baseline's rows."""
    monkeypatch.setattr(config, "_current", config.Settings(enabled=False, sandbox="pr-42"))
    with pytest.raises(IdentityError, match="pr-42"):
        RowPartition("org_id", baseline=ANY).install(memory)


def test_installed_twice(memory: Engine, install: Install) -> None:
    """An engine has one partition."""
    partition = install("org_id", baseline=ANY)
    for again in (partition, RowPartition("name", baseline=ANY)):
        with pytest.raises(ConfigurationError, match="already"):
            again.install(memory)


def test_other_databases() -> None:
    """A database that this was not tested with is refused."""
    engine = create_engine("mysql+pymysql://localhost/x", module=mock.Mock(paramstyle="format"))
    with pytest.raises(ConfigurationError, match="not for mysql"):
        RowPartition("org_id", baseline=ANY).install(engine)


def test_other_sqlalchemy(memory: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SQLAlchemy whose compiler works in another way is refused at the start, and a statement would be even then."""
    monkeypatch.delattr(module.PartitionCompiler, "_compose_select_body")
    compiler = memory.dialect.statement_compiler
    partition = RowPartition("org_id", baseline=ANY)
    with pytest.raises(PartitionError):
        partition.install(memory)
    assert memory.dialect.statement_compiler is compiler
    monkeypatch.setattr(RowPartition, "_probe", lambda self, engine: None)
    partition.install(memory)
    with scope("a"), pytest.raises(PartitionError, match="cannot be restricted"):
        ids(memory)
    partition.uninstall(memory)


@pytest.mark.parametrize(
    "arguments",
    [
        {"column": ""},
        {"column": None},
        {"column": users.c.org_id},
        {"value": 3},
        {"shared": "countries"},
        {"unknown": "ignore"},
        {"raw_sql": "maybe"},
    ],
)
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    """An argument that cannot be used is named at once."""
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        RowPartition(**{"column": "org_id", "baseline": ANY, **arguments})


def test_coroutine_function_as_value() -> None:
    """SQLAlchemy's events cannot wait for a coroutine."""

    async def value(key: RoutingKey) -> str:
        return key

    with pytest.raises(ConfigurationError, match="coroutine"):
        RowPartition("org_id", value, baseline=ANY)


def test_baseline_is_required() -> None:
    """Whose rows are the baseline's is a decision that nobody should make by leaving it out."""
    with pytest.raises(TypeError, match="baseline"):
        RowPartition("org_id")  # type: ignore[call-arg]


def test_without_sqlalchemy() -> None:
    """The error of a missing library says what to install."""
    name = "tenancy.data.sqlalchemy"
    with mock.patch.dict(sys.modules, {"sqlalchemy": None}):
        del sys.modules[name]
        with pytest.raises(MissingDependencyError, match=r"request-tenancy\[sqlalchemy\]"):
            importlib.import_module(name)


def test_relationship_to_an_uncovered_owner(memory: Engine, install: Install) -> None:
    """A row that refers to another owner's row loads as if that row did not exist."""
    install("org_id", baseline=ANY)
    with scope("a"), Session(memory) as session:
        foreign = [order for order in session.scalars(select(Order)) if order.user_id not in ids_of("a")]
        assert foreign
        assert all(order.user is None for order in foreign)
