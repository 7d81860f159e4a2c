"""
A route table in memory, which a test changes while what it tests is running.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from ..errors import RouteSourceError
from ..key import RoutingKey
from ..routes import LiveRoutes, Route, RouteTable, live, parse_table

__all__ = ["Forks", "MemoryRoutes"]

#: Workload -> the keys under which it is forked, each by a sandbox of the same name; or key -> sandbox.
Forks: TypeAlias = "Mapping[str, Iterable[str] | Mapping[str, str]]"

_numbers = itertools.count(1)


class MemoryRoutes(LiveRoutes):
    """
    A live route table whose source is the test itself. A change holds for the next decision; there is no thread and nothing to wait for.

    ``MemoryRoutes({"shop/orders": ["pr-42"], "shop/notify": []})`` is the table in which ``pr-42`` forks ``shop/orders``, and no key forks
    ``shop/notify``. Pass it as ``routes=`` to a middleware, a consumer or an interceptor, or give its `url` to the settings.

    Args:
        forks: The workloads, each with the keys that fork it, or with a mapping from key to sandbox.

    Raises:
        RouteSourceError: If a workload, a key or a sandbox has a name that cannot be one.
    """

    def __init__(self, forks: Forks | None = None) -> None:
        self._number = next(_numbers)
        self._memory = _Memory(f"the route table {self._number} of a test")
        super().__init__(self._memory)
        self._memory.replace(forks or {})

    @property
    def url(self) -> str:
        """
        The URL under which settings find this table, in this process: ``tenancy.configure(routes=table.url)``.
        """
        url = f"memory:{self._number}"
        live._opened[url] = self
        return url

    def environment(self) -> dict[str, str]:
        """
        Return the environment variables with which another process reads this table, as it is now.
        """
        return {"TENANCY_ROUTES": "env:", "TENANCY_ROUTE_TABLE": json.dumps(self._memory.document())}

    def fork(self, workload: str, key: str, sandbox: str | None = None) -> Route:
        """
        Add a route, or lead one to another sandbox. A key that is used again has the next generation.

        Args:
            workload: The workload, ``namespace/name``.
            key: The routing key.
            sandbox: The sandbox; default the one called like the key.

        Raises:
            RouteSourceError: If a name cannot be one; the table stays as it was.
        """
        route = self._memory.add(workload, key, key if sandbox is None else sandbox)
        self._changed()
        return route

    def unfork(self, workload: str, key: str) -> None:
        """
        Remove a route; the workload stays known.

        Raises:
            RouteSourceError: If there is none.
        """
        self._memory.remove(workload, key)
        self._changed()

    def replace(self, forks: Forks) -> None:
        """
        Put another table in this one's place.

        Args:
            forks: As for the class.

        Raises:
            RouteSourceError: If a name cannot be one; the table stays as it was.
        """
        self._memory.replace(forks)
        self._changed()

    def clear(self) -> None:
        """
        Begin anew: an empty table, of which nobody has read anything yet.
        """
        self._memory.clear()
        with self._lock:
            self._view = self._mark = self._error = self._process = None

    def lose(self, reason: str = "the connection was refused") -> None:
        """
        Make the source unreadable until `restore`: what was read before stays in force, and what was not read is not synced.

        Args:
            reason: Why, as the error says it.
        """
        self._memory.lost = reason
        self._changed()

    def restore(self) -> None:
        """
        Make the source readable again.
        """
        self._memory.lost = None
        self._changed()

    def _changed(self) -> None:
        if self._process is not None:  # somebody has asked for it
            self.refresh()

    def _may_change(self) -> bool:
        return False  # not behind our back, so nobody has to look


class _Memory:
    """
    The source of a table in memory.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.clear()

    def clear(self) -> None:
        self.lost: str | None = None
        self._workloads: frozenset[str] = frozenset()
        self._routes: dict[tuple[str, str], Route] = {}
        self._lives: dict[tuple[str, str], int] = {}
        self._version = 0

    def read(self) -> RouteTable:
        if self.lost is not None:
            raise RouteSourceError(f"{self.name} cannot be read: {self.lost}")
        return RouteTable(list(self._routes.values()), workloads=self._workloads, version=self._version)

    def mark(self) -> object:
        return self._version, self.lost

    def document(self) -> dict[str, object]:
        routes = [route._asdict() for route in self._routes.values()]
        return {"version": self._version, "workloads": sorted(self._workloads), "routes": routes}

    def replace(self, forks: Forks) -> None:
        named = {
            workload: keys if isinstance(keys, Mapping) else {key: key for key in _checked(workload, keys)}
            for workload, keys in forks.items()
        }
        self._take(
            named,
            [self._entry(workload, key, sandbox, same=True) for workload, keys in named.items() for key, sandbox in keys.items()],
        )

    def add(self, workload: str, key: str, sandbox: str) -> Route:
        entry = self._entry(workload, key, sandbox, same=False)
        others = [route._asdict() for at, route in self._routes.items() if at != (workload, key)]
        self._take([*self._workloads, workload], [*others, entry])
        return self._routes[workload, RoutingKey(key)]

    def remove(self, workload: str, key: str) -> None:
        if (workload, key) not in self._routes:
            raise RouteSourceError(f"{self.name}: {key!r} does not fork {workload!r}, so there is no route to remove")
        self._take(self._workloads, [route._asdict() for at, route in self._routes.items() if at != (workload, key)])

    def _entry(self, workload: str, key: str, sandbox: str, *, same: bool) -> dict[str, object]:
        present = self._routes.get((workload, key))
        lives = self._lives.get((workload, key), 0)
        kept = same and present is not None and present.sandbox == sandbox
        return {"workload": workload, "key": key, "sandbox": sandbox, "generation": lives if kept else lives + 1}

    def _take(self, workloads: Iterable[str], entries: list[dict[str, object]]) -> None:
        # By way of the document, so that a table in a test is checked as one in a file is.
        document = {"version": self._version + 1, "workloads": list(workloads), "routes": entries}
        table = parse_table(document, origin=self.name)
        self._routes = {(route.workload, route.key): route for route in table}
        self._lives.update((at, route.generation) for at, route in self._routes.items())
        self._workloads, self._version = table.workloads, table.version


def _checked(workload: str, keys: Iterable[str]) -> Iterable[str]:
    if isinstance(keys, str):
        raise RouteSourceError(
            f"{workload!r} has {keys!r}; give a list of keys, such as [{keys!r}], or a mapping from key to sandbox"
        )
    return keys
