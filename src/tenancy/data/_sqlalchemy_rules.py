"""
Which tables are partitioned, and by which owner's value: what reading and writing have in common.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

from sqlalchemy import ColumnClause, ColumnElement, FromClause, Table, TableClause, and_, bindparam
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, Grouping
from sqlalchemy.sql.selectable import AliasedReturnsRows

from ..errors import PartitionError
from ..key import RoutingKey

__all__ = ["MARKERS", "Mode", "Owner", "Rules", "base_table", "narrowed", "owned"]

# The parameter that carries the owner's value into a statement. SQLAlchemy makes the names of the parameters a part of the key under
# which it caches a compiled statement, so a statement compiled for an owner can never be served without one, or the other way round.
_MARKER: Final = "tenancy_partition"

# The catalogue belongs to the database, not to an owner.
_SYSTEM_SCHEMAS: Final = frozenset({"pg_catalog", "information_schema"})


@dataclass(frozen=True)
class Owner:
    """
    Whose rows a statement may see and change.

    Args:
        value: The value of the partition column; None for rows where it is NULL.
        key: The routing key that the value belongs to; None for the baseline.
    """

    value: Any
    key: RoutingKey | None

    def __str__(self) -> str:
        return "the baseline" if self.key is None else f"routing key {str(self.key)!r}"


@dataclass(frozen=True)
class Mode:
    """
    How a statement is compiled.

    Args:
        is_null: The owner's rows are those where the column is NULL.
        raw: Pieces of SQL text in the statement are accepted unread.
    """

    is_null: bool
    raw: bool

    @property
    def marker(self) -> str:
        return _MARKER + "_null" * self.is_null + "_raw" * self.raw


#: The mode that each marker stands for.
MARKERS: Final = {mode.marker: mode for mode in (Mode(a, b) for a in (False, True) for b in (False, True))}


class Rules:
    """
    Tells covered tables from others.

    Args:
        column: The name of the partition column in the database.
        shared: Names of tables that are not partitioned, though keyed work may write to them.
    """

    def __init__(self, column: str, shared: Iterable[str]) -> None:
        self.column = column
        self._lower = column.lower()
        self.shared = frozenset(shared)

    def is_column(self, name: str | None) -> bool:
        """
        Return whether *name* is the column's, in whatever case: to SQLite that is all one, and on PostgreSQL a column that is called
        alike had better be covered than not.
        """
        return name is not None and (name == self.column or name.lower() == self._lower)

    def is_shared(self, table: TableClause) -> bool:
        schema = getattr(table, "schema", None)
        return table.name in self.shared or table.fullname in self.shared or schema in _SYSTEM_SCHEMAS

    def column_of(self, source: FromClause) -> ColumnClause[Any] | None:
        """
        Return the partition column of a table or of an alias of one; None if it is not covered.

        Raises:
            PartitionError: If the table was declared ad hoc, so that its columns are not known.
        """
        table = base_table(source)
        if table is None or self.is_shared(table):
            return None
        found = [column for column in source.c if self.is_column(column.name)]
        if found:
            # PostgreSQL can have two that differ in case.
            return cast("ColumnClause[Any]", next((column for column in found if column.name == self.column), found[0]))
        if isinstance(table, Table):
            return None
        raise PartitionError(
            f"table({table.name!r}) does not declare the column {self.column!r}, so it cannot be told whether its rows are partitioned: "
            f"declare the column, use the Table object, or name the table in RowPartition(shared=[{table.name!r}])"
        )

    def criterion(self, column: ColumnClause[Any], mode: Mode) -> ColumnElement[bool]:
        """
        Return the condition that keeps only the owner's rows.
        """
        if mode.is_null:
            return column.is_(None)
        return column == bindparam(mode.marker, type_=column.type)

    def is_criterion(self, clause: ColumnElement[Any], mode: Mode) -> bool:
        """
        Return whether *clause* is such a condition.
        """
        if not isinstance(clause, BinaryExpression) or not self.is_column(getattr(clause.left, "name", None)):
            return False
        if mode.is_null:
            return bool(clause.compare(self.criterion(cast("ColumnClause[Any]", clause.left), mode)))
        return isinstance(clause.right, BindParameter) and clause.right.key == mode.marker


def base_table(source: FromClause) -> TableClause | None:
    """
    Return the table that *source* is, or is an alias of; None for subqueries, joins and functions.
    """
    element: Any = source
    while isinstance(element, AliasedReturnsRows):
        element = element.element
    return element if isinstance(element, TableClause) else None


def narrowed(statement: Any, criteria: list[ColumnElement[bool]]) -> Any:
    """
    Return *statement* with *criteria* before its own conditions, and those in parentheses: a `text("a OR b")` among them would
    otherwise undo ours.
    """
    own = statement._where_criteria
    result = statement.where(*criteria)
    result._where_criteria = (*criteria, Grouping(and_(*own))) if own else tuple(criteria)
    return result


def owned(statement: Any, rules: Rules, mode: Mode) -> list[ColumnClause[Any]]:
    """
    Return the partition columns that *statement* has our condition on; of their tables it sees only the owner's rows.
    """
    return [clause.left for clause in statement._where_criteria if rules.is_criterion(clause, mode)]
