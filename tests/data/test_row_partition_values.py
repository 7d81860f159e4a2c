"""
Values that differ in Python and not in the database, or are no values of the column.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import (
    CHAR,
    Boolean,
    Column,
    Date,
    Enum,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Table,
    TypeDecorator,
    Uuid,
    column,
    insert,
    select,
    table,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, registry

from tenancy.data._sqlalchemy_values import fit
from tenancy.data.sqlalchemy import ANY, RowPartition
from tenancy.errors import ConfigurationError, PartitionError
from tenancy.key import RoutingKey
from tenancy.scope import scope
from tests.data.conftest import Database

ONE, TWO = UUID(int=0xA1), UUID(int=0xA2)


class Colour(enum.Enum):
    red = 1
    blue = 2


class Word(str, enum.Enum):
    one = "1"
    two = "2"


class Number(enum.IntEnum):
    one = 1
    two = 2


class _Lower(TypeDecorator[str]):
    impl = String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return value and value.lower()


@contextmanager
def things(database: Database, type_: Any, value: Any, *, baseline: Any) -> Iterator[Table]:
    """
    A table with such a column, the baseline's row 1 in it, and a partition.
    """
    metadata = MetaData()
    made = Table("things", metadata, Column("id", Integer, primary_key=True, autoincrement=False), Column("org_id", type_))
    metadata.create_all(database.plain)
    with database.plain.begin() as connection:
        connection.execute(insert(made).values(id=1, org_id=None if baseline is ANY else baseline))
    partition = RowPartition("org_id", value, baseline=baseline)
    partition.install(database.engine)
    try:
        yield made
    finally:
        partition.uninstall(database.engine)
        metadata.drop_all(database.plain)


USES: dict[str, Callable[[Table], Any]] = {
    "select": lambda made: select(made.c.id),
    "update": lambda made: update(made).values(id=2),
    "delete": lambda made: made.delete(),
    "insert": lambda made: insert(made).values(id=2),
    "insert_from_select": lambda made: insert(made).from_select(["id"], select(made.c.id + 1)),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("type_", "baseline", "value"),
    [
        (Integer(), 1, "1"),
        (Integer(), 1, Word.one),
        (Integer(), 1, Number.one),
        (Integer(), 1, 1.0),
        (Integer(), 1, True),
        (String(40), "1", 1),
        (String(40), "1", Word.one),
        (String(40), "pr-42", RoutingKey("pr-42")),
        (Uuid(), ONE, str(ONE)),
        (Uuid(), ONE, str(ONE).upper()),
        (Uuid(as_uuid=False), str(ONE), ONE.hex),
        (Enum(Colour, name="colour"), Colour.red, "red"),
        (Boolean(), True, 1),
        (_Lower(), "a", "A"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_baselines_value_in_another_form(database: Database, type_: Any, baseline: Any, value: Any, use: str) -> None:
    """A key's value that the database takes for the baseline's is refused, and leaves the baseline's row alone."""
    with things(database, type_, {"pr-42": value}, baseline=baseline) as made:
        with scope("pr-42"), database.engine.begin() as connection, pytest.raises(PartitionError, match="baseline's rows"):
            connection.execute(USES[use](made))
        with database.plain.connect() as connection:
            assert connection.execute(select(made)).all() == [(1, baseline)]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("type_", "baseline", "value"),
    [
        (Integer(), 1, "01"),
        (Integer(), 1, "org-1"),
        (Integer(), 1, 1.4),
        (Integer(), 1, b"1"),
        (String(40), "1", b"1"),
        (String(40), "1", 1.0),
        (Uuid(), ONE, "x"),
        (Uuid(), ONE, 1),
        (Enum(Colour, name="colour"), Colour.red, "green"),
        (Date(), date(2026, 1, 1), datetime(2026, 1, 1)),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_no_value_of_the_column(database: Database, type_: Any, baseline: Any, value: Any, use: str) -> None:
    """What would be converted by rules of the database's own is refused."""
    with things(database, type_, {"pr-42": value}, baseline=baseline) as made:
        with (
            scope("pr-42"),
            database.engine.begin() as connection,
            pytest.raises(PartitionError, match="no value for a column of type"),
        ):
            connection.execute(USES[use](made))
        with database.plain.connect() as connection:
            assert connection.execute(select(made)).all() == [(1, baseline)]


@pytest.mark.parametrize(
    ("type_", "given", "value"),
    [
        (Integer(), "7", 7),
        (Integer(), Number.two, 2),
        (String(40), 7, "7"),
        (String(40), Word.two, "2"),
        (String(40), ONE, str(ONE)),
        (Uuid(), str(ONE), ONE),
        (Uuid(as_uuid=False), ONE, str(ONE)),
        (Enum(Colour, name="colour"), "red", Colour.red),
        (Numeric(10, 2), "7", Decimal(7)),
        (Boolean(), 1, True),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_value_becomes_what_the_column_holds(database: Database, type_: Any, given: Any, value: Any) -> None:
    """Where it is the same value for certain: as it comes from a file or from the environment, say."""
    with things(database, type_, {"pr-42": given}, baseline=ANY) as made, scope("pr-42"):
        with database.engine.begin() as connection:
            connection.execute(insert(made), [{"id": 2}, {"id": 3, "org_id": given}, {"id": 4, "org_id": value}])
            connection.execute(insert(made).values([{"id": 5}, {"id": 6, "org_id": value}]))
            connection.execute(insert(made).values(id=7, org_id=given))
            connection.execute(insert(made).from_select(["id"], select(made.c.id + 10).where(made.c.id == 2)))
            upsert: Any = (postgresql if database.name == "postgresql" else sqlite).insert(made)
            assert connection.execute(update(made).where(made.c.id == 2).values(org_id=value)).rowcount == 1
            connection.execute(upsert.from_select(["id"], select(made.c.id + 20).where(made.c.id == 2)))
            assert connection.execute(select(made.c.org_id).distinct()).all() == [(value,)]
            assert len(connection.execute(select(made.c.id)).all()) == 8
            for other in (update(made).values(org_id=None), update(made).values(org_id=made.c.org_id)):
                with pytest.raises(PartitionError):
                    connection.execute(other)

        class Thing:
            id: Any
            org_id: Any

        registry().map_imperatively(Thing, made)

        def add(session: Session) -> None:
            thing = Thing()
            thing.id = 100
            session.add(thing)
            session.flush()
            assert thing.org_id == value
            assert type(thing.org_id) is type(value)

        database.in_session(add)


def test_upsert_on_a_typed_column(database: Database) -> None:
    """The condition of an upsert carries the value in its column's form as well."""
    dialect: Any = postgresql if database.name == "postgresql" else sqlite
    with things(database, Integer(), {"a": "2", "b": "3"}, baseline=1) as made:
        upsert = dialect.insert(made).on_conflict_do_update(index_elements=["id"], set_={"id": made.c.id + 10}).returning(made.c.id)
        for owner, expected in (("a", [(5,)]), ("a", [(15,)]), ("b", [(5,)])):
            with scope(owner), database.engine.begin() as connection:
                assert connection.execute(upsert.values(id=5)).all() == expected
                assert connection.execute(upsert.values(id=1)).all() == []


def test_column_of_no_known_type(database: Database) -> None:
    """Of a table declared ad hoc the type is not known, so values are compared as text."""
    light: Any = table("things", column("id"), column("org_id"))
    with (
        things(database, Integer(), {"pr-42": "1"}, baseline=1),
        scope("pr-42"),
        database.engine.begin() as connection,
        pytest.raises(PartitionError, match="baseline's rows"),
    ):
        connection.execute(select(light.c.id))


@pytest.mark.parametrize(
    ("value", "type_", "fitted"),
    [
        (None, Integer(), None),
        (7.0, Integer(), 7),
        (Decimal(7), Integer(), 7),
        ("1.5", Numeric(), Decimal("1.5")),
        ("1.5", Float(), 1.5),
        (1, Float(), 1),
        (b"x", LargeBinary(), b"x"),
        (date(2026, 1, 1), Date(), date(2026, 1, 1)),
        ("a", Enum("a", "b"), "a"),
        (object, column("x").type, object),
        ("A", _Lower(), "A"),
        (Colour.blue, Enum(Colour), Colour.blue),
        ("2", Enum(Colour, values_callable=lambda kind: [str(one.value) for one in kind]), Colour.blue),
    ],
)
def test_fit(value: Any, type_: Any, fitted: Any) -> None:
    """The value in the column's own type."""
    assert fit(value, type_) == fitted
    assert type(fit(value, type_)) is type(fitted)


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        ("1_0", Integer()),
        (float("inf"), Integer()),
        (float("nan"), Integer()),
        (2, Boolean()),
        ("true", Boolean()),
        ("x", Numeric()),
        ("x", LargeBinary()),
        (True, String()),
        (["x"], Enum(Colour)),
        (None.__class__, Integer()),
    ],
)
def test_does_not_fit(value: Any, type_: Any) -> None:
    """What is converted by guessing is not."""
    with pytest.raises(ValueError):
        fit(value, type_)


# Two keys


@pytest.mark.parametrize("value", [{"a": "x", "b": "x"}, {"a": 1, "c": None, "d": None, "b": "1"}, {"a": Word.one, "b": "1"}])
def test_two_keys_of_a_mapping(value: dict[str, Any]) -> None:
    """Two keys with one value would share rows, and a mapping tells that at once."""
    with pytest.raises(ConfigurationError, match="'a' and 'b' both have the value"):
        RowPartition("org_id", value, baseline=ANY)


@pytest.mark.parametrize(
    ("type_", "one", "two"),
    [(String(40), "x", "x"), (Integer(), 1, "1"), (_Lower(), "a", "A"), (CHAR(4), "a", "a  "), (String(4, "NOCASE"), "a", "A")],
    ids=repr,
)
def test_two_keys_of_a_function(database: Database, type_: Any, one: Any, two: Any) -> None:
    """Of a function it is known when both have been asked for: then the second is refused, and the first is not."""
    if database.name == "postgresql" and getattr(type_, "collation", None):
        pytest.skip("SQLite only")
    values = {"a": one, "b": two}
    with things(database, type_, lambda key: values.get(key), baseline=ANY) as made:
        for _ in range(2):
            with scope("a"), database.engine.begin() as connection:
                connection.execute(select(made.c.id))
            with scope("b"), database.engine.begin() as connection, pytest.raises(PartitionError, match="'a' and 'b' both have"):
                connection.execute(insert(made).values(id=2))
        # A value that was taken from a key may be given to the next.
        del values["a"]
        with scope("b"), database.engine.begin() as connection:
            connection.execute(insert(made).values(id=2))


def test_only_so_many_keys_are_remembered(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends a new key each time does not fill the memory."""
    monkeypatch.setattr("tenancy.data._sqlalchemy_values._REMEMBERED", 3)
    partition = RowPartition("org_id", lambda key: key, baseline=ANY)
    for n in range(10):
        owner = partition._values.owner(RoutingKey(f"k{n}"))
        assert owner is not None
        partition._values.fitted(owner, String(), database.plain.dialect)
        assert len(partition._values._keys) <= 3
