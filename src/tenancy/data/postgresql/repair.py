"""
How the tables that keep a key's rows follow the baseline's, after those were changed. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .layout import Layout
from .overlay import arguments, delta, indexed, own_table
from .structure import Column, Table, quoted

__all__ = ["remembered", "repaired", "weakened"]


def remembered(tables: Iterable[tuple[Table, str]], layout: Layout) -> dict[str, Any]:
    """
    Return what has to be known of tables later to see how they were changed, as JSON.

    Args:
        tables: The tables, each with its mode.
        layout: The partition.
    """
    return {
        str(table.number): {
            "schema": table.schema,
            "name": table.name,
            "mode": mode,
            "delta": layout.names(table).delta if mode == "overlay" else layout.relation(table),
            "hidden": layout.names(table).hidden,
            "columns": {str(column.number): [column.name, column.type, column.generated] for column in table.columns},
            "key": [column.number for column in table.primary_key],
            "indexes": [[index.name, index.constraint] for index in table.indexes],
            "checks": [name for name, _ in table.checks],
            "foreign": [key.name for key in table.foreign_keys],
            "fault": [layout.schemas[table.schema], layout.inner(table, "fault")],
            "arguments": arguments(table) if mode == "overlay" else {},
        }
        for table, mode in tables
        if mode in ("overlay", "copy", "empty")
    }


def weakened(known: Mapping[str, Any]) -> Iterator[str]:
    """
    Yield what takes away all by which a key's own tables would stand in the way of a change of the baseline's.

    Args:
        known: What `remembered` returned.
    """
    for table in known.values():
        for name, _, generated in table["columns"].values():
            if not generated:
                yield f"ALTER TABLE {table['delta']} ALTER COLUMN {quoted(name)} DROP DEFAULT"
        for name in table["foreign"]:
            yield f"ALTER TABLE {table['delta']} DROP CONSTRAINT IF EXISTS {quoted(name)}"


def repaired(known: Mapping[str, Any], tables: Mapping[str, Table], layout: Layout, modes: Mapping[str, str]) -> Iterator[str]:
    """
    Yield what makes a key's own tables follow.

    Args:
        known: What `remembered` returned when they were made.
        tables: The baseline's tables as they are now, by number.
        layout: The partition.
        modes: The mode of each table now, by number.
    """
    for number, before in known.items():
        table = tables.get(number)
        if table is None or modes[number] != before["mode"]:
            yield f"DROP TABLE {before['delta']} CASCADE"
            if before["mode"] == "overlay":
                yield f"DROP TABLE {before['hidden']} CASCADE"
    for number, table in tables.items():
        before = known.get(number)
        mode = modes[number]
        if mode not in ("overlay", "copy", "empty"):
            continue
        if before is None or before["mode"] != mode:
            yield from _made(table, layout, mode)
        else:
            yield from _followed(table, layout, before, overlay=mode == "overlay")


def _made(table: Table, layout: Layout, mode: str) -> Iterator[str]:
    if mode == "overlay":
        yield from delta(table, layout.names(table))
        return
    name = layout.relation(table)
    yield own_table(table, name)
    if mode == "copy":
        columns = ", ".join(quoted(column.name) for column in table.stored)
        yield f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {table.sql}"
    for index in table.indexes:
        yield indexed(name, index)


def _followed(table: Table, layout: Layout, before: Mapping[str, Any], *, overlay: bool) -> Iterator[str]:
    names = layout.names(table)
    own = names.delta if overlay else names.table
    if own != before["delta"]:
        yield from _renamed(before["delta"], own, names.schema)
    if overlay and names.hidden != before["hidden"]:
        yield from _renamed(before["hidden"], names.hidden, names.schema)
    for name, constraint in before["indexes"]:
        yield (
            f"ALTER TABLE {own} DROP CONSTRAINT {quoted(name)} CASCADE"
            if constraint
            else f"DROP INDEX {names.schema}.{quoted(name)}"
        )
    for name in before["checks"]:
        yield f"ALTER TABLE {own} DROP CONSTRAINT {quoted(name)}"
    now = {str(column.number): column for column in table.columns}
    for number, (name, _, generated) in before["columns"].items():
        column = now.get(number)
        if column is None or generated or column.generated:
            yield f"ALTER TABLE {own} DROP COLUMN {quoted(name)} CASCADE"
    for number, column in now.items():
        name, kind, generated = before["columns"].get(number, (None, None, True))
        if generated or column.generated:
            yield from _added(own, column)
            continue
        if name != column.name:
            yield f"ALTER TABLE {own} RENAME COLUMN {quoted(name)} TO {quoted(column.name)}"
        if kind != column.type:
            yield f"ALTER TABLE {own} ALTER COLUMN {quoted(column.name)} TYPE {column.type} USING {quoted(column.name)}::{column.type}"
        yield f"ALTER TABLE {own} ALTER COLUMN {quoted(column.name)} {'SET' if column.not_null else 'DROP'} NOT NULL"
        if column.default is not None:
            yield f"ALTER TABLE {own} ALTER COLUMN {quoted(column.name)} SET DEFAULT {column.default}"
    for name, definition in table.checks:
        yield f"ALTER TABLE {own} ADD CONSTRAINT {quoted(name)} {definition}"
    for index in table.indexes:
        yield indexed(own, index)
    if overlay:
        yield from _keyed(table, names.hidden, before)


def _renamed(before: str, now: str, schema: str) -> Iterator[str]:
    yield f"ALTER TABLE {before} RENAME TO {now[len(schema) + 1 :]}"


def _added(own: str, column: Column) -> Iterator[str]:
    if column.generated:
        yield f"ALTER TABLE {own} ADD COLUMN {quoted(column.name)} {column.type} GENERATED ALWAYS AS ({column.expression}) STORED"
        return
    default = f" DEFAULT {column.default}" if column.default is not None else ""
    yield f"ALTER TABLE {own} ADD COLUMN {quoted(column.name)} {column.type}{default}{' NOT NULL' if column.not_null else ''}"


def _keyed(table: Table, hidden: str, before: Mapping[str, Any]) -> Iterator[str]:
    key = table.primary_key
    if [column.number for column in key] != before["key"]:
        columns = ", ".join(f"{quoted(column.name)} {column.type} NOT NULL" for column in key)
        names = ", ".join(quoted(column.name) for column in key)
        # By another key it cannot be said which of the baseline's rows were hidden.
        changed = "RAISE EXCEPTION 'the primary key has changed under rows of a key'"
        yield f"DO $tenancy$ BEGIN IF EXISTS (SELECT FROM {hidden}) THEN {changed}; END IF; END $tenancy$"
        yield f"DROP TABLE {hidden}"
        yield f"CREATE TABLE {hidden} ({columns}, PRIMARY KEY ({names}))"
        return
    for column in key:
        name, kind, _ = before["columns"][str(column.number)]
        if name != column.name:
            yield f"ALTER TABLE {hidden} RENAME COLUMN {quoted(name)} TO {quoted(column.name)}"
        if kind != column.type:
            yield f"ALTER TABLE {hidden} ALTER COLUMN {quoted(column.name)} TYPE {column.type} USING {quoted(column.name)}::{column.type}"
