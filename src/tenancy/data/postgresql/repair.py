"""
How the tables that keep a key's rows follow the baseline's, after those were changed. Pure.

Before the change they are *weakened*: nothing is left of them but rows in columns of types that are PostgreSQL's own, so that nothing of
theirs depends on what a migration may drop, as a constraint on its index, or a column on an enum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .checks import within_statement
from .layout import Layout
from .overlay import arguments, checked, delta, indexed, own_table
from .structure import Column, Table, dollar_quoted, quoted

__all__ = ["remembered", "repaired", "weakened"]

_KEPT = ("overlay", "copy", "empty")


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
            "hidden_key": layout.names(table).hidden_key,
            "columns": {str(column.number): [column.name, column.type, column.generated] for column in table.columns},
            "key": [column.number for column in table.primary_key],
            "indexes": [[index.name, index.constraint] for index in table.indexes],
            "checks": [name for name, _ in table.checks],
            "foreign": [key.name for key in table.foreign_keys],
            "triggers": [name for name, _ in table.triggers] if mode != "overlay" else [],
            "fault": [layout.schemas[table.schema], layout.inner(table, "fault")],
            "arguments": arguments(table) if mode == "overlay" else {},
            "arranged": any(within_statement(key) for key in table.foreign_keys),
            "working": [layout.changed, layout.stripes],
        }
        for table, mode in tables
        if mode in _KEPT
    }


def weakened(known: Mapping[str, Any]) -> Iterator[str]:
    """
    Yield what takes away all by which a key's own tables would stand in the way of a change of the baseline's.

    Args:
        known: What `remembered` returned.
    """
    # They are made anew with what writes to them.
    for name in dict.fromkeys(name for table in known.values() for name in table["working"]):
        yield f"DROP TABLE IF EXISTS {name}"
    for table in known.values():
        for name in table["foreign"]:
            yield f"ALTER TABLE {table['delta']} DROP CONSTRAINT IF EXISTS {quoted(name)}"
        for name in table["triggers"]:
            yield f"DROP TRIGGER IF EXISTS {quoted(name)} ON {table['delta']}"
    for table in known.values():
        own, columns = table["delta"], table["columns"].values()
        schema = _schema(own)
        for name, constraint in table["indexes"]:
            yield (
                f"ALTER TABLE {own} DROP CONSTRAINT IF EXISTS {quoted(name)} CASCADE"
                if constraint
                else f"DROP INDEX IF EXISTS {schema}.{quoted(name)}"
            )
        for name in table["checks"]:
            yield f"ALTER TABLE {own} DROP CONSTRAINT IF EXISTS {quoted(name)}"
        for name, _, generated in columns:
            # What was computed is kept: the baseline's column may go on as a plain one.
            yield f"ALTER TABLE {own} ALTER COLUMN {quoted(name)} DROP {'EXPRESSION' if generated else 'DEFAULT'}"
        for name, kind, _ in columns:
            if _while_weak(kind) != kind:
                yield _retyped(own, name, "text")
        if table["mode"] == "overlay":
            yield f"ALTER TABLE {table['hidden']} DROP CONSTRAINT IF EXISTS {table['hidden_key']}"
            for number in table["key"]:
                name, kind, _ = table["columns"][str(number)]
                if _while_weak(kind) != kind:
                    yield _retyped(table["hidden"], name, "text")


def repaired(known: Mapping[str, Any], tables: Mapping[str, Table], layout: Layout, modes: Mapping[str, str]) -> Iterator[str]:
    """
    Yield what makes a key's own tables follow, after they were weakened.

    Args:
        known: What `remembered` returned when they were made.
        tables: The baseline's tables as they are now, by number.
        layout: The partition.
        modes: The mode of each table now, by number.
    """
    kept = [number for number, before in known.items() if number in tables and modes[number] == before["mode"]]
    for number, before in known.items():
        if number not in kept:
            yield f"DROP TABLE {before['delta']} CASCADE"
            if before["mode"] == "overlay":
                yield f"DROP TABLE {before['hidden']} CASCADE"
    moves = []
    for number in kept:
        before, names = known[number], layout.names(tables[number])
        overlay = before["mode"] == "overlay"
        moves.append((before["delta"], names.delta if overlay else names.table))
        if overlay:
            moves.append((before["hidden"], names.hidden))
    yield from _moved(moves)
    for number in kept:
        yield from _followed(tables[number], layout, known[number])
    for number, table in tables.items():
        if number not in kept and modes[number] in _KEPT:
            yield from _made(table, layout, modes[number])
    for number in kept:
        names = layout.names(tables[number])
        own = names.delta if modes[number] == "overlay" else names.table
        for name, definition in tables[number].checks:
            held = checked(definition) if modes[number] == "overlay" else definition
            yield f"ALTER TABLE {own} ADD CONSTRAINT {quoted(name)} {held}"
        for index in tables[number].indexes:
            yield indexed(own, index)


def _moved(moves: Iterable[tuple[str, str]]) -> Iterator[str]:
    # By way of names that nobody has, since two may have changed theirs.
    changed = [(before, now, f"tenancy_moved_{at}") for at, (before, now) in enumerate(moves) if before != now]
    for before, _, between in changed:
        yield f"ALTER TABLE {before} RENAME TO {between}"
    for before, now, between in changed:
        if _schema(before) != _schema(now):
            yield f"ALTER TABLE {_schema(before)}.{between} SET SCHEMA {_schema(now)}"
    for _, now, between in changed:
        yield f"ALTER TABLE {_schema(now)}.{between} RENAME TO {now[len(_schema(now)) + 1 :]}"


def _schema(name: str) -> str:
    # Partitions' schemas have names without quotes and dots.
    return name[: name.index('".') + 1]


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


def _followed(table: Table, layout: Layout, before: Mapping[str, Any]) -> Iterator[str]:
    names = layout.names(table)
    overlay = before["mode"] == "overlay"
    own = names.delta if overlay else names.table
    now = {str(column.number): column for column in table.columns}
    columns = {number: (name, kind) for number, (name, kind, _) in before["columns"].items()}
    kept = {number: each for number, each in columns.items() if number in now and not now[number].generated}
    for number, (name, _) in columns.items():
        if number not in kept:
            yield f"ALTER TABLE {own} DROP COLUMN {quoted(name)} CASCADE"
    yield from _columns_renamed(own, [(number, name, now[number].name) for number, (name, _) in kept.items()])
    for number, (_, kind) in kept.items():
        column = now[number]
        if _while_weak(kind) != column.type:
            yield _retyped(own, column.name, column.type)
        yield f"ALTER TABLE {own} ALTER COLUMN {quoted(column.name)} {'SET' if column.not_null else 'DROP'} NOT NULL"
        if column.default is not None:
            yield f"ALTER TABLE {own} ALTER COLUMN {quoted(column.name)} SET DEFAULT {column.default}"
    # Those first that others are computed from.
    for column in sorted((column for number, column in now.items() if number not in kept), key=lambda each: each.generated):
        yield _added(own, column)
    if overlay:
        yield from _keyed(table, names.hidden, names.hidden_key, before)


def _columns_renamed(own: str, renames: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    changed = [(number, before, now) for number, before, now in renames if before != now]
    for number, before, _ in changed:
        yield f"ALTER TABLE {own} RENAME COLUMN {quoted(before)} TO tenancy_renamed_{number}"
    for number, _, now in changed:
        yield f"ALTER TABLE {own} RENAME COLUMN tenancy_renamed_{number} TO {quoted(now)}"


def _while_weak(kind: str) -> str:
    # Read with nothing on the path, the name of a type has a schema where it is not PostgreSQL's own.
    return "text" if "." in kind else kind


def _retyped(own: str, name: str, kind: str) -> str:
    return f"ALTER TABLE {own} ALTER COLUMN {quoted(name)} TYPE {kind} USING {quoted(name)}::{kind}"


def _added(own: str, column: Column) -> str:
    if column.generated:
        return f"ALTER TABLE {own} ADD COLUMN {quoted(column.name)} {column.type} GENERATED ALWAYS AS ({column.expression}) STORED"
    default = f" DEFAULT {column.default}" if column.default is not None else ""
    return f"ALTER TABLE {own} ADD COLUMN {quoted(column.name)} {column.type}{default}{' NOT NULL' if column.not_null else ''}"


def _keyed(table: Table, hidden: str, constraint: str, before: Mapping[str, Any]) -> Iterator[str]:
    key = table.primary_key
    names = ", ".join(quoted(column.name) for column in key)
    if [column.number for column in key] != before["key"]:
        columns = ", ".join(f"{quoted(column.name)} {column.type} NOT NULL" for column in key)
        # By another key it cannot be said which of the baseline's rows were hidden.
        changed = "RAISE EXCEPTION 'the primary key has changed under rows of a key'"
        yield f"DO {dollar_quoted(f'BEGIN IF EXISTS (SELECT FROM {hidden}) THEN {changed}; END IF; END')}"
        yield f"DROP TABLE {hidden}"
        yield f"CREATE TABLE {hidden} ({columns}, CONSTRAINT {constraint} PRIMARY KEY ({names}))"
        return
    columns_before = {str(column.number): before["columns"][str(column.number)] for column in key}
    yield from _columns_renamed(
        hidden, [(str(column.number), columns_before[str(column.number)][0], column.name) for column in key]
    )
    for column in key:
        if _while_weak(columns_before[str(column.number)][1]) != column.type:
            yield _retyped(hidden, column.name, column.type)
    yield f"ALTER TABLE {hidden} ADD CONSTRAINT {constraint} PRIMARY KEY ({names})"
