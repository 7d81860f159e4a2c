"""
SQLAlchemy: the rows of each routing key apart from all others', by the value of a column that the tables have anyway.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal

from .._optional import extra

with extra("sqlalchemy", "sqlalchemy"):
    import sqlalchemy
    from sqlalchemy import Column, Connection, Engine, MetaData, String, Table, event
    from sqlalchemy.sql.dml import UpdateBase
    from sqlalchemy.sql.lambdas import StatementLambdaElement
    from sqlalchemy.sql.selectable import GenerativeSelect

from ..config import switched_on
from ..context import routing_key
from ..errors import ConfigurationError, PartitionError
from ..key import RoutingKey
from ..observe import count
from ._sqlalchemy_raw import cannot_touch_rows
from ._sqlalchemy_read import PartitionCompiler
from ._sqlalchemy_rules import MARKERS, Mode, Owner, Rules
from ._sqlalchemy_session import OrmListeners
from ._sqlalchemy_values import Values
from ._sqlalchemy_write import prepare

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["ANY", "RowPartition"]


class _Any(Enum):
    ANY = "ANY"

    def __repr__(self) -> str:
        return "ANY"


#: For ``RowPartition(baseline=ANY)``: work without a routing key sees and changes the rows of everyone, as it did before.
ANY: Final = _Any.ANY

_DIALECTS: Final = ("postgresql", "sqlite")


class RowPartition:
    """
    Keeps every statement of an engine to the rows of the routing key at hand, by the value of one column.

    Selects see, and updates and deletes change, only rows with that value, in every covered table of the statement, from the ORM as from
    Core, sync as asyncio. Inserts fill the column, and another value given for it is refused. What cannot be kept to one owner, such as
    SQL given as text, raises `PartitionError` when it would run; the message says what to do.

    Args:
        column: The name of the partition column, in whatever case. Every table that has it is covered. Keyed work may read tables
            without it, and may not write to them.
        value: Returns the column's value for a routing key, or None for a key without a partition here; or a mapping to look it up in.
            Two keys may not have the same value; of a function that is known only once it has returned it for both.
            It is called at least once for each statement, so it should not do any input or output. Default: the key itself.
        baseline: The value for work without a routing key; None for rows where the column is NULL. With `ANY` such work is not
            restricted at all, so it sees and may change the rows of all keys: the application's own conditions must do.
        shared: Names of tables that are not partitioned although keyed work writes to them, or although they have the column.
        unknown: What becomes of work whose key has no partition: ``baseline`` serves it as work without a key and counts it in
            ``tenancy.partition.unknown_keys``; ``refuse`` raises.
        raw_sql: ``refuse`` SQL given as text where a restriction holds, unless executed with
            ``execution_options(tenancy_raw_sql=True)``; or ``allow`` it everywhere, unrestricted.

    Raises:
        ConfigurationError: If an argument cannot be used.
    """

    def __init__(
        self,
        column: str,
        value: Callable[[RoutingKey], Any] | Mapping[str, Any] = str,
        *,
        baseline: Any,
        shared: Iterable[str] = (),
        unknown: Literal["baseline", "refuse"] = "baseline",
        raw_sql: Literal["refuse", "allow"] = "refuse",
    ) -> None:
        name: Any = column
        if not (isinstance(name, str) and name):
            raise ConfigurationError(f"RowPartition(column={column!r}): give the name of a column, such as 'org_id'")
        if inspect.iscoroutinefunction(value) or not (callable(value) or isinstance(value, Mapping)):
            raise ConfigurationError(
                f"RowPartition(value={value!r}): give a mapping, or a function that is not a coroutine function"
            )
        if isinstance(shared, str):
            raise ConfigurationError(f"RowPartition(shared={shared!r}): give a list of names")
        for option, choice, choices in (("unknown", unknown, ("baseline", "refuse")), ("raw_sql", raw_sql, ("refuse", "allow"))):
            if choice not in choices:
                raise ConfigurationError(f"RowPartition({option}={choice!r}): use one of {', '.join(map(repr, choices))}")
        if isinstance(value, Mapping):
            _check_distinct(value)
        self._values = Values(
            column,
            value.get if isinstance(value, Mapping) else value,
            None if baseline is ANY else Owner(baseline, None),
            unknown,
        )
        self._raw_sql = raw_sql
        self._rules = Rules(column, shared)
        self._installed: dict[Engine, tuple[Any, OrmListeners]] = {}

    def install(self, engine: Engine | AsyncEngine) -> None:
        """
        Restrict everything that is executed on *engine* from now on. Does nothing where tenancy is switched off.

        Args:
            engine: An engine for PostgreSQL or SQLite, with any driver.

        Raises:
            ConfigurationError: If the database is another one, or the engine has a partition already.
            IdentityError: If tenancy is switched off in a sandbox.
        """
        if not switched_on():
            return
        engine = _sync(engine)
        dialect = engine.dialect
        if dialect.name not in _DIALECTS:
            raise ConfigurationError(f"RowPartition is made for {' and '.join(_DIALECTS)}, not for {dialect.name}")
        before: Any = dialect.statement_compiler
        if issubclass(before, PartitionCompiler):
            raise ConfigurationError(f"{engine!r} has a RowPartition already: uninstall that one first")
        compiler = type(f"Partition{before.__name__}", (PartitionCompiler, before), {"rules": self._rules, "values": self._values})
        dialect.statement_compiler = compiler
        try:
            self._probe(engine)
        except BaseException:
            dialect.statement_compiler = before
            raise
        listeners = OrmListeners(engine, self._rules, self._values)
        event.listen(engine, "before_execute", self._before_execute, retval=True)
        event.listen(engine, "before_cursor_execute", self._before_cursor_execute, retval=True)
        listeners.listen()
        self._installed[engine] = before, listeners

    def uninstall(self, engine: Engine | AsyncEngine) -> None:
        """
        Undo `install`; does nothing if it was not called.
        """
        engine = _sync(engine)
        if engine not in self._installed:
            return
        engine.dialect.statement_compiler, listeners = self._installed.pop(engine)
        event.remove(engine, "before_execute", self._before_execute)
        event.remove(engine, "before_cursor_execute", self._before_cursor_execute)
        listeners.remove()

    def uncovered(self, metadata: MetaData) -> list[str]:
        """
        Return the names of the tables that are not partitioned: those without the column, and shared ones. Worth a test of your own,
        because a new table whose column was forgotten is one of them.

        Args:
            metadata: The tables, such as ``Base.metadata``.
        """
        return sorted(table.fullname for table in metadata.tables.values() if self._rules.column_of(table) is None)

    def _probe(self, engine: Engine) -> None:
        # The place where conditions are added is not public API; another SQLAlchemy than those tested might not come past it.
        table = Table("tenancy_probe", MetaData(), Column(self._rules.column, String))
        marker = Mode(is_null=False, raw=False).marker
        if marker not in table.select().compile(engine, column_keys=[marker]).params:
            raise ConfigurationError(f"SQLAlchemy {sqlalchemy.__version__} is not supported by this version of request-tenancy")

    def _owner(self) -> Owner | None:
        # None where the work is not restricted.
        return self._values.owner(routing_key())

    def _before_execute(
        self, connection: Connection, statement: Any, multiparams: Any, params: Any, options: Mapping[str, Any]
    ) -> tuple[Any, Any, Any]:
        owner = self._owner()
        if (owner is None or owner.key is None) and routing_key() is not None:
            count("tenancy.partition.unknown_keys")
        if owner is None or not _is_restrictable(statement):
            return statement, multiparams, params
        mode = Mode(is_null=owner.value is None, raw=self._is_allowed(options))
        rows = list(multiparams) if multiparams else [dict(params or {})]
        if not MARKERS.keys().isdisjoint(rows[0]):
            raise PartitionError("a parameter whose name begins with tenancy_partition is this library's: give yours another name")
        if isinstance(statement, UpdateBase):
            statement, rows = prepare(statement, rows, owner, mode, self._rules, self._values, connection.dialect)
        # What its value is depends on the type of the column, which only the compiled statement knows.
        rows = [{**row, mode.marker: owner} for row in rows]
        return (statement, rows, {}) if multiparams else (statement, [], rows[0])

    def _before_cursor_execute(
        self, connection: Connection, _cursor: Any, statement: str, parameters: Any, context: Any, _many: bool
    ) -> tuple[str, Any]:
        # The last gate: what was not compiled for an owner is SQL that nobody has looked at yet.
        if self._values.baseline is None and routing_key() is None:
            return statement, parameters
        compiled = context.compiled if context is not None else None
        marked = any(name in MARKERS for name in getattr(compiled, "column_keys", None) or ())
        # A default may be selected by itself before the INSERT that it is for, and in its context.
        if marked and not (context.isinsert and statement.lstrip()[:6].upper() == "SELECT"):
            return statement, parameters
        allowed = context is not None and self._is_allowed(context.execution_options)
        if not allowed and not cannot_touch_rows(statement, connection.dialect.name) and self._owner() is not None:
            shown = statement if len(statement) <= 80 else f"{statement[:80]}..."
            raise PartitionError(
                f"SQL given as text cannot be restricted to one owner: {shown!r}; write it with SQLAlchemy's constructs, "
                "or say that it is safe with execution_options(tenancy_raw_sql=True)"
            )
        return statement, parameters

    def _is_allowed(self, options: Mapping[str, Any]) -> bool:
        return self._raw_sql == "allow" or options.get("tenancy_raw_sql") is True


def _check_distinct(values: Mapping[str, Any]) -> None:
    # In the form that a database may convert to, because no column is known yet.
    keys: dict[str, str] = {}
    for key, value in values.items():
        form = str.__str__(value) if isinstance(value, str) else str(value)
        first = keys.setdefault(form, key) if value is not None else key
        if first != key:
            raise ConfigurationError(
                f"RowPartition(value=...): {first!r} and {key!r} both have the value {value!r}, and would share their rows: "
                "give each a value of its own"
            )


def _sync(engine: Engine | AsyncEngine) -> Engine:
    # SQLAlchemy's asyncio cannot be imported without greenlet, which it does not bring from 2.1 on.
    return engine if isinstance(engine, Engine) else engine.sync_engine


def _is_restrictable(statement: Any) -> bool:
    # Whatever else there is to execute arrives at the last gate as the SQL that it was made to.
    if isinstance(statement, StatementLambdaElement):
        if not statement.is_select:
            raise PartitionError("an INSERT, UPDATE or DELETE in lambda_stmt() cannot be checked: execute the statement itself")
        return True
    return (
        isinstance(statement, GenerativeSelect | UpdateBase) or getattr(statement, "__visit_name__", None) == "orm_from_statement"
    )
