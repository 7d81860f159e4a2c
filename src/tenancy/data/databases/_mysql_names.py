"""
MySQL: a statement of a key's names no other database; and the dialect takes the key's for the default one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import DDL, ClauseElement, Engine, TableClause, TextClause
from sqlalchemy.sql import visitors

from ...context import routing_key
from ...errors import PartitionError
from ...key import RoutingKey
from ._mysql_text import databases_named
from ._pools import KeyPool
from ._provider import Database, parsed

__all__ = ["Fence", "name_by_key"]

# SQLAlchemy itself reads there what tables are like.
_SYSTEM = frozenset({"information_schema", "performance_schema", "sys"})


class Fence:
    """
    Refuses statements that would leave the database of their key.

    In what SQLAlchemy builds every other database is refused: by the tables that it is built of, and by what came of it, since text may be
    part of it. In text only those are that this engine and its provider know of: there a name in front of a dot may be something else.

    Args:
        engine: The engine.
        is_known: Whether a name, in lower case, is that of another key's database, or of the golden one.
    """

    def __init__(self, engine: Engine, is_known: Callable[[str], bool]) -> None:
        self._engine = engine
        self._is_known = is_known
        self._baseline = (engine.url.database or "").lower()
        self._schemas: WeakKeyDictionary[Any, frozenset[str]] = WeakKeyDictionary()

    def check(self, pool: KeyPool, statement: str, context: Any) -> None:
        """
        Raise if a statement names another database.

        Args:
            pool: The key's pool that the connection is of.
            statement: The statement as it goes to the driver.
            context: SQLAlchemy's context of the execution.

        Raises:
            PartitionError: If it does.
        """
        compiled = getattr(context, "compiled", None)
        built = compiled is not None and not isinstance(compiled.statement, TextClause | DDL)
        dialect: Any = self._engine.dialect
        named = databases_named(statement, escapes=dialect._backslash_escapes, ansi=dialect._server_ansiquotes)
        names = set(named.databases)
        if built:
            names |= self._built_of(compiled, context.execution_options.get("schema_translate_map") or {})
        if not names and not named.moves:
            return
        own = (parsed(pool.database.address, f"the address of {pool}").database or "").lower()
        others = names - {own} - _SYSTEM
        if not built:
            others = {name for name in others if name == self._baseline or self._is_known(name)}
        if others or named.moves:
            shown = statement if len(statement) <= 80 else f"{statement[:80]}..."
            which = f" ({', '.join(sorted(others))})" if others else ""
            raise PartitionError(
                f"{shown!r} names a database{which}, so it would leave {pool}: leave the database's name (schema=) out"
            )

    def _built_of(self, compiled: Any, translated: Mapping[str | None, str | None]) -> set[str]:
        found = self._schemas.get(compiled)
        if found is None:
            found = self._schemas[compiled] = frozenset(_schemas(compiled))
        return {name.lower() for schema in found if (name := translated.get(schema, schema))}


def _schemas(compiled: Any) -> Iterator[str]:
    # What the ORM makes of a statement has the tables of relationships in it, too.
    made = getattr(getattr(compiled, "compile_state", None), "statement", None)
    for statement in (compiled.statement, made):
        if not isinstance(statement, ClauseElement):
            continue
        for element in (getattr(statement, "element", None), *visitors.iterate(statement)):
            if isinstance(element, TableClause) and (schema := getattr(element, "schema", None)):
                yield schema


def name_by_key(dialect: Any, find: Callable[[RoutingKey], Database | None]) -> None:
    """
    Have MySQL's dialect take, for reflection, the key's database for the default one, which it puts in front of tables' names.
    """
    usual = dialect.__dict__.pop("default_schema_name", None)

    def get(self: Any) -> Any:
        key = routing_key()
        database = find(key) if key is not None else None
        return (
            self.__dict__.get("default_schema_name") if database is None else database.address.rpartition("/")[2].partition("?")[0]
        )

    def put(self: Any, value: Any) -> None:
        self.__dict__["default_schema_name"] = value

    if usual is not None:
        dialect.__dict__["default_schema_name"] = usual
    before = type(dialect)
    names = {
        "__module__": before.__module__,
        "default_schema_name": property(get, put),
        # Not inherited, by SQLAlchemy's rule; here nothing changes in what is compiled.
        "supports_statement_cache": before.supports_statement_cache,
    }
    dialect.__class__ = type(before.__name__, (before,), names)
