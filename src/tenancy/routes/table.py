"""
The route table: which sandbox forks which workload under which key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..errors import InvalidRoutingKeyError, RouteSourceError
from ..key import RoutingKey
from ..naming import is_workload
from .handover import Handover, State
from .partitions import Partition
from .topics import OwnTopic

__all__ = ["Route", "RouteTable", "parse_table"]


class Route(NamedTuple):
    """
    One sandbox's version of one workload, under one key.

    Args:
        workload: The workload that is forked, ``namespace/name``.
        key: The routing key.
        sandbox: The sandbox that the fork belongs to.
        generation: Counts the lives of this key on this workload, so that a key used again is never mistaken for its earlier life.
    """

    workload: str
    key: RoutingKey
    sandbox: str
    generation: int = 1


class RouteTable:
    """
    All routes, by workload and key. Immutable; looking one up takes as long with 10,000 routes as with one.

    Args:
        routes: At most one for each pair of workload and key.
        workloads: The workloads that exist, forked or not. A workload of a route counts without being named here.
        version: Rises with every change; what the source says, or 0.
        handovers: Where each key is in its life, where the source says so; a key that is in one has its route by that.
        lease: Seconds for which what was read may be acted on; None: the source says nothing of positions, so for ever.
        id: What tells this table from any other; empty where the source has none.
        topics: The topics of sandboxes' own.
        partitions: Where the data of keys lives.

    Raises:
        RouteSourceError: If two routes claim one workload and key.
    """

    __slots__ = ("_handovers", "_keys", "_partitions", "_routes", "_topics", "_with_data", "_workloads", "id", "lease", "version")

    def __init__(
        self,
        routes: Iterable[Route] = (),
        *,
        workloads: Iterable[str] = (),
        version: int = 0,
        handovers: Iterable[Handover] = (),
        lease: float | None = None,
        id: str = "",  # noqa: A002 - what it is called everywhere
        topics: Iterable[OwnTopic] = (),
        partitions: Iterable[Partition] = (),
    ) -> None:
        self.version = version
        self.lease = lease
        self.id = id
        self._topics = {topic.name: topic for topic in topics}
        self._partitions = {(partition.database, partition.key): partition for partition in partitions}
        self._with_data = frozenset(partition.key for partition in self._partitions.values() if not partition.dropped)
        self._handovers: dict[str, dict[RoutingKey, Handover]] = {}
        self._routes: dict[str, dict[RoutingKey, Route]] = {}
        self._keys: set[RoutingKey] = set()
        live = []
        for row in handovers:
            self._handovers.setdefault(row.workload, {})[row.key] = row
            if row.state is not State.NONE:
                self._keys.add(row.key)
            if row.state in (State.ACTIVE, State.DELETING):
                live.append(Route(row.workload, row.key, row.sandbox, row.epoch))
        for route in (*routes, *live):
            forks = self._routes.setdefault(route.workload, {})
            other = forks.get(route.key)
            if other is not None:
                raise RouteSourceError(
                    f"{route.workload} is forked twice under {route.key}: by sandbox {other.sandbox} and by sandbox {route.sandbox}; "
                    "a workload and key lead to one sandbox only, so remove one of the routes"
                )
            forks[route.key] = route
            self._keys.add(route.key)
        self._workloads = frozenset(workloads) | self._routes.keys() | self._handovers.keys()

    def route(self, workload: str, key: RoutingKey) -> Route | None:
        """
        Return the route of *key* on *workload*, or None where the key does not fork it.
        """
        forks = self._routes.get(workload)
        return None if forks is None else forks.get(key)

    def handover(self, workload: str, key: RoutingKey) -> Handover | None:
        """
        Return the lives of *key* on *workload*, or None where it never had one.
        """
        rows = self._handovers.get(workload)
        return None if rows is None else rows.get(key)

    def handovers(self, workload: str | None = None) -> Iterator[Handover]:
        """
        Return the lives of all keys on a workload, or on all of them.
        """
        for rows in self._handovers.values() if workload is None else (self._handovers.get(workload, {}),):
            yield from rows.values()

    def own_topic(self, name: str) -> OwnTopic | None:
        """
        Return what is known of a topic that is a sandbox's own, or None where it is not.
        """
        return self._topics.get(name)

    def own_topics(self, sandbox: str | None = None) -> Iterator[OwnTopic]:
        """
        Return the topics of a sandbox's own, or those of all sandboxes.
        """
        return (topic for topic in self._topics.values() if sandbox in (None, topic.sandbox))

    def partition(self, database: str, key: RoutingKey) -> Partition | None:
        """
        Return where the data of a key lives in a database, or None where that is not known.
        """
        return self._partitions.get((database, key))

    def partitions(self, key: RoutingKey | None = None) -> Iterator[Partition]:
        """
        Return where the data of a key lives, or of all keys.
        """
        return (partition for partition in self._partitions.values() if key in (None, partition.key))

    def knows(self, key: RoutingKey) -> bool:
        """
        Return whether any workload is forked under *key*, or is about to be, or is not yet rid of it; or whether it has data of its own.
        """
        return key in self._keys or key in self._with_data

    def keys(self) -> frozenset[RoutingKey]:
        """
        Return all keys that have routes.
        """
        return frozenset(self._keys)

    @property
    def workloads(self) -> frozenset[str]:
        """
        The workloads that the table knows.
        """
        return self._workloads

    def __iter__(self) -> Iterator[Route]:
        for forks in self._routes.values():
            yield from forks.values()

    def __len__(self) -> int:
        return sum(map(len, self._routes.values()))

    def __repr__(self) -> str:
        return f"<RouteTable version {self.version}: {len(self)} routes, {len(self._workloads)} workloads>"


def parse_table(document: Any, *, origin: str) -> RouteTable:
    """
    Make a route table of a parsed YAML or JSON document.

    Args:
        document: A mapping with ``workloads`` (a list of ``namespace/name``), ``routes`` (a list of mappings with ``workload``, ``key``,
            ``sandbox`` and, optionally, ``generation``) and, optionally, ``version``.
        origin: Where it came from, for messages.

    Raises:
        RouteSourceError: If it is anything else; the message names the entry.
    """
    _check_fields(document, origin, {"version", "workloads", "routes"}, set())
    workloads = [
        _workload(name, f"{origin}: workloads[{index}]") for index, name in enumerate(_list(document, "workloads", origin))
    ]
    routes = []
    for index, entry in enumerate(_list(document, "routes", origin)):
        place = f"{origin}: routes[{index}]"
        _check_fields(entry, place, {"workload", "key", "sandbox", "generation"}, {"workload", "key", "sandbox"})
        for name in ("key", "sandbox"):
            if not isinstance(entry[name], str):  # YAML reads 42 as a number, and no as false
                raise RouteSourceError(f"{place}: {name} is {_shown(entry[name])}; it must be text, so write it in quotes")
        try:
            key, sandbox = RoutingKey(entry["key"]), RoutingKey(entry["sandbox"])
        except InvalidRoutingKeyError as error:
            raise RouteSourceError(f"{place}: {error}") from error
        generation = _whole(entry.get("generation", 1), f"{place}: generation")
        routes.append(Route(_workload(entry["workload"], f"{place}: workload"), key, str(sandbox), generation))
    return RouteTable(routes, workloads=workloads, version=_whole(document.get("version", 0), f"{origin}: version"))


def _check_fields(entry: Any, place: str, known: set[str], needed: set[str]) -> None:
    if not isinstance(entry, Mapping):
        raise RouteSourceError(f"{place} is {_shown(entry)}; it must be a mapping with {', '.join(sorted(needed or known))}")
    missing, unknown = needed - entry.keys(), {str(name) for name in entry.keys() - known}
    if missing:
        raise RouteSourceError(f"{place} lacks {', '.join(sorted(missing))}")
    if unknown:
        raise RouteSourceError(f"{place} has {', '.join(sorted(unknown))}, which is unknown; possible: {', '.join(sorted(known))}")


def _list(document: Mapping[str, Any], name: str, origin: str) -> list[Any]:
    entries = document.get(name)
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise RouteSourceError(f"{origin}: {name} is {_shown(entries)}; it must be a list")
    return entries


def _workload(value: Any, place: str) -> str:
    if not is_workload(value):
        raise RouteSourceError(f"{place} is {_shown(value)}; write namespace/name in lower case, such as shop/orders")
    return str(value)


def _whole(value: Any, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise RouteSourceError(f"{place} is {_shown(value)}; it must be a whole number, 0 or more")
    return value


def _shown(value: Any) -> str:
    return repr(value)[:64]
