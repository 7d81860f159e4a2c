"""
Rows that SQLAlchemy is given all at once come into an overlay by one statement; without a key they are sent as ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import (
    ARRAY,
    JSON,
    Column,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    func,
    insert,
    select,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError

import tenancy
from tenancy.data.postgresql import PostgresIsolation, cover
from tests.data.postgresql.isolated import address_of, own_database

pytestmark = pytest.mark.service

KEY = "pr-42"

metadata = MetaData()
things = Table(
    "things",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, server_default="unnamed"),
    Column("more", JSON),
    Column("numbers", ARRAY(Integer)),
)
nodes = Table("nodes", metadata, Column("id", Integer, primary_key=True), Column("up", ForeignKey("nodes.id")))


@pytest.fixture(scope="module")
def address(postgresql: str) -> Iterator[str]:
    with own_database(postgresql) as name:
        owner = create_engine(address_of(postgresql, name))
        metadata.create_all(owner)
        isolation = PostgresIsolation(owner)
        isolation.install()
        isolation.create(KEY)
        owner.dispose()
        yield address_of(postgresql, name)


@pytest.fixture(params=["psycopg", "psycopg2"])
def engine(address: str, request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = create_engine(address.replace("+psycopg:", f"+{request.param}:"))
    cover(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def sent(engine: Engine) -> list[str]:
    found: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT"):
            found.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    return found


def _rows(count: int) -> list[dict[str, Any]]:
    return [{"id": number, "more": {"n": number}, "numbers": [number, 2] if number % 2 else None} for number in range(count)]


def test_rows_go_together_and_are_counted(engine: Engine, sent: list[str]) -> None:
    with tenancy.scope(KEY), engine.connect() as connection:
        result = connection.execute(insert(things), _rows(2500), execution_options={"preserve_rowcount": True})
        assert (result.rowcount, result.returns_rows) == (2500, False)
        assert len(sent) == 3
        assert connection.scalar(select(func.count()).select_from(things)) == 2500
        assert connection.execute(select(things).where(things.c.id == 7)).one() == (7, "unnamed", {"n": 7}, [7, 2])
        assert connection.execute(insert(things).returning(things.c.id), [{"id": 3000}, {"id": 3001}]).all() == [(3000,), (3001,)]


def test_one_that_is_there_already_lets_none_in(engine: Engine) -> None:
    with tenancy.scope(KEY), engine.connect() as connection:
        with pytest.raises(IntegrityError, match="things_pkey"), connection.begin_nested():
            connection.execute(insert(things), [*_rows(3), {"id": 2, "more": {}, "numbers": None}])
        assert connection.scalar(select(func.count()).select_from(things)) == 0


def test_an_upsert_may_be_the_first_statement_of_all(engine: Engine, address: str) -> None:
    plain = create_engine(address)
    with plain.begin() as connection:
        connection.execute(insert(things), {"id": 1, "name": "of the baseline"})
    with tenancy.scope(KEY), engine.connect() as connection:
        statement = upsert(things).values(id=1, name="of the key")
        connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_={"name": statement.excluded.name}))
        assert connection.scalars(select(things.c.name)).all() == ["of the key"]
        connection.rollback()
    with plain.begin() as connection:
        assert connection.execute(things.delete()).rowcount == 1
    plain.dispose()


def test_where_one_may_refer_to_a_later_one_they_come_one_by_one(address: str) -> None:
    engine = create_engine(address)
    cover(engine)
    with tenancy.scope(KEY), engine.connect() as connection:
        with pytest.raises(IntegrityError, match="nodes_up_fkey"), connection.begin_nested():
            connection.execute(insert(nodes), [{"id": 1, "up": 2}, {"id": 2, "up": None}])
        connection.execute(insert(nodes), [{"id": 2, "up": None}, {"id": 1, "up": 2}])
    engine.dispose()


def test_without_a_key_they_are_sent_as_by_an_engine_that_is_not_covered(engine: Engine, sent: list[str]) -> None:
    with tenancy.scope(KEY), engine.connect() as connection:
        connection.execute(insert(things), _rows(5))
        connection.rollback()
        with tenancy.scope(None):
            mine = len(sent)
            connection.execute(insert(things), _rows(5))
            connection.rollback()
    plain = create_engine(engine.url)
    theirs: list[str] = []
    event.listen(plain, "before_cursor_execute", lambda _connection, _cursor, statement, *_: theirs.append(statement))
    with plain.connect() as connection:
        connection.execute(insert(things), _rows(5))
        connection.rollback()
    plain.dispose()
    assert sent[mine:] == theirs
