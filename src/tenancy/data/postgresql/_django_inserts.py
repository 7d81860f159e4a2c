"""
Inserts that Django has composed go into an overlay's delta at once, as SQLAlchemy's do: its triggers check them there for all rows together,
and ``ON CONFLICT`` has the indexes that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .overlays import Overlay, called, columns_of, redirected

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
            _fault(compiler.connection, overlay, fields, rows)
        return assemble(fields, rows)

    def composed() -> list[tuple[str, Any]]:
        return [(redirected(sql, name, overlay), parameters) for sql, parameters in compose()]

    compiler.assemble_as_sql, compiler.as_sql = assembled, composed
    try:
        return execute()
    finally:
        del compiler.assemble_as_sql, compiler.as_sql


def _fault(connection: Any, overlay: Overlay, fields: Sequence[Any], rows: Sequence[Sequence[Any]]) -> None:
    places = {field.column: at for at, field in enumerate(fields) if field is not None}
    for fault in overlay.faults:
        found = columns_of(fault, places)
        if found is None:
            continue
        values = [picked for row in rows if _known(picked := [row[at] for at in found])]
        if values:
            with connection.cursor() as cursor:
                cursor.execute(called(fault, ["%s"] * len(found)), [list(column) for column in zip(*values, strict=True)])


def _known(values: Sequence[Any]) -> bool:
    # NULL meets nothing, and what an expression is only the server knows.
    return not any(value is None or hasattr(value, "as_sql") for value in values)
