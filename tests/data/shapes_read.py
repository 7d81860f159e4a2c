"""
Statements that read, of every shape that an application may write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy import (
    Integer,
    MetaData,
    Row,
    all_,
    and_,
    any_,
    bindparam,
    case,
    cast,
    column,
    except_,
    exists,
    func,
    intersect,
    lambda_stmt,
    lateral,
    literal,
    literal_column,
    not_,
    or_,
    select,
    table,
    tablesample,
    text,
    true,
    tuple_,
    union,
    union_all,
    values,
)
from sqlalchemy.orm import (
    Bundle,
    Session,
    aliased,
    contains_eager,
    defer,
    joinedload,
    lazyload,
    selectin_polymorphic,
    selectinload,
    subqueryload,
    undefer,
    with_loader_criteria,
    with_polymorphic,
)

from tests.data.shop import Animal, Dog, Gift, Item, Order, Tag, User, countries, items, order_tags, orders, tags, users


class Shape(NamedTuple):
    run: Callable[[Session], Any]
    only: str | None = None  # a dialect's name


SHAPES: dict[str, Shape] = {}


def shape(run: Any = None, *, only: str | None = None) -> Any:
    if run is None:
        return lambda run: shape(run, only=only)
    assert run.__name__ not in SHAPES
    SHAPES[run.__name__] = Shape(run, only)
    return run


def core(make: Any = None, *, only: str | None = None) -> Any:
    """The function returns a statement, which is executed on the connection."""
    if make is None:
        return lambda make: core(make, only=only)
    assert make.__name__ not in SHAPES
    SHAPES[make.__name__] = Shape(lambda session: session.connection().execute(make()).all(), only)
    return make


def show(value: Any, depth: int = 3) -> Any:
    """Objects as plain values, without loading anything more."""
    if isinstance(value, (list, tuple, Row)):
        return [show(one, depth) for one in value]
    if hasattr(value, "__mapper__"):
        state = {name: one for name, one in vars(value).items() if not name.startswith("_")}
        return type(value).__name__, {name: show(state[name], depth - 1) for name in sorted(state)} if depth else state["id"]
    return value


u, o, i = users.c, orders.c, items.c
u2, o2 = users.alias("u2"), orders.alias("o2")

# Core


@core
def select_table():
    return select(users)


@core
def select_columns():
    return select(u.name, u.id)


@core
def select_label_and_expression():
    return select((u.id + 1).label("next"), u.org_id)


@core
def where():
    return select(u.id).where(u.name == "n1")


@core
def where_or():
    return select(u.id).where(or_(u.name == "n1", u.id > 0))


@core
def where_text_or():
    return select(u.id).where(text("users.id = 1 OR 1 = 1"))


@core
def where_literal_column_or():
    return select(u.id).where(literal_column("users.id = 1 OR 1 = 1"))


@core
def where_operator_or():
    return select(u.id).where((u.id == 1).op("OR")(u.id > 0))


@core
def where_asks_for_others():
    return select(u.id).where(u.org_id == "a")


@core
def where_not():
    return select(u.id).where(not_(and_(u.org_id == "a", u.id > 3)))


@core
def where_in():
    return select(u.id).where(u.id.in_([1, 2, 3, 4, 5, 6]))


@core
def where_tuple_in():
    return select(u.id).where(tuple_(u.id, u.name).in_([(1, "n1"), (2, "n2"), (3, "n3")]))


@core
def count():
    return select(func.count()).select_from(users)


@core
def count_column():
    return select(func.count(u.id))


@core
def maximum():
    return select(func.max(u.id), func.min(o.id)).select_from(users.join(orders, true()))


@core
def distinct():
    return select(u.name).distinct()


@core(only="postgresql")
def distinct_on():
    return select(u.name, u.id).distinct(u.name).order_by(u.name, u.id.desc())


@core
def group_by_having():
    return select(o.user_id, func.sum(o.amount)).group_by(o.user_id).having(func.count() > 0)


@core(only="postgresql")
def group_by_primary_key():
    return select(users, func.count(o.id)).join_from(users, orders, u.id == o.user_id).group_by(u.id)


@core
def having_text():
    return select(o.user_id).group_by(o.user_id).having(text("count(*) > 0 OR 1 = 1"))


@core
def order_limit_offset():
    return select(u.id).order_by(u.name, u.id.desc()).limit(2).offset(1)


@core
def order_by_text():
    return select(u.id).order_by(text("users.id DESC")).limit(2)


@core
def implicit_join():
    return select(u.id, o.id).where(u.id == o.user_id)


@core
def cross_join():
    return select(u.id, o.id).select_from(users.join(orders, true()))


@core
def explicit_join():
    return select(u.id, o.id).join_from(users, orders, u.id == o.user_id)


@core
def join_only_right_selected():
    return select(u.name).select_from(orders.join(users, u.id == o.user_id))


@core
def outer_join():
    return select(u.id, o.id, o.org_id).select_from(users.outerjoin(orders, u.id == o.user_id))


@core
def outer_join_text_on():
    return select(u.id, o.id).select_from(users.outerjoin(orders, text("users.id = orders.user_id OR orders.id < 5")))


@core
def outer_join_of_nothing():
    return select(u.id).select_from(users.outerjoin(orders, u.id == o.user_id)).where(o.id.is_(None))


@core
def outer_joins_chained():
    return select(u.id, o.id, i.id).select_from(users.outerjoin(orders, u.id == o.user_id).outerjoin(items, i.order_id == o.id))


@core
def outer_join_to_join():
    return select(u.id, o.id, i.id).select_from(users.outerjoin(orders.join(items, i.order_id == o.id), u.id == o.user_id))


@core
def outer_join_to_outer_join():
    return select(u.id, o.id, i.id).select_from(users.outerjoin(orders.outerjoin(items, i.order_id == o.id), u.id == o.user_id))


@core
def join_after_outer_join():
    return select(u.id, o.id, i.id).select_from(users.outerjoin(orders, u.id == o.user_id).join(items, i.id == u.id))


@core
def join_of_uncovered():
    return select(u.id, countries.c.code).select_from(countries.outerjoin(users, u.id > 6))


@core
def alias():
    return select(u2.c.id, u2.c.name).where(u2.c.id > 2)


@core
def alias_of_alias():
    again = users.alias("x").alias("y")
    return select(again.c.id)


@core
def self_join():
    return select(u.id, u2.c.id).join_from(users, u2, u.boss_id == u2.c.id)


@core
def self_outer_join():
    return select(u.id, u2.c.id).select_from(users.outerjoin(u2, u.boss_id == u2.c.id))


@core
def subquery():
    inner = select(u.id, u.name).where(u.id > 2).subquery()
    return select(inner.c.name).where(inner.c.id < 9)


@core
def subquery_joined():
    sums = select(o.user_id, func.sum(o.amount).label("total")).group_by(o.user_id).subquery()
    return select(u.id, sums.c.total).select_from(users.outerjoin(sums, sums.c.user_id == u.id))


@core
def full_join_of_subqueries():
    left, right = select(u.id).subquery(), select(o.id, o.user_id).subquery()
    return select(left.c.id, right.c.id).select_from(left.outerjoin(right, left.c.id == right.c.user_id, full=True))


@core
def full_join_of_uncovered():
    return select(countries.c.code).select_from(countries.outerjoin(countries.alias("c2"), true(), full=True))


@core(only="postgresql")
def lateral_join():
    newest = lateral(select(o.id).where(o.user_id == u.id).order_by(o.id.desc()).limit(1))
    return select(u.id, newest.c.id).select_from(users.outerjoin(newest, true()))


@core(only="postgresql")
def table_sample():
    sample = tablesample(users, func.bernoulli(100), name="sample")
    return select(sample.c.id)


@core
def where_exists():
    return select(u.id).where(exists().where(o.user_id == u.id))


@core
def where_not_exists():
    return select(u.id).where(~select(o.id).where(o.user_id == u.id).exists())


@core
def select_exists():
    return select(exists().where(u.id == 2))


@core
def exists_uncorrelated():
    return select(countries.c.code).where(select(u.id).where(u.id == 2).exists())


@core
def in_subquery():
    return select(u.id).where(u.id.in_(select(o.user_id).where(o.amount > 3)))


@core
def not_in_subquery():
    return select(u.id).where(u.id.not_in(select(o.user_id)))


@core
def scalar_subquery():
    return select(countries.c.code, select(func.count(u.id)).scalar_subquery())


@core
def scalar_subquery_correlated():
    return select(u.id, select(func.count()).where(o.user_id == u.id).scalar_subquery())


@core
def scalar_subquery_ordering():
    return select(u.id).order_by(select(func.count()).where(o.user_id == u.id).scalar_subquery().desc(), u.id)


@core
def scalar_subquery_compared():
    return select(u.id).where(u.id == select(func.max(u2.c.id)).scalar_subquery())


@core(only="postgresql")
def any_and_all():
    return select(u.id).where(u.id == any_(select(o.user_id).scalar_subquery()), u.id <= all_(select(u2.c.id).scalar_subquery()))


@core
def case_with_subquery():
    return select(case((exists().where(o.user_id == 3), 1), else_=0))


@core
def cte():
    found = select(u.id, u.name).cte("found")
    return select(found.c.id, o.id).select_from(found.join(orders, o.user_id == found.c.id))


@core
def cte_twice():
    found = select(u.id).cte("found")
    other = found.alias("other")
    return select(found.c.id, other.c.id).where(found.c.id < other.c.id)


@core
def cte_of_cte():
    first = select(u.id).cte("first")
    second = select(first.c.id).join_from(first, orders, o.user_id == first.c.id).cte("second")
    return select(second.c.id)


@core
def cte_recursive():
    chain = select(u.id, u.boss_id).where(u.id < 5).cte("chain", recursive=True)
    chain = chain.union(select(u.id, u.boss_id).join_from(users, chain, chain.c.boss_id == u.id))
    return select(chain.c.id)


@core
def cte_added():
    found = select(u.id).cte("found")
    return select(o.id).where(o.user_id.in_(select(found.c.id))).add_cte(found)


@core
def union_of_tables():
    return union(select(u.id), select(o.id))


@core
def union_all_of_one_table():
    return union_all(select(u.id).where(u.id < 5), select(u.id).where(u.id > 3)).order_by("id").limit(5)


@core
def except_of_tables():
    return except_(select(u.id), select(o.user_id))


@core
def intersect_of_tables():
    return intersect(select(u.id), select(o.user_id))


@core
def union_nested():
    return union_all(union(select(u.id), select(o.id)).subquery().select(), select(i.id))


@core
def union_in_subquery():
    both = union_all(select(u.id), select(o.user_id)).subquery()
    return select(both.c.id, func.count()).group_by(both.c.id)


@core
def union_in_exists():
    return select(u.id).where(u.id.in_(union(select(o.user_id), select(i.order_id))))


@core
def window():
    return select(u.id, func.row_number().over(partition_by=u.name, order_by=u.id))


@core(only="postgresql")
def values_joined():
    wanted = values(column("n", Integer), name="wanted").data([(1,), (2,), (3,)])
    return select(u.id).join_from(users, wanted, u.id == wanted.c.n)


@core
def lightweight_table_with_the_column():
    light = table("users", column("id"), column("org_id"))
    return select(light.c.id)


@core
def second_table_object_of_the_same_name():
    again = users.to_metadata(MetaData())
    return select(again.c.id)


@core
def lambda_statement():
    low = 2
    return lambda_stmt(lambda: select(users.c.id)) + (lambda statement: statement.where(users.c.id > low))


@core
def prefix_and_hint():
    return select(u.id).prefix_with("ALL").with_statement_hint("", "mysql")


@core
def type_cast():
    return select(cast(u.id, Integer), literal("x"))


@core(only="postgresql")
def for_update():
    return select(users).where(u.id > 1).with_for_update()


@core(only="postgresql")
def for_update_of_one():
    return select(u.id, o.id).join_from(users, orders, u.id == o.user_id).with_for_update(of=users, skip_locked=True)


@core(only="postgresql")
def function_in_from():
    series = func.generate_series(1, 12).table_valued("n").render_derived()
    return select(series.c.n, u.id).select_from(series.outerjoin(users, u.id == series.c.n))


@core(only="postgresql")
def whole_row_as_argument():
    return select(func.row_to_json(users.table_valued()))


@core(only="postgresql")
def array_of_subquery():
    return select(func.array(select(u.id).order_by(u.id).scalar_subquery()))


@core
def many_to_many():
    return (
        select(o.id, tags.c.label)
        .join_from(orders, order_tags, order_tags.c.order_id == o.id)
        .join(tags, tags.c.id == order_tags.c.tag_id)
    )


@shape
def parameters(session):
    statement = select(u.id).where(u.id > bindparam("low"))
    return session.connection().execute(statement, {"low": 4}).all()


@shape
def scalar(session):
    return session.connection().scalar(select(func.sum(o.amount)))


@shape
def streamed(session):
    found = session.connection().execution_options(stream_results=True, max_row_buffer=2).execute(select(u.id).order_by(u.id))
    return [row.id for row in found]


# ORM


@shape
def orm_entities(session):
    return session.scalars(select(User).order_by(User.id)).all()


@shape
def orm_columns(session):
    return session.execute(select(User.id, User.name)).all()


@shape
def orm_bundle(session):
    return [tuple(row[0]) for row in session.execute(select(Bundle("b", User.id, User.name)))]


@shape
def orm_count(session):
    return session.scalar(select(func.count()).select_from(User))


@shape
def orm_where_text(session):
    return session.scalars(select(User).where(text("users.id = 1 OR 1 = 1"))).all()


@shape
def orm_get(session):
    return [session.get(User, n) for n in range(14)]


@shape
def orm_join(session):
    return session.execute(select(User.id, Order.id).join(User.orders)).all()


@shape
def orm_outer_join(session):
    return session.execute(select(User.id, Order.id).outerjoin(User.orders)).all()


@shape
def orm_outer_join_condition(session):
    return session.execute(select(User.id, Order.id).outerjoin(User.orders.and_(Order.amount > 4))).all()


@shape
def orm_join_on_clause(session):
    return session.execute(select(User, Order).join(Order, Order.user_id == User.id)).all()


@shape
def orm_joins(session):
    return session.execute(select(User.id, Item.id).join(User.orders).outerjoin(Order.items)).all()


@shape
def orm_join_many_to_many(session):
    return session.execute(select(Order.id, Tag.id).outerjoin(Order.tags)).all()


@shape
def orm_aliased(session):
    boss = aliased(User)
    return session.execute(select(User.id, boss.id).outerjoin(boss, User.boss)).all()


@shape
def orm_aliased_subquery(session):
    young = aliased(User, select(User).where(User.id > 4).subquery())
    return session.scalars(select(young)).all()


@shape
def orm_any(session):
    return session.scalars(select(User).where(User.orders.any(Order.amount > 2))).all()


@shape
def orm_not_any(session):
    return session.scalars(select(User).where(~User.orders.any())).all()


@shape
def orm_has(session):
    return session.scalars(select(Order).where(Order.user.has(User.name == "n1"))).all()


@shape
def orm_many_to_many_any(session):
    return session.scalars(select(Order).where(Order.tags.any(Tag.label == "t1"))).all()


@shape
def orm_union(session):
    both = select(User).where(User.id < 4).union(select(User).where(User.id > 7))
    return session.scalars(select(User).from_statement(both)).all()


@shape
def orm_union_aliased(session):
    both = aliased(User, union_all(select(User).where(User.id < 4), select(User).where(User.id > 7)).subquery())
    return session.scalars(select(both)).all()


@shape
def orm_cte(session):
    found = aliased(User, select(User).where(User.id > 1).cte())
    return session.execute(select(found, Order.id).join(Order, Order.user_id == found.id)).all()


@shape
def orm_from_statement(session):
    return session.scalars(select(User).from_statement(select(users).where(u.id > 2).order_by(u.id))).all()


@shape
def orm_lambda_statement(session):
    return session.scalars(lambda_stmt(lambda: select(User).where(User.id > 2))).all()


@shape
def orm_joinedload(session):
    return session.scalars(select(User).options(joinedload(User.orders).joinedload(Order.items))).unique().all()


@shape
def orm_joinedload_inner(session):
    return session.scalars(select(Order).options(joinedload(Order.user, innerjoin=True))).unique().all()


@shape
def orm_joinedload_nested_inner(session):
    option = joinedload(User.orders).joinedload(Order.items, innerjoin=True)
    return session.scalars(select(User).options(option)).unique().all()


@shape
def orm_joinedload_limit(session):
    return session.scalars(select(User).options(joinedload(User.orders)).order_by(User.id).limit(2)).unique().all()


@shape
def orm_joinedload_many_to_many(session):
    return session.scalars(select(Order).options(joinedload(Order.tags))).unique().all()


@shape
def orm_joinedload_self(session):
    return session.scalars(select(User).options(joinedload(User.boss).joinedload(User.boss))).unique().all()


@shape
def orm_selectinload(session):
    return session.scalars(select(User).options(selectinload(User.orders).selectinload(Order.items))).all()


@shape
def orm_selectinload_many_to_many(session):
    return session.scalars(select(Order).options(selectinload(Order.tags))).all()


@shape
def orm_selectinload_many_to_one(session):
    return session.scalars(select(Order).options(selectinload(Order.user))).all()


@shape
def orm_subqueryload(session):
    return session.scalars(select(User).options(subqueryload(User.orders).subqueryload(Order.items))).all()


@shape
def orm_contains_eager(session):
    statement = select(User).outerjoin(User.orders).options(contains_eager(User.orders)).order_by(Order.id)
    return session.scalars(statement).unique().all()


@shape
def orm_lazyload(session):
    return [(user, user.orders, user.boss) for user in session.scalars(select(User).options(lazyload("*")))]


@shape
def orm_lazyload_many_to_many(session):
    return [order.tags for order in session.scalars(select(Order).order_by(Order.id))]


@shape
def orm_deferred(session):
    return [user.name for user in session.scalars(select(User).options(defer(User.name)).order_by(User.id))]


@shape
def orm_column_property(session):
    return [user.order_count for user in session.scalars(select(User).options(undefer(User.order_count)).order_by(User.id))]


@shape
def orm_column_property_deferred(session):
    return [user.order_count for user in session.scalars(select(User).order_by(User.id))]


@shape
def orm_refresh(session):
    found = session.scalars(select(User).order_by(User.id)).all()
    for user in found:
        session.refresh(user)
        session.expire(user)
    return [(user.name, user.org_id) for user in found]


@shape
def orm_refresh_relationship(session):
    found = session.scalars(select(User).order_by(User.id)).all()
    for user in found:
        session.refresh(user, ["orders"])
    return found


@shape
def orm_populate_existing(session):
    session.scalars(select(User)).all()
    return session.scalars(select(User).execution_options(populate_existing=True)).all()


@shape
def orm_yield_per(session):
    return list(session.scalars(select(User).order_by(User.id).execution_options(yield_per=2)))


@shape
def orm_loader_criteria(session):
    option = with_loader_criteria(Order, Order.amount > 3)
    return session.scalars(select(User).options(joinedload(User.orders), option)).unique().all()


@shape
def orm_query(session):
    query = session.query(User).filter(User.id > 1).order_by(User.id)
    return query.all(), query.count(), query.first(), session.query(query.exists()).scalar()


@shape
def orm_query_union(session):
    return session.query(User.id).union(session.query(Order.id)).all()


@shape
def orm_query_join(session):
    return session.query(User, Order).outerjoin(User.orders).all()


@shape
def orm_single_table_inheritance(session):
    return session.scalars(select(Gift).order_by(Gift.id)).all(), session.scalars(select(Item).order_by(Item.id)).all()


@shape
def orm_joined_inheritance(session):
    return session.scalars(select(Dog).order_by(Dog.id)).all(), [session.get(Dog, n) for n in range(6)]


@shape
def orm_joined_inheritance_lazy(session):
    return [getattr(animal, "bark", None) for animal in session.scalars(select(Animal).order_by(Animal.id))]


@shape
def orm_with_polymorphic(session):
    nested, flat = with_polymorphic(Animal, "*"), with_polymorphic(Animal, "*", flat=True)
    return session.scalars(select(nested).order_by(nested.id)).all(), session.scalars(select(flat).order_by(flat.id)).all()


@shape
def orm_selectin_polymorphic(session):
    return session.scalars(select(Animal).options(selectin_polymorphic(Animal, [Dog]))).all()


@shape(only="postgresql")
def orm_for_update(session):
    return session.get(User, 1, with_for_update=True), session.scalars(
        select(User).order_by(User.id).with_for_update(of=User)
    ).all()


@shape
def orm_scalar_subquery(session):
    newest = select(func.max(Order.id)).where(Order.user_id == User.id).correlate(User).scalar_subquery()
    return session.execute(select(User.id, newest)).all()


@shape
def orm_after_savepoint(session):
    with session.begin_nested():
        session.scalars(select(User)).all()
    return session.scalars(select(Order.id)).all()
