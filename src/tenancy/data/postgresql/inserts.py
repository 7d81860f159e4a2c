"""
Inserts that SQLAlchemy has composed go into an overlay's delta at once, and not through its view row by row: its triggers check them there
for all rows together, and ``ON CONFLICT`` has the indexes that it needs.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

from ..._optional import extra
from .overlays import ROWS, Known, Overlay, escaped, redirected
from .transaction import Transaction

with extra("postgresql", "sqlalchemy"):
    from sqlalchemy import Connection, cast, column, func, literal, literal_column, select, values
    from sqlalchemy.sql.dml import Insert
    from sqlalchemy.sql.elements import BindParameter, ClauseElement, quoted_name
    from sqlalchemy.sql.functions import Function
    from sqlalchemy.types import UserDefinedType

__all__ = ["Inserts"]

_ABSENT: Any = object()


class _Type(UserDefinedType[Any]):
    """
    A type as PostgreSQL writes it.
    """

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


class Inserts:
    """
    Knows which tables are overlaid in which partition.
    """

    def __init__(self) -> None:
        self._known = Known()

    def redirected(self, connection: Connection, inside: Transaction, statement: str, context: Any) -> str:
        """
        Return a statement that is to be executed, or the one in its place.

        Args:
            connection: The connection.
            inside: In whose partition it is, and its revision.
            statement: The statement.
            context: SQLAlchemy's context of its execution.
        """
        compiled = getattr(context, "compiled", None)
        composed = getattr(compiled, "statement", None)
        if compiled is None or not isinstance(composed, Insert):
            return statement
        overlay = self._overlay(connection, inside, composed.table)
        if overlay is None:
            return statement
        name = compiled.preparer.format_table(composed.table)
        return redirected(statement, name, escaped(overlay) if compiled.preparer._double_percents else overlay)

    def prepare(self, connection: Connection, inside: Transaction, statement: Any, rows: list[Mapping[str, Any]]) -> None:
        """
        Before an ``INSERT ... ON CONFLICT`` make those of the baseline's rows the key's own that it could meet.

        Args:
            connection: The connection.
            inside: In whose partition it is, and its revision.
            statement: What is to be executed.
            rows: Its parameters.
        """
        if not isinstance(statement, Insert) or getattr(statement, "_post_values_clause", None) is None:
            return
        overlay = self._overlay(connection, inside, statement.table)
        if overlay is None:
            return
        if statement.select is not None:
            source = statement.select.subquery()
            taken = dict(zip(statement._select_names or (), source.c, strict=True))
            connection.execute(_call(overlay, statement.table, taken))
            return
        found = [_given(statement.table, row, overlay.arguments) for row in _rows(statement, rows)]
        for names, group in itertools.groupby(found, key=lambda row: list(row)):
            batch = list(group) if names else []
            columns: list[Any] = [column(name) for name in names]
            for start in range(0, len(batch), ROWS):
                some = values(*columns, name="tenancy_rows").data([tuple(row.values()) for row in batch[start : start + ROWS]])
                connection.execute(_call(overlay, statement.table, dict(zip(names, some.c, strict=True))))

    def together(self, connection: Connection, inside: Transaction, statement: Any, rows: int) -> bool:
        """
        Return whether the rows of an ``INSERT`` that is executed for many can as well be inserted by one statement, whose end is when they
        are checked.

        Args:
            connection: The connection.
            inside: In whose partition it is, and its revision.
            statement: What is to be executed.
            rows: For how many rows.
        """
        if rows < 2 or not isinstance(statement, Insert) or getattr(statement, "_post_values_clause", None) is not None:
            return False
        overlay = self._overlay(connection, inside, statement.table)
        return overlay is not None and not overlay.arranged

    def _overlay(self, connection: Connection, inside: Transaction, table: Any) -> Overlay | None:
        if getattr(table, "schema", None) is not None:
            return None  # such a name leads past the partition, and the server refuses it
        return self._known.of(inside, lambda sql: _one(connection, sql)).get(table.name)


def _one(connection: Connection, sql: str) -> str:
    cursor: Any = connection.connection.cursor()
    try:
        cursor.execute(sql)
        return str(cursor.fetchone()[0])
    finally:
        cursor.close()


def _rows(statement: Any, rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """
    Yield the rows that an INSERT is about, as far as their values are known here, by column.
    """
    if statement._multi_values:
        for many in statement._multi_values:
            for row in many:
                yield {_key(column): value for column, value in dict(row).items()}
        return
    fixed = {_key(column): value for column, value in (statement._values or {}).items()}
    for row in rows:
        yield {**fixed, **row}


def _key(column: Any) -> str:
    return column if isinstance(column, str) else str(column.key)


def _given(table: Any, row: Mapping[str, Any], names: Container[str]) -> dict[str, Any]:
    """
    Return what a row is given for some columns, by the keys of columns; as expressions.
    """
    found = {}
    for each in table.columns:
        if each.name not in names:
            continue
        value = row.get(each.key, row.get(each.name, _ABSENT))
        if value is _ABSENT and each.default is not None and each.default.is_scalar:
            value = each.default.arg
        if isinstance(value, BindParameter) and value.key in row and value.value is None:
            value = row[value.key]
        if value is not _ABSENT:
            found[each.key] = value if _composed(value) else literal(value, each.type)
    return found


def _composed(value: Any) -> bool:
    return hasattr(value, "__clause_element__") or isinstance(value, ClauseElement)


def _call(overlay: Overlay, table: Any, columns: Mapping[str, Any]) -> Any:
    schema, name = overlay.fault
    given = []
    for each in table.columns:
        source = columns.get(each.key, columns.get(each.name))
        if each.name in overlay.arguments and source is not None:
            argument, kind = overlay.arguments[each.name]
            given.append(literal_column(argument).op("=>")(cast(source, _Type(kind))))
    function: Any = Function(quoted_name(name, quote=True), *given, packagenames=(quoted_name(schema, quote=True),))
    return select(func.count(function)).select_from(next(iter(columns.values())).table)
