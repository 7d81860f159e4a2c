"""
What the ORM needs beyond the statements: new objects show their owner's value, a Session serves one owner, and what was added to it by one
is not written by another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, event, inspect
from sqlalchemy.orm import InstanceState, Mapper, ORMExecuteState, Session
from sqlalchemy.orm.exc import UnmappedColumnError

from ..context import routing_key
from ..errors import PartitionError
from ..key import RoutingKey
from ._sqlalchemy_rules import Rules
from ._sqlalchemy_values import Values

__all__ = ["AddedObjects", "OrmListeners", "SessionGuard"]


class AddedObjects:
    """
    Listens to all sessions and mappers, and sees to it that an object is written for the owner that added it to a Session.

    Args:
        engine: The engine by which objects are written.
        owner: Returns whose the work of a routing key is; None: the baseline's.
    """

    def __init__(self, engine: Engine, owner: Callable[[RoutingKey | None], Any]) -> None:
        self._engine = engine
        self._owner = owner
        # For each object that was added to a Session, by the application or by a cascade, the key at hand then.
        self._added: WeakKeyDictionary[InstanceState[Any], RoutingKey | None] = WeakKeyDictionary()
        self._listeners: tuple[tuple[Any, str, Callable[..., None]], ...] = (
            (Session, "after_attach", self._attached),
            (Mapper, "before_insert", self._inserting),
            # What was loaded elsewhere is added to be changed or deleted.
            (Mapper, "before_update", self._check_added),
            (Mapper, "before_delete", self._check_added),
        )

    def listen(self) -> None:
        for target, name, function in self._listeners:
            event.listen(target, name, function)

    def remove(self) -> None:
        for target, name, function in self._listeners:
            event.remove(target, name, function)

    def _attached(self, _session: Session, instance: Any) -> None:
        self._added[inspect(instance)] = routing_key()

    def _check_added(self, _mapper: Mapper[Any], connection: Connection, target: Any) -> None:
        if connection.engine.dialect is not self._engine.dialect:
            return
        key = routing_key()
        first = self._added.get(inspect(target), key)
        if first == key:
            return
        then, now = self._owner(first), self._owner(key)
        if then != now:
            raise PartitionError(
                f"an object of {type(target).__name__} was added to its Session by {then or 'the baseline'} and is written by "
                f"{now or 'the baseline'}: commit, or flush, where the object is added"
            )

    def _inserting(self, mapper: Mapper[Any], connection: Connection, target: Any) -> None:
        self._check_added(mapper, connection, target)


class SessionGuard(AddedObjects):
    """
    Sees to it as well that a Session which uses the engine serves one owner until it is emptied.

    Args:
        engine: That engine.
        owner: Returns whose the work of a routing key is; None: the baseline's.
    """

    def __init__(self, engine: Engine, owner: Callable[[RoutingKey | None], Any]) -> None:
        super().__init__(engine, owner)
        # For each Session what it has loaded since it was last emptied, which makes a new identity map, and for whom.
        self._served: WeakKeyDictionary[Session, tuple[Any, str | None, Any]] = WeakKeyDictionary()
        self._listeners += (
            (Session, "after_begin", self._begun),
            (Session, "do_orm_execute", self._executing),
            (Session, "before_flush", self._flushing),
        )

    def _begun(self, session: Session, _transaction: Any, connection: Connection) -> None:
        if connection.engine.dialect is self._engine.dialect and not self._check(session):
            self._served[session] = (session.identity_map, (key := routing_key()), self._owner(key))

    def _executing(self, state: ORMExecuteState) -> None:
        self._check(state.session)

    def _flushing(self, session: Session, _context: Any, _instances: Any) -> None:
        self._check(session)

    def _check(self, session: Session) -> bool:
        # True if the Session has served this owner before; what it holds in memory is given out without asking the database.
        identities, key, owner = self._served.get(session, (None, None, None))
        if identities is not session.identity_map:
            return False
        now = routing_key()
        if now == key or self._owner(now) == owner:
            return True
        raise PartitionError(
            f"this Session holds objects of {owner or 'the baseline'} and is now used for {self._owner(now) or 'the baseline'}: "
            "use a Session for each routing key, or call Session.close() in between"
        )


class OrmListeners(SessionGuard):
    """
    Fills new objects as well, so that they show their owner's value.

    Args:
        engine: The engine.
        rules: Which tables are partitioned.
        values: Whose work is whose, and by which value.
    """

    def __init__(self, engine: Engine, rules: Rules, values: Values) -> None:
        super().__init__(engine, values.owner)
        self._rules = rules
        self._values = values

    def _inserting(self, mapper: Mapper[Any], connection: Connection, target: Any) -> None:
        if connection.engine.dialect is not self._engine.dialect:
            return
        super()._inserting(mapper, connection, target)
        columns = [column for table in mapper.tables if (column := self._rules.column_of(table)) is not None]
        owner = self._owner(routing_key()) if columns else None
        if owner is None or owner.value is None:
            return
        loaded = inspect(target).dict
        for column in columns:
            try:
                name = mapper.get_property_by_column(column).key
            except UnmappedColumnError:
                continue
            if loaded.get(name) is None:
                setattr(target, name, self._values.fitted(owner, column.type, connection.dialect))
