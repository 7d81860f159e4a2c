"""
Inserts that SQLAlchemy has composed go into an overlay's delta at once, and not through its view row by row: its triggers check them there
for all rows together, and ``ON CONFLICT`` has the indexes that it needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..._optional import extra
from .overlays import Known, Overlay, redirected

with extra("postgresql", "sqlalchemy"):
    from sqlalchemy import Connection, bindparam, select, text
    from sqlalchemy.dialects.postgresql import ARRAY
    from sqlalchemy.sql.dml import Insert
    from sqlalchemy.sql.elements import BindParameter

__all__ = ["Inserts"]


class Inserts:
    """
    Knows which tables are overlaid in which partition.
    """

    def __init__(self) -> None:
        self._known = Known()

    def redirected(self, connection: Connection, inside: Any, statement: str, context: Any) -> str:
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
        return redirected(statement, name, overlay)

    def prepare(self, connection: Connection, inside: Any, statement: Any, rows: list[Mapping[str, Any]]) -> None:
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
        for names, _, function in overlay.faults:
            columns = [column for name in names for column in statement.table.columns if column.name == name]
            if len(columns) != len(names):
                continue
            if statement.select is not None:
                self._from_select(connection, statement, columns, function)
                continue
            values = [found for row in _rows(statement, rows) if (found := _values(row, columns)) is not None]
            self._call(connection, function, columns, values)

    def _from_select(self, connection: Connection, statement: Any, columns: list[Any], function: str) -> None:
        names = list(statement._select_names)
        if not all(column.key in names or column.name in names for column in columns):
            return
        source = statement.select.subquery()
        found = list(source.c)
        picked = [found[names.index(column.key if column.key in names else column.name)] for column in columns]
        self._call(connection, function, columns, connection.execute(select(*picked).distinct()).all())

    @staticmethod
    def _call(connection: Connection, function: str, columns: list[Any], values: Sequence[Any]) -> None:
        if not values:
            return
        arrays = [[row[at] for row in values] for at in range(len(columns))]
        places = ", ".join(f":a{at}" for at in range(len(columns)))
        escaped = function.replace("\\", "\\\\").replace(":", "\\:")
        given = [bindparam(f"a{at}", arrays[at], type_=ARRAY(column.type)) for at, column in enumerate(columns)]
        connection.execute(text(f"SELECT {escaped}({places})").bindparams(*given))

    def _overlay(self, connection: Connection, inside: Any, table: Any) -> Overlay | None:
        if getattr(table, "schema", None) is not None:
            return None  # such a name leads past the partition, and the server refuses it
        return self._known.of(inside, lambda sql: _asked(connection, sql)).get(table.name)


def _asked(connection: Connection, sql: str) -> Any:
    cursor: Any = connection.connection.cursor()
    try:
        cursor.execute(sql)
        return cursor.fetchone()[0]
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


def _values(row: Mapping[str, Any], columns: list[Any]) -> list[Any] | None:
    found = []
    for column in columns:
        value = row.get(column.key, row.get(column.name))
        if isinstance(value, BindParameter):
            value = value.value if value.value is not None else row.get(value.key)
        if value is None and column.default is not None and column.default.is_scalar:
            value = column.default.arg
        if (
            value is None
            or hasattr(value, "__clause_element__")
            or hasattr(value, "_is_clause_element")
            or hasattr(value, "compare")
        ):
            return None
        found.append(value)
    return found
