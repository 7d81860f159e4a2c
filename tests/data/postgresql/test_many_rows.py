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
    bindparam,
    create_engine,
    event,
    func,
    insert,
    literal,
    select,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError

import tenancy
from tenancy.data.postgresql import PostgresIsolation, cover
from tenancy.errors import PartitionError
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
computed = Table(
    "computed",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("mail", String, default=lambda: "hello-b", unique=True),
    Column("name", String),
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


@pytest.fixture
def mails(address: str) -> Iterator[Any]:
    """A row of the baseline, and what must not have changed of it."""
    plain = create_engine(address)
    with plain.begin() as connection:
        connection.execute(
            insert(computed), [{"id": 1, "mail": "hello-b", "name": "baseline"}, {"id": 2, "mail": "a", "name": "baseline"}]
        )
    yield computed
    with plain.begin() as connection:
        assert connection.execute(select(computed).order_by("id")).all() == [(1, "hello-b", "baseline"), (2, "a", "baseline")]
        connection.execute(computed.delete())
    plain.dispose()


def _named(name: Any) -> Any:
    return upsert(computed).values(mail=name)


# A statement, its parameters, and how many of its rows meet none of the baseline's.
INSERTS: dict[str, tuple[Any, Any, int]] = {
    "a parameter in an expression": (_named(func.lower(bindparam("m"))), [{"id": 7, "m": "A"}, {"id": 8, "m": "NEW"}], 1),
    "of a type": (_named(func.lower(bindparam("m", type_=String))), {"id": 7, "m": "A"}, 0),
    "with a value": (_named(func.lower(bindparam("m", "x"))), [{"id": 7, "m": "A"}, {"id": 8, "m": "NEW"}], 1),
    "with its value": (_named(func.lower(bindparam("m", "A"))), {"id": 7}, 0),
    "by itself": (_named(bindparam("m", "x")), [{"id": 7, "m": "a"}, {"id": 8, "m": "new"}], 1),
    "in several rows": (
        upsert(computed).values([{"id": 7, "mail": func.lower(bindparam("m"))}, {"id": 8, "mail": "new"}]),
        {"m": "A"},
        1,
    ),
    "in a query": (
        upsert(computed).from_select(
            ["id", "mail"], select(literal(7), func.lower(bindparam("m"))).union_all(select(literal(8), literal("new")))
        ),
        {"m": "A"},
        1,
    ),
    "with a comment": (upsert(computed).prefix_with("/* of mine */"), [{"id": 7, "mail": "a"}, {"id": 8, "mail": "new"}], 1),
    "computed": (upsert(computed), [{"id": 7}, {"id": 9}], 0),
    "computed, once": (upsert(computed).values(id=7), {}, 0),
    "computed, for one of several": (upsert(computed).values([{"id": 7}, {"id": 8, "mail": "new"}]), {}, 1),
    "computed, for the second": (upsert(computed).values([{"id": 8, "mail": "new"}, {"id": 7}]), {}, 1),
    "computed, for a query": (upsert(computed).from_select(["id"], select(literal(7))), {}, 0),
    "computed, by the way": (upsert(computed).values(name=func.lower(bindparam("n"))), [{"id": 7, "n": "A"}], 0),
}


@pytest.mark.parametrize("given", INSERTS)
def test_conflicts_with_the_baseline_however_a_value_is_given(engine: Engine, mails: Any, given: str) -> None:
    statement, rows, new = INSERTS[given]
    update = statement.on_conflict_do_update(index_elements=["mail"], set_={"name": "key"})
    for _ in range(2):  # the second time it is in the cache
        with tenancy.scope(KEY), engine.connect() as connection:
            connection.execute(statement.on_conflict_do_nothing(), rows)
            assert sorted(connection.scalars(select(computed.c.id))) == [1, 2, 8][: 2 + new]
            connection.rollback()
            connection.execute(update, rows)
            assert sorted(connection.scalars(select(computed.c.id))) == [1, 2, 8][: 2 + new]
            assert connection.scalars(select(computed.c.id).where(computed.c.name == "key")).one() in (1, 2)
            connection.rollback()


def test_many_with_a_computed_value_are_sent_in_batches(engine: Engine, mails: Any) -> None:
    statement = upsert(computed).on_conflict_do_nothing().returning(computed.c.id)
    rows = [{"id": number, "name": "x"} for number in range(3, 2503)]
    with tenancy.scope(KEY), engine.connect() as connection:
        assert connection.execute(statement, rows).all() == []
        assert connection.execute(statement, [{**row, "mail": f"m{row['id']}"} for row in rows]).all() == [
            (row["id"],) for row in rows
        ]


def test_an_upsert_in_a_cte_is_refused(engine: Engine, mails: Any) -> None:
    part = upsert(computed).values(id=7, mail="a").on_conflict_do_nothing().returning(computed.c.id).cte("part")
    with tenancy.scope(KEY), engine.connect() as connection:
        with pytest.raises(PartitionError, match=r"in a CTE does not meet the baseline's rows of computed"):
            connection.execute(select(part))
        Table("mine", MetaData(), Column("id", Integer), prefixes=["TEMPORARY"]).create(connection)
        assert connection.execute(select(insert(computed).values(id=7, mail="b").returning(computed.c.id).cte("part"))).all() == [
            (7,)
        ]
    with engine.connect() as connection:
        assert connection.execute(select(part)).all() == []
