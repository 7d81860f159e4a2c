"""
The same work by SQLAlchemy's ORM, its Core, Django's ORM, and psycopg by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
from django.db import DatabaseError, connections, transaction
from django.db.models import F
from sqlalchemy import Column, Computed, Engine, ForeignKey, Integer, MetaData, Numeric, Table, Text, create_engine, text
from sqlalchemy import delete as sa_delete
from sqlalchemy import exc as sa_exc
from sqlalchemy import select as sa_select
from sqlalchemy import update as sa_update
from sqlalchemy.dialects.postgresql import insert as sa_insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

import tenancy
from tenancy.data.postgresql import cover, enter, uncover
from tenancy.data.postgresql import django as hook
from tests.data.postgresql import django_models
from tests.data.postgresql.compatibility import Place

__all__ = ["ALIAS", "WAYS", "Base", "Core", "DjangoORM", "ORM", "Psycopg", "Way"]

ALIAS = "tenancy_compat"


class Way(ABC):
    """
    One of them, on a database.

    Args:
        where: The database.
    """

    #: The errors of what the server refuses.
    errors: type[Exception] | tuple[type[Exception], ...]

    def __init__(self, where: Place) -> None:
        self.where = where

    @abstractmethod
    def close(self) -> None:
        """Let go of all connections."""

    @abstractmethod
    def work(self, key: str | None) -> AbstractContextManager[Any]:
        """Open a transaction for a key; it is committed at the end."""

    @abstractmethod
    def savepoint(self) -> AbstractContextManager[Any]:
        """Open a savepoint within it."""

    @abstractmethod
    def add(self, email: str, **values: Any) -> tuple[int, str, str]:
        """Insert a user, and return its id, name and generated column."""

    @abstractmethod
    def add_many(self, emails: list[str]) -> list[int]:
        """Insert users at once, and return their ids."""

    @abstractmethod
    def order(self, user: int, amount: int) -> int:
        """Insert an order, and return its id."""

    @abstractmethod
    def users(self) -> dict[str, str]:
        """Return the names of all users, by email."""

    @abstractmethod
    def rename(self, email: str, name: str) -> int:
        """Change users' names, and return of how many."""

    @abstractmethod
    def older(self) -> int:
        """Add one to all ages, and return how many there were."""

    @abstractmethod
    def remove(self, email: str) -> int:
        """Delete users, and return how many."""

    @abstractmethod
    def amounts(self) -> dict[str, list[int]]:
        """Return what users have ordered, by a join."""

    @abstractmethod
    def recode(self, before: str, after: str) -> None:
        """Change a primary key."""

    @abstractmethod
    def codes(self) -> dict[str, str | None]:
        """Return the titles of natural keys."""

    @abstractmethod
    def code(self, code: str, title: str) -> None:
        """Insert one."""

    @abstractmethod
    def uncode(self, code: str) -> None:
        """Delete one."""

    @abstractmethod
    def upsert(self, rows: list[tuple[str, str]]) -> None:
        """Insert users, or change the names of those that are there."""

    @abstractmethod
    def ignore(self, rows: list[tuple[str, str]]) -> None:
        """Insert users but for those that are there."""

    @abstractmethod
    def lock(self, email: str) -> list[str]:
        """Select a user FOR UPDATE."""

    @abstractmethod
    def raw(self, statement: str) -> list[Any]:
        """Execute SQL as text."""


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    name: Mapped[str] = mapped_column(server_default=text("'nobody'"))
    age: Mapped[int | None]
    shout: Mapped[str] = mapped_column(Computed("upper(name)"))
    orders: Mapped[list[Order]] = relationship(back_populates="user", passive_deletes=True, order_by="Order.id")


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    amount: Mapped[int] = mapped_column(Numeric(10, 2))
    user: Mapped[User] = relationship(back_populates="orders")


class NaturalKey(Base):
    __tablename__ = "natural_key"

    code: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str | None]


class SQLAlchemy(Way):
    errors = sa_exc.DBAPIError
    engine: Engine

    def __init__(self, where: Place) -> None:
        super().__init__(where)
        self.engine = create_engine(where.url())
        cover(self.engine)

    def close(self) -> None:
        uncover(self.engine)
        self.engine.dispose()


class ORM(SQLAlchemy):
    """SQLAlchemy's unit of work, and its bulk statements."""

    session: Session

    @contextmanager
    def work(self, key: str | None) -> Iterator[Any]:
        with tenancy.scope(key), Session(self.engine) as self.session, self.session.begin():
            yield self.session

    def savepoint(self) -> AbstractContextManager[Any]:
        return self.session.begin_nested()

    def add(self, email: str, **values: Any) -> tuple[int, str, str]:
        user = User(email=email, **values)
        self.session.add(user)
        self.session.flush()
        return user.id, user.name, user.shout

    def add_many(self, emails: list[str]) -> list[int]:
        users = [User(email=email) for email in emails]
        self.session.add_all(users)
        self.session.flush()
        return [user.id for user in users]

    def order(self, user: int, amount: int) -> int:
        order = Order(user_id=user, amount=amount)
        self.session.add(order)
        self.session.flush()
        return order.id

    def users(self) -> dict[str, str]:
        self.session.expire_all()
        return {user.email: user.name for user in self.session.scalars(sa_select(User))}

    def rename(self, email: str, name: str) -> int:
        users = self.session.scalars(sa_select(User).where(User.email == email)).all()
        for user in users:
            user.name = name
        self.session.flush()
        assert [user.shout for user in users] == [name.upper()] * len(users)
        return len(users)

    def older(self) -> int:
        return len(self.session.scalars(sa_update(User).values(age=User.age + 1).returning(User.id)).all())

    def remove(self, email: str) -> int:
        users = self.session.scalars(sa_select(User).where(User.email == email)).all()
        for user in users:
            self.session.delete(user)
        self.session.flush()
        return len(users)

    def amounts(self) -> dict[str, list[int]]:
        self.session.expire_all()
        users = self.session.scalars(sa_select(User).join(User.orders).distinct()).all()
        return {user.email: [int(order.amount) for order in user.orders] for user in users}

    def recode(self, before: str, after: str) -> None:
        found = self.session.get(NaturalKey, before)
        assert found is not None
        found.code = after
        self.session.flush()

    def codes(self) -> dict[str, str | None]:
        self.session.expire_all()
        return {found.code: found.title for found in self.session.scalars(sa_select(NaturalKey))}

    def code(self, code: str, title: str) -> None:
        self.session.add(NaturalKey(code=code, title=title))
        self.session.flush()

    def uncode(self, code: str) -> None:
        self.session.delete(self.session.get(NaturalKey, code))
        self.session.flush()

    def upsert(self, rows: list[tuple[str, str]]) -> None:
        made = sa_insert(User).values([{"email": email, "name": name} for email, name in rows])
        self.session.execute(made.on_conflict_do_update(index_elements=["email"], set_={"name": made.excluded.name}))

    def ignore(self, rows: list[tuple[str, str]]) -> None:
        self.session.execute(sa_insert(User).on_conflict_do_nothing(), [{"email": email, "name": name} for email, name in rows])

    def lock(self, email: str) -> list[str]:
        return list(self.session.scalars(sa_select(User.email).where(User.email == email).with_for_update()))

    def raw(self, statement: str) -> list[Any]:
        result = self.session.execute(text(statement))
        return [tuple(row) for row in result] if result.returns_rows else []


_METADATA = MetaData()
USERS = Table(
    "users",
    _METADATA,
    Column("id", Integer, primary_key=True),
    Column("email", Text),
    Column("name", Text),
    Column("age", Integer),
    Column("shout", Text, Computed("upper(name)")),
)
ORDERS = Table(
    "orders", _METADATA, Column("id", Integer, primary_key=True), Column("user_id", Integer), Column("amount", Numeric(10, 2))
)
CODES = Table("natural_key", _METADATA, Column("code", Text, primary_key=True), Column("title", Text))


class Core(SQLAlchemy):
    """SQLAlchemy's constructs, without objects."""

    connection: Any

    @contextmanager
    def work(self, key: str | None) -> Iterator[Any]:
        with tenancy.scope(key), self.engine.begin() as self.connection:
            yield self.connection

    def savepoint(self) -> AbstractContextManager[Any]:
        nested: AbstractContextManager[Any] = self.connection.begin_nested()
        return nested

    def add(self, email: str, **values: Any) -> tuple[int, str, str]:
        made = sa_insert(USERS).values(email=email, **values).returning(USERS.c.id, USERS.c.name, USERS.c.shout)
        return tuple(self.connection.execute(made).one())

    def add_many(self, emails: list[str]) -> list[int]:
        made = sa_insert(USERS).returning(USERS.c.id)
        return list(self.connection.execute(made, [{"email": email} for email in emails]).scalars())

    def order(self, user: int, amount: int) -> int:
        return int(self.connection.execute(sa_insert(ORDERS).values(user_id=user, amount=amount)).inserted_primary_key[0])

    def users(self) -> dict[str, str]:
        return {row.email: row.name for row in self.connection.execute(sa_select(USERS))}

    def rename(self, email: str, name: str) -> int:
        return int(self.connection.execute(sa_update(USERS).where(USERS.c.email == email).values(name=name)).rowcount)

    def older(self) -> int:
        return int(self.connection.execute(sa_update(USERS).values(age=USERS.c.age + 1)).rowcount)

    def remove(self, email: str) -> int:
        return len(self.connection.execute(sa_delete(USERS).where(USERS.c.email == email).returning(USERS.c.id)).all())

    def amounts(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        join = USERS.join(ORDERS, ORDERS.c.user_id == USERS.c.id)
        for email, amount in self.connection.execute(
            sa_select(USERS.c.email, ORDERS.c.amount).select_from(join).order_by(ORDERS.c.id)
        ):
            found.setdefault(email, []).append(int(amount))
        return found

    def recode(self, before: str, after: str) -> None:
        self.connection.execute(sa_update(CODES).where(CODES.c.code == before).values(code=after))

    def codes(self) -> dict[str, str | None]:
        return dict(self.connection.execute(sa_select(CODES.c.code, CODES.c.title)).all())

    def code(self, code: str, title: str) -> None:
        self.connection.execute(sa_insert(CODES).values(code=code, title=title))

    def uncode(self, code: str) -> None:
        self.connection.execute(sa_delete(CODES).where(CODES.c.code == code))

    def upsert(self, rows: list[tuple[str, str]]) -> None:
        made = sa_insert(USERS)
        made = made.on_conflict_do_update(constraint="users_email_is_unique", set_={"name": made.excluded.name})
        self.connection.execute(made, [{"email": email, "name": name} for email, name in rows])

    def ignore(self, rows: list[tuple[str, str]]) -> None:
        made = sa_insert(USERS).values([{"email": email, "name": name} for email, name in rows])
        self.connection.execute(made.on_conflict_do_nothing(index_elements=[USERS.c.email]))

    def lock(self, email: str) -> list[str]:
        return list(self.connection.execute(sa_select(USERS.c.email).where(USERS.c.email == email).with_for_update()).scalars())

    def raw(self, statement: str) -> list[Any]:
        result = self.connection.exec_driver_sql(statement)
        return [tuple(row) for row in result] if result.returns_rows else []


class DjangoORM(Way):
    """Django's models."""

    errors = DatabaseError

    def __init__(self, where: Place) -> None:
        super().__init__(where)
        django_models.connect(ALIAS, where.application)
        hook.cover(ALIAS)
        self._users = django_models.User.objects.using(ALIAS)
        self._codes = django_models.NaturalKey.objects.using(ALIAS)

    def close(self) -> None:
        hook.uncover()
        django_models.disconnect(ALIAS)

    @contextmanager
    def work(self, key: str | None) -> Iterator[Any]:
        with tenancy.scope(key), transaction.atomic(using=ALIAS):
            yield None

    def savepoint(self) -> AbstractContextManager[Any]:
        return transaction.atomic(using=ALIAS)  # type: ignore[no-any-return]

    def add(self, email: str, **values: Any) -> tuple[int, str, str]:
        user = self._users.create(email=email, **values)
        return user.id, user.name, self.raw(f"SELECT shout FROM users WHERE id = {user.id}")[0][0]

    def add_many(self, emails: list[str]) -> list[int]:
        return [user.id for user in self._users.bulk_create([django_models.User(email=email) for email in emails])]

    def order(self, user: int, amount: int) -> int:
        return int(django_models.Order.objects.using(ALIAS).create(user_id=user, amount=amount).id)

    def users(self) -> dict[str, str]:
        return dict(self._users.values_list("email", "name"))

    def rename(self, email: str, name: str) -> int:
        users = list(self._users.filter(email=email))
        for user in users:
            user.name = name
            user.save()
        return len(users)

    def older(self) -> int:
        return int(self._users.update(age=F("age") + 1))

    def remove(self, email: str) -> int:
        return int(self._users.filter(email=email).delete()[1].get("tenancy_compat.User", 0))

    def amounts(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for order in django_models.Order.objects.using(ALIAS).select_related("user").order_by("id"):
            found.setdefault(order.user.email, []).append(int(order.amount))
        return found

    def recode(self, before: str, after: str) -> None:
        self._codes.filter(code=before).update(code=after)

    def codes(self) -> dict[str, str | None]:
        return dict(self._codes.values_list("code", "title"))

    def code(self, code: str, title: str) -> None:
        self._codes.create(code=code, title=title)

    def uncode(self, code: str) -> None:
        self._codes.get(code=code).delete()

    def upsert(self, rows: list[tuple[str, str]]) -> None:
        users = [django_models.User(email=email, name=name) for email, name in rows]
        self._users.bulk_create(users, update_conflicts=True, unique_fields=["email"], update_fields=["name"])

    def ignore(self, rows: list[tuple[str, str]]) -> None:
        self._users.bulk_create([django_models.User(email=email, name=name) for email, name in rows], ignore_conflicts=True)

    def lock(self, email: str) -> list[str]:
        return [user.email for user in self._users.select_for_update().filter(email=email)]

    def raw(self, statement: str) -> list[Any]:
        with connections[ALIAS].cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []


class Psycopg(Way):
    """SQL by the driver alone."""

    errors = psycopg.Error

    def __init__(self, where: Place) -> None:
        super().__init__(where)
        self.connection = psycopg.connect(where.application)

    def close(self) -> None:
        self.connection.close()

    @contextmanager
    def work(self, key: str | None) -> Iterator[Any]:
        with tenancy.scope(key), self.connection.transaction():
            assert enter(self.connection) is (key is not None)
            yield self.connection

    def savepoint(self) -> AbstractContextManager[Any]:
        return self.connection.transaction()

    def _all(self, statement: Any, *values: Any) -> list[Any]:
        return self.connection.execute(statement, values).fetchall()

    def add(self, email: str, **values: Any) -> tuple[int, str, str]:
        names, places = ["email", *values], ", ".join(["%s"] * (len(values) + 1))
        found: tuple[int, str, str] = self._all(
            f"INSERT INTO users ({', '.join(names)}) VALUES ({places}) RETURNING id, name, shout", email, *values.values()
        )[0]
        return found

    def add_many(self, emails: list[str]) -> list[int]:
        return [row[0] for row in self._all("INSERT INTO users (email) SELECT unnest(%s::text[]) RETURNING id", emails)]

    def order(self, user: int, amount: int) -> int:
        return int(self._all("INSERT INTO orders (user_id, amount) VALUES (%s, %s) RETURNING id", user, amount)[0][0])

    def users(self) -> dict[str, str]:
        return dict(self._all("SELECT email, name FROM users"))

    def rename(self, email: str, name: str) -> int:
        return self.connection.execute("UPDATE users SET name = %s WHERE email = %s", (name, email)).rowcount

    def older(self) -> int:
        return self.connection.execute("UPDATE users SET age = age + 1").rowcount

    def remove(self, email: str) -> int:
        return self.connection.execute("DELETE FROM users WHERE email = %s", (email,)).rowcount

    def amounts(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for email, amount in self._all("SELECT u.email, o.amount FROM users u JOIN orders o ON o.user_id = u.id ORDER BY o.id"):
            found.setdefault(email, []).append(int(amount))
        return found

    def recode(self, before: str, after: str) -> None:
        self.connection.execute("UPDATE natural_key SET code = %s WHERE code = %s", (after, before))

    def codes(self) -> dict[str, str | None]:
        return dict(self._all("SELECT code, title FROM natural_key"))

    def code(self, code: str, title: str) -> None:
        self.connection.execute("INSERT INTO natural_key VALUES (%s, %s)", (code, title))

    def uncode(self, code: str) -> None:
        self.connection.execute("DELETE FROM natural_key WHERE code = %s", (code,))

    def upsert(self, rows: list[tuple[str, str]]) -> None:
        with self.connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO users (email, name) VALUES (%s, %s) ON CONFLICT (email) DO UPDATE SET name = excluded.name", rows
            )

    def ignore(self, rows: list[tuple[str, str]]) -> None:
        with self.connection.cursor() as cursor:
            cursor.executemany("INSERT INTO users (email, name) VALUES (%s, %s) ON CONFLICT DO NOTHING", rows)

    def lock(self, email: str) -> list[str]:
        return [row[0] for row in self._all("SELECT email FROM users WHERE email = %s FOR UPDATE", email)]

    def raw(self, statement: str) -> list[Any]:
        cursor = self.connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


WAYS: tuple[type[Way], ...] = (ORM, Core, DjangoORM, Psycopg)
