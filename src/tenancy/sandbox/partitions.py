"""
Where the data of a sandbox's keys lives: made before a key is active, dropped when nothing of it can be written any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..errors import ConflictError, HandoverError, RouteSourceError
from ..key import RoutingKey
from ..routes import Handover, Partition, RouteTable, State
from ..routes.stores import RouteStore, forget_partition, put_partition, table_of
from .forks import Fork, Progress

if TYPE_CHECKING:  # whoever has no PostgreSQL needs no client for it
    from ..data.postgresql import Status

__all__ = ["KIND", "Partitioned", "Partitions", "left", "note"]

#: What a partition of `PostgresIsolation` is called in the route table.
KIND = "postgresql-schema"


@runtime_checkable
class Partitioned(Protocol):
    """
    A database in which keys have partitions: a `tenancy.data.postgresql.PostgresIsolation`, or a provider of databases for keys. Both calls
    may be repeated.
    """

    def create(self, key: RoutingKey, /) -> object:
        """
        Make a key's partition; what is there stays.
        """
        ...

    def drop(self, key: RoutingKey, /) -> object:
        """
        Drop a key's partition, if there is one.
        """
        ...


class Partitions:
    """
    The partitions of a sandbox's keys.

    Args:
        store: The route store.
        databases: The databases.
        progress: Is called with what is being done.
    """

    def __init__(self, store: RouteStore, databases: Iterable[Partitioned], progress: Callable[[Progress], None]) -> None:
        self._store = store
        self._databases = list(databases)
        self._progress = progress

    def make(self, sandbox: str, forks: Iterable[Fork]) -> None:
        """
        Make the partitions of a sandbox's keys, in each database; before anything is handed over, since what is sent on to its queues may be
        handled at once.

        Raises:
            HandoverError: If one cannot be made.
        """
        if not self._databases:
            return
        table = _table(self._store)
        workloads = {RoutingKey(fork.key): fork.workload for fork in forks}
        for key, workload in workloads.items():
            if any(row.sandbox != sandbox and row.state is not State.NONE for row in table.handovers(workload) if row.key == key):
                continue  # somebody else's, whose data is not to be moved; who hands it over says so
            for database in self._databases:
                self._progress(Progress(workload, key, State.CREATING, f"its partition of {_name(database)}"))
                self._done("made", key, database, database.create)

    def drop(self, sandbox: str, ended: Iterable[Handover]) -> None:
        """
        Drop the partitions of keys that nobody has any more.

        Args:
            sandbox: The sandbox.
            ended: Its lives, which are over; where there is none, of its keys only the one with its name is known.

        Raises:
            HandoverError: If one cannot be dropped.
        """
        if not self._databases:
            return
        taken = _taken(_table(self._store))
        workloads = {row.key: row.workload for row in ended} or {RoutingKey(sandbox): ""}
        for key, workload in workloads.items():
            if key in taken:  # another sandbox has it, on other workloads
                continue
            for database in self._databases:
                if workload:
                    self._progress(Progress(workload, key, State.NONE, f"its partition of {_name(database)} to be gone"))
                self._done("dropped", key, database, database.drop)
            if workload:
                self._progress(Progress(workload, key, State.NONE))

    def _done(self, what: str, key: RoutingKey, database: Partitioned, step: Callable[[RoutingKey], object]) -> None:
        try:
            step(key)
            # What a provider has made it has listed itself.
            if (statuses := getattr(database, "status", None)) is not None:
                note(self._store, _name(database), key, next(iter(statuses(key)), None))
        except RouteSourceError:
            raise  # passes
        except Exception as error:
            # What a driver raises, SQLAlchemy wraps into more lines than one.
            reason = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
            raise HandoverError(
                f"the partition of {key} in {_name(database)} was not {what}: {reason}; nothing is lost, and whoever runs this again goes "
                "on from here"
            ) from error


def left(store: RouteStore, ended: Iterable[Handover]) -> list[Partition]:
    """
    Return the partitions that are noted in the route table for keys which nobody has any more.

    Args:
        store: The route store.
        ended: The lives of a sandbox that are over.
    """
    table = _table(store)
    keys = {row.key for row in ended} - _taken(table)
    return [partition for partition in table.partitions() if partition.key in keys and not partition.dropped]


def note(store: RouteStore, database: str, key: RoutingKey, status: Status | None) -> None:
    """
    Note in the route table where the data of a key lives.

    Args:
        store: The route store.
        database: What the database is called.
        key: The routing key.
        status: The partition; None: there is none any more, and nothing is remembered of it.
    """
    while True:
        before = _table(store).partition(database, key)
        if status is None:
            if before is None or before.kind != KIND:
                return
            change = forget_partition(before)
        else:
            partition = Partition(
                database,
                key,
                tuple(status.schemas.values()),
                KIND,
                dropped=status.state == "dropped",
                expires="" if status.expires is None else status.expires.isoformat(timespec="seconds"),
                version=0 if before is None else before.version,
            )
            if partition == before:
                return
            change = put_partition(partition)
        try:
            store.write([change])
        except ConflictError:
            continue  # somebody else has written it at this moment
        return


def _taken(table: RouteTable) -> set[RoutingKey]:
    return {row.key for row in table.handovers() if row.state is not State.NONE}


def _table(store: RouteStore) -> RouteTable:
    return table_of(store.snapshot(), origin=store.name)


def _name(database: Partitioned) -> str:
    names = (getattr(database, attribute, None) for attribute in ("database", "name"))
    return next((name for name in names if isinstance(name, str)), type(database).__name__)
