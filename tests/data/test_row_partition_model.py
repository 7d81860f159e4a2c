"""
Random statements of three owners, against a model in Python.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    StaticPool,
    String,
    Table,
    create_engine,
    delete,
    func,
    insert,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, registry

from tenancy.data.sqlalchemy import RowPartition
from tenancy.errors import PartitionError
from tenancy.scope import scope

metadata = MetaData()
things = Table(
    "things",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("tenant", String, key="owner"),
    Column("size", Integer, nullable=False),
)


class Thing:
    pass


registry(metadata=metadata).map_imperatively(Thing, things)

Model = dict[int, tuple[str | None, int]]

ids, sizes = st.integers(0, 9), st.integers(0, 4)
owners = st.sampled_from(["a", "b", None])
steps = st.one_of(
    st.tuples(st.just("select"), sizes),
    st.tuples(st.just("union"), sizes, sizes),
    st.tuples(st.just("join")),
    st.tuples(st.just("get"), ids),
    st.tuples(st.just("insert"), ids, sizes, st.sampled_from(["absent", "none", "mine", "a", "b"])),
    st.tuples(st.just("insert_many"), st.lists(st.tuples(ids, sizes), min_size=1, max_size=3, unique_by=lambda pair: pair[0])),
    st.tuples(st.just("insert_select"), sizes, st.booleans()),
    st.tuples(st.just("upsert"), ids, sizes),
    st.tuples(st.just("update"), sizes, sizes),
    st.tuples(st.just("update_text"), sizes),
    st.tuples(st.just("give"), sizes, owners),
    st.tuples(st.just("delete"), sizes),
    st.tuples(st.just("flush_update"), ids, sizes),
    st.tuples(st.just("flush_delete"), ids),
)


def _apply(session: Session, model: Model, owner: str | None, step: tuple[Any, ...]) -> None:
    """Do one step in the database and in the model; a step that raises changes neither."""
    name, *given_ = step
    mine = {n: size for n, (other, size) in model.items() if other == owner}
    c = things.c
    if name == "select":
        (size,) = given_
        assert sorted(session.scalars(select(c.id).where(c.size >= size))) == sorted(n for n in mine if mine[n] >= size)
    elif name == "union":
        low, high = given_
        found = session.scalars(union_all(select(c.id).where(c.size < low), select(c.id).where(c.size > high)))
        assert sorted(found) == sorted([n for n in mine if mine[n] < low] + [n for n in mine if mine[n] > high])
    elif name == "join":
        other = things.alias()
        found = session.execute(select(c.id, other.c.id).select_from(things.outerjoin(other, other.c.id == c.id + 1)))
        assert sorted(tuple(row) for row in found) == sorted((n, n + 1 if n + 1 in mine else None) for n in mine)
    elif name == "get":
        (n,) = given_
        thing = session.get(Thing, n)
        assert (thing is not None) == (n in mine)
    elif name == "insert":
        n, size, explicit = given_
        values = {"id": n, "size": size}
        if explicit != "absent":
            values["owner"] = {"none": None, "mine": owner}.get(explicit, explicit)
        if values.get("owner") not in (None, owner):
            try:
                session.execute(insert(things), values)
                raise AssertionError("a row of another owner was inserted")
            except PartitionError:
                return
        _unless_taken(session, insert(things), [values], model, owner)
    elif name == "insert_many":
        _unless_taken(session, insert(things), [{"id": n, "size": size} for n, size in given_[0]], model, owner)
    elif name == "insert_select":
        size, with_column = given_
        source = select(c.id + 20, c.size, *([c.owner] if with_column else [])).where(c.size == size, c.id < 10)
        names = ["id", "size", *(["owner"] if with_column else [])]
        fresh = {n + 20: (owner, size) for n in mine if mine[n] == size and n < 10}
        with session.begin_nested() as nested:
            try:
                session.execute(insert(things).from_select(names, source))
                assert not set(fresh) & set(model)
                model.update(fresh)
            except IntegrityError:
                nested.rollback()
                assert set(fresh) & set(model)
    elif name == "upsert":
        n, size = given_
        statement = sqlite.insert(things).values(id=n, size=size)
        session.execute(statement.on_conflict_do_update(index_elements=["id"], set_={"size": statement.excluded.size}))
        if n not in model or n in mine:
            model[n] = (owner, size)
    elif name == "update":
        old, new = given_
        found = session.scalars(update(things).where(c.size == old).values(size=new).returning(c.id))
        hit = [n for n in mine if mine[n] == old]
        assert sorted(found) == sorted(hit)
        model.update(dict.fromkeys(hit, (owner, new)))
    elif name == "update_text":
        session.execute(update(things).where(text("id = 0 OR id >= 0")).values(size=given_[0]))
        model.update(dict.fromkeys(mine, (owner, given_[0])))
    elif name == "give":
        size, other = given_
        try:
            session.execute(update(things).where(c.size == size).values(owner=other))
            assert other == owner
        except PartitionError:
            assert other != owner
    elif name == "delete":
        session.execute(delete(things).where(c.size == given_[0]))
        for n in mine:
            if mine[n] == given_[0]:
                del model[n]
    else:
        thing: Any = session.get(Thing, given_[0])
        if thing is None:
            return
        if name == "flush_update":
            thing.size = given_[1]
            model[given_[0]] = (owner, given_[1])
        else:
            session.delete(thing)
            del model[given_[0]]
        session.flush()


def _unless_taken(session: Session, statement: Any, rows: list[dict[str, Any]], model: Model, owner: str | None) -> None:
    taken = any(row["id"] in model for row in rows)
    with session.begin_nested() as nested:
        try:
            session.execute(statement, rows)
            assert not taken
            model.update({row["id"]: (owner, row["size"]) for row in rows})
        except IntegrityError:
            nested.rollback()
            assert taken


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(owners, st.lists(steps, min_size=1, max_size=5)), max_size=8))
def test_against_model(sequence: list[tuple[str | None, list[tuple[Any, ...]]]]) -> None:
    """Whatever the owners do, each sees its own rows, and the database ends as the model does."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    metadata.create_all(engine)
    rows = RowPartition("tenant", baseline=None)
    rows.install(engine)
    model: Model = {}
    try:
        for owner, transaction in sequence:
            with scope(owner), Session(engine) as session:
                for step in transaction:
                    _apply(session, model, owner, step)
                assert session.scalar(select(func.count()).select_from(Thing)) == sum(other == owner for other, _ in model.values())
                session.commit()
    finally:
        rows.uninstall(engine)
    with engine.connect() as connection:
        assert {row.id: (row.owner, row.size) for row in connection.execute(select(things))} == model
    engine.dispose()
