"""
A Session serves one database: what it has loaded it gives out without asking any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import ORMExecuteState, Session

from ...context import routing_key
from ...errors import PartitionError
from ...key import RoutingKey
from ._pools import BEGUN, of_connection
from ._provider import Database

__all__ = ["SessionOwners"]


class SessionOwners:
    """
    Listens to all sessions; acts on those that use one engine.

    Args:
        engine: That engine.
        find: Returns the database of a key, or None for the baseline's.
    """

    def __init__(self, engine: Engine, find: Callable[[RoutingKey], Database | None]) -> None:
        self._engine = engine
        self._find = find
        # For each Session what it has loaded since it was last emptied, which makes a new identity map; for which key, from where.
        self._served: WeakKeyDictionary[Session, tuple[Any, RoutingKey | None, Database | None]] = WeakKeyDictionary()
        self._listeners: tuple[tuple[str, Callable[..., None]], ...] = (
            ("after_begin", self._begun),
            ("do_orm_execute", self._executing),
            ("before_flush", self._flushing),
        )

    def listen(self) -> None:
        for name, function in self._listeners:
            event.listen(Session, name, function)

    def remove(self) -> None:
        for name, function in self._listeners:
            event.remove(Session, name, function)

    def _begun(self, session: Session, _transaction: Any, connection: Connection) -> None:
        if connection.dialect is not self._engine.dialect:
            return
        pool = of_connection(connection)
        now = None if pool is None else pool.database
        identities, _, database = self._served.get(session, (None, None, None))
        if identities is session.identity_map and database != now:
            raise PartitionError(_refusal(session, database, now))
        self._served[session] = session.identity_map, connection.connection.info.get(BEGUN), now

    def _executing(self, state: ORMExecuteState) -> None:
        self._check(state.session)

    def _flushing(self, session: Session, _context: Any, _instances: Any) -> None:
        self._check(session)

    def _check(self, session: Session) -> None:
        identities, begun, database = self._served.get(session, (None, None, None))
        key = routing_key()
        if identities is not session.identity_map or key == begun:
            return
        now = None if key is None else self._find(key)
        if now != database:
            raise PartitionError(_refusal(session, database, now))


def _refusal(session: Session, database: Database | None, now: Database | None) -> str:
    before, after = ("the baseline's database" if each is None else "a routing key's" for each in (database, now))
    if (database is None) == (now is None):
        after = "another one"
    return (
        f"this {type(session).__name__} holds objects of {before} and is now used for {after}: "
        "use a Session for each routing key, or call Session.close() in between"
    )
