"""
What a route store is: named documents that change together, each with the version at which it last did, by compare-and-set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from ...errors import ConfigurationError
from ..lease import DEFAULT_LEASE
from ._urls import hidden

__all__ = ["SCHEMA", "SCHEMES", "Head", "Member", "Put", "RouteStore", "Snapshot", "open_store"]

#: The form of what is kept. Readers understand this one and the one before.
SCHEMA = 1

#: URL scheme -> the function that opens such a store.
SCHEMES: Mapping[str, str] = {
    "sqlite": "tenancy.routes.stores.sql:open_store",
    "postgresql": "tenancy.routes.stores.sql:open_store",
    "redis": "tenancy.routes.stores.redis:open_store",
    "rediss": "tenancy.routes.stores.redis:open_store",
}


class Head(NamedTuple):
    """
    What tells whether a table has changed.

    Args:
        id: What tells it from every other table, made at random when it is created.
        version: Rises by one with every write.
        lease: Seconds for which a read may be acted on; the same for all readers, for as long as the table lives.
        schema: The form of its documents.
    """

    id: str
    version: int
    lease: float
    schema: int = SCHEMA


class Snapshot(NamedTuple):
    """
    All of a table, as it was at one moment.

    Args:
        head: Its id and version.
        documents: Name -> the version at which the document was written last, and the document: plain data, as JSON has it.
    """

    head: Head
    documents: Mapping[str, tuple[int, Mapping[str, Any]]]


class Put(NamedTuple):
    """
    One document to write.

    Args:
        name: Its name.
        document: What it is to be; None removes it.
        expected: The version at which it was written last, as whoever writes has seen it; 0: it was not there.
    """

    name: str
    document: Mapping[str, Any] | None
    expected: int = 0


class Member(NamedTuple):
    """
    One running instance of a consumer, as it says of itself.

    Args:
        workload: Its workload.
        member: What the broker calls it: the member id within its consumer group.
        group: Its consumer group on Kafka; empty: it consumes a queue of RabbitMQ.
        topics: What it consumes.
        library: The version of this library.
        table: The id of the route table that it reads.
        version: The version of the table that it has seen.
        sandbox: The sandbox that it belongs to; empty: it is the baseline.
        declared: With what options its queue was declared.
    """

    workload: str
    member: str
    group: str
    topics: tuple[str, ...] = ()
    library: str = ""
    table: str = ""
    version: int = 0
    sandbox: str = ""
    declared: Mapping[str, Any] | None = None


class RouteStore(Protocol):
    """
    A place where a route table is kept. Every method raises `RouteSourceError` where the place cannot be had, or holds something else.
    """

    name: str

    def create(self, lease: float = DEFAULT_LEASE) -> Head:
        """
        Make an empty table, unless there is one, which then stays as it is, its lease included.
        """
        ...

    def head(self) -> Head:
        """
        Return the table's id and version; at little cost, from the primary.
        """
        ...

    def snapshot(self) -> Snapshot:
        """
        Read the whole table in one consistent snapshot, from the primary.
        """
        ...

    def write(self, puts: Sequence[Put]) -> int:
        """
        Write documents, all or none, and return the table's new version.

        Raises:
            ConflictError: If one of them was written since; nothing is changed then.
        """
        ...

    def watch(self, changed: Callable[[], None], closed: Callable[[], bool]) -> None:
        """
        Call *changed* soon after each write of anybody, until *closed* returns true. Best effort: what is missed is found by the next look.
        """
        ...

    def register(self, member: Member) -> None:
        """
        Note that a consumer runs; again and again while it does, since what is old is forgotten.
        """
        ...

    def unregister(self, member: Member) -> None:
        """
        Forget a consumer, if it is the one that is registered: of the same group, sandbox and table. What somebody else has registered stays.
        """
        ...

    def members(self, workload: str) -> list[Member]:
        """
        Return the consumers of a workload that were registered within the last day.
        """
        ...

    def close(self) -> None:
        """
        Give back what it holds.
        """
        ...


def open_store(url: str) -> RouteStore:
    """
    Open the route store at a URL; nothing is read or written yet.

    Args:
        url: ``sqlite:///path/to/routes.db``, ``postgresql://user@host/database`` or ``redis://host/0``.

    Raises:
        ConfigurationError: If the URL names no store.
        MissingDependencyError: If the extra that it needs is not installed.
    """
    scheme = url.partition(":")[0].partition("+")[0]
    if ":" not in url or scheme not in SCHEMES:
        raise ConfigurationError(
            f"{hidden(url)!r} is no route store; use a URL whose scheme is one of {', '.join(sorted(SCHEMES))}, such as sqlite:///routes.db"
        )
    module, _, name = SCHEMES[scheme].partition(":")
    store: RouteStore = getattr(import_module(module), name)(url)
    return store
