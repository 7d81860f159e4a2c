"""
A Session serves one database: what it has loaded it gives out, and writes, without asking where it came from.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session

from ...errors import PartitionError
from ._pools import of_connection
from ._provider import Database

__all__ = ["SessionOwners"]


class SessionOwners:
    """
    Listens to all sessions; acts on those that use one engine, when they take a connection. What is done on the connection is not this
    class's to see to.

    Args:
        engine: That engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # For each Session from where it has loaded what it holds, since it was last emptied, which makes a new identity map.
        self._served: WeakKeyDictionary[Session, tuple[Any, Database | None]] = WeakKeyDictionary()

    def listen(self) -> None:
        event.listen(Session, "after_begin", self._begun)

    def remove(self) -> None:
        event.remove(Session, "after_begin", self._begun)

    def _begun(self, session: Session, _transaction: Any, connection: Connection) -> None:
        if connection.dialect is not self._engine.dialect:
            return
        pool = of_connection(connection)
        now = None if pool is None else pool.database
        identities, database = self._served.get(session, (None, None))
        if identities is session.identity_map and database != now:
            connection.invalidate()  # the Session has it already, and would use it at the next attempt
            before, after = ("the baseline's database" if each is None else "a routing key's" for each in (database, now))
            if database is not None and now is not None:
                after = "another one"
            raise PartitionError(
                f"this {type(session).__name__} has worked in {before} and is now used for {after}, and what it may hold is of the first: "
                "use a Session for each routing key, or call Session.close() in between"
            )
        self._served[session] = session.identity_map, now
