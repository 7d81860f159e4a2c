"""
Which tables are overlaid in a partition, and how an ``INSERT`` goes into their deltas at once. Pure but for what it keeps in mind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ...key import RoutingKey
from .registry import SCHEMA
from .structure import qualified
from .transaction import Transaction

__all__ = ["ROWS", "Known", "Overlay", "escaped", "met", "overlaid", "redirected"]

#: So many rows are looked at in one statement, which has at most 65535 parameters.
ROWS = 500
# So many partitions' tables are kept in mind.
_KNOWN = 256


class Overlay(NamedTuple):
    """
    An overlaid table in a partition.

    Args:
        delta: The table of the key's own rows, for SQL.
        fault: The schema and name of the function that makes the key's own what a row could conflict with.
        arguments: Its arguments: for each column by which a row can conflict with another one their name and type.
        arranged: Whether its rows can refer to one another, so that it matters which comes first.
    """

    delta: str
    fault: tuple[str, str]
    arguments: Mapping[str, tuple[str, str]]
    arranged: bool = False


class Known:
    """
    Keeps in mind which tables are overlaid, for each life of a partition.
    """

    def __init__(self) -> None:
        self._known: dict[Transaction, dict[str, Overlay]] = {}

    def of(self, inside: Transaction, ask: Callable[[str], str]) -> dict[str, Overlay]:
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


def _overlays(answer: str) -> dict[str, Overlay]:
    return {
        table["name"]: Overlay(
            table["delta"],
            tuple(table["fault"]),
            {name: (argument, kind) for name, (argument, kind) in table["arguments"].items()},
            table["arranged"],
        )
        for table in json.loads(answer)
    }


def redirected(statement: str, name: str, overlay: Overlay) -> str:
    """
    Return a composed ``INSERT`` with the delta in the table's place.

    Args:
        statement: The statement.
        name: The table as it is named there.
        overlay: The table in the partition.
    """
    into = f"INTO {name} "
    # There may be a comment in between, by prefix_with().
    at = statement.find(into, statement.find("INSERT ") + 1)
    if at < 0:
        return statement
    # By an alias, since RETURNING and SET name the table.
    return f"{statement[:at]}INTO {overlay.delta} AS {name} {statement[at + len(into) :]}"


def escaped(overlay: Overlay) -> Overlay:
    """
    Return an overlay for statements that are sent with parameters, where a per cent sign is written twice.
    """

    def doubled(text: str) -> str:
        return text.replace("%", "%%")

    arguments = {name: (doubled(argument), doubled(kind)) for name, (argument, kind) in overlay.arguments.items()}
    schema, function = overlay.fault
    return Overlay(doubled(overlay.delta), (doubled(schema), doubled(function)), arguments, overlay.arranged)


def met(overlay: Overlay, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """
    Return the statement that makes those of the baseline's rows the key's own that new rows could conflict with.

    Args:
        overlay: The table.
        columns: Some of the columns that it can conflict by.
        rows: For each row an expression of SQL for each of these columns; at least one.
    """
    labels = [f"v{at}" for at in range(len(columns))]
    given = ", ".join(f"{overlay.arguments[name][0]} => v.{label}" for name, label in zip(columns, labels, strict=True))
    kinds = [overlay.arguments[name][1] for name in columns]
    values = ", ".join(
        "(" + ", ".join(f"CAST({one} AS {kind})" for one, kind in zip(row, kinds, strict=True)) + ")" for row in rows
    )
    return f"SELECT count({qualified(*overlay.fault)}({given})) FROM (VALUES {values}) v({', '.join(labels)})"
