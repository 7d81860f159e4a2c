"""
INSERT, UPDATE and DELETE for one owner: looked at, and rewritten, before each execution, because what decides is in the values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import (
    BindParameter,
    ClauseElement,
    ColumnElement,
    CompoundSelect,
    Delete,
    Dialect,
    FromClause,
    Insert,
    Join,
    Null,
    Select,
    Update,
    literal,
)
from sqlalchemy.sql import visitors
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.selectable import SelectStatementGrouping

from ..errors import PartitionError
from ._sqlalchemy_rules import Mode, Owner, Rules, base_table, narrowed
from ._sqlalchemy_values import Values, fit

__all__ = ["prepare"]

Rows = list[dict[str, Any]]


def prepare(
    statement: UpdateBase, rows: Rows, owner: Owner, mode: Mode, rules: Rules, values: Values, dialect: Dialect
) -> tuple[UpdateBase, Rows]:
    """
    Return *statement* and its parameters so that they write *owner*'s rows only.

    Args:
        statement: What the application executes.
        rows: Its parameters, one dictionary for each execution; at least one.
        owner: Whose rows these are.
        mode: How the statement will be compiled.
        rules: Which tables are partitioned.
        values: What the owner's value is in a column.
        dialect: That of the engine.

    Raises:
        PartitionError: If the statement would write a row of somebody else, or if that cannot be told.
    """
    write = _Write(statement, owner, mode, rules)
    if write.column is not None:
        write.value = values.fitted(owner, write.column.type, dialect)
    if isinstance(statement, Insert):
        return write.insert(statement, rows)
    if isinstance(statement, Update):
        return write.update(statement, rows), rows
    if isinstance(statement, Delete):
        return write.where(statement), rows
    raise PartitionError(f"{type(statement).__name__} cannot be restricted to one owner: use insert(), update() or delete()")


class _Write:
    def __init__(self, statement: Any, owner: Owner, mode: Mode, rules: Rules) -> None:
        self.owner = owner
        self.mode = mode
        self.rules = rules
        # The ORM's bulk statements name their table only when they are compiled; with joined inheritance it is not the mapped one.
        annotations = statement._annotations
        self.target: Any = annotations.get("_emit_insert_table", annotations.get("_emit_update_table", statement.table))
        self.column: Any = rules.column_of(self.target)
        self.value: Any = owner.value
        self._refuse_foreign()

    def _refuse_foreign(self) -> None:
        table = base_table(self.target)
        if table is None:
            raise PartitionError(f"a statement that writes to {self.target} cannot be restricted to one owner: write to one table")
        if self.column is None and self.owner.key is not None and not self.rules.is_shared(table):
            raise PartitionError(
                f"{self.owner} may not write to {table.fullname}: it has no column {self.rules.column!r}, so its rows belong to the "
                f"baseline; add the column, or name the table in RowPartition(shared=[{table.name!r}])"
            )

    # INSERT

    def insert(self, statement: Any, rows: Rows) -> tuple[Any, Rows]:
        if self.column is None:
            return statement, rows
        self._check_upsert(statement)
        if statement._multi_values:
            return self._insert_multi(statement), rows
        if statement._select_names is not None:
            return self._insert_from_select(statement), rows
        for name, given in (statement._values or {}).items():
            if self._is_partition(name):
                values = [self._given(given, row) for row in rows]
                self._check_filled(values)
                statement = statement.values({name: self.value})
        self._check_filled([row.get(self.column.key) for row in rows])
        return statement, [{**row, self.column.key: self.value} for row in rows]

    def _insert_multi(self, statement: Any) -> Any:
        filled = []
        for part in statement._multi_values:
            dicts = [row if isinstance(row, Mapping) else {c.key: v for c, v in zip(self.target.c, row)} for row in part]  # noqa: B905
            filled.append([self._filled(row) for row in dicts])
        statement = statement._clone()
        statement._multi_values = tuple(filled)
        return statement

    def _filled(self, row: Mapping[Any, Any]) -> dict[Any, Any]:
        names = [name for name in row if self._is_partition(name)]
        self._check_filled([self._given(row[name], {}) for name in names])
        return {**row, **dict.fromkeys(names or [self.column], self.value)}

    def _insert_from_select(self, statement: Any) -> Any:
        names = list(statement._select_names)
        at = names.index(self.column.key) if self.column.key in names else None
        source = self._selecting(statement.select, at)
        names = names if at is not None else [*names, self.column.key]
        return statement.from_select(names, source, include_defaults=statement.include_insert_from_select_defaults)

    def _selecting(self, source: Any, at: int | None) -> Any:
        # The same SELECT with our value at that position, or as one column more.
        if isinstance(source, CompoundSelect):
            compound: Any = source._clone()
            compound.selects = [self._selecting(member, at) for member in source.selects]
            return compound
        if isinstance(source, SelectStatementGrouping):
            return SelectStatementGrouping(self._selecting(source.element, at))
        if not isinstance(source, Select):
            raise PartitionError(
                f"an INSERT into {self.target} from {type(source).__name__} cannot be checked: use select() or union()"
            )
        value: Any = literal(self.value, self.column.type)
        if at is None:
            return source.add_columns(value)
        columns: list[Any] = list(source.selected_columns)
        self._check_selected(columns[at])
        # Even from a covered table it may be NULL, by a LEFT JOIN.
        columns[at] = value
        return source.with_only_columns(*columns, maintain_column_froms=True)

    def _check_selected(self, column: Any) -> None:
        if isinstance(column, BindParameter | Null) and self._given(column, {}) in (None, self.value):
            return
        table = getattr(column, "table", None)
        covered = self.rules.column_of(table) if isinstance(table, FromClause) else None
        if covered is None or covered.name != column.name:
            raise PartitionError(
                f"the INSERT from a SELECT gives {self.rules.column!r} a value that cannot be checked: leave the column out, it is filled"
            )

    def _check_upsert(self, statement: Any) -> None:
        clause = statement._post_values_clause
        for element in visitors.iterate(clause) if clause is not None else ():
            if element.__visit_name__ != "on_conflict_do_update":
                continue
            values: Any = element.update_values_to_set  # type: ignore[attr-defined]
            for name, given in values.items() if isinstance(values, Mapping) else values:
                excluded = getattr(given, "table", None) is not None and getattr(given.table, "name", None) == "excluded"
                # A name that is no column's key is written into the statement as it is.
                ours = self._is_partition(name) or (isinstance(name, str) and self.rules.is_column(name))
                if ours and not (excluded and given.name == self.column.name):
                    self._check_set([self._given(given, {})])

    # UPDATE and DELETE

    def update(self, statement: Any, rows: Rows) -> Any:
        if self.column is not None:
            if self.column.onupdate is not None:
                raise PartitionError(f"{self.target}.{self.rules.column} has an onupdate, which would give rows to another owner")
            ordered = getattr(statement, "_ordered_values", None) or ()
            for name, given in (*(statement._values or {}).items(), *ordered):
                if self._is_partition(name):
                    self._check_set(self._given(given, row) for row in rows)
            self._check_set(row[self.column.key] for row in rows if self.column.key in row)
        return self.where(statement)

    def where(self, statement: Any) -> Any:
        criteria: list[ColumnElement[bool]] = []
        if self.column is not None:
            criteria.append(self.rules.criterion(self.column, self.mode))
        for source in self._other_sources(statement):
            criteria += self._conditions(source)
        return narrowed(statement, criteria) if criteria else statement

    def _other_sources(self, statement: Any) -> list[FromClause]:
        values = [*(getattr(statement, "_values", None) or {}).values()]
        values += [value for _, value in getattr(statement, "_ordered_values", None) or ()]
        elements = (*statement._where_criteria, *(value for value in values if isinstance(value, ClauseElement)))
        found = [*getattr(statement, "_extra_froms", ())]
        found += [source for element in elements for source in element._from_objects]
        return [source for source in dict.fromkeys(found) if source not in (self.target, statement.table)]

    def _conditions(self, source: FromClause) -> list[ColumnElement[bool]]:
        if isinstance(source, Join):
            inner, right = self._conditions(source.left), self._conditions(source.right)
            if (source.full and (inner or right)) or (source.isouter and right):
                raise PartitionError(f"an outer join in {source} cannot be restricted to one owner here: join a subquery instead")
            return inner + right
        column = self.rules.column_of(source)
        return [] if column is None else [self.rules.criterion(column, self.mode)]

    # Values

    def _is_partition(self, name: Any) -> bool:
        if isinstance(name, str):
            return bool(name == self.column.key)
        return bool(getattr(name, "name", None) == self.column.name)

    def _given(self, value: Any, row: Mapping[str, Any]) -> Any:
        if isinstance(value, BindParameter):
            return row.get(value.key, value.effective_value)
        if isinstance(value, Null):
            return None
        if isinstance(value, ClauseElement) or hasattr(value, "__clause_element__"):
            raise PartitionError(
                f"{self.rules.column!r} is given as an SQL expression, which cannot be checked before it runs: "
                "give its value, or leave it out"
            )
        return value

    def _check_filled(self, values: Iterable[Any]) -> None:
        # The owner's value goes in place of these, so what matters is what they mean.
        self._check_set(self._fitted(value) for value in values if value is not None)

    def _fitted(self, value: Any) -> Any:
        try:
            return fit(value, self.column.type)
        except ValueError:
            return value

    def _check_set(self, values: Iterable[Any]) -> None:
        for value in values:
            if value is None or value != self.value:
                if value is None and self.value is None:
                    continue
                raise PartitionError(
                    f"{self.owner} owns rows with {self.rules.column} = {self.value!r} and may not write {value!r} there: "
                    "leave the column out, it is filled"
                )
