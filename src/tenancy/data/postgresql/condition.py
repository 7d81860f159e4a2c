"""
What condition partitions are in: what is in them, and what is wrong with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ...key import RoutingKey
from .execution import scalar
from .registry import Registered
from .structure import literal, qualified, quoted

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["Problem", "Status", "faults_of", "status_of"]

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
        state: ``ready``, ``detached`` or ``dropped``.
        schemas: The baseline's schemas, and its own in their place.
        created: When it was made.
        expires: When it may be dropped; None: not by itself.
        size: Bytes on disk.
        changed: For each overlaid table that has any: rows of the key's own, and primary keys by which it does not see the baseline's row,
            if there is one.
    """

    key: RoutingKey
    state: str
    schemas: Mapping[str, str]
    created: datetime
    expires: datetime | None
    size: int
    changed: Mapping[str, tuple[int, int]]


def status_of(connection: Connection, found: Registered) -> Status:
    """
    Return what is in a partition, as far as it is there.
    """
    size = connection.exec_driver_sql(
        "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = ANY(%(own)s) AND c.relkind = 'r'",
        {"own": list(found.schemas.values())},
    ).scalar()
    overlays = [table for table in found.shape.values() if table["mode"] == "overlay"]
    rows = _counted(connection, [table[it] for table in overlays for it in ("delta", "hidden")])
    changed = {
        f"{table['schema']}.{table['name']}": (rows[table["delta"]], rows[table["hidden"]])
        for table in overlays
        if rows.keys() >= {table["delta"], table["hidden"]} and (rows[table["delta"]] or rows[table["hidden"]])
    }
    return Status(found.key, found.state, found.schemas, found.created, found.expires, int(size or 0), changed)


def faults_of(
    connection: Connection, found: Registered, mark: str, modes: Mapping[str, str], role: str, unserved: Mapping[str, str]
) -> Iterator[str]:
    """
    Yield what is wrong with a partition, and what to do.

    Args:
        connection: A connection.
        found: What is registered of it.
        mark: What `structure.fingerprint` returns for the baseline's tables now.
        modes: The mode of each table now.
        role: The role that statements of a key are to be run by.
        unserved: Why views of the baseline are in no partition, by their names.
    """
    key = str(found.key)
    anew = f"call refresh({key!r}), or run `tenancy data refresh {key}`"
    again = (
        f"call detach() and attach(), or refresh({key!r}); as commands, `tenancy data detach` and `tenancy data attach`, or "
        f"`tenancy data refresh {key}`"
    )
    if found.state == "detached":
        yield f"the partition of {key} is detached, and work with its key is refused: call attach(), or run `tenancy data attach`"
        return
    for schema in found.schemas.values():
        if not scalar(connection, f"SELECT to_regnamespace({literal(quoted(schema))}) IS NOT NULL"):
            yield f"the schema {schema} of {key} is gone, and work with its key is refused: {anew}"
            return
    for table in found.shape.values():
        shown = qualified(found.schemas[table["schema"]], table["name"])
        names = (shown, table["delta"], table["hidden"]) if table["mode"] == "overlay" else (shown,)
        for name in names:
            if not _there(connection, name):
                yield f"{name} of {key} is gone: {anew}"
    if found.fingerprint != mark:
        yield (
            f"the baseline's tables are not what they were when the partition of {key} was made: run migrations within "
            f"migration(); now {again}"
        )
    else:
        for name in sorted(found.modes.keys() | modes.keys()):
            before, now = found.modes.get(name), modes.get(name)
            if before != now:
                yield f"{name} is {before} in the partition of {key}, and should be {now}: {again}"
        for name, reason in unserved.items():
            yield (
                f"the view {name} is not in the partition of {key}, and is refused to it: {reason}; have it use the query by itself, or "
                f"say that keys can do without it: without=[{name!r}], or --without {name}"
            )
    if found.role != role:
        yield f"statements of {key} are run by the role {found.role}, and not by {role}: {again}"
    for name, (_, hidden) in status_of(connection, found).changed.items():
        if hidden > _MANY_HIDDEN:
            yield f"{key} has changed or deleted {hidden} rows of {name}, which makes its reads slow: use mode copy for that table"


def _counted(connection: Connection, names: list[str]) -> dict[str, int]:
    """
    How many rows those of some tables have that are there.
    """
    literals = ", ".join(literal(name) for name in names)
    # What takes no space has no rows, and need not be looked at.
    there = scalar(
        connection,
        f"SELECT coalesce(jsonb_object_agg(n, pg_relation_size(to_regclass(n)) > 0), '{{}}')::text FROM unnest(ARRAY[{literals}]::text[]) n "
        "WHERE to_regclass(n) IS NOT NULL",
    )
    found = json.loads(there)
    filled = [name for name, used in found.items() if used]
    counts = ", ".join(f"(SELECT count(*) FROM {name})" for name in filled)
    rows = scalar(connection, f"SELECT ARRAY[{counts}]::bigint[]") if filled else []
    return dict.fromkeys(found, 0) | dict(zip(filled, rows, strict=True))


def _there(connection: Connection, name: str) -> bool:
    return bool(scalar(connection, f"SELECT to_regclass({literal(name)}) IS NOT NULL"))
