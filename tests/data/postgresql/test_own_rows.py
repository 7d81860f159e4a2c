"""
What a key's own rows have to fulfil, and whose they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import IntegrityError

import tenancy
from tenancy import PartitionError
from tenancy.data.postgresql import PostgresIsolation, cover
from tests.data.postgresql.isolated import address_of, own_database

pytestmark = pytest.mark.service

DDL = """
CREATE TABLE readings (id integer PRIMARY KEY, value integer, CONSTRAINT low CHECK (value < 100));
INSERT INTO readings VALUES (1, -5);
ALTER TABLE readings ADD CONSTRAINT positive CHECK (value > 0) NOT VALID;
"""


@pytest.fixture
def address(postgresql: str) -> Iterator[str]:
    with own_database(postgresql) as name:
        yield address_of(postgresql, name)


@pytest.fixture
def isolation(address: str) -> Iterator[PostgresIsolation]:
    owner = create_engine(address)
    with owner.begin() as connection:
        connection.exec_driver_sql(DDL)
    isolation = PostgresIsolation(owner)
    isolation.install()
    for key in ("pr-1", "pr-2"):
        isolation.create(key)
    yield isolation
    owner.dispose()


@pytest.fixture
def engine(address: str, isolation: PostgresIsolation) -> Iterator[Engine]:
    engine = create_engine(address)
    cover(engine)
    yield engine
    engine.dispose()


def test_a_row_that_breaks_a_check_already_can_be_mended(engine: Engine) -> None:
    """The baseline has rows from before a constraint, which an UPDATE may leave right, but not wrong."""
    with tenancy.scope("pr-1"), engine.connect() as connection:
        with pytest.raises(IntegrityError, match="positive"), connection.begin_nested():
            connection.exec_driver_sql("UPDATE readings SET value = -7 WHERE id = 1")
        assert connection.exec_driver_sql("UPDATE readings SET value = 5 WHERE id = 1").rowcount == 1
        for value, constraint in ((-1, "positive"), (500, "low")):
            with pytest.raises(IntegrityError, match=constraint), connection.begin_nested():
                connection.exec_driver_sql(f"INSERT INTO readings VALUES (2, {value})")


def test_a_check_that_is_added_not_valid_holds_for_what_is_written_afterwards(engine: Engine, isolation: PostgresIsolation) -> None:
    with tenancy.scope("pr-1"), engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO readings VALUES (2, 50)")
    with isolation.migration() as connection:
        connection.exec_driver_sql("ALTER TABLE readings ADD CONSTRAINT odd CHECK (value & 1 = 1) NOT VALID")
    with tenancy.scope("pr-1"), engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT value FROM readings WHERE id = 2").scalar() == 50
        with pytest.raises(IntegrityError, match="odd"):
            connection.exec_driver_sql("INSERT INTO readings VALUES (3, 52)")
    assert isolation.check() == []


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO public__pr_2.readings VALUES (9, 9)",
        "INSERT INTO public__pr_2.readings__delta VALUES (9, 9)",
        "UPDATE public__pr_2.readings SET value = 8",
        "DELETE FROM public__pr_2.readings",
    ],
)
def test_another_key_s_partition_cannot_be_written_by_its_name(engine: Engine, sql: str) -> None:
    with tenancy.scope("pr-1"), engine.connect() as connection, pytest.raises(PartitionError, match="partition of pr-2"):
        connection.exec_driver_sql(sql)
    with tenancy.scope("pr-2"), engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT * FROM readings").all() == [(1, -5)]
