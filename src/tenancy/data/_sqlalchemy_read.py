"""
The compiler that adds the owner's condition to every covered table, wherever it stands in a FROM.

Only here are all tables of a statement known: eager loads, members of a UNION and the columns of a bare `select()` become FROM clauses
while SQLAlchemy compiles. Whatever is not recognised here is refused by `visit_table`, which every table in a FROM passes.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from sqlalchemy import ClauseElement, ColumnElement, FromClause, Join, TableClause, TypeDecorator, and_
from sqlalchemy.sql import visitors
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import Grouping
from sqlalchemy.sql.selectable import FromGrouping, ReturnsRows

from ..errors import PartitionError
from ._sqlalchemy_raw import may_read_tables
from ._sqlalchemy_rules import MARKERS, Mode, Owner, Rules, base_table, narrowed, owned
from ._sqlalchemy_values import Values

__all__ = ["PartitionCompiler"]

_REPLACES = re.compile(r"\b(?:INSERT|UPDATE)\s+OR\s+REPLACE\b", re.IGNORECASE)
_RAW_HINT = "write it with SQLAlchemy's constructs, or say that it is safe with execution_options(tenancy_raw_sql=True)"


class PartitionCompiler(SQLCompiler):
    """
    Mixed into the statement compiler of an engine's dialect; does nothing unless a statement was marked for an owner.
    """

    rules: Rules
    values: Values

    def __init__(
        self, dialect: Any, statement: Any, cache_key: Any = None, column_keys: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        self._mode: Mode | None = next((MARKERS[name] for name in column_keys or () if name in MARKERS), None)
        self._seen: list[set[FromClause]] = []
        self._type: Any = None
        super().__init__(dialect, statement, cache_key, column_keys, *args, **kwargs)

    # The value

    def construct_params(self, *args: Any, **kwargs: Any) -> Any:
        params: Any = super().construct_params(*args, **kwargs)
        if self._mode is not None and isinstance(owner := params.get(self._mode.marker), Owner):
            params[self._mode.marker] = self.values.fitted(owner, self._type, self.dialect)
        return params

    # FROM

    def _compose_select_body(self, text: Any, select: Any, compile_state: Any, inner_columns: Any, froms: Any, *args: Any) -> str:
        compose: Any = super()._compose_select_body
        if self._mode is None:
            return str(compose(text, select, compile_state, inner_columns, froms, *args))
        seen: set[FromClause] = set()
        criteria: list[ColumnElement[bool]] = []
        sources = []
        for source in froms:
            source, conditions = self._split(source, seen, self._mode)
            sources.append(source)
            criteria += conditions
        if criteria:
            select = narrowed(select, criteria)
        self._seen.append(seen)
        try:
            return str(compose(text, select, compile_state, inner_columns, sources, *args))
        finally:
            self._seen.pop()

    def _split(self, source: FromClause, seen: set[FromClause], mode: Mode) -> tuple[FromClause, list[ColumnElement[bool]]]:
        # Returns the source, with conditions added to the ON of outer joins, and the conditions that belong outside of it.
        if isinstance(source, FromGrouping):
            inner, criteria = self._split(source.element, seen, mode)
            return (source if inner is source.element else inner.self_group()), criteria
        if isinstance(source, Join):
            return self._split_join(source, seen, mode)
        if not isinstance(source, ReturnsRows):
            self._refuse_raw(str(source), always=True)
            return source, []
        column = self.rules.column_of(source)
        if column is None:
            return source, []
        seen.add(source)
        self._same_type(column)
        return source, [self.rules.criterion(column, mode)]

    def _split_join(self, join: Join, seen: set[FromClause], mode: Mode) -> tuple[FromClause, list[ColumnElement[bool]]]:
        left, outside = self._split(join.left, seen, mode)
        right, inside = self._split(join.right, seen, mode)
        onclause = join.onclause
        if join.full and (outside or inside):
            raise PartitionError(
                f"FULL JOIN of {join.left} and {join.right} cannot be restricted to one owner by a condition: "
                "join subqueries instead, such as select(table).subquery()"
            )
        if join.isouter and inside:
            onclause = and_(*inside, Grouping(onclause)) if onclause is not None else and_(*inside)
        elif onclause is not None:
            outside = outside + inside
        if left is join.left and right is join.right and onclause is join.onclause:
            return join, outside
        return Join(left, right, onclause, isouter=join.isouter, full=join.full), outside

    def _same_type(self, column: ColumnElement[Any]) -> None:
        # One parameter, with one conversion to what the driver wants, serves all tables of a statement.
        first = self._type = self._type or column.type
        decorated = isinstance(first, TypeDecorator) or isinstance(column.type, TypeDecorator)
        same = type(first) is type(column.type) if decorated else _python_type(first) is _python_type(column.type)
        if not same:
            raise PartitionError(
                f"the column {self.rules.column!r} is {first!r} in one table of the statement and {column.type!r} in another: "
                "give it the same type in all"
            )

    def visit_table(self, table: Any, *args: Any, **kwargs: Any) -> str:
        if kwargs.get("asfrom") or kwargs.get("within_tstring"):
            self._refuse_unseen(table)
        return str(super().visit_table(table, *args, **kwargs))  # type: ignore[no-untyped-call]

    def visit_alias(self, alias: Any, *args: Any, **kwargs: Any) -> str:
        visit: Any = super().visit_alias
        if self._mode is None or base_table(alias) is None:
            return str(visit(alias, *args, **kwargs))
        if kwargs.get("asfrom"):
            self._refuse_unseen(alias)
        self._seen.append({alias.element})
        try:
            return str(visit(alias, *args, **kwargs))
        finally:
            self._seen.pop()

    def _refuse_unseen(self, source: FromClause) -> None:
        if self._mode is None or (self._seen and source in self._seen[-1]) or self.rules.column_of(source) is None:
            return
        raise PartitionError(
            f"{source} stands in a place of the statement where its rows cannot be restricted to one owner: "
            "use it in the FROM of a select(), or as the only table of an update() or delete()"
        )

    # INSERT, UPDATE, DELETE: rewritten before each execution; here it is made sure that they were

    def visit_insert(self, insert_stmt: Any, *args: Any, **kwargs: Any) -> str:
        visit: Any = super().visit_insert
        self._refuse_nested(insert_stmt)
        text = self._not_replacing(str(visit(insert_stmt, *args, **kwargs)))
        if self._mode is not None and insert_stmt is self.statement:
            self._refuse_unfilled()
            self._refuse_selected_defaults(self.insert_prefetch, "default")
        return text

    def visit_update(self, update_stmt: Any, *args: Any, **kwargs: Any) -> str:
        text = self._not_replacing(self._visit_where(super().visit_update, update_stmt, *args, **kwargs))
        if self._mode is not None:
            self._refuse_selected_defaults(self.update_prefetch, "onupdate")
        return text

    def visit_delete(self, delete_stmt: Any, *args: Any, **kwargs: Any) -> str:
        return self._visit_where(super().visit_delete, delete_stmt, *args, **kwargs)

    def _visit_where(self, visit: Any, statement: Any, *args: Any, **kwargs: Any) -> str:
        if self._mode is None:
            return str(visit(statement, *args, **kwargs))
        self._refuse_nested(statement)
        columns: list[Any] = owned(statement, self.rules, self._mode)
        for column in columns:
            self._same_type(column)
        self._seen.append({column.table for column in columns})
        try:
            return str(visit(statement, *args, **kwargs))
        finally:
            self._seen.pop()

    def visit_on_conflict_do_update(self, on_conflict: Any, **kwargs: Any) -> str:
        visit: Any = super().visit_on_conflict_do_update  # type: ignore[misc]
        column = None if self._mode is None else self.rules.column_of(self.stack[-1]["selectable"].table)  # type: ignore[attr-defined]
        if self._mode is not None and column is not None:
            self._same_type(column)
            own = on_conflict.update_whereclause
            criterion = self.rules.criterion(column, self._mode)
            on_conflict = copy.copy(on_conflict)
            on_conflict.update_whereclause = criterion if own is None else and_(criterion, Grouping(own))
        return str(visit(on_conflict, **kwargs))

    def _refuse_nested(self, statement: Any) -> None:
        if self._mode is None or statement is self.statement:
            return
        table = base_table(statement.table)
        if table is None or not self.rules.is_shared(table):
            raise PartitionError(
                f"a statement that writes to {statement.table} stands inside of another one (a CTE, or from_statement()), where its rows "
                "cannot be checked: execute it by itself"
            )

    def _refuse_unfilled(self) -> None:
        state: Any = self.compile_state
        column = self.rules.column_of(state.statement.table)
        if column is None:
            return
        rows = state._multi_parameters or [dict.fromkeys((*(state._dict_parameters or ()), *(self.column_keys or ())))]
        for row in rows:
            if not any(getattr(name, "key", name) == column.key for name in row):
                raise PartitionError(f"an INSERT into {state.statement.table} would leave {self.rules.column!r} empty")

    def _refuse_selected_defaults(self, columns: Any, kind: str) -> None:
        # Those that are not a part of the statement; each is executed on its own, past every event.
        for column in columns:
            expression = getattr(getattr(column, kind), "arg", None)
            if isinstance(expression, ClauseElement) and any(isinstance(e, TableClause) for e in visitors.iterate(expression)):
                raise PartitionError(
                    f"the {kind} of {column} is selected before the statement, and cannot be restricted to one owner"
                )

    def _not_replacing(self, text: str) -> str:
        if self._mode is not None and _REPLACES.search(text):
            raise PartitionError("OR REPLACE deletes whatever row is in the way, of any owner: use on_conflict_do_update()")
        return text

    # SQL that came as text

    def visit_textclause(self, textclause: Any, *args: Any, **kwargs: Any) -> str:
        visit: Any = super().visit_textclause
        self._refuse_raw(textclause.text, always=not self.stack)
        text = str(visit(textclause, *args, **kwargs))
        # We put parentheses around conditions, and a comment at the end must not swallow the closing one.
        return f"{text}\n" if self._mode is not None and "--" in text else text

    def visit_textual_select(self, taf: Any, *args: Any, **kwargs: Any) -> str:
        visit: Any = super().visit_textual_select
        self._refuse_raw(str(taf.element), always=True)
        return str(visit(taf, *args, **kwargs))

    def visit_tstring(self, tstring: Any, *args: Any, **kwargs: Any) -> str:
        visit: Any = super().visit_tstring
        pieces = (part.text if part.__visit_name__ == "tstring_text" else " ? " for part in tstring.parts)
        self._refuse_raw("".join(pieces), always=not self.stack)
        return str(visit(tstring, *args, **kwargs))

    def escape_literal_column(self, text: Any) -> Any:
        self._refuse_raw(text)
        escape: Any = super().escape_literal_column
        return escape(text)

    def get_statement_hint_text(self, hint_texts: Any) -> Any:
        for text in hint_texts:
            self._refuse_raw(text)
        get: Any = super().get_statement_hint_text
        return get(hint_texts)

    def _refuse_raw(self, text: str, *, always: bool = False) -> None:
        if self._mode is not None and not self._mode.raw and (always or may_read_tables(text, self.dialect.name)):
            shown = text if len(text) <= 80 else f"{text[:80]}..."
            raise PartitionError(f"SQL given as text cannot be restricted to one owner: {shown!r}; {_RAW_HINT}")


def _python_type(type_: Any) -> Any:
    try:
        return type_.python_type
    except NotImplementedError:
        return type(type_)
