"""
``select_for_update()`` of rows of an overlay: they are made the key's own, and locked there, where every transaction of the key that changes
them would wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .overlays import ROWS, Overlay, met

__all__ = ["lockable", "locking"]


def lockable(query: Any) -> bool:
    """
    Return whether a query of Django selects, to lock them, rows of one table by its primary key.
    """
    if not query.select_for_update or query.combinator or query.distinct or query.distinct_fields or query.group_by is not None:
        return False
    # A row that another transaction makes the key's own at this moment can only be waited for.
    if query.select_for_update_skip_locked:
        return False
    model = query.model
    alone = not query.select_related and {alias for alias, count in query.alias_refcount.items() if count} <= {model._meta.db_table}
    return (alone or tuple(query.select_for_update_of) == ("self",)) and getattr(model._meta.pk, "column", None) is not None


def locking(compiler: Any, overlay: Overlay, execute: Callable[[], Any]) -> Any:
    """
    Execute such a query: find the rows, make them the key's own, lock them, and read those that are locked and still match.

    Args:
        compiler: Django's ``SQLCompiler`` of it.
        overlay: The table in the partition.
        execute: Has the compiler compose the statement, and executes it.
    """
    query, connection = compiler.query, compiler.connection
    key = query.model._meta.pk
    if key.column not in overlay.arguments:
        return execute()
    found = _found(query, compiler.using)
    locked = _locked(connection, overlay, key, [key.get_db_prep_value(value, connection) for value in found], query)
    left = query.chain()
    left.select_for_update = False
    left.clear_limits()
    left.add_filter("pk__in", locked)
    compiler.query = left
    try:
        return execute()
    finally:
        compiler.query = query


def _found(query: Any, using: str) -> list[Any]:
    keys = query.chain()
    keys.select_for_update = False
    keys.clear_select_clause()
    keys.clear_deferred_loading()
    keys.select_related = False
    keys.add_fields(["pk"])
    return [row[0] for row in keys.get_compiler(using).results_iter()]


def _locked(connection: Any, overlay: Overlay, key: Any, values: list[Any], query: Any) -> list[Any]:
    name = connection.ops.quote_name(key.column).replace("%", "%%")
    lock = connection.ops.for_update_sql(
        nowait=query.select_for_update_nowait,
        skip_locked=query.select_for_update_skip_locked,
        no_key=query.select_for_no_key_update,
    )
    with connection.cursor() as cursor:
        if query.select_for_update_nowait:
            # It may have to wait for another transaction that makes a row the key's own as well.
            cursor.execute("SELECT current_setting('lock_timeout'), set_config('lock_timeout', '5', true)")
            before = cursor.fetchone()[0]
        for start in range(0, len(values), ROWS):
            some = values[start : start + ROWS]
            cursor.execute(met(overlay, [key.column], [["%s"]] * len(some)), some)
        if query.select_for_update_nowait:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [before])
        cursor.execute(
            f"SELECT {name} FROM {overlay.delta} WHERE {name} = ANY(CAST(%s AS {overlay.arguments[key.column][1]}[])) ORDER BY {name} {lock}",
            [values],
        )
        return [row[0] for row in cursor.fetchall()]
