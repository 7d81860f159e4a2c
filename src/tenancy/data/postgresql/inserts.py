"""
Inserts that SQLAlchemy has composed go into an overlay's delta at once, and not through its view row by row: its triggers check them there
for all rows together, and ``ON CONFLICT`` has the indexes that it needs.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..._optional import extra
from .overlays import overlaid

with extra("postgresql", "sqlalchemy"):
    from sqlalchemy import Connection, cast, column, func, literal, literal_column, select, values
    from sqlalchemy.sql.dml import Insert
    from sqlalchemy.sql.elements import BindParameter, ClauseElement, quoted_name
    from sqlalchemy.sql.functions import Function
    from sqlalchemy.types import UserDefinedType

__all__ = ["Inserts"]

# So many partitions' tables are kept in mind.
_KNOWN = 256
# So many rows are looked at in one statement, which has at most 65535 parameters.
_ROWS = 500
_ABSENT: Any = object()


class _Overlay(NamedTuple):
    """
    An overlaid table in a partition.

    Args:
        delta: The table of the key's own rows, for SQL.
        fault: The schema and name of the function that makes the key's own what a row could conflict with.
        arguments: Its arguments: for each column their name and type.
    """

    delta: str
    fault: tuple[str, str]
    arguments: dict[str, tuple[str, str]]


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
        if statement.select is not None:
            source = statement.select.subquery()
            taken = dict(zip(statement._select_names or (), source.c, strict=True))
            connection.execute(_call(overlay, statement.table, taken))
            return
        found = [_given(statement.table, row, overlay.arguments) for row in _rows(statement, rows)]
        for names, group in itertools.groupby(found, key=lambda row: list(row)):
            batch = list(group) if names else []
            columns: list[Any] = [column(name) for name in names]
            for start in range(0, len(batch), _ROWS):
                some = values(*columns, name="tenancy_rows").data([tuple(row.values()) for row in batch[start : start + _ROWS]])
                connection.execute(_call(overlay, statement.table, dict(zip(names, some.c, strict=True))))

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
        cursor.execute(overlaid(key))
        shape = {table["name"]: table for table in json.loads(cursor.fetchone()[0])}
    finally:
        cursor.close()
    for table in shape.values():
        if table["mode"] == "overlay":
            arguments = {name: (argument, kind) for name, (argument, kind) in table["arguments"].items()}
            yield table["name"], _Overlay(table["delta"], tuple(table["fault"]), arguments)


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


def _call(overlay: _Overlay, table: Any, columns: Mapping[str, Any]) -> Any:
    schema, name = overlay.fault
    given = []
    for each in table.columns:
        source = columns.get(each.key, columns.get(each.name))
        if each.name in overlay.arguments and source is not None:
            argument, kind = overlay.arguments[each.name]
            given.append(literal_column(argument).op("=>")(cast(source, _Type(kind))))
    function: Any = Function(quoted_name(name, quote=True), *given, packagenames=(quoted_name(schema, quote=True),))
    return select(func.count(function)).select_from(next(iter(columns.values())).table)
