"""
Inserts that Django has composed go into an overlay's delta at once, as SQLAlchemy's do: its triggers check them there for all rows together,
and ``ON CONFLICT`` has the indexes that it needs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from .overlays import ROWS, Overlay, met, redirected

__all__ = ["inserting"]


def inserting(compiler: Any, overlay: Overlay, execute: Callable[[], Any]) -> Any:
    """
    Execute an ``INSERT`` with the delta in the table's place; where it has an ``ON CONFLICT``, after those of the baseline's rows that it
    could meet were made the key's own.

    Args:
        compiler: Django's ``SQLInsertCompiler``.
        overlay: The table in the partition.
        execute: Has the compiler compose the statement, and executes it.
    """
    assemble, compose = compiler.assemble_as_sql, compiler.as_sql
    name = compiler.connection.ops.quote_name(compiler.query.get_meta().db_table)

    def assembled(fields: Sequence[Any], rows: Sequence[Sequence[Any]]) -> Any:
        # The values as they are sent, after pre_save() of the fields, which must be called once.
        if compiler.query.on_conflict is not None:
            _fault(compiler, overlay, fields, rows)
        return assemble(fields, rows)

    def composed() -> list[tuple[str, Any]]:
        return [(redirected(sql, name, overlay), parameters) for sql, parameters in compose()]

    compiler.assemble_as_sql, compiler.as_sql = assembled, composed
    try:
        return execute()
    finally:
        del compiler.assemble_as_sql, compiler.as_sql


def _fault(compiler: Any, overlay: Overlay, fields: Sequence[Any], rows: Sequence[Sequence[Any]]) -> None:
    places = {field.column: at for at, field in enumerate(fields) if field is not None and field.column in overlay.arguments}
    given = [_given(compiler, {name: row[at] for name, at in places.items()}) for row in rows]
    # Rows that leave the same columns to their defaults are looked at together.
    for names, group in itertools.groupby(given, key=lambda row: list(row)):
        alike = list(group) if names else []
        for start in range(0, len(alike), ROWS):
            some = [list(row.values()) for row in alike[start : start + ROWS]]
            statement = met(overlay, names, [[sql for sql, _ in row] for row in some])
            with compiler.connection.cursor() as cursor:
                cursor.execute(statement, [value for row in some for _, values in row for value in values])


def _given(compiler: Any, row: dict[str, Any]) -> dict[str, tuple[str, Sequence[Any]]]:
    found = {name: compiler.compile(value) if hasattr(value, "as_sql") else ("%s", [value]) for name, value in row.items()}
    return {name: given for name, given in found.items() if given[0] != "DEFAULT"}
