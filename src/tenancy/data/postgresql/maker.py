"""
Makes one key's partition in a transaction, takes it back before the baseline's tables are changed, and has it follow them afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ...errors import ConfigurationError, PartitionError
from ...key import RoutingKey
from . import registry
from .catalog import missing_schemas, read_tables, read_views, relation_names
from .execution import run, scalar, unchecked
from .layout import Layout
from .modes import Mode, Rows, mode_of, value_of
from .plan import Plan
from .refusals import reaching, unserved
from .registry import Registered
from .repair import remembered, repaired, weakened
from .structure import Table, View, fingerprint, literal, quoted

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["Baseline", "Maker"]

# What a schema of ours says, followed by the key; so that none is dropped that is somebody else's.
_OURS = "request-tenancy: partition of "


class Baseline(NamedTuple):
    """
    What a baseline is at some moment.

    Args:
        tables: Its tables, each with its mode.
        mark: What differs when anything of it differs that a partition is made after.
        unserved: Why views of it are in no partition that are to be, by their names.
        unknown: What to say of views that are named as dispensable and are none of it.
    """

    tables: Sequence[tuple[Table, str]]
    mark: str
    unserved: dict[str, str]
    unknown: list[str]


class Maker:
    """
    How partitions of a database are made.

    Args:
        tables: The mode of each table, named with or without its schema.
        default: The mode of all other tables.
        schemas: The schemas that the tables are in, in the order in which queries find them.
        role: The role that statements of a key are run by.
        reader: The role by whose rights a partition's views and functions look at the baseline.
        without: The views of the baseline that a partition need not have, named with or without their schemas.
    """

    def __init__(
        self,
        tables: Mapping[str, Mode | Rows],
        default: Mode,
        schemas: tuple[str, ...],
        role: str,
        reader: str,
        without: Collection[str],
    ) -> None:
        self._tables = tables
        self._default: Mode = default
        self._schemas = schemas
        self._role = role
        self._reader = reader
        self._without = without

    def baseline(self, connection: Connection) -> Baseline:
        """
        Return what the baseline is now, as far as partitions of it go.
        """
        views, tables = read_views(connection, self._schemas), read_tables(connection, self._schemas)
        modes = [(table, _named(mode_of(table, self._tables, self._default))) for table in tables]
        left_out = unserved(views, {table.full_name: mode for table, mode in modes})
        meant = {(view.schema, view.name) for view in views if {view.name, f"{view.schema}.{view.name}"} & {*self._without}}
        named = {f"{schema}.{name}": why for (schema, name), why in left_out.items() if (schema, name) not in meant}
        return Baseline(modes, fingerprint(tables, views), named, self._unknown(views))

    def _unknown(self, views: Iterable[View]) -> list[str]:
        names = {name for view in views for name in (view.name, f"{view.schema}.{view.name}")}
        return [
            f"there is no view {name} in {', '.join(self._schemas)}, so it need not be named; see without= of PostgresIsolation, or --without"
            for name in sorted(self._without)
            if name not in names
        ]

    def plan(self, connection: Connection, key: RoutingKey) -> tuple[Plan, str]:
        """
        Return what a partition is made of, and the baseline's mark.

        Raises:
            ConfigurationError: If a schema or a table is not there that was named.
        """
        if missing := missing_schemas(connection, self._schemas):
            raise ConfigurationError(f"there is no schema {', '.join(missing)}; see schemas= of PostgresIsolation, or --schema")
        views = read_views(connection, self._schemas)
        tables = read_tables(connection, self._schemas)
        unknown = set(self._tables) - {table.name for table in tables} - {table.full_name for table in tables}
        if unknown:
            raise ConfigurationError(
                f"there is no table {', '.join(sorted(unknown))} in {', '.join(self._schemas)}; see tables= of PostgresIsolation, or --table"
            )
        layout = Layout(key, self._schemas, relation_names(connection, self._schemas))
        plan = Plan(
            layout,
            tables,
            views,
            lambda table: mode_of(table, self._tables, self._default),
            reader=self._reader,
            keyed=self._role,
        )
        return plan, fingerprint(tables, views)

    def make(self, connection: Connection, key: RoutingKey, expires: datetime | None) -> None:
        """
        Make a partition, and register it.

        Raises:
            PartitionError: If a table cannot have the mode that it has, or a schema of that name is somebody else's.
        """
        plan, mark = self.plan(connection, key)
        if refusals := plan.refusals():
            raise PartitionError(f"no partition was made for {key}: {'; '.join(refusals)}")
        for schema in plan.layout.schemas.values():
            self._freed(connection, key, schema)
        run(connection, plan.storage())
        comment = literal(f"{_OURS}{key}")
        run(connection, [f"COMMENT ON SCHEMA {quoted(schema)} IS {comment}" for schema in plan.layout.schemas.values()])
        registry.lock_rights(connection)
        self._surfaced(connection, plan)
        self._handed_over(connection, plan)
        self._register(connection, plan, mark, created=datetime.now(timezone.utc), expires=expires)

    def _freed(self, connection: Connection, key: RoutingKey, schema: str) -> None:
        name = literal(quoted(schema))
        if not scalar(connection, f"SELECT to_regnamespace({name}) IS NOT NULL"):
            return
        says = scalar(connection, f"SELECT obj_description(to_regnamespace({name}), 'pg_namespace')")
        if schema in self._schemas or says != f"{_OURS}{key}":
            raise PartitionError(
                f"no partition was made for {key}: the schema {schema} is there already, and is none of a partition of {key}: "
                "use another routing key, or rename that schema"
            )
        run(connection, [f"DROP SCHEMA {quoted(schema)} CASCADE"])

    def remove(self, connection: Connection, found: Registered) -> None:
        """
        Remove a partition with all that is in it, but not from the register.

        Raises:
            PartitionError: If other rows of the baseline would go with the key's.
        """
        if "rows" in found.modes.values():
            tables = [(table, mode_of(table, self._tables, self._default)) for table in read_tables(connection, self._schemas)]
            if reasons := reaching(tables):
                raise PartitionError(f"the partition of {found.key} was not removed: {'; '.join(reasons)}")
            run(connection, ["SET CONSTRAINTS ALL DEFERRED", *self._rows(tables, found)])
        run(connection, [f"DROP SCHEMA IF EXISTS {quoted(schema)} CASCADE" for schema in found.schemas.values()])

    def _rows(self, tables: Iterable[tuple[Table, Mode | Rows]], found: Registered) -> Iterator[str]:
        waiting = []
        for table, mode in tables:
            if found.modes.get(table.full_name) == "rows" and isinstance(mode, Rows):
                waiting.append((table, mode))
        # Those that refer go before those that they refer to.
        while waiting:
            referred = {
                (key.to_schema, key.to_table)
                for table, _ in waiting
                for key in table.foreign_keys
                if (key.to_schema, key.to_table) != (table.schema, table.name)
            }
            free = [each for each in waiting if (each[0].schema, each[0].name) not in referred] or waiting[:]
            for table, mode in free:
                yield f"DELETE FROM {table.sql} WHERE {quoted(mode.column)} = {value_of(table, mode, found.key)}"
                waiting.remove((table, mode))

    def take_back(self, connection: Connection, found: Registered) -> None:
        """
        Take away all by which a partition stands in the way of a change of the baseline's tables.
        """
        names = ", ".join(literal(schema) for schema in found.schemas.values())
        views = (
            "SELECT string_agg(format('DROP VIEW IF EXISTS %I.%I CASCADE', n.nspname, c.relname), ';') FROM pg_class c "
            f"JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ({names}) AND c.relkind = 'v'"
        )
        functions = (
            "SELECT string_agg(format('DROP FUNCTION IF EXISTS %s CASCADE', p.oid::regprocedure), ';') FROM pg_proc p "
            f"JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname IN ({names}) AND p.prosecdef"
        )
        for sql in (views, functions):
            run(connection, [scalar(connection, sql) or ""])
        run(connection, weakened(found.shape))

    def follow(self, connection: Connection, found: Registered) -> None:
        """
        Have a partition that was taken back be as the baseline's tables are now.

        Raises:
            PartitionError: If it cannot.
        """
        plan, mark = self.plan(connection, found.key)
        if refusals := plan.refusals():
            raise PartitionError(f"the partition of {found.key} cannot follow: {'; '.join(refusals)}")
        tables = {str(table.number): table for table, _ in plan.tables.values()}
        modes = {str(table.number): _named(mode) for table, mode in plan.tables.values()}
        try:
            run(connection, repaired(found.shape, tables, plan.layout, modes))
            run(connection, plan.foreign_keys())
            self._surfaced(connection, plan)
        except Exception as error:
            raise PartitionError(
                f"the partition of {found.key} cannot follow the baseline's tables: {str(error).strip()}; "
                "roll the migration back, and drop or refresh the partition, or change its rows, before it is run again"
            ) from error
        self._handed_over(connection, plan)
        self._register(connection, plan, mark)

    def _surfaced(self, connection: Connection, plan: Plan) -> None:
        with unchecked(connection):
            run(connection, plan.surface())

    def _handed_over(self, connection: Connection, plan: Plan) -> None:
        # A superuser may have made it, and another role may be the one to change or drop it.
        owner = registry.owner_of(connection)
        if owner is None or owner == scalar(connection, "SELECT current_user::text"):
            return
        own = plan.layout.schemas.values()
        run(connection, [f"ALTER SCHEMA {quoted(schema)} OWNER TO {quoted(owner)}" for schema in own])
        names = ", ".join(literal(schema) for schema in own)
        tables = scalar(
            connection,
            f"SELECT string_agg(format('ALTER TABLE %I.%I OWNER TO %I', n.nspname, c.relname, {literal(owner)}), ';') FROM pg_class c "
            f"JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ({names}) AND c.relkind = 'r'",
        )
        run(connection, [tables or ""])

    def _register(self, connection: Connection, plan: Plan, mark: str, **values: Any) -> None:
        tables = [(table, _named(mode)) for table, mode in plan.tables.values()]
        registry.write(
            connection,
            plan.layout.key,
            state="ready",
            schemas=plan.layout.schemas,
            path=plan.layout.path,
            modes={table.full_name: mode for table, mode in tables},
            shape=remembered(tables, plan.layout),
            fingerprint=mark,
            role=self._role,
            **values,
        )


def _named(mode: Mode | Rows) -> Literal["overlay", "copy", "empty", "readonly", "rows"]:
    return "rows" if isinstance(mode, Rows) else mode
