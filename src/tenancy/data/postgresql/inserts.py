"""
Inserts that SQLAlchemy has composed go into an overlay's delta at once, and not through its view row by row: its triggers check them there
for all rows together, and ``ON CONFLICT`` has the indexes that it needs.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

from ..._optional import extra
from ...errors import PartitionError
from .overlays import ROWS, Known, Overlay, escaped, redirected
from .transaction import Transaction

with extra("postgresql", "sqlalchemy"):
    from sqlalchemy import Connection, cast, column, func, literal, literal_column, select, values
    from sqlalchemy.sql import visitors
    from sqlalchemy.sql.dml import Insert
    from sqlalchemy.sql.elements import BindParameter, ClauseElement, quoted_name
    from sqlalchemy.sql.functions import Function
    from sqlalchemy.types import UserDefinedType

__all__ = ["Inserts"]

_ABSENT: Any = object()
# In the context of an execution: that what it could meet is the key's own.
_MET = "_tenancy_met"


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

        Raises:
            PartitionError: If an ``INSERT ... ON CONFLICT`` is but a part of it.
        """
        compiled = getattr(context, "compiled", None)
        if compiled is None:
            return statement
        if parts := getattr(compiled, "ctes", None):
            self._refuse_parts(connection, inside, parts)
        composed = compiled.statement
        if not isinstance(composed, Insert):
            return statement
        overlay = self._overlay(connection, inside, composed.table)
        if overlay is None:
            return statement
        # The context of an INSERT is also that of what is selected for a default, before all of them are known.
        if _meets(composed) and _computed(composed, overlay) and not getattr(context, _MET, False) and not _selects(statement):
            setattr(context, _MET, True)  # it may be sent in several batches
            _meet(connection, overlay, context.invoked_statement, context.compiled_parameters)
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
        if not _meets(statement):
            return
        overlay = self._overlay(connection, inside, statement.table)
        # What SQLAlchemy computes by itself is known when the statement is about to be sent, and not yet here.
        if overlay is not None and not _computed(statement, overlay):
            _meet(connection, overlay, statement, rows)

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
        if rows < 2 or not isinstance(statement, Insert) or _meets(statement):
            return False
        overlay = self._overlay(connection, inside, statement.table)
        return overlay is not None and not overlay.arranged

    def _overlay(self, connection: Connection, inside: Transaction, table: Any) -> Overlay | None:
        if getattr(table, "schema", None) is not None:
            return None  # such a name leads past the partition, and the server refuses it
        return self._known.of(inside, lambda sql: _one(connection, sql)).get(table.name)

    def _refuse_parts(self, connection: Connection, inside: Transaction, parts: Iterable[Any]) -> None:
        for part in parts:
            if _meets(part.element) and self._overlay(connection, inside, part.element.table) is not None:
                raise PartitionError(
                    f"an INSERT ... ON CONFLICT in a CTE does not meet the baseline's rows of {part.element.table.name} in an overlay: "
                    "execute it by itself, or use mode copy for that table"
                )


def _meets(statement: Any) -> bool:
    return isinstance(statement, Insert) and getattr(statement, "_post_values_clause", None) is not None


def _selects(sql: str) -> bool:
    return sql.lstrip()[:6].upper() == "SELECT"


def _computed(statement: Any, overlay: Overlay) -> bool:
    """
    Return whether a row can conflict by what SQLAlchemy computes for it by a function.
    """
    return any(
        each.default is not None and each.default.is_callable and each.name in overlay.arguments for each in statement.table.columns
    )


def _meet(connection: Connection, overlay: Overlay, statement: Any, rows: list[Mapping[str, Any]]) -> None:
    """
    Make those of the baseline's rows the key's own that the rows of an INSERT could meet.

    Args:
        connection: The connection.
        overlay: The table.
        statement: The INSERT.
        rows: Its parameters.
    """
    if statement.select is not None:
        for row in rows:
            _meet_selected(connection, overlay, statement, row)
        return
    found = [_given(statement.table, row, params, overlay.arguments) for row, params in _rows(statement, rows)]
    for names, group in itertools.groupby(found, key=lambda row: list(row)):
        batch = list(group) if names else []
        columns: list[Any] = [column(name) for name in names]
        for start in range(0, len(batch), ROWS):
            some = values(*columns, name="tenancy_rows").data([tuple(row.values()) for row in batch[start : start + ROWS]])
            connection.execute(_call(overlay, statement.table, dict(zip(names, some.c, strict=True)), some))


def _meet_selected(connection: Connection, overlay: Overlay, statement: Any, params: Mapping[str, Any]) -> None:
    source = statement.select.subquery()
    taken = dict(zip(statement._select_names or (), source.c, strict=True))
    if not taken:
        return
    if statement.include_insert_from_select_defaults:
        # The same for all rows.
        left = {
            each.key: params.get(each.key, _ABSENT) for each in statement.table.columns if not {each.key, each.name} & taken.keys()
        }
        taken |= _given(
            statement.table, {key: value for key, value in left.items() if value is not _ABSENT}, {}, overlay.arguments, left
        )
    given = {name: params[name] for name in _named(statement.select) if name in params}
    connection.execute(_call(overlay, statement.table, taken, source), given)


def _one(connection: Connection, sql: str) -> str:
    cursor: Any = connection.connection.cursor()
    try:
        cursor.execute(sql)
        return str(cursor.fetchone()[0])
    finally:
        cursor.close()


def _rows(statement: Any, rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[dict[str, Any], Mapping[str, Any]]]:
    """
    Yield the rows that an INSERT is about, as far as their values are known, by column; and the parameters for each.
    """
    if statement._multi_values:
        for params in rows:
            for at, row in enumerate(itertools.chain.from_iterable(statement._multi_values)):
                # So SQLAlchemy names what it computes; for the first row in either way.
                computed = {
                    each.key: params.get(f"{each.key}_m{at}", _ABSENT if at else params.get(each.key, _ABSENT))
                    for each in statement.table.columns
                }
                known = {name: value for name, value in computed.items() if value is not _ABSENT}
                yield {**known, **{_key(column): value for column, value in dict(row).items()}}, params
        return
    fixed = {_key(column): value for column, value in (statement._values or {}).items()}
    for params in rows:
        yield {**fixed, **params}, params


def _key(column: Any) -> str:
    return column if isinstance(column, str) else str(column.key)


def _given(
    table: Any, row: Mapping[str, Any], params: Mapping[str, Any], names: Container[str], keys: Container[str] | None = None
) -> dict[str, Any]:
    """
    Return what a row is given for some columns, by the keys of columns; as expressions.

    Args:
        table: The table.
        row: What is known of it.
        params: The parameters, for expressions in it.
        names: The names of the columns.
        keys: Their keys; default whatever they are.
    """
    found = {}
    for each in table.columns:
        if each.name not in names or (keys is not None and each.key not in keys):
            continue
        value = row.get(each.key, row.get(each.name, _ABSENT))
        if value is _ABSENT and each.default is not None and each.default.is_scalar:
            value = each.default.arg
        if isinstance(value, BindParameter) and not value.unique and value.key in params:
            value = params[value.key]
        if value is not _ABSENT:
            found[each.key] = _filled(value, params) if _composed(value) else literal(value, each.type)
    return found


def _named(expression: Any) -> set[str]:
    """
    Return the names of the parameters in an expression that values are given for when it is executed.
    """
    return {each.key for each in visitors.iterate(expression) if isinstance(each, BindParameter) and not each.unique}


def _filled(value: Any, params: Mapping[str, Any]) -> Any:
    if hasattr(value, "__clause_element__"):
        value = value.__clause_element__()
    if _named(value).isdisjoint(params):
        return value

    def replaced(element: Any, **_: Any) -> Any:
        if isinstance(element, BindParameter) and not element.unique and element.key in params:
            return literal(params[element.key], None if element.type._isnull else element.type)
        return None

    return visitors.replacement_traverse(value, {}, replaced)


def _composed(value: Any) -> bool:
    return hasattr(value, "__clause_element__") or isinstance(value, ClauseElement)


def _call(overlay: Overlay, table: Any, columns: Mapping[str, Any], rows: Any) -> Any:
    schema, name = overlay.fault
    given = []
    for each in table.columns:
        source = columns.get(each.key, columns.get(each.name))
        if each.name in overlay.arguments and source is not None:
            argument, kind = overlay.arguments[each.name]
            given.append(literal_column(argument).op("=>")(cast(source, _Type(kind))))
    function: Any = Function(quoted_name(name, quote=True), *given, packagenames=(quoted_name(schema, quote=True),))
    return select(func.count(function)).select_from(rows)
