"""
What cannot be kept to one owner is refused, before the database hears of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import (
    DDL,
    Column,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    column,
    delete,
    event,
    func,
    insert,
    lambda_stmt,
    literal,
    literal_column,
    select,
    table,
    text,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import ObjectNotExecutableError, SAWarning
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, joinedload, mapped_column, synonym
from sqlalchemy.sql import elements
from sqlalchemy.sql.expression import ClauseElement, Executable

from tenancy.data._sqlalchemy_rules import MARKERS
from tenancy.data.sqlalchemy import ANY, RowPartition
from tenancy.errors import PartitionError
from tenancy.scope import scope
from tests.data.shop import Order, User, countries, dump, items, orders, seed, seeded, users

u, o = users.c, orders.c


@pytest.fixture(autouse=True)
def partition(memory: Engine) -> Iterator[RowPartition]:
    with memory.begin() as connection:
        seed(connection)
    rows = RowPartition("org_id", baseline=ANY)
    rows.install(memory)
    yield rows
    rows.uninstall(memory)


class _Custom(Executable, ClauseElement):
    inherit_cache = True


@compiles(_Custom)
def _compile(element: _Custom, compiler: Any, **kw: Any) -> str:
    return "SELECT id FROM users"


def _insert(**values: Any) -> Any:
    return insert(users).values(id=100, name="x", email="x", **values)


REFUSED: dict[str, tuple[Any, str]] = {
    # SQL as text
    "text": (text("SELECT * FROM users"), "SQL given as text"),
    "text_dml": (text("DELETE FROM users"), "SQL given as text"),
    "text_truncate": (text("TRUNCATE users"), "SQL given as text"),
    "text_columns": (text("SELECT id FROM users").columns(column("id")), "SQL given as text"),
    "text_subquery": (select(text("SELECT id FROM users").columns(column("id")).subquery()), "SQL given as text"),
    "text_cte": (select(text("SELECT id FROM users").columns(column("id")).cte("c")), "SQL given as text"),
    "text_from": (select(text("id")).select_from(text("users")), "SQL given as text"),
    "text_where": (select(u.id).where(text("id IN (SELECT user_id FROM orders)")), "SQL given as text"),
    "text_where_unbalanced": (select(u.id).where(text("1 = 1) OR (1 = 1")), "SQL given as text"),
    "text_column": (select(u.id, text("(SELECT max(id) FROM orders)")), "SQL given as text"),
    "text_order": (select(u.id).order_by(text("(SELECT max(id) FROM orders)")), "SQL given as text"),
    "text_suffix": (select(u.id).suffix_with("UNION SELECT id FROM users"), "SQL given as text"),
    "text_prefix": (select(u.id).prefix_with("(SELECT 1),"), "SQL given as text"),
    "text_hint": (select(u.id).with_statement_hint("UNION SELECT id FROM users"), "SQL given as text"),
    "text_comment": (text("SELECT id -- the user's id\nFROM users -- it's the key"), "SQL given as text"),
    "text_column_from": (select(text("* FROM users")), "SQL given as text"),
    "literal_column_from": (select(literal_column("count(*) FROM users")), "SQL given as text"),
    "text_onclause_join": (
        select(u.id).join_from(users, orders, text("users.id = orders.user_id CROSS JOIN items")),
        "SQL given as text",
    ),
    "text_union": (union_all(select(u.id), text("SELECT id FROM users").columns(column("id"))), "SQL given as text"),
    "text_update": (update(users).where(text("id IN (SELECT 1)")).values(name="x"), "SQL given as text"),
    "text_onclause": (select(u.id).outerjoin_from(users, orders, text("EXISTS (SELECT 1)")), "SQL given as text"),
    "literal_column": (select(literal_column("(SELECT max(id) FROM users)")), "SQL given as text"),
    "literal_column_where": (select(u.id).where(literal_column("(SELECT 1) = 1")), "SQL given as text"),
    "ddl_in_disguise": (DDL("DELETE FROM users"), "SQL given as text"),
    "own_construct": (_Custom(), "SQL given as text"),
    # Reading
    "full_join": (select(u.id).select_from(users.outerjoin(orders, u.id == o.user_id, full=True)), "FULL JOIN"),
    "lightweight_table": (select(table("users", column("id")).c.id), "does not declare the column"),
    # Values
    "insert_other": (_insert(org_id="b"), "may not write 'b'"),
    "insert_other_by_column": (insert(users).values({u.id: 100, u.org_id: "b"}), "may not write 'b'"),
    "insert_expression": (_insert(org_id=func.lower("A")), "SQL expression"),
    "insert_subquery": (_insert(org_id=select(func.max(u.org_id)).scalar_subquery()), "SQL expression"),
    "insert_multi_other": (insert(users).values([{"id": 100, "org_id": "a"}, {"id": 101, "org_id": "b"}]), "may not write 'b'"),
    "insert_positional_other": (insert(users).values((100, "b", "x", "x", None)), "may not write 'b'"),
    "insert_select_literal": (insert(items).from_select(["id", "org_id"], select(o.id, literal("b"))), "may not|cannot be checked"),
    "insert_select_expression": (
        insert(items).from_select(["id", "org_id"], select(o.id, func.upper(o.org_id))),
        "cannot be checked",
    ),
    "insert_select_other_column": (
        insert(items).from_select(["id", "org_id"], select(o.id, countries.c.code)),
        "cannot be checked",
    ),
    "insert_select_subquery_column": (
        insert(items).from_select(["id", "org_id"], select(select(o.id, o.org_id).subquery())),
        "cannot be checked",
    ),
    "insert_select_union": (
        insert(items).from_select(["id", "org_id"], union_all(select(o.id, o.org_id), select(o.id, literal("b")))),
        "cannot be checked",
    ),
    "insert_select_text": (insert(items).from_select(["id"], text("SELECT 1").columns(column("id"))), "cannot be checked"),
    "update_other": (update(users).values(org_id="b"), "may not write 'b'"),
    "update_none": (update(users).values(org_id=None), "may not write None"),
    "update_expression": (update(users).values(org_id=u.name), "SQL expression"),
    "update_ordered": (update(users).ordered_values((u.org_id, "b")), "may not write 'b'"),
    "upsert_other": (
        sqlite.insert(users).values(id=1, name="x", email="x").on_conflict_do_update(index_elements=["id"], set_={"org_id": "b"}),
        "may not write 'b'",
    ),
    "upsert_expression": (
        sqlite.insert(users)
        .values(id=1, name="x", email="x")
        .on_conflict_do_update(index_elements=["id"], set_={"org_id": u.name}),
        "SQL expression",
    ),
    # Writing
    "insert_or_replace": (_insert().prefix_with("OR REPLACE"), "OR REPLACE"),
    "update_or_replace": (update(users).prefix_with("OR REPLACE").values(name="x"), "OR REPLACE"),
    "no_column_insert": (insert(countries).values(code="x", name="x"), "may not write to countries"),
    "no_column_update": (update(countries).values(name="x"), "may not write to countries"),
    "no_column_delete": (delete(countries), "may not write to countries"),
    "dml_in_cte": (select(delete(users).returning(u.id).cte("gone").c.id), "inside of another one"),
    "dml_added_as_cte": (select(u.id).add_cte(_insert(org_id="b").returning(u.id).cte("new")), "inside of another one"),
    "dml_of_uncovered_in_cte": (select(delete(countries).returning(countries.c.code).cte("gone").c.code), "inside of another one"),
    "dml_in_from_statement": (select(User).from_statement(_insert(org_id="b").returning(User)), "inside of another one"),
    "dml_in_lambda": (lambda_stmt(lambda: delete(users)), "lambda_stmt"),
    "delete_with_outer_join": (
        delete(users).where(select(o.id).select_from(users.alias("z").outerjoin(orders, true(), full=True)).exists()),
        "FULL JOIN",
    ),
}

PARAMETERS: dict[str, tuple[Any, Any, str]] = {
    "insert_other": (insert(users), {"id": 100, "org_id": "b", "name": "x", "email": "x"}, "may not write 'b'"),
    "insert_many_one_other": (
        insert(users),
        [{"id": 100, "org_id": "a", "name": "x", "email": "x"}, {"id": 101, "org_id": "b", "name": "x", "email": "y"}],
        "may not write 'b'",
    ),
    "update_other": (update(users).where(u.id == 3), {"org_id": "b"}, "may not write 'b'"),
    "update_many": (
        update(users).where(u.id == text(":n")),
        [{"org_id": "a", "n": 1}, {"org_id": None, "n": 2}],
        "may not write None",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(memory: Engine, name: str) -> None:
    """A statement that cannot be kept to one owner raises under a key, and changes nothing."""
    statement, message = REFUSED[name]
    with scope("a"), Session(memory) as session, pytest.raises(PartitionError, match=message):
        session.execute(statement)
    with scope("a"), memory.begin() as connection, pytest.raises(PartitionError, match=message):
        connection.execute(statement)
    assert dump(memory) == seeded()


@pytest.mark.parametrize("name", PARAMETERS)
def test_refused_parameters(memory: Engine, name: str) -> None:
    """Values given as parameters are looked at in every row."""
    statement, parameters, message = PARAMETERS[name]
    with scope("a"), memory.begin() as connection, pytest.raises(PartitionError, match=message):
        connection.execute(statement, parameters)
    assert dump(memory) == seeded()


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in REFUSED
        if name.startswith(("text", "literal")) and name not in ("text_truncate", "text_where_unbalanced", "text_prefix")
    ],
)
def test_allowed_by_execution_option(memory: Engine, name: str) -> None:
    """What was refused for its text alone runs when the statement says that it is safe, and still without a key."""
    statement, _ = REFUSED[name]
    if not name.startswith("text_dml"):
        with memory.connect() as connection:
            connection.execute(statement)
    with scope("a"), memory.connect() as connection:
        connection.execute(statement, execution_options={"tenancy_raw_sql": True})
        with pytest.raises(PartitionError):
            connection.execute(statement)


def test_condition_that_ends_with_a_comment(memory: Engine) -> None:
    """The parentheses that go around a condition are not a part of its comment."""
    condition = text("users.id > 3 -- don't show the first ones")
    with scope("a"), memory.connect() as connection:
        assert connection.scalars(select(u.id).where(condition)).all() == [6, 9, 12]
        assert connection.execute(update(users).where(condition).values(name="x")).rowcount == 3


@pytest.mark.skipif(not hasattr(elements, "TString"), reason="before SQLAlchemy 2.1")
def test_template_strings(memory: Engine) -> None:
    """The pieces of a template string are read as one text."""
    kinds: Any = elements

    def piece(*parts: Any) -> Any:
        made = kinds.TString.__new__(kinds.TString)  # the constructor needs a newer Python
        made.parts = [kinds._TStringText(part) if isinstance(part, str) else part for part in parts]
        return made

    with scope("a"), memory.connect() as connection:
        harmless = piece("abs(", u.id, ") > 5 AND substr(", u.name, ", 1) > ''")
        assert connection.scalars(select(u.id).where(harmless)).all() == [6, 9, 12]
        for parts in (("abs(", u.id, ") > 0 OR 1 IN (SELECT 1)"), ("1 = 1) OR (", u.id, " > 1"), (u.id, " > 0 FROM orders")):
            with pytest.raises(PartitionError, match="SQL given as text"):
                connection.execute(select(u.id).where(piece(*parts)))


def test_option_loosens_text_only(memory: Engine) -> None:
    """The tables of a statement stay restricted when its text is allowed, whichever of the two ran first."""
    statement = select(u.org_id).where(text("id IN (SELECT id FROM users)")).distinct()
    with scope("a"), memory.connect() as connection:
        for _ in range(2):
            assert connection.execute(statement.execution_options(tenancy_raw_sql=True)).all() == [("a",)]
            with pytest.raises(PartitionError):
                connection.execute(statement)


def test_allow_raw_sql_everywhere(memory: Engine, partition: RowPartition) -> None:
    """`raw_sql="allow"` lets text through, unrestricted, and nothing else."""
    partition.uninstall(memory)
    rows = RowPartition("org_id", baseline=ANY, raw_sql="allow")
    rows.install(memory)
    try:
        with scope("a"), memory.connect() as connection:
            assert len(connection.execute(text("SELECT id FROM users")).all()) == 12
            assert len(connection.exec_driver_sql("SELECT id FROM users").all()) == 12
            assert len(connection.execute(select(u.id)).all()) == 4
            with pytest.raises(PartitionError):
                connection.execute(update(users).values(org_id="b"))
    finally:
        rows.uninstall(memory)


def test_driver_sql(memory: Engine) -> None:
    """SQL that goes past SQLAlchemy's constructs is refused, and runs where it says that it is safe."""
    with scope("a"), memory.connect() as connection:
        with pytest.raises(PartitionError, match=r"SELECT \* FROM users"):
            connection.exec_driver_sql("SELECT * FROM users")
        assert connection.exec_driver_sql("SELECT count(*) FROM users", execution_options={"tenancy_raw_sql": True}).scalar() == 12
    with memory.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM users").scalar() == 12


def test_compiled_statement(memory: Engine) -> None:
    """A statement compiled beforehand has no condition, so it counts as text."""
    compiled = select(u.id).compile(memory)
    assert "WHERE" not in str(compiled)
    with scope("a"), memory.connect() as connection, pytest.raises((PartitionError, ObjectNotExecutableError)):
        connection.execute(compiled)  # no longer possible since SQLAlchemy 2.1


@pytest.mark.parametrize("statement", ["SELECT 1", "PRAGMA user_version", "SAVEPOINT x", "CREATE TABLE more (id INTEGER)"])
def test_harmless_sql(memory: Engine, statement: str) -> None:
    """What can touch no rows runs under a key: health checks, settings, definitions."""
    with scope("a"), memory.connect() as connection:
        connection.execute(text(statement))


def test_tables_are_made_and_inspected_under_a_key(memory: Engine) -> None:
    """DDL is no row's business."""
    other = MetaData()
    Table("more", other, Column("id", Integer, primary_key=True), Column("org_id", String))
    with scope("a"):
        other.create_all(memory)
        other.drop_all(memory)


def test_full_join_message_helps(memory: Engine) -> None:
    """The message of a refusal says what to write instead, and that works."""
    left, right = select(u.id).subquery(), select(o.user_id).subquery()
    statement = select(left.c.id, right.c.user_id).select_from(left.outerjoin(right, left.c.id == right.c.user_id, full=True))
    with scope("a"), memory.connect() as connection:
        assert len(connection.execute(statement).all()) > 4


@pytest.mark.parametrize("where", [None, text("users.id = 7 OR 1 = 1"), u.name != "x"])
def test_on_conflict_leaves_others_alone(memory: Engine, where: Any) -> None:
    """An upsert that meets another owner's row changes nothing and inserts nothing, whatever its condition is."""
    statement = sqlite.insert(users).values([{"id": 1, "name": "x", "email": "x"}, {"id": 100, "name": "x", "email": "y"}])
    statement = statement.on_conflict_do_update(index_elements=["id"], set_={"name": "stolen"}, where=where).returning(u.id)
    with scope("a"), memory.begin() as connection:
        assert connection.execute(statement).all() == [(100,)]
    before, after = seeded()["users"], dump(memory)["users"]
    assert [row for row in after if row[0] != 100] == before


@pytest.mark.filterwarnings("ignore:Additional column names")
def test_on_conflict_sets_the_column_by_another_name(memory: Engine) -> None:
    """A name that is not the column's key is written into the statement all the same."""
    keyed = Table("tags", MetaData(), Column("id", Integer), Column("org_id", String, key="owner"), Column("label", String))
    for name in ("org_id", "owner", keyed.c.owner):
        statement = sqlite.insert(keyed).values(id=3, label="x").on_conflict_do_update(index_elements=["id"], set_={name: "b"})
        with scope("a"), memory.begin() as connection, pytest.raises(PartitionError, match="may not write 'b'"):
            connection.execute(statement)
    assert dump(memory) == seeded()


def test_our_parameter_in_the_application(memory: Engine) -> None:
    """An application that passes a parameter of our name does not get to say how the statement is compiled."""
    with scope("a"), memory.connect() as connection:
        for name in MARKERS:
            with pytest.raises(PartitionError, match="tenancy_partition"):
                connection.execute(select(u.id), {name: None})


def test_onupdate_of_the_column(memory: Engine) -> None:
    """A column that changes by itself on every update would hand rows over."""
    wandering = Table("users", MetaData(), Column("id", Integer), Column("org_id", String, onupdate="b"), Column("name", String))
    with scope("a"), memory.begin() as connection, pytest.raises(PartitionError, match="onupdate"):
        connection.execute(update(wandering).values(name="x"))


def test_default_that_reads_a_table(memory: Engine) -> None:
    """A default that is executed by itself, before the INSERT, is a statement that nobody restricted."""
    with_default = Table(
        "items",
        MetaData(),
        Column("id", Integer, primary_key=True, default=select(func.max(u.id)).scalar_subquery() + 100),
        Column("org_id", String),
        Column("order_id", Integer),
        Column("kind", String),
        implicit_returning=False,
    )
    with scope("a"), memory.begin() as connection, pytest.raises(PartitionError):
        connection.execute(insert(with_default).values(order_id=1, kind="item"))
    assert dump(memory) == seeded()


def test_inline_default_is_restricted(memory: Engine) -> None:
    """A default that is a part of the INSERT sees the owner's rows."""
    with_default = Table(
        "items",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("org_id", String),
        Column("order_id", Integer, default=select(func.max(u.id)).scalar_subquery()),
        Column("kind", String),
    )
    with scope("b"), memory.begin() as connection:
        connection.execute(insert(with_default).values(id=100, kind="item"))
        assert connection.scalar(select(with_default.c.order_id).where(with_default.c.id == 100)) == 10


def test_columns_of_different_types(memory: Engine) -> None:
    """One value cannot be two types at once."""
    odd = Table("orders", MetaData(), Column("id", Integer), Column("org_id", Integer))
    with scope("a"), memory.connect() as connection, pytest.raises(PartitionError, match="same type"):
        connection.execute(select(u.id).join_from(users, odd, u.id == odd.c.id))
    with scope("a"), memory.connect() as connection, pytest.raises(PartitionError, match="same type"):
        connection.execute(update(users).where(u.id == odd.c.id).values(name="x"))


def test_a_listener_that_replaces_the_statement(memory: Engine) -> None:
    """A statement that lost its restriction on the way is refused at the last gate."""

    def replace(_connection: Any, _statement: Any, _multiparams: Any, _params: Any, _options: Any) -> Any:
        return select(users), [], {}

    event.listen(memory, "before_execute", replace, retval=True)
    with scope("a"), memory.connect() as connection, pytest.raises(PartitionError):
        connection.execute(select(u.id))


def test_a_listener_that_adds_to_the_statement(memory: Engine) -> None:
    """Whatever other listeners add is restricted as well."""

    def add(_connection: Any, statement: Any, multiparams: Any, params: Any, _options: Any) -> Any:
        return statement.add_columns(select(func.count(o.id)).scalar_subquery()), multiparams, params

    event.listen(memory, "before_execute", add, retval=True)
    with scope("a"), memory.connect() as connection:
        assert connection.execute(select(u.id)).all() == [(n, 8) for n in (3, 6, 9, 12)]


class _Base(DeclarativeBase):
    pass


class _Account(_Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    org_id: Mapped[str | None]
    name: Mapped[str]
    email: Mapped[str]
    tenant = synonym("org_id")


def test_orm_values_by_synonym(memory: Engine) -> None:
    """The column is recognised under every name that the ORM has for it."""
    with scope("a"), Session(memory) as session:
        for statement in (
            insert(_Account).values(id=100, tenant="b", name="x", email="x"),
            insert(_Account).values([{"id": 100, "tenant": "b", "name": "x", "email": "x"}]),
            update(_Account).values(tenant="b"),
            update(_Account).values({_Account.tenant: "b"}),
        ):
            with pytest.raises(PartitionError):
                session.execute(statement)
        session.execute(insert(_Account).values(id=100, tenant="a", name="x", email="x"))
        session.add(_Account(id=101, tenant="b", name="x", email="y"))
        with pytest.raises(PartitionError):
            session.flush()


def test_orm_attribute_of_another_owner(memory: Engine) -> None:
    """An object can neither be made for another owner nor be given away."""
    with scope("a"), Session(memory) as session:
        session.add(User(id=100, org_id="b", name="x", email="x"))
        with pytest.raises(PartitionError):
            session.flush()
        session.rollback()
        user = session.get_one(User, 3)
        for value in ("b", None):
            user.org_id = value
            with pytest.raises(PartitionError):
                session.flush()
            session.rollback()
    assert dump(memory) == seeded()


def test_orm_detached_object_of_another_owner(memory: Engine) -> None:
    """An object that another owner's Session loaded cannot be written by this one's."""
    with scope("b"), Session(memory) as session:
        first, second, third = session.scalars(select(User).options(joinedload(User.orders)).limit(3)).unique()
    with scope("a"), Session(memory) as session:
        session.add(first)
        first.name = "changed"
        with pytest.raises(Exception, match="0 were matched"):
            session.flush()
    with scope("a"), Session(memory) as session:
        session.merge(second)
        with pytest.raises(PartitionError):
            session.flush()
    with scope("a"), Session(memory) as session:
        session.delete(third)
        with pytest.warns(SAWarning, match="0 were matched"):
            session.flush()
    assert dump(memory) == seeded()


def test_session_of_two_keys(memory: Engine) -> None:
    """A Session that holds one owner's objects is refused to the next, in a transaction as after it; closing it makes it free."""
    with Session(memory, expire_on_commit=False) as session:
        with scope("a"):
            session.get(User, 3)
        with scope("b"):
            for use in (lambda: session.scalars(select(User)), lambda: session.get(User, 1), lambda: session.query(User).count()):
                with pytest.raises(PartitionError, match="use a Session for each routing key"):
                    use()
        with scope("a"):
            session.add(Order(id=100, user_id=3, amount=1))
        with scope("b"), pytest.raises(PartitionError):
            session.flush()
        with scope("a"):
            session.commit()
        with scope("b"), pytest.raises(PartitionError):
            session.scalars(select(Order))
        with pytest.raises(PartitionError, match="the baseline"):
            session.scalars(select(Order))
        session.close()
        with scope("b"):
            assert session.get(User, 3) is None
            assert session.get(User, 1) is not None


def test_lazy_load_in_another_scope(memory: Engine) -> None:
    """A lazy load that happens outside of the scope does not load somebody else's rows."""
    with Session(memory) as session:
        with scope("a"):
            user = session.get_one(User, 3)
        with pytest.raises(PartitionError):
            _ = user.orders
        with scope("b"), pytest.raises(PartitionError):
            session.refresh(user)


def test_core_transaction_of_two_keys(memory: Engine) -> None:
    """On a Connection each statement goes by the key it is executed under; nothing stays behind."""
    with memory.begin() as connection:
        for owner, expected in (("a", 4), (None, 12), ("b", 4), ("c", 0)):
            with scope(owner):
                assert len(connection.execute(select(u.id)).all()) == expected


def test_joined_inheritance_without_the_column_is_refused(memory: Engine) -> None:
    """A table without the column is not written under a key, though its parent has one."""
    parts = Table("animal_parts", MetaData(), Column("id", Integer, primary_key=True))
    parts.create(memory)
    with scope("a"), memory.begin() as connection, pytest.raises(PartitionError, match=r"shared=\['animal_parts'\]"):
        connection.execute(insert(parts).values(id=1))
