"""
Where the data of a sandbox's keys lives: made before a key is active, dropped when nothing of it can be written any more.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import ConfigurationError, ConflictError, HandoverError
from ..key import RoutingKey
from ..routes import Handover, Partition, RouteTable, State
from ..routes.lease import now
from ..routes.stores import RouteStore, forget_partition, put_partition, table_of
from .forks import Fork, Progress

if TYPE_CHECKING:  # whoever has no databases needs no clients for them
    from ..data.databases import Provider
    from ..data.postgresql import PostgresIsolation, Status

    Partitioned: TypeAlias = PostgresIsolation | Provider

__all__ = ["Partitions", "is_partitioned", "left", "note"]

#: What a partition of `PostgresIsolation` is called in the route table.
KIND = "postgresql-schema"
# What a provider of databases can do.
_PROVIDES = ("create", "drop", "databases")

_logger = logging.getLogger("tenancy")


class Partitions:
    """
    The partitions of a sandbox's keys.

    Args:
        store: The route store.
        databases: The databases.
        progress: Is called with what is being done.

    Raises:
        ConfigurationError: If one of them is none.
    """

    def __init__(self, store: RouteStore, databases: Iterable[Partitioned], progress: Callable[[Progress], None]) -> None:
        given: Any = databases
        if not isinstance(given, Collection) or isinstance(given, str) or not all(map(is_partitioned, given)):
            raise ConfigurationError(f"data is {given!r}; give a list of PostgresIsolation and of providers, such as PostgresClone")
        self._store = store
        self._databases = list(databases)
        self._progress = progress

    def make(self, sandbox: str, forks: Iterable[Fork], end: float, *, again: bool = False) -> None:
        """
        Make the partitions of a sandbox's keys, in each database; before anything is handed over, since what is sent on to its queues may be
        handled at once.

        Args:
            sandbox: The sandbox.
            forks: What it forks.
            end: When to give up.
            again: Whether they were made before, and the route table says by now whose the keys are: somebody who had not seen that may have
                dropped one meanwhile. Of keys that are in use already nothing is made again.

        Raises:
            HandoverError: If one cannot be made, or is not for use.
        """
        if not self._databases:
            return
        table = _table(self._store)
        forks = [fork._replace(key=RoutingKey(fork.key)) for fork in forks]
        for fork in forks:
            row = table.handover(fork.workload, RoutingKey(fork.key))
            if row is not None and row.sandbox != sandbox and row.state is not State.NONE:
                return  # somebody else's, whose data is not to be moved; who hands it over says so
        active = {row.key for row in table.handovers() if row.state is State.ACTIVE} if again else frozenset[RoutingKey]()
        for key, workload in {RoutingKey(fork.key): fork.workload for fork in forks}.items():
            if key in active:
                continue
            for database in self._databases:
                if not again:
                    self._progress(Progress(workload, key, State.CREATING, f"its partition of {_name(database)}"))
                self._attempt("made", key, database, lambda key=key, database=database: _made(key, database, end, again=again))  # type: ignore[misc]
                self._noted(key, database)

    def drop(self, ending: Handover, end: float) -> None:
        """
        Drop the partitions of a key whose life is about to end, or has just ended, unless somebody else has it.

        Args:
            ending: The life.
            end: When to give up.

        Raises:
            HandoverError: If one cannot be dropped.
        """
        for database in self._databases:
            lives = [row for row in _table(self._store).handovers() if row.key == ending.key and row.state is not State.NONE]
            if any((row.workload, row.epoch) != (ending.workload, ending.epoch) for row in lives):
                return  # it goes with the last of them
            self._progress(Progress(ending.workload, ending.key, ending.state, f"its partition of {_name(database)} to be gone"))
            self._attempt("dropped", ending.key, database, lambda database=database: _dropped(ending.key, database, end))  # type: ignore[misc]
            self._noted(ending.key, database)

    def _attempt(self, what: str, key: RoutingKey, database: Partitioned, step: Callable[[], object]) -> None:
        try:
            result = step()
        except HandoverError:
            raise
        except Exception as error:
            # What a driver raises, SQLAlchemy wraps into more lines than one.
            reason = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
            raise HandoverError(
                f"the partition of {key} in {_name(database)} was not {what}: {reason}; nothing is lost, and whoever runs this again goes "
                "on from here"
            ) from error
        if inspect.iscoroutine(result):
            result.close()
            raise HandoverError(
                f"the partition of {key} in {_name(database)} was not {what}: {type(database).__name__} has coroutines, and a controller "
                "waits for none; give an object whose create() and drop() return when it is done"
            )

    def _noted(self, key: RoutingKey, database: Partitioned) -> None:
        # What a provider has made it has listed itself.
        if _is_isolation(database):
            isolation: Any = database
            note(self._store, _name(database), key, lambda: next(iter(isolation.status(key)), None))


def is_partitioned(database: object) -> bool:
    """
    Return whether keys have partitions in something: a `PostgresIsolation`, or a provider of databases for keys.
    """
    provides = all(callable(getattr(database, name, None)) for name in _PROVIDES)
    return not isinstance(database, type) and (_is_isolation(database) or provides)


def _is_isolation(database: object) -> bool:
    module = sys.modules.get("tenancy.data.postgresql")  # if there is one, so is this
    return module is not None and isinstance(database, module.PostgresIsolation)


def _made(key: RoutingKey, database: Any, end: float, *, again: bool) -> object:
    if not _is_isolation(database):
        return database.create(key)
    status = next(iter(database.status(key)), None)
    if again or status is None or status.state == "dropped":
        # Who is asked once more waits for whoever drops it just now.
        status = database.create(key, timeout=max(0.001, end - now()))
    if status.state != "ready":
        raise HandoverError(
            f"the partition of {key} in {_name(database)} is {status.state}, and work with its key would be refused: call attach(), or run "
            "`tenancy data attach`, and then this again"
        )
    if not again:
        for problem in database.check(key):
            _logger.warning("%s: %s", _name(database), problem.text)
    return status


def _dropped(key: RoutingKey, database: Any, end: float) -> object:
    return database.drop(key, timeout=max(0.001, end - now())) if _is_isolation(database) else database.drop(key)


def left(store: RouteStore, keys: Iterable[RoutingKey]) -> list[Partition]:
    """
    Return the partitions that are noted in the route table for keys which nobody has any more.

    Args:
        store: The route store.
        keys: The keys, of a sandbox.
    """
    table = _table(store)
    keys = {*keys} - {row.key for row in table.handovers() if row.state is not State.NONE}
    return [
        partition for partition in table.partitions() if partition.key in keys and partition.kind == KIND and not partition.dropped
    ]


def note(store: RouteStore, database: str, key: RoutingKey, ask: Callable[[], Status | None]) -> None:
    """
    Note in the route table where the data of a key lives.

    Args:
        store: The route store.
        database: What the database is called.
        key: The routing key.
        ask: Returns the partition as it is now; None: there is none any more, and nothing is remembered of it.
    """
    while True:
        before = _table(store).partition(database, key)
        status = ask()  # after that, so that what somebody writes later is not undone by what was before
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


def _table(store: RouteStore) -> RouteTable:
    return table_of(store.snapshot(), origin=store.name)


def _name(database: object) -> str:
    names = (getattr(database, attribute, None) for attribute in ("database", "name"))
    return next((name for name in names if isinstance(name, str)), type(database).__name__)
