"""
Inserts that SQLAlchemy has composed go into an overlay's delta at once, and not through its view row by row: its triggers check them there
for all rows together, and ``ON CONFLICT`` has the indexes that it needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..._optional import extra
from .registry import SCHEMA

with extra("postgresql", "sqlalchemy"):
    from sqlalchemy import Connection, bindparam, select, text
    from sqlalchemy.dialects.postgresql import ARRAY
    from sqlalchemy.sql.dml import Insert
    from sqlalchemy.sql.elements import BindParameter

__all__ = ["Inserts"]

# So many partitions' tables are kept in mind.
_KNOWN = 256


class _Overlay(NamedTuple):
    """
    An overlaid table in a partition.

    Args:
        delta: The table of the key's own rows, for SQL.
        faults: Column names, and the function that makes the baseline's rows with such values the key's own.
    """

    delta: str
    faults: list[tuple[list[str], str]]


class Inserts:
    """
    Knows which tables are overlaid in which partition.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], dict[str, _Overlay]] = {}

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
        start = f"INSERT INTO {name} "
        at = statement.find(start)
        if at < 0:
            return statement
        # By an alias, since RETURNING and SET name the table.
        delta = overlay.delta.replace("%", "%%") if compiled.preparer._double_percents else overlay.delta
        return f"{statement[:at]}INSERT INTO {delta} AS {name} {statement[at + len(start) :]}"

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
        for names, function in overlay.faults:
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
        escaped = function.replace(":", "\\:")
        given = [bindparam(f"a{at}", arrays[at], type_=ARRAY(column.type)) for at, column in enumerate(columns)]
        connection.execute(text(f"SELECT {escaped}({places})").bindparams(*given))

    def _overlay(self, connection: Connection, inside: Any, table: Any) -> _Overlay | None:
        if getattr(table, "schema", None) is not None:
            return None  # such a name leads past the partition, and the server refuses it
        known = self._known.get((inside.key, inside.revision))
        if known is None:
            known = dict(_read(connection, inside.key))
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[inside.key, inside.revision] = known
        return known.get(table.name)


def _read(connection: Connection, key: str) -> Iterator[tuple[str, _Overlay]]:
    cursor: Any = connection.connection.cursor()
    try:
        cursor.execute(f"SELECT shape::text FROM {SCHEMA}.partitions WHERE key = '{key}'")
        shape = json.loads(cursor.fetchone()[0])
    finally:
        cursor.close()
    for table in shape.values():
        if table["mode"] == "overlay":
            yield table["name"], _Overlay(table["delta"], [(names, function) for names, function in table["faults"]])


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
