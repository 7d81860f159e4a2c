"""
`PostgresIsolation`: partitions of a shared PostgreSQL database, one schema of views and tables for each routing key.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal

from ..._optional import extra
from ...errors import ConfigurationError, PartitionError
from ...key import RoutingKey
from . import registry
from .catalog import read_tables, read_views, relation_names
from .layout import Layout
from .modes import Mode, Plan, Rows, checked, mode_of
from .registry import Registered
from .repair import remembered, repaired, weakened
from .roles import made_roles, role_problems
from .structure import fingerprint, quoted

with extra("postgresql", "sqlalchemy"):
    from sqlalchemy import Connection, Engine, create_engine

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["PostgresIsolation", "Problem", "Status"]

# A retired key is remembered so long: more than a message that carries it can be under way.
_TOMBSTONE = timedelta(days=7)
# Of so many hidden rows reads of an overlay become slow.
_MANY_HIDDEN = 10_000


@dataclass(frozen=True)
class Problem:
    """
    What `PostgresIsolation.check` found.

    Args:
        key: Whose partition it is about; None: all of them.
        text: What is wrong, and what to do.
    """

    key: RoutingKey | None
    text: str


@dataclass(frozen=True)
class Status:
    """
    A partition.

    Args:
        key: Its routing key.
        state: ``ready``, ``detached``, ``making`` or ``dropped``.
        schemas: The baseline's schemas, and its own in their place.
        created: When it was made.
        expires: When it may be dropped; None: not by itself.
        size: Bytes on disk.
        changed: For each overlaid table that has any: rows of the key's own, and rows of the baseline that it does not see.
    """

    key: RoutingKey
    state: str
    schemas: Mapping[str, str]
    created: datetime
    expires: datetime | None
    size: int
    changed: Mapping[str, tuple[int, int]]


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
    ) -> None:
        self._tables = dict(tables or {})
        checked(self._tables, default)
        self._default: Mode = default
        if isinstance(schemas, str) or not (found := tuple(schemas)):
            raise ConfigurationError(f"schemas is {schemas!r}; give a list of names, such as ['public']")
        self._schemas = found
        self.role = role
        self.reader = reader
        self._engine = admin if admin is not None else _synchronous(engine)

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
            ConfigurationError: If a role has rights that it must not have.
        """
        with self._engine.begin() as connection:
            made_roles(connection, self.role, self.reader, [*grant_to])
            _run(connection, registry.install(self.role))
            self._refuse(role_problems(connection, self.role, self.reader, self._schemas))

    def create(self, key: str, *, ttl: timedelta | None = None) -> Status:
        """
        Make a key's partition; what is there already is left as it is, but for the time to live.

        Args:
            key: The routing key.
            ttl: After which time `expire` drops it; default never.

        Raises:
            PartitionError: If a table cannot have the mode that it has; the message says why, and what to do. Nothing was made then.
            ConfigurationError: If the database was not prepared by `install`.
        """
        key = RoutingKey(key)
        expires = None if ttl is None else datetime.now(timezone.utc) + ttl
        with self._engine.begin() as connection:
            self._entered(connection, key)
            before = registry.read(connection, key)
            if before and before[0].state in ("ready", "detached"):
                registry.write(connection, key, expires=expires)
            else:
                self._make(connection, key, expires)
        return self.status(key)[0]

    def drop(self, key: str, *, forget: bool = False) -> None:
        """
        Drop a key's partition with all that is in it, when no transaction is in it any more. Does nothing where there is none.

        For seven days a late transaction of the key is told that it is gone, instead of being served as one without a partition.

        Args:
            key: The routing key.
            forget: Whether it is not to be remembered.
        """
        key = RoutingKey(key)
        with self._engine.begin() as connection:
            self._entered(connection, key)
            before = registry.read(connection, key)
            if not before:
                return
            self._remove_rows(connection, key, before[0])
            for schema in before[0].schemas.values():
                connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {quoted(schema)} CASCADE")
            if forget:
                registry.forget(connection, key)
            elif before[0].state != "dropped":
                registry.write(
                    connection,
                    key,
                    state="dropped",
                    schemas={},
                    modes={},
                    shape={},
                    expires=datetime.now(timezone.utc) + _TOMBSTONE,
                )

    def expire(self) -> list[RoutingKey]:
        """
        Drop the partitions whose time is over, forget those that were dropped long ago, and return the keys of those dropped now.
        """
        now = datetime.now(timezone.utc)
        with self._engine.begin() as connection:
            self._installed(connection)
            over = [found for found in registry.read(connection) if found.expires is not None and found.expires <= now]
        for found in over:
            self.drop(found.key, forget=found.state == "dropped")
        return [found.key for found in over if found.state != "dropped"]

    def refresh(self, key: str) -> Status:
        """
        Drop all that a key has changed: its partition is as it would be if it were made now.
        """
        key = RoutingKey(key)
        with self._engine.begin() as connection:
            self._entered(connection, key)
            before = self._one(connection, key)
            self._remove_rows(connection, key, before)
            for schema in before.schemas.values():
                connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {quoted(schema)} CASCADE")
            self._make(connection, key, before.expires)
        return self.status(key)[0]

    # What there is

    def status(self, key: str | None = None) -> list[Status]:
        """
        Return the partitions that there are, or one of them.

        Args:
            key: Its routing key; default all.
        """
        with self._engine.begin() as connection:
            self._installed(connection)
            found = registry.read(connection, None if key is None else RoutingKey(key))
            return [self._status(connection, each) for each in found]

    def check(self) -> list[Problem]:
        """
        Look for what is wrong: rights that would let a key's work past its partition, and partitions that are not as the baseline is now.
        """
        with self._engine.begin() as connection:
            if not registry.installed(connection):
                return [Problem(None, "the database is not prepared: call install()")]
            problems = [
                Problem(None, text)
                for text in role_problems(connection, self.role, self.reader, self._schemas, self._walls(connection))
            ]
            now = self._fingerprint(connection)
            for found in registry.read(connection):
                if found.state == "dropped":
                    continue
                problems += [Problem(found.key, text) for text in self._wrong(connection, found, now)]
            return problems

    def statements(self, key: str) -> list[str]:
        """
        Return the SQL that `create` would run to make a key's partition, to look at.
        """
        with self._engine.begin() as connection:
            plan, _ = self._plan(connection, RoutingKey(key))
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
        """
        with contextlib.ExitStack() as stack:
            if connection is None:
                connection = stack.enter_context(self._engine.begin())
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
        with contextlib.ExitStack() as stack:
            if connection is None:
                connection = stack.enter_context(self._engine.begin())
            self._installed(connection)
            for found in registry.read(connection):
                if found.state == "ready":
                    registry.lock(connection, found.key)
                    _run(connection, self._uncovered(connection, found))
                    registry.write(connection, found.key, state="detached")

    def attach(self, connection: Connection | None = None) -> None:
        """
        Make partitions follow the baseline's tables as they are now, after `detach`.

        Args:
            connection: A connection in a transaction; default one is begun.

        Raises:
            PartitionError: If a partition cannot follow.
        """
        with contextlib.ExitStack() as stack:
            if connection is None:
                connection = stack.enter_context(self._engine.begin())
            self._installed(connection)
            for found in registry.read(connection):
                if found.state == "detached":
                    registry.lock(connection, found.key)
                    self._follow(connection, found)

    # How

    def _make(self, connection: Connection, key: RoutingKey, expires: datetime | None) -> None:
        plan, mark = self._plan(connection, key)
        self._refuse(plan.refusals(), f"no partition was made for {key}")
        for schema in plan.layout.schemas.values():
            connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {quoted(schema)} CASCADE")
        _run(connection, [*plan.storage(), *plan.surface()])
        self._register(connection, plan, mark, expires=expires)

    def _follow(self, connection: Connection, found: Registered) -> None:
        plan, mark = self._plan(connection, found.key)
        self._refuse(plan.refusals(), f"the partition of {found.key} cannot follow")
        tables = {str(table.number): table for table, _ in plan.tables.values()}
        modes = {str(table.number): _named(mode) for table, mode in plan.tables.values()}
        try:
            _run(connection, repaired(found.shape, tables, plan.layout, modes))
            _run(connection, plan.foreign_keys())
            _run(connection, plan.surface())
        except Exception as error:
            raise PartitionError(
                f"the partition of {found.key} cannot follow the baseline's tables: {error}; drop it, or roll the migration back"
            ) from error
        self._register(connection, plan, mark)

    def _register(self, connection: Connection, plan: Plan, mark: str, **values: Any) -> None:
        layout = plan.layout
        registry.write(
            connection,
            layout.key,
            state="ready",
            schemas=layout.schemas,
            path=layout.path,
            modes={table.full_name: _named(mode) for table, mode in plan.tables.values()},
            shape=remembered([(table, _named(mode)) for table, mode in plan.tables.values()], layout),
            fingerprint=mark,
            role=self.role,
            **values,
        )

    def _plan(self, connection: Connection, key: RoutingKey) -> tuple[Plan, str]:
        views = read_views(connection, self._schemas)
        tables = read_tables(connection, self._schemas)
        missing = set(self._tables) - {table.name for table in tables} - {table.full_name for table in tables}
        if missing:
            raise ConfigurationError(
                f"there is no table {', '.join(sorted(missing))} in {', '.join(self._schemas)}; see tables= of PostgresIsolation"
            )
        layout = Layout(key, self._schemas, relation_names(connection, self._schemas))
        plan = Plan(
            layout,
            tables,
            views,
            lambda table: mode_of(table, self._tables, self._default),
            reader=self.reader,
            keyed=self.role,
        )
        return plan, fingerprint(tables, views)

    def _fingerprint(self, connection: Connection) -> str:
        views = read_views(connection, self._schemas)
        return fingerprint(read_tables(connection, self._schemas), views)

    def _walls(self, connection: Connection) -> dict[str, str]:
        return {table.sql: _named(mode_of(table, self._tables, self._default)) for table in read_tables(connection, self._schemas)}

    def _uncovered(self, connection: Connection, found: Registered) -> Iterator[str]:
        own = list(found.schemas.values())
        rows = connection.exec_driver_sql(
            "SELECT format('DROP VIEW IF EXISTS %%I.%%I CASCADE', n.nspname, c.relname) FROM pg_class c "
            "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ANY(%(own)s) AND c.relkind = 'v'",
            {"own": own},
        )
        yield from [row[0] for row in rows]
        rows = connection.exec_driver_sql(
            "SELECT format('DROP FUNCTION IF EXISTS %%s CASCADE', p.oid::regprocedure) FROM pg_proc p "
            "JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = ANY(%(own)s) AND p.prosecdef",
            {"own": own},
        )
        yield from [row[0] for row in rows]
        yield from weakened(found.shape)

    def _remove_rows(self, connection: Connection, key: RoutingKey, found: Registered) -> None:
        rows = [name for name, mode in found.modes.items() if mode == "rows"]
        if rows and found.state == "ready":
            plan, _ = self._plan(connection, key)
            connection.exec_driver_sql("SET CONSTRAINTS ALL DEFERRED")
            waiting = [table for table, mode in plan.tables.values() if table.full_name in rows and isinstance(mode, Rows)]
            referring = {
                (other.to_schema, other.to_table): (other.schema, other.table) for table in waiting for other in table.foreign_keys
            }
            # Those that refer go before those that they refer to.
            while waiting:
                left = {(table.schema, table.name) for table in waiting}
                free = [
                    table
                    for table in waiting
                    if referring.get((table.schema, table.name), (None, None)) not in left - {(table.schema, table.name)}
                ]
                for table in free or waiting:
                    connection.exec_driver_sql(f"DELETE FROM {plan.layout.relation(table)}")
                    waiting.remove(table)

    def _status(self, connection: Connection, found: Registered) -> Status:
        size = connection.exec_driver_sql(
            "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = ANY(%(own)s) AND c.relkind = 'r'",
            {"own": list(found.schemas.values())},
        ).scalar()
        changed = {}
        if found.state in ("ready", "detached"):
            for table in found.shape.values():
                if table["mode"] == "overlay":
                    own, hidden = (
                        connection.exec_driver_sql(f"SELECT count(*) FROM {table[it]}").scalar() for it in ("delta", "hidden")
                    )
                    if own or hidden:
                        changed[f"{table['schema']}.{table['name']}"] = int(own or 0), int(hidden or 0)
        return Status(found.key, found.state, found.schemas, found.created, found.expires, int(size or 0), changed)

    def _wrong(self, connection: Connection, found: Registered, now: str) -> Iterator[str]:
        if found.state == "detached":
            yield f"the partition of {found.key} is detached, and work with its key is refused: call attach()"
            return
        if found.fingerprint != now:
            yield (
                f"the baseline's tables are not what they were when the partition of {found.key} was made: run migrations within "
                f"migration(); now call detach() and attach(), or refresh({str(found.key)!r})"
            )
        for schema in found.schemas.values():
            there = connection.exec_driver_sql("SELECT to_regnamespace(quote_ident(%(name)s))", {"name": schema}).scalar()
            if there is None:
                yield f"the schema {schema} of {found.key} is gone: call refresh({str(found.key)!r})"
                return
        for name, (_, hidden) in self._status(connection, found).changed.items():
            if hidden > _MANY_HIDDEN:
                yield f"{found.key} has changed or deleted {hidden} rows of {name}, which makes its reads slow: use mode copy for that table"

    def _entered(self, connection: Connection, key: RoutingKey) -> None:
        self._installed(connection)
        registry.lock(connection, key)

    def _installed(self, connection: Connection) -> None:
        if not registry.installed(connection):
            raise ConfigurationError("the database is not prepared for partitions: call PostgresIsolation.install() once")

    def _one(self, connection: Connection, key: RoutingKey) -> Registered:
        found = registry.read(connection, key)
        if not found or found[0].state == "dropped":
            raise PartitionError(f"{key} has no partition in this database: create it first")
        return found[0]

    def _refuse(self, reasons: list[str], what: str = "") -> None:
        if reasons:
            start = f"{what}: " if what else ""
            error: type[Exception] = PartitionError if what else ConfigurationError
            raise error(start + "; ".join(reasons))


def _named(mode: Mode | Rows) -> Literal["overlay", "copy", "empty", "readonly", "rows"]:
    return "rows" if isinstance(mode, Rows) else mode


def _run(connection: Connection, statements: Iterable[str]) -> None:
    # In one message to the server, and without parameters, so that a per cent sign is one.
    text = ";\n".join(statements)
    if text:
        cursor: Any = connection.connection.cursor()
        try:
            cursor.execute(text)
        finally:
            cursor.close()


def _synchronous(engine: Engine | AsyncEngine) -> Engine:
    if isinstance(engine, Engine) and not engine.dialect.is_async:
        return engine
    return create_engine(engine.url.set(drivername="postgresql+psycopg"))
