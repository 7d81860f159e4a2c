"""
Which tables are overlaid in a partition, and how an ``INSERT`` goes into their deltas at once. Pure but for what it keeps in mind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ...key import RoutingKey
from .registry import SCHEMA
from .transaction import Transaction

__all__ = ["Fault", "Known", "Overlay", "called", "columns_of", "escaped", "fault_of", "overlaid", "redirected"]

# So many partitions' tables are kept in mind.
_KNOWN = 256


class Fault(NamedTuple):
    """
    What makes the baseline's rows with some values the key's own.

    Args:
        columns: The names of the columns.
        types: Their types.
        function: The function, for SQL; it takes an array for each column.
    """

    columns: list[str]
    types: list[str]
    function: str


class Overlay(NamedTuple):
    """
    An overlaid table in a partition.

    Args:
        delta: The table of the key's own rows, for SQL.
        faults: For each unique index that rows can be found by, what makes rows the key's own.
    """

    delta: str
    faults: list[Fault]


class Known:
    """
    Keeps in mind which tables are overlaid, for each life of a partition.
    """

    def __init__(self) -> None:
        self._known: dict[Transaction, dict[str, Overlay]] = {}

    def of(self, inside: Transaction, ask: Callable[[str], Any]) -> dict[str, Overlay]:
        """
        Return the overlaid tables of a partition, by the names that statements without a schema know them by.

        Args:
            inside: The transaction, which is in the partition.
            ask: Executes a statement and returns the only value of its only row.
        """
        known = self._known.get(inside)
        if known is None:
            known = _overlays(ask(overlaid(str(inside.key))))
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[inside] = known
        return known


def overlaid(key: str) -> str:
    """
    Return the statement that asks for a partition's tables; where several schemas have one of a name, it is about the one found first.

    Args:
        key: The routing key.
    """
    # The key has no character that would need a quote, and the statement none that a driver would take for a parameter.
    return (
        f"SELECT coalesce(jsonb_agg(t.value), '[]')::text FROM {SCHEMA}.partitions p CROSS JOIN jsonb_each(p.shape) t "
        "JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemas ->> (t.value ->> 'schema') "
        "JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.value ->> 'name' "
        f"WHERE p.key = '{RoutingKey(key)}' AND t.value ->> 'mode' = 'overlay' AND pg_catalog.pg_table_is_visible(c.oid)"
    )


def _overlays(answer: Any) -> dict[str, Overlay]:
    found = {}
    for table in json.loads(answer):
        types = {name: kind for name, kind, _ in table["columns"].values()}
        faults = [Fault(names, [types[name] for name in names], function) for names, function in table["faults"]]
        found[table["name"]] = Overlay(table["delta"], faults)
    return found


def redirected(statement: str, name: str, overlay: Overlay) -> str:
    """
    Return a composed ``INSERT`` with the delta in the table's place.

    Args:
        statement: The statement.
        name: The table as it is named there.
        overlay: The table in the partition.
    """
    start = f"INSERT INTO {name} "
    at = statement.find(start)
    if at < 0:
        return statement
    # By an alias, since RETURNING and SET name the table.
    return f"{statement[:at]}INSERT INTO {overlay.delta} AS {name} {statement[at + len(start) :]}"


def fault_of(overlay: Overlay, columns: Sequence[str]) -> Fault | None:
    """
    Return what makes rows with some values in just these columns the key's own; None: there is no unique index on them.
    """
    return next((fault for fault in overlay.faults if fault.columns == list(columns)), None)


def escaped(overlay: Overlay) -> Overlay:
    """
    Return an overlay for statements that are sent with parameters, where a per cent sign is written twice.
    """
    faults = [
        Fault(fault.columns, [kind.replace("%", "%%") for kind in fault.types], fault.function.replace("%", "%%"))
        for fault in overlay.faults
    ]
    return Overlay(overlay.delta.replace("%", "%%"), faults)


def called(fault: Fault, places: Sequence[str]) -> str:
    """
    Return the statement that calls what makes rows the key's own.

    Args:
        fault: What it is.
        places: For each column what stands for the parameter: an array.
    """
    arrays = ", ".join(f"CAST({place} AS {kind}[])" for place, kind in zip(places, fault.types, strict=True))
    return f"SELECT {fault.function}({arrays})"


def columns_of(fault: Fault, columns: Mapping[str, Any]) -> list[Any] | None:
    """
    Return for the columns of a fault what is known of each; None: of one nothing is.
    """
    return [columns[name] for name in fault.columns] if all(name in columns for name in fault.columns) else None
