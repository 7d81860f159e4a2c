"""
A small shop whose rows belong to three owners, mixed up on purpose: ids interleave, names repeat, and rows refer to rows of others.
"""

from __future__ import annotations

from random import Random
from typing import Any

from sqlalchemy import Column, Connection, Engine, ForeignKey, Integer, String, Table, UniqueConstraint, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column, relationship

OWNERS = ("a", "b", None)


class Base(DeclarativeBase):
    pass


# No foreign keys in the database: a row that refers to another owner's row must be possible, for a join to be caught following it.
class User(Base):
    __tablename__ = "users"
    __table_args__ = (UniqueConstraint("org_id", "email"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    org_id: Mapped[str | None] = mapped_column(String(40))
    name: Mapped[str]
    email: Mapped[str]
    boss_id: Mapped[int | None]

    orders: Mapped[list[Order]] = relationship(
        back_populates="user", primaryjoin="User.id == foreign(Order.user_id)", order_by="Order.id", cascade="all, delete-orphan"
    )
    boss: Mapped[User | None] = relationship(primaryjoin="foreign(User.boss_id) == remote(User.id)")


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    org_id: Mapped[str | None] = mapped_column(String(40))
    user_id: Mapped[int]
    amount: Mapped[int]

    user: Mapped[User | None] = relationship(back_populates="orders", primaryjoin="foreign(Order.user_id) == User.id")
    items: Mapped[list[Item]] = relationship(
        primaryjoin="Order.id == foreign(Item.order_id)", order_by="Item.id", cascade="all, delete-orphan"
    )
    tags: Mapped[list[Tag]] = relationship(
        secondary="order_tags",
        primaryjoin="Order.id == foreign(order_tags.c.order_id)",
        secondaryjoin="foreign(order_tags.c.tag_id) == Tag.id",
        order_by="Tag.id",
    )


class Item(Base):
    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    org_id: Mapped[str | None] = mapped_column(String(40))
    order_id: Mapped[int]
    kind: Mapped[str]

    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "item"}  # noqa: RUF012 - SQLAlchemy's way


class Gift(Item):
    __mapper_args__ = {"polymorphic_identity": "gift"}  # noqa: RUF012


class Tag(Base):
    __tablename__ = "tags"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant: Mapped[str | None] = mapped_column("org_id", String(40))  # an attribute that is not named as its column
    label: Mapped[str]


class Animal(Base):
    __tablename__ = "animals"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    org_id: Mapped[str | None] = mapped_column(String(40))
    species: Mapped[str]
    legs: Mapped[int | None]

    __mapper_args__ = {"polymorphic_on": "species", "polymorphic_identity": "animal"}  # noqa: RUF012


class Dog(Animal):
    __tablename__ = "dogs"

    id: Mapped[int] = mapped_column(ForeignKey("animals.id"), primary_key=True, autoincrement=False)
    org_id: Mapped[str | None] = column_property(Column("org_id", String(40)), Animal.org_id)
    bark: Mapped[str]

    __mapper_args__ = {"polymorphic_identity": "dog"}  # noqa: RUF012


class Country(Base):
    __tablename__ = "countries"

    code: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]


order_tags = Table(
    "order_tags",
    Base.metadata,
    Column("order_id", Integer, primary_key=True),
    Column("tag_id", Integer, primary_key=True),
    Column("org_id", String(40)),
)

users: Any = User.__table__
orders: Any = Order.__table__
items: Any = Item.__table__
tags: Any = Tag.__table__
animals: Any = Animal.__table__
dogs: Any = Dog.__table__
countries: Any = Country.__table__

User.order_count = column_property(  # type: ignore[attr-defined]
    select(Order.id).where(Order.user_id == User.id).order_by(Order.id).limit(1).correlate_except(Order).scalar_subquery(),
    deferred=True,
)


def rows() -> dict[str, list[dict[str, Any]]]:
    """
    Return all rows, by table.
    """
    data: dict[str, list[dict[str, Any]]] = {table.name: [] for table in Base.metadata.sorted_tables}
    chance = Random(7)
    for n in range(1, 13):
        owner = OWNERS[n % 3]
        boss = chance.randint(1, 12) if n > 3 else None
        data["users"].append({"id": n, "org_id": owner, "name": f"n{n % 5}", "email": f"e{n // 3}", "boss_id": boss})
        data["animals"].append({"id": n, "org_id": owner, "species": "dog" if n % 2 else "animal", "legs": n % 5})
        if n % 2:
            data["dogs"].append({"id": n, "org_id": owner, "bark": f"w{n}"})
        data["tags"].append({"id": n, "org_id": owner, "label": f"t{n % 5}"})
    for n in range(1, 25):
        data["orders"].append({"id": n, "org_id": OWNERS[n % 3], "user_id": chance.randint(1, 14), "amount": n * 7 % 10})
        for tag in chance.sample(range(1, 13), 3):
            data["order_tags"].append({"order_id": n, "tag_id": tag, "org_id": OWNERS[n % 3] if tag % 3 else chance.choice(OWNERS)})
    for n in range(1, 37):
        kind = "gift" if n % 2 else "item"
        data["items"].append({"id": n, "org_id": OWNERS[n % 3], "order_id": chance.randint(1, 24), "kind": kind})
    data["countries"] = [{"code": "no", "name": "Norway"}, {"code": "pe", "name": "Peru"}]
    return data


ROWS = rows()


def seed(connection: Connection, owners: tuple[str | None, ...] = OWNERS) -> None:
    """
    Replace all rows by the rows of *owners*.
    """
    tables = Base.metadata.sorted_tables
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"TRUNCATE {', '.join(table.name for table in tables)}")
    for table in tables:
        if connection.dialect.name != "postgresql":
            connection.execute(table.delete())
        chosen = [row for row in ROWS[table.name] if row.get("org_id", "shared") in (*owners, "shared")]
        if chosen:
            connection.execute(insert(table), chosen)


def seeded() -> dict[str, list[tuple[Any, ...]]]:
    """
    Return what `dump` returns for a database that has all rows.
    """
    return {
        table.name: sorted((tuple(row.get(column.name) for column in table.c) for row in ROWS[table.name]), key=repr)
        for table in Base.metadata.sorted_tables
    }


def dump(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """
    Return what is in the database, by table.
    """
    with engine.connect() as connection:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
            for table in Base.metadata.sorted_tables
        }
