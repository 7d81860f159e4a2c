"""
The leak test. For every shape of statement: on a database with the rows of three owners, a statement under one owner's key must give what
it gives on a database that has this owner's rows only, must leave there what it leaves there, and must not touch a byte of the others'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from tenancy.data.sqlalchemy import RowPartition
from tenancy.scope import scope
from tests.data.conftest import Database
from tests.data.shapes_read import SHAPES as READ
from tests.data.shapes_read import Shape, show
from tests.data.shapes_write import SHAPES as WRITE
from tests.data.shop import OWNERS, Base, dump, seed, seeded

# A warning that the plain statement does not give, of a cartesian product say, is a condition in the wrong place.
pytestmark = pytest.mark.filterwarnings("error::sqlalchemy.exc.SAWarning")

ALL = {**READ, **WRITE}


@pytest.fixture(scope="module")
def partition(database: Database) -> Iterator[RowPartition]:
    rows = RowPartition("org_id", baseline=None, shared=["countries"])
    rows.install(database.engine)
    yield rows
    rows.uninstall(database.engine)


def _freeze(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((name, _freeze(one)) for name, one in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_freeze(one) for one in value)
    return value


def normal(result: Any, owner: str | None) -> Any:
    """Rows without their order, and without the owner: where there is one only, nobody fills it in."""
    result = show(list(result) if isinstance(result, (list, tuple)) else [result])
    text = [repr(_freeze(row)).replace(repr(owner), "None") for row in result]
    return Counter(text)


def run(database: Database, shape: Shape) -> Any:
    return database.in_session(lambda session: show(shape.run(session)))


def _of(rows: list[tuple[Any, ...]], position: int | None, owner: str | None) -> list[tuple[Any, ...]]:
    if position is None:
        return []
    return sorted(row[:position] + row[position + 1 :] for row in rows if row[position] == owner)


POSITIONS = {
    table.name: next((n for n, column in enumerate(table.c) if column.name == "org_id"), None)
    for table in Base.metadata.sorted_tables
}


def check(database: Database, reference: Database, name: str, owner: str | None) -> None:
    shape = ALL[name]
    database.hold()
    reference.hold((owner,))
    if name in WRITE:
        database.holds = reference.holds = None

    expected = run(reference, shape)
    with scope(owner):
        found = run(database, shape)

    assert normal(found, owner) == normal(expected, owner), name
    if name in WRITE:
        before, after, alone = seeded(), dump(database.plain), dump(reference.plain)
        for table, position in POSITIONS.items():
            for other in OWNERS:
                if other != owner:
                    assert _of(after[table], position, other) == _of(before[table], position, other), f"{name}: {other}'s {table}"
            # In the reference nobody fills the column of a new row.
            wanted = sorted(_of(alone[table], position, owner) + (_of(alone[table], position, None) if owner is not None else []))
            assert _of(after[table], position, owner) == wanted, name
        assert after["countries"] == before["countries"]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("owner", OWNERS, ids=["a", "b", "baseline"])
def test_same_as_alone(database: Database, reference: Database, partition: RowPartition, name: str, owner: str | None) -> None:
    """A statement behaves as if the others' rows did not exist, and leaves them as they are."""
    if ALL[name].only not in (None, database.name):
        pytest.skip(f"{ALL[name].only} only")
    check(database, reference, name, owner)


def test_same_as_alone_asyncio(async_database: Database, async_reference: Database) -> None:
    """The same is true with asyncio, for each driver."""
    rows = RowPartition("org_id", baseline=None, shared=["countries"])
    rows.install(async_database.engine)
    for name, shape in ALL.items():
        if shape.only in (None, async_database.name):
            check(async_database, async_reference, name, OWNERS[len(name) % 3])


@pytest.mark.parametrize("owner", OWNERS, ids=["a", "b", "baseline"])
def test_reading_changes_nothing(database: Database, partition: RowPartition, owner: str | None) -> None:
    """The reading shapes leave the database as it is."""
    database.hold()
    for shape in READ.values():
        if shape.only in (None, database.name):
            with scope(owner):
                run(database, shape)
    assert dump(database.plain) == seeded()


@pytest.mark.parametrize("name", WRITE)
def test_shapes_write(reference: Database, name: str) -> None:
    """Each writing shape does write."""
    shape = WRITE[name]
    if shape.only not in (None, reference.name):
        pytest.skip(f"{shape.only} only")
    reference.hold()
    reference.holds = None
    run(reference, shape)
    assert name == "insert_or_nothing" or dump(reference.plain) != seeded()


@pytest.mark.parametrize("name", READ)
def test_seeds_are_worth_something(memory: Engine, name: str) -> None:
    """Each reading shape gives something else where all rows can be seen; a leak would show."""
    shape = READ[name]
    if shape.only is not None or name in ("full_join_of_uncovered", "where_asks_for_others"):
        pytest.skip("not on SQLite, or does not depend on the owner")
    results = []
    for owners in (OWNERS, *((owner,) for owner in OWNERS)):
        with memory.begin() as connection:
            seed(connection, owners)
        with Session(memory) as session:
            results.append(normal(show(shape.run(session)), None))
    assert any(one != results[0] for one in results[1:])
