"""
Whose the objects are that a Session was given, or holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from tenancy.data.sqlalchemy import ANY, RowPartition
from tenancy.errors import PartitionError
from tenancy.scope import scope
from tests.data.shop import Order, User, dump, seeded

Install = Callable[..., RowPartition]


def _add(session: Session) -> None:
    session.add(Order(id=100, user_id=1, amount=1))


def _merge(session: Session) -> None:
    # Nothing is asked of the database that would say whose the Session is.
    session.merge(Order(user_id=1, amount=1), load=True)


def _cascade(session: Session) -> None:
    session.add(User(id=100, name="x", email="x", orders=[Order(id=100, amount=1)]))


ADDERS: dict[str, Callable[[Session], None]] = {"add": _add, "merge": _merge, "cascade": _cascade}


@pytest.mark.parametrize("baseline", [ANY, None], ids=["any", "null"])
@pytest.mark.parametrize(("first", "then"), [("a", None), ("a", "b"), (None, "a")])
@pytest.mark.parametrize("adder", ADDERS)
def test_added_here_and_committed_there(database: Any, adder: str, first: str | None, then: str | None, baseline: Any) -> None:
    """An object does not become another owner's by being committed after its scope."""
    database.hold()
    partition = RowPartition("org_id", baseline=baseline)
    partition.install(database.engine)
    try:
        with Session(database.engine) as session:
            with scope(first):
                ADDERS[adder](session)
            with scope(then), pytest.raises(PartitionError, match="was added to its Session by"):
                session.commit()
        assert dump(database.plain) == seeded()
    finally:
        partition.uninstall(database.engine)


@pytest.mark.parametrize("owner", ["a", "b"])
def test_cascade_from_another_owners_object(memory: Engine, install: Install, owner: str) -> None:
    """Where two keys have added, neither can write the other's."""
    install("org_id", baseline=ANY)
    with Session(memory) as session:
        with scope("a"):
            session.add(user := User(id=100, name="x", email="x"))
        with scope("b"):
            user.orders.append(Order(id=100, user_id=100, amount=1))
        with scope(owner), pytest.raises(PartitionError, match="was added"):
            session.flush()
    assert dump(memory) == seeded()


def test_added_and_committed_by_one_owner(memory: Engine, install: Install) -> None:
    """In another scope of the same key, or of a key that is served as the baseline, the object has the owner that it had."""
    install("org_id", {"a": "a"}, baseline=None)
    with Session(memory) as session:
        with scope("a"):
            session.add(Order(id=100, user_id=1, amount=1))
        with scope("a"):
            session.commit()
        session.close()
        with scope("unknown"):
            session.add(Order(id=101, user_id=1, amount=1))
        session.commit()
        session.close()
        with scope("a"):
            session.add(late := Order(id=102, user_id=1, amount=1))
        session.expunge(late)
        session.add(late)
        session.commit()
    with memory.execution_options(tenancy_raw_sql=True).connect() as connection:
        found = connection.exec_driver_sql("SELECT id, org_id FROM orders WHERE id >= 100 ORDER BY id").all()
    assert found == [(100, "a"), (101, None), (102, None)]


def test_get_from_the_identity_map(database: Any) -> None:
    """What a Session holds it hands out by `get()` without a question to anyone; this is what the page says that nobody sees."""
    database.hold()
    partition = RowPartition("org_id", baseline=ANY)
    partition.install(database.engine)
    try:
        with Session(database.engine) as session:
            with scope("a"):
                user = session.get_one(User, 3)
            with scope("b"):
                assert session.get(User, 3) is user
                with pytest.raises(PartitionError, match="use a Session for each routing key"):
                    session.get(User, 3, populate_existing=True)
                session.close()
                assert session.get(User, 3) is None
    finally:
        partition.uninstall(database.engine)
