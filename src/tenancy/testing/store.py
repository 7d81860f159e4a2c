"""
A route store in memory, for tests of what writes routes and of what follows them.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from uuid import uuid4

from ..errors import RouteSourceError
from ..routes import LiveRoutes
from ..routes.lease import DEFAULT_LEASE
from ..routes.stores import Head, Member, Put, Snapshot, StoreSource
from ..routes.stores._shared import DAY, NoTableError, check_lease, check_puts, check_writable, conflict, decoded, encoded, is_same

__all__ = ["MemoryStore"]

_numbers = itertools.count(1)
_LOOK = 0.1  # seconds in which a watcher notices that it is to end


class MemoryStore:
    """
    A route store in the memory of this process, with all that a real one does; and a test can take it away with `lose`.

    ``MemoryStore(lease=2).live()`` is a live route table to pass as ``routes=``; what is written to the store is seen by it at once.

    Args:
        lease: The lease of the table, in seconds, which is then made at once; None: there is no table before `create`.

    Raises:
        ConfigurationError: If the lease is not a time.
    """

    def __init__(self, lease: float | None = None) -> None:
        self.name = f"the route store {next(_numbers)} of a test"
        self._changed = threading.Condition()  # of a lock that its holder may take again
        self._lost: str | None = None
        self._table: Head | None = None
        self._documents: dict[str, tuple[int, str]] = {}
        self._members: dict[tuple[str, str], tuple[float, Member]] = {}
        if lease is not None:
            self.create(lease)

    def live(self, *, interval: float = 0.05) -> LiveRoutes:
        """
        Return a live route table that follows this store; close it when it is done with.

        Args:
            interval: Seconds between two looks at the store before the first one that succeeds; then it follows the writes.
        """
        return LiveRoutes(StoreSource(self), interval=interval)

    def lose(self, reason: str = "the connection was refused") -> None:
        """
        Make every call fail until `restore`, as that of a server that is down does.

        Args:
            reason: Why, as the error says it.
        """
        with self._changed:
            self._lost = reason

    def restore(self) -> None:
        """
        Make the store answer again.
        """
        with self._changed:
            self._lost = None
            self._changed.notify_all()

    def create(self, lease: float = DEFAULT_LEASE) -> Head:
        """
        Make an empty table, unless there is one, which then stays as it is.

        Args:
            lease: Seconds for which a read of the table may be acted on.

        Raises:
            ConfigurationError: If the lease is not a time.
            RouteSourceError: If the store is lost.
        """
        check_lease(lease)
        with self._changed:
            self._check_there()
            if self._table is None:
                self._table = Head(uuid4().hex, 0, float(lease))
            return self._table

    def head(self) -> Head:
        """
        Return the table's id and version.

        Raises:
            RouteSourceError: If the store is lost, or has no table.
        """
        with self._changed:
            return self._head()

    def snapshot(self) -> Snapshot:
        """
        Read the whole table.

        Raises:
            RouteSourceError: If the store is lost, or has no table.
        """
        with self._changed:
            head, documents = self._head(), dict(self._documents)
        return Snapshot(head, {name: (version, decoded(text, self.name, name)) for name, (version, text) in documents.items()})

    def write(self, puts: Sequence[Put]) -> int:
        """
        Write documents, all or none, and return the table's new version.

        Args:
            puts: What to write, each document once.

        Raises:
            ConflictError: If one of them was written since it was read; nothing is changed then.
            RouteSourceError: If the store is lost, or has no table.
        """
        check_puts(puts)
        # As text, so that a test meets what JSON makes of it.
        texts = {put.name: None if put.document is None else encoded(put.document) for put in puts}
        with self._changed:
            head = self._head()
            check_writable(head.schema, self.name)
            for put in puts:
                found, _ = self._documents.get(put.name, (0, ""))
                if found != put.expected:
                    raise conflict(self.name, put, found)
            self._table = head = head._replace(version=head.version + 1)
            for name, text in texts.items():
                if text is None:
                    self._documents.pop(name, None)
                else:
                    self._documents[name] = head.version, text
            self._changed.notify_all()
        return head.version

    def watch(self, changed: Callable[[], None], closed: Callable[[], bool]) -> None:
        """
        Call *changed* soon after each write, until *closed* returns true.
        """
        with self._changed:
            seen = self._now()
            while not closed():
                self._changed.wait(_LOOK)
                if self._now() == seen:
                    continue
                seen = self._now()
                changed()

    def register(self, member: Member) -> None:
        """
        Note that a consumer runs.

        Raises:
            RouteSourceError: If the store is lost.
        """
        with self._changed:
            self._check_there()
            kept = member._replace(topics=tuple(member.topics))
            self._members[member.workload, member.member] = time.monotonic(), kept

    def unregister(self, member: Member) -> None:
        """
        Forget a consumer, if it is the one that is registered: of the same group, sandbox and table.

        Raises:
            RouteSourceError: If the store is lost.
        """
        with self._changed:
            self._check_there()
            at = member.workload, member.member
            if at in self._members and is_same(self._members[at][1], member):
                del self._members[at]

    def members(self, workload: str) -> list[Member]:
        """
        Return the consumers of a workload that were registered within the last day.

        Raises:
            RouteSourceError: If the store is lost.
        """
        with self._changed:
            self._check_there()
            since = time.monotonic() - DAY
            self._members = {at: (seen, member) for at, (seen, member) in self._members.items() if seen >= since}
            return [member for (of, _), (_, member) in sorted(self._members.items()) if of == workload]

    def close(self) -> None:
        """
        Nothing is held.
        """

    def _head(self) -> Head:
        self._check_there()
        if self._table is None:
            raise NoTableError(self.name)
        return self._table

    def _now(self) -> object:
        return self._table, self._lost

    def _check_there(self) -> None:
        if self._lost is not None:
            raise RouteSourceError(f"{self.name} cannot be reached: {self._lost}")
