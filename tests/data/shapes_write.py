"""
Statements that write, of every shape that an application may write.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, delete, func, insert, literal, select, text, true, union, union_all, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, selectinload

from tests.data.shapes_read import SHAPES as _READ
from tests.data.shapes_read import Shape, i, o, u
from tests.data.shop import Animal, Dog, Gift, Item, Order, Tag, User, countries, items, order_tags, orders, tags, users

SHAPES: dict[str, Shape] = {}
NEW = {"name": "new", "email": "new@", "boss_id": 2}


def shape(run: Any = None, *, only: str | None = None) -> Any:
    if run is None:
        return lambda run: shape(run, only=only)
    assert run.__name__ not in SHAPES
    assert run.__name__ not in _READ
    SHAPES[run.__name__] = Shape(run, only)
    return run


def core(make: Any = None, *, only: str | None = None) -> Any:
    """The function returns a statement and perhaps parameters, which are executed on the connection."""
    if make is None:
        return lambda make: core(make, only=only)

    def run(session: Session) -> Any:
        made = make()
        result = session.connection().execute(*(made if isinstance(made, tuple) else (made,)))
        return result.all() if result.returns_rows else None

    assert make.__name__ not in SHAPES
    SHAPES[make.__name__] = Shape(run, only)
    return make


def _upsert(session: Session) -> Any:
    return postgresql.insert if session.connection().dialect.name == "postgresql" else sqlite.insert


# Core: INSERT


@core
def insert_parameters():
    return insert(users), {"id": 100, **NEW}


@core
def insert_values():
    return insert(users).values(id=100, **NEW)


@core
def insert_values_by_column():
    return insert(users).values({u.id: 100, u.name: "new", users.c.email: "e"})


@core
def insert_values_and_parameters():
    return insert(users).values(name="new", email="e"), {"id": 100}


@core
def insert_none():
    return insert(users), {"id": 100, "org_id": None, **NEW}


@core
def insert_none_in_values():
    return insert(users).values(id=100, org_id=None, **NEW)


@core
def insert_positional_values():
    return insert(users).values((100, None, "new", "e", None))


@core
def insert_many():
    return insert(users), [{"id": 100 + n, **NEW, "email": f"{n}"} for n in range(5)]


@core
def insert_many_with_none():
    return insert(users), [{"id": 100 + n, "org_id": None, **NEW, "email": f"{n}"} for n in range(5)]


@core
def insert_many_returning():
    return insert(users).returning(u.id, u.org_id), [{"id": 100 + n, **NEW, "email": f"{n}"} for n in range(5)]


@core
def insert_many_with_common_values():
    return insert(users).values(name="new"), [{"id": 100 + n, "email": f"{n}"} for n in range(5)]


@core
def insert_multi_values():
    return insert(users).values([{"id": 100, **NEW}, {"id": 101, **NEW, "email": "e"}]).returning(u.id)


@core
def insert_multi_values_with_none():
    return insert(users).values([{"id": 100, "org_id": None, **NEW}, {"id": 101, "org_id": None, **NEW, "email": "e"}])


@core
def insert_multi_values_by_column():
    return insert(users).values([{u.id: 100, u.name: "x", u.email: "e"}, {u.id: 101, u.name: "x", u.email: "f"}])


@core
def insert_multi_values_positional():
    return insert(users).values([(100, None, "new", "e", None), (101, None, "new", "f", None)])


@core
def insert_with_subquery():
    return insert(users).values(id=select(func.max(u.id) + 100).scalar_subquery(), name="new", email="e")


@core
def insert_returning_subquery():
    return insert(users).values(id=100, **NEW).returning(u.id, select(func.count(o.id)).scalar_subquery())


@core
def insert_from_select():
    return insert(users).from_select(["id", "name", "email"], select(o.id + 100, literal("new"), literal("x").concat(o.id)))


@core
def insert_from_select_other_order():
    return insert(users).from_select(
        ["name", "email", "id"], select(u.name, u.email.concat("x"), u.id + 100).order_by(u.id).limit(2)
    )


@core
def insert_from_select_aggregate():
    return insert(users).from_select(
        ["name", "email", "id"], select(u.name, func.max(u.email).concat("x").concat(u.name), func.max(u.id) + 100).group_by(u.name)
    )


@core
def insert_from_select_with_the_column():
    return insert(items).from_select(["id", "org_id", "order_id", "kind"], select(o.id + 100, o.org_id, o.id, literal("item")))


@core
def insert_from_select_with_the_column_outer():
    source = select(u.id + 100, o.org_id, u.id, literal("item")).select_from(users.outerjoin(orders, o.id == u.id + 20))
    return insert(items).from_select(["id", "org_id", "order_id", "kind"], source)


@core
def insert_from_select_union():
    source = union_all(select(u.id + 100, u.id, u.id), select(o.id + 200, o.id, o.amount))
    return insert(orders).from_select(["id", "user_id", "amount"], source)


@core
def insert_from_select_union_nested():
    last = union(select(i.id + 300, i.id), select(i.id + 400, i.id)).order_by("id").limit(2)
    source = union_all(select(u.id + 100, u.id), last.subquery().select())
    return insert(order_tags).from_select(["order_id", "tag_id"], source)


@core
def insert_from_select_union_with_the_column():
    source = union_all(select(u.id + 100, u.org_id, u.id, u.id), select(o.id + 200, o.org_id, o.id, o.amount))
    return insert(orders).from_select(["id", "org_id", "user_id", "amount"], source)


@core
def insert_from_cte():
    found = select(u.id).cte("found")
    return insert(orders).from_select(["id", "user_id", "amount"], select(found.c.id + 100, found.c.id, literal(1)))


@core
def insert_from_select_of_uncovered():
    source = select(literal(100), countries.c.code, countries.c.name).where(countries.c.code == "no")
    return insert(users).from_select(["id", "name", "email"], source)


@shape
def upsert_new(session):
    statement = _upsert(session)(users).values(id=100, **NEW)
    session.connection().execute(statement.on_conflict_do_update(index_elements=["id"], set_={"name": "again"}))


@shape
def upsert_own(session):
    mine = session.connection().scalar(select(func.min(u.id)))
    statement = _upsert(session)(users).values(id=mine, **NEW)
    statement = statement.on_conflict_do_update(index_elements=[u.id], set_={"name": statement.excluded.name}).returning(
        u.id, u.name
    )
    return session.connection().execute(statement).all()


@shape
def upsert_own_by_constraint_with_the_column(session):
    mine = session.connection().execute(select(users).order_by(u.id)).first()
    statement = _upsert(session)(users)
    everything = {column.name: statement.excluded[column.name] for column in users.c if column.name != "id"}
    statement = statement.on_conflict_do_update(index_elements=["org_id", "email"], set_=everything)
    email = "e" if mine.org_id is None else mine.email  # nulls are never equal
    session.connection().execute(statement, {"id": 100, "org_id": mine.org_id, **NEW, "email": email})


@shape
def upsert_where(session):
    mine = session.connection().scalar(select(func.min(u.id)))
    statement = _upsert(session)(users).values(id=mine, **NEW)
    session.connection().execute(
        statement.on_conflict_do_update(index_elements=[u.id], set_={"name": "again"}, where=text("users.name = 'x' OR 1 = 1"))
    )


@shape
def upsert_many(session):
    mine = session.connection().scalars(select(u.id).order_by(u.id)).all()
    statement = _upsert(session)(users)
    statement = statement.on_conflict_do_update(index_elements=[u.id], set_={"name": statement.excluded.name})
    session.connection().execute(statement, [{"id": n, **NEW, "email": f"{n}"} for n in (*mine, 100, 101)])


@shape
def upsert_many_returning(session):
    mine = session.connection().scalars(select(u.id).order_by(u.id)).all()
    statement = _upsert(session)(users)
    statement = statement.on_conflict_do_update(index_elements=[u.id], set_={"name": statement.excluded.name}).returning(u.id)
    return session.connection().execute(statement, [{"id": n, **NEW, "email": f"{n}"} for n in (*mine, 100, 101)]).all()


@shape
def upsert_from_select(session):
    statement = _upsert(session)(users).from_select(
        ["id", "name", "email"], select(u.id, u.name.concat("!"), u.email).where(true())
    )
    session.connection().execute(statement.on_conflict_do_update(index_elements=[u.id], set_={"name": statement.excluded.name}))


@shape
def insert_or_nothing(session):
    mine = session.connection().scalar(select(func.min(u.id)))
    session.connection().execute(_upsert(session)(users).values(id=mine, **NEW).on_conflict_do_nothing())


# Core: UPDATE


@core
def update_all():
    return update(users).values(name="x")


@core
def update_parameters():
    return update(users).where(u.id > 2), {"name": "x"}


@core
def update_where():
    return update(users).where(u.id == 3).values(name="x")


@core
def update_where_text_or():
    return update(users).where(text("users.id = 1 OR 1 = 1")).values(name="x")


@core
def update_expression():
    return update(users).values({u.boss_id: u.id * 10, "name": u.name + "!"})


@core
def update_ordered():
    return update(users).ordered_values((u.name, "x"), (u.boss_id, 4))


@core
def update_many():
    return update(users).where(u.id == bindparam("wanted")).values(name=bindparam("title")), [
        {"wanted": n, "title": f"x{n}"} for n in range(1, 13)
    ]


@core
def update_returning():
    return update(users).where(u.id > 3).values(name="x").returning(users)


@core
def update_alias():
    alias = users.alias("al")
    return update(alias).where(alias.c.id > 2).values(name="x")


@core
def update_from():
    return update(users).where(u.id == o.user_id).values(name="x")


@core
def update_from_value():
    return update(users).where(u.id == o.user_id, o.id == u.id).values(boss_id=o.amount)


@core
def update_from_self():
    boss = users.alias("boss")
    return update(users).where(u.boss_id == boss.c.id).values(name=boss.c.name)


@core
def update_from_three():
    return update(users).where(u.id == o.user_id, i.order_id == o.id).values(name="x")


@core
def update_from_subquery():
    found = select(o.user_id, func.max(o.amount).label("most")).group_by(o.user_id).subquery()
    return update(users).where(u.id == found.c.user_id).values(boss_id=found.c.most)


@core
def update_from_cte():
    found = select(o.user_id).where(o.amount > 2).cte("found")
    return update(users).where(u.id == found.c.user_id).values(name="x")


@core
def update_from_uncovered():
    return update(users).where(func.length(countries.c.name) < u.id).values(name=countries.c.name)


@core
def update_with_subquery():
    return update(users).values(boss_id=select(func.max(o.id)).where(o.user_id == u.id).scalar_subquery())


@core
def update_in_subquery():
    return update(users).where(u.id.in_(select(o.user_id))).values(name="x")


@core
def update_exists():
    return update(users).where(select(o.id).where(o.user_id == u.id).exists()).values(name="x")


@core
def update_not_exists():
    return update(users).where(~select(o.id).where(o.user_id == u.id).exists()).values(name="x")


# Core: DELETE


@core
def delete_all():
    return delete(orders)


@core
def delete_where():
    return delete(orders).where(o.amount > 3)


@core
def delete_where_text_or():
    return delete(orders).where(text("orders.id = 1 OR 1 = 1"))


@core
def delete_many():
    return delete(orders).where(o.id == bindparam("wanted")), [{"wanted": n} for n in range(1, 20)]


@core
def delete_returning():
    return delete(orders).where(o.id > 3).returning(o.id, o.org_id)


@core(only="postgresql")
def delete_using():
    return delete(orders).where(o.user_id == u.id, u.name == "n1")


@core(only="postgresql")
def delete_using_self():
    twin = orders.alias("twin")
    return delete(orders).where(o.user_id == twin.c.user_id, o.id < twin.c.id)


@core
def delete_in_subquery():
    return delete(orders).where(o.user_id.in_(select(u.id).where(u.name == "n1")))


@core
def delete_not_exists():
    return delete(orders).where(~select(u.id).where(u.id == o.user_id).exists())


@core
def delete_secondary():
    return delete(order_tags).where(order_tags.c.tag_id > 3)


# ORM


def _mine(session: Session, entity: Any = User) -> Any:
    return session.scalars(select(entity).order_by(entity.id)).all()


@shape
def orm_add(session):
    user = User(id=100, name="new", email="e", orders=[Order(id=100, amount=1, items=[Item(id=100), Gift(id=101)])])
    session.add(user)
    session.flush()
    return user.org_id, user.orders[0].org_id


@shape
def orm_add_many(session):
    session.add_all([User(id=100 + n, name="new", email=f"{n}") for n in range(5)])
    session.commit()


@shape
def orm_add_other_attribute_name(session):
    tag = Tag(id=100, label="x")
    session.add(tag)
    session.flush()
    return tag.tenant


@shape
def orm_add_joined_inheritance(session):
    session.add_all([Dog(id=100, bark="w"), Animal(id=101)])
    session.flush()


@shape
def orm_add_to_mine(session):
    for n, user in enumerate(_mine(session)):
        user.orders.append(Order(id=100 + n, amount=n))
    session.flush()


@shape
def orm_update(session):
    for user in _mine(session):
        user.name = "x"
    session.commit()


@shape
def orm_update_expression(session):
    for user in _mine(session):
        user.boss_id = User.id * 2
    session.flush()
    return [user.boss_id for user in _mine(session)]


@shape
def orm_update_joined_inheritance(session):
    for dog in _mine(session, Dog):
        dog.bark = "x"
    session.flush()


@shape
def orm_delete(session):
    for user in _mine(session)[:2]:
        session.delete(user)
    session.flush()


@shape
def orm_delete_orphans(session):
    for user in _mine(session):
        user.orders.clear()
    session.flush()


@shape
def orm_delete_joined_inheritance(session):
    for dog in _mine(session, Dog):
        session.delete(dog)
    session.flush()


@shape
def orm_many_to_many_change(session):
    found = session.scalars(select(Order).options(selectinload(Order.tags)).order_by(Order.id)).all()
    every = _mine(session, Tag)
    for n, order in enumerate(found):
        order.tags = [] if n % 2 else every[:1]
    try:
        with session.begin_nested():
            session.flush()
    except Exception as error:  # the primary key of order_tags is everyone's
        assert "UNIQUE" in str(error).upper() or "StaleData" in type(error).__name__  # noqa: PT017


@shape
def orm_merge(session):
    mine = _mine(session)[0].id
    session.expunge_all()
    session.merge(User(id=mine, name="merged", email="m"))
    session.merge(User(id=100, name="merged", email="n"))
    session.flush()


@shape
def orm_insert(session):
    return session.scalars(insert(User).values(id=100, name="new", email="e").returning(User)).all()


@shape
def orm_insert_other_attribute_name(session):
    session.execute(insert(Tag).values(id=100, tenant=None, label="x"))
    session.execute(insert(Tag).values([{"id": 101, "label": "x"}, {"id": 102, "label": "y"}]))
    session.execute(insert(Tag), [{"id": 103, "label": "x"}, {"id": 104, "label": "y"}])
    session.execute(insert(Tag), [{"id": 105, "label": "x", "tenant": None}])


@shape
def orm_insert_many(session):
    session.execute(insert(User), [{"id": 100 + n, "name": "new", "email": f"{n}"} for n in range(5)])


@shape
def orm_insert_many_returning(session):
    given = [{"id": 100 + n, "name": "new", "email": f"{n}"} for n in range(5)]
    return session.scalars(insert(User).returning(User, sort_by_parameter_order=True), given).all()


@shape
def orm_insert_many_joined_inheritance(session):
    session.execute(insert(Dog), [{"id": 100 + n, "bark": "w", "species": "dog", "legs": n} for n in range(3)])


@shape
def orm_insert_multi_values(session):
    given = [{"id": 100 + n, "name": "new", "email": f"{n}"} for n in range(2)]
    return session.scalars(insert(User).values(given).returning(User.org_id)).all()


@shape
def orm_insert_from_select(session):
    session.execute(
        insert(User).from_select(["id", "name", "email"], select(Order.id + 100, literal("x"), literal("f").concat(Order.id)))
    )


@shape
def orm_upsert(session):
    mine = _mine(session)[0].id
    statement = _upsert(session)(User).values([{"id": mine, "name": "x", "email": "e"}, {"id": 100, "name": "x", "email": "f"}])
    statement = statement.on_conflict_do_update(index_elements=[User.id], set_={"name": statement.excluded.name}).returning(User)
    return session.scalars(statement, execution_options={"populate_existing": True}).all()


@shape
def orm_bulk_methods(session):
    session.bulk_insert_mappings(User, [{"id": 100, "name": "new", "email": "e"}, {"id": 101, "name": "new", "email": "f"}])
    session.bulk_save_objects([User(id=102, name="new", email="g")])
    session.bulk_save_objects([User(id=103, name="new", email="h")], return_defaults=True)
    session.bulk_update_mappings(User, [{"id": user.id, "name": "x"} for user in _mine(session)])


@shape
def orm_update_by_primary_key(session):
    session.execute(update(User), [{"id": user.id, "name": "x"} for user in _mine(session)])


@shape
def orm_update_joined_inheritance_by_primary_key(session):
    session.execute(update(Dog), [{"id": dog.id, "bark": "x", "legs": 9} for dog in _mine(session, Dog)])


@shape
def orm_update_statement(session):
    found = _mine(session)
    session.execute(update(User).where(User.id > 3).values(name="x"))
    return [user.name for user in found]


@shape
def orm_update_statement_fetch(session):
    found = _mine(session)
    session.execute(
        update(User).where(User.id > 3).values(name=User.name + "!"), execution_options={"synchronize_session": "fetch"}
    )
    return [user.name for user in found]


@shape
def orm_update_statement_evaluate(session):
    found = _mine(session)
    session.execute(update(User).where(User.id > 3).values(name="x"), execution_options={"synchronize_session": "evaluate"})
    return [user.name for user in found]


@shape
def orm_update_statement_returning(session):
    return session.scalars(update(User).where(User.id > 3).values(name="x").returning(User)).all()


@shape
def orm_update_from(session):
    session.execute(update(User).where(User.id == Order.user_id).values(name="x"), execution_options={"synchronize_session": False})


@shape
def orm_update_any(session):
    session.execute(update(User).where(User.orders.any()).values(name="x"), execution_options={"synchronize_session": False})


@shape
def orm_update_single_table_inheritance(session):
    session.execute(update(Gift).values(order_id=1))


@shape
def orm_delete_statement(session):
    _mine(session, Order)
    session.execute(delete(Order).where(Order.amount > 3))
    return _mine(session, Order)


@shape
def orm_delete_statement_fetch(session):
    _mine(session, Order)
    session.execute(delete(Order).where(Order.amount > 3), execution_options={"synchronize_session": "fetch"})
    return _mine(session, Order)


@shape
def orm_delete_statement_returning(session):
    return session.execute(delete(Order).where(Order.amount > 3).returning(Order.id)).all()


@shape
def orm_query_update_and_delete(session):
    return session.query(User).filter(User.id > 3).update({"name": "x"}), session.query(Order).filter(Order.id > 3).delete()


@shape
def rolled_back_to_savepoint(session):
    nested = session.begin_nested()
    session.execute(update(users).values(name="x"))
    nested.rollback()
    session.execute(delete(tags).where(true()))
