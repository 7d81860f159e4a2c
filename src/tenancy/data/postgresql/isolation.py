"""
`PostgresIsolation`: partitions of a shared PostgreSQL database, one schema of views and tables for each routing key.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from ..._optional import extra
from ...errors import ConfigurationError, PartitionError
from ...key import RoutingKey
from . import registry
from .condition import Problem, Status, faults_of, status_of
from .execution import begun, kept_path, run, synchronous
from .maker import Maker
from .modes import Mode, Rows, checked
from .registry import Registered
from .roles import checked_role, made_roles, opened, role_problems

with extra("postgresql", "sqlalchemy"):
    from sqlalchemy import Connection, Engine

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["PostgresIsolation", "Problem", "Status"]

# A retired key is remembered so long: more than a message that carries it can be under way.
_TOMBSTONE = timedelta(days=7)


class PostgresIsolation:
    """
    For each routing key a partition of a shared database, in which queries run unchanged: it sees the baseline's rows, and changes none.

    `install` and `create` make it; `tenancy.data.postgresql.cover` makes an engine use it.

    Args:
        engine: An engine for the database, by psycopg or psycopg2, as a role that owns the tables; that of an asyncio driver is used by
            its address alone. What makes and drops partitions goes by it, or by *admin*.
        tables: The mode of each table, named with or without its schema: ``overlay`` (the baseline's rows, with the key's own changes on
            top), ``copy``, ``empty``, ``readonly``, or `Rows`, for a table that is the key's by a column.
        default: The mode of all other tables.
        schemas: The schemas that the tables are in, in the order in which queries find them.
        role: The role that statements of a key are run by; it can read and change nothing but the key's own.
        reader: The role by whose rights a partition's views and functions look at the baseline.
        admin: Another engine for making and dropping partitions.
        without: Views of the baseline that keys can do without, named with or without their schemas: where a partition cannot have one, since
            it would show the baseline's rows, `check` does not mind.

    Raises:
        ConfigurationError: If an argument cannot be used.
    """

    def __init__(
        self,
        engine: Engine | AsyncEngine,
        tables: Mapping[str, Mode | Rows] | None = None,
        *,
        default: Mode = "overlay",
        schemas: Iterable[str] = ("public",),
        role: str = "tenancy_keyed",
        reader: str = "tenancy_reader",
        admin: Engine | None = None,
        without: Collection[str] = (),
    ) -> None:
        checked(tables or {}, default)
        if isinstance(schemas, str) or not (found := tuple(schemas)):
            raise ConfigurationError(f"schemas is {schemas!r}; give a list of names, such as ['public']")
        views: object = without
        if not isinstance(views, Collection) or isinstance(views, str) or not all(isinstance(each, str) for each in views):
            raise ConfigurationError(f"without is {views!r}; give a list of names of views, such as ['report']")
        for option, name in (("role", role), ("reader", reader)):
            checked_role(option, name)
        if role == reader:
            raise ConfigurationError(
                f"role and reader are both {role!r}: give two roles, since the second may read what the first may not"
            )
        self._schemas = found
        self.role = role
        self.reader = reader
        self._maker = Maker(dict(tables or {}), default, found, role, reader, frozenset(without))
        self._engine = synchronous(admin if admin is not None else engine)

    # The database

    @property
    def database(self) -> str:
        """
        What the database is called.
        """
        return self._engine.url.database or "postgres"

    def install(self, *, grant_to: Iterable[str] = ()) -> None:
        """
        Make the roles and the register in the database, where they are not there yet.

        Args:
            grant_to: The roles that the application connects as, where that is another one than here; they come to be members of *role*.

        Raises:
            ConfigurationError: If a role has rights that it must not have, or something may not be made by the role of this engine.
        """
        with begun(self._engine) as connection:
            made_roles(connection, self.role, self.reader, [*grant_to])
            registry.allowed(connection)
            run(connection, registry.install(self.role, self.reader))
            if problems := role_problems(connection, self.role, self.reader):
                raise ConfigurationError("; ".join(problems))

    def create(self, key: str, *, ttl: timedelta | None = None, timeout: float | None = None) -> Status:
        """
        Make a key's partition; what is there already is left as it is, but for a time to live that is given.

        Args:
            key: The routing key.
            ttl: After which time `expire` drops it, from now on; default never, and the time that it has where it is there already. One that
                is to stay after all is given a long time.
            timeout: How many seconds to wait at most for transactions of the key, and for migrations; default as long as it takes.

        Raises:
            PartitionError: If a table cannot have the mode that it has, or something else is in the way; the message says why, and what to
                do. Nothing was made then.
            ConfigurationError: If the database was not prepared by `install`.
        """
        key = RoutingKey(key)
        expires = None if ttl is None else datetime.now(timezone.utc) + ttl
        with begun(self._engine) as connection:
            before = self._entered(connection, key, timeout)
            if before is None or before.state == "dropped":
                self._maker.make(connection, key, expires)
            elif expires is not None:
                registry.write(connection, key, expires=expires)
            return self._status(connection, key)[0]

    def drop(self, key: str, *, forget: bool = False, timeout: float | None = None) -> None:
        """
        Drop a key's partition with all that is in it, when no transaction is in it any more. Does nothing where there is none.

        For seven days a late transaction of the key is told that it is gone, instead of being served as one without a partition.

        Args:
            key: The routing key.
            forget: Whether it is not to be remembered.
            timeout: How many seconds to wait at most for transactions of the key, and for migrations; default as long as it takes.

        Raises:
            PartitionError: If it had to wait longer, or if other rows of the baseline would go with the key's. It is as it was then.
        """
        self._drop(RoutingKey(key), lambda _: "forget" if forget else "drop", timeout)

    def expire(self) -> list[RoutingKey]:
        """
        Drop the partitions whose time is over, forget those that were dropped long ago, and return the keys of those dropped now.
        """
        now = datetime.now(timezone.utc)

        def over(found: Registered) -> str:
            if found.expires is None or found.expires > now:
                return "keep"
            return "forget" if found.state == "dropped" else "drop"

        with begun(self._engine) as connection:
            self._installed(connection)
            keys = [found.key for found in registry.read(connection) if over(found) != "keep"]
        # Who waits for transactions to end looks again afterwards: it may have been made anew, or live longer now.
        return [key for key in keys if self._drop(key, over) == "drop"]

    def _drop(self, key: RoutingKey, decide: Callable[[Registered], str], timeout: float | None = None) -> str:
        with begun(self._engine) as connection:
            found = self._entered(connection, key, timeout)
            what = "keep" if found is None else decide(found)
            if found is None or what == "keep":
                return what
            self._maker.remove(connection, found)
            if what == "forget":
                registry.forget(connection, key)
            elif found.state != "dropped":
                tombstone = datetime.now(timezone.utc) + _TOMBSTONE
                registry.write(connection, key, state="dropped", schemas={}, modes={}, shape={}, expires=tombstone)
            return what

    def refresh(self, key: str) -> Status:
        """
        Drop all that a key has changed: its partition is as it would be if it were made now.

        Args:
            key: The routing key.

        Raises:
            PartitionError: If it has no partition, or it cannot be made; then it is as it was.
        """
        key = RoutingKey(key)
        with begun(self._engine) as connection:
            found = self._entered(connection, key)
            if found is None or found.state == "dropped":
                raise PartitionError(
                    f"{key} has no partition in this database: create it first, with create() or `tenancy data create {key}`"
                )
            self._maker.remove(connection, found)
            self._maker.make(connection, key, found.expires)
            return self._status(connection, key)[0]

    # What there is

    def status(self, key: str | None = None) -> list[Status]:
        """
        Return the partitions that there are, or one of them.

        Args:
            key: Its routing key; default all.
        """
        with begun(self._engine) as connection:
            self._installed(connection)
            return self._status(connection, None if key is None else RoutingKey(key))

    def check(self, key: str | None = None) -> list[Problem]:
        """
        Look for what is wrong: rights that would let a key's work past its partition, and partitions that are not as the baseline is now.

        Args:
            key: The routing key whose partition alone is looked at; default all, and the rights in the database.
        """
        one = None if key is None else RoutingKey(key)
        with begun(self._engine) as connection:
            if not registry.installed(connection):
                return [Problem(None, registry.PREPARE)]
            problems = [] if one is not None else role_problems(connection, self.role, self.reader)
            now = self._maker.baseline(connection)
            if one is None and not problems:
                problems = opened(connection, self.role, self._schemas, {table.sql: mode for table, mode in now.tables})
            found = [Problem(None, text) for text in (*problems, *now.unknown)]
            wanted = {table.full_name: mode for table, mode in now.tables}
            for each in registry.read(connection, one):
                if each.state != "dropped":
                    found += [
                        Problem(each.key, text) for text in faults_of(connection, each, now.mark, wanted, self.role, now.unserved)
                    ]
            return found

    def statements(self, key: str) -> list[str]:
        """
        Return the SQL that `create` would run to make a key's partition, to look at.

        Args:
            key: The routing key.
        """
        with begun(self._engine) as connection:
            plan, _ = self._maker.plan(connection, RoutingKey(key))
            return [*plan.storage(), *plan.surface()]

    # Migrations

    @contextlib.contextmanager
    def migration(self, connection: Connection | None = None) -> Iterator[Connection]:
        """
        Change the baseline's tables within this block: partitions do not stand in the way, and follow, in the same transaction.

        Transactions of keys that have a partition wait until it is over.

        Args:
            connection: A connection in the transaction of the migration, by a role that may change the tables; default one is begun.

        Raises:
            PartitionError: If a partition cannot follow; then the migration has not happened either, if the transaction is rolled back.
            ConfigurationError: If *connection* is in AUTOCOMMIT, or by another driver than psycopg or psycopg2.
        """
        with begun(self._engine, connection) as connection:
            self.detach(connection)
            yield connection
            self.attach(connection)

    def detach(self, connection: Connection | None = None) -> None:
        """
        Take away all by which partitions stand in the way of a change of the baseline's tables; what keys have changed stays.

        Until `attach` work with their keys is refused. Prefer `migration`.

        Args:
            connection: A connection in a transaction; default one is begun.
        """
        with begun(self._engine, connection) as connection, kept_path(connection):
            for found in self._all(connection, "ready"):
                self._maker.take_back(connection, found)
                registry.write(connection, found.key, state="detached")

    def attach(self, connection: Connection | None = None) -> None:
        """
        Make partitions follow the baseline's tables as they are now, after `detach`.

        Args:
            connection: A connection in a transaction; default one is begun.

        Raises:
            PartitionError: If a partition cannot follow.
        """
        with begun(self._engine, connection) as connection, kept_path(connection):
            for found in self._all(connection, "detached"):
                self._maker.follow(connection, found)

    # How

    def _status(self, connection: Connection, key: RoutingKey | None) -> list[Status]:
        return [status_of(connection, each) for each in registry.read(connection, key)]

    def _all(self, connection: Connection, state: str) -> Iterator[Registered]:
        self._installed(connection)
        registry.owner_of(connection)
        registry.lock_all(connection)
        for found in registry.read(connection):
            if found.state == state:
                registry.lock(connection, found.key)
                yield found

    def _entered(self, connection: Connection, key: RoutingKey, timeout: float | None = None) -> Registered | None:
        self._installed(connection)
        registry.owner_of(connection)
        registry.lock(connection, key, timeout)
        return next(iter(registry.read(connection, key)), None)

    def _installed(self, connection: Connection) -> None:
        if not registry.installed(connection):
            raise registry.UnpreparedError(registry.PREPARE)
