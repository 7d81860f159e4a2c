"""
The outer world of the hand-over, deterministic: logs, consumer groups, the route store, and processes with clocks of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tenancy.errors import ConflictError, RouteSourceError
from tenancy.messaging.kafka.broker import GroupMember, Topic
from tenancy.messaging.kafka.groups import group_name
from tenancy.routes.handover import Cuts
from tenancy.routes.stores import Head, Member, Put, Snapshot, put_workload, table_of
from tenancy.routes.table import RouteTable
from tests.protocol.checker import Checker, Record

__all__ = ["BASE", "LEASE", "TOPIC", "WORKLOAD", "Group", "Kafka", "Process", "Stage", "Store", "stage"]

WORKLOAD, TOPIC, BASE, LEASE = "shop/orders", "t", "orders", 10.0


class Process:
    """
    Something that runs, and may be stopped or die.

    Args:
        world: Where.
        name: What it is called in a trace.
        rate: How fast its clock is.
    """

    def __init__(self, world: Any, name: str, rate: float) -> None:
        self.world = world
        self.name = name
        self.rate = rate
        self.up = True
        self.stopped = False
        #: What the clock says instead, while the answer to a read is worked on: when that was begun.
        self.taken: float | None = None

    def now(self) -> float:
        """
        Return what its clock says.
        """
        return self.world.time * self.rate if self.taken is None else self.taken

    def __repr__(self) -> str:
        return self.name


class Stage:
    """
    Whose turn it is: the clock of the code under test is that of this process.
    """

    def __init__(self) -> None:
        self.process: Process | None = None

    def now(self) -> float:
        """
        Return what the clock of the process says whose turn it is.
        """
        assert self.process is not None
        return self.process.now()


stage = Stage()


class Group:
    """
    A consumer group, as the broker knows it.
    """

    def __init__(self) -> None:
        self.members: dict[str, Any] = {}
        self.owners: dict[int, str] = {}
        self.committed: dict[int, int] = {}

    def drop(self, member: str) -> list[int]:
        """
        Remove a member, and return the partitions that it had.
        """
        self.members.pop(member, None)
        freed = [partition for partition, owner in self.owners.items() if owner == member]
        for partition in freed:
            del self.owners[partition]
        return freed


class Kafka:
    """
    One topic and its consumer groups.

    Args:
        partitions: How many it has to begin with.
    """

    def __init__(self, partitions: int) -> None:
        self.logs: list[list[Record]] = [[] for _ in range(partitions)]
        self.starts: dict[int, int] = dict.fromkeys(range(partitions), 0)
        self.groups: dict[str, Group] = {}
        #: How often something has happened to a partition of a group that lets records be handled again.
        self.disturbed: dict[tuple[str, int], int] = {}

    def group(self, name: str) -> Group:
        """
        Return a group, made where there is none.
        """
        return self.groups.setdefault(name, Group())

    def disturb(self, name: str, partitions: Iterable[int]) -> None:
        """
        Note that records of partitions may be handled again.
        """
        for partition in partitions:
            self.disturbed[name, partition] = self.disturbed.get((name, partition), 0) + 1

    @property
    def ends(self) -> list[int]:
        """
        The end of every log.
        """
        return [len(log) for log in self.logs]


class Store:
    """
    A route store.

    Args:
        checker: Is told of every write.
        kafka: The topic, for the checker.
    """

    name = "the route store"

    def __init__(self, checker: Checker, kafka: Kafka) -> None:
        self._checker = checker
        self._kafka = kafka
        self.out = False
        #: A mutant of the model: write whatever was there before.
        self.compares = True
        self.version = 0
        self.documents: dict[str, tuple[int, Mapping[str, Any]]] = {}
        self.registered: dict[str, Member] = {}
        self._table: RouteTable | None = None
        self.write([put_workload(WORKLOAD)])

    def head(self) -> Head:
        """
        Return the table's id and version.
        """
        self._check()
        return Head("table", self.version, LEASE)

    def snapshot(self) -> Snapshot:
        """
        Read the whole table.
        """
        return Snapshot(self.head(), dict(self.documents))

    def table(self) -> RouteTable:
        """
        Return what a reader makes of it.
        """
        self._check()
        if self._table is None:
            self._table = table_of(self.snapshot(), origin=self.name)
        return self._table

    def write(self, puts: Sequence[Put]) -> int:
        """
        Write documents, all or none.
        """
        self._check()
        for put in puts:
            found, _ = self.documents.get(put.name, (0, None))
            if self.compares and found != put.expected:
                raise ConflictError(f"{put.name} was written at {found}, not {put.expected}")
        self.version += 1
        self._table = None
        for put in puts:
            assert put.document is not None
            self.documents[put.name] = self.version, put.document
            if put.name.startswith("handover/"):
                self._checker.written(put.document["key"], put.document, self._kafka.ends)
        return self.version

    def members(self, workload: str) -> list[Member]:
        """
        Return the consumers that have registered.
        """
        self._check()
        return list(self.registered.values())

    def _check(self) -> None:
        if self.out:
            raise RouteSourceError(f"{self.name} does not answer")


class StoreOf:
    """
    The store as a controller meets it: it is interrupted before each call, and before it learns that something was written.
    """

    name = Store.name

    def __init__(self, store: Store, switch: Callable[[str], None]) -> None:
        self._store = store
        self._switch = switch

    def head(self) -> Head:
        return Head("table", self._store.version, LEASE)

    def snapshot(self) -> Snapshot:
        self._switch("reads the table")
        return self._store.snapshot()

    def write(self, puts: Sequence[Put]) -> int:
        self._switch("is about to write")
        version = self._store.write(puts)
        self._switch(f"has written version {version}")
        return version

    def members(self, workload: str) -> list[Member]:
        self._switch("asks who has registered")
        return self._store.members(workload)


class KafkaOf:
    """
    The broker as a controller meets it; see `StoreOf`.
    """

    def __init__(self, kafka: Kafka, switch: Callable[[str], None], *, by_commits: bool = False) -> None:
        self.kafka = kafka
        #: A mutant of the model: what the baseline has committed is taken for the log's end.
        self._by_commits = by_commits
        self._switch = switch
        self.config: dict[str, Any] = {}

    def topics(self, names: Iterable[str]) -> dict[str, Topic]:
        self._switch("lists partitions")
        found = {name: Topic("id", len(self.kafka.logs)) for name in names}
        self._switch(f"has seen {found}")
        return found

    def log_ends(self, topics: Mapping[str, Topic]) -> Cuts:
        self._switch("asks for log ends")
        ends = self.kafka.ends
        if self._by_commits:
            ends = [self.kafka.group(BASE).committed.get(p, 0) for p in range(len(ends))]
        found = {name: tuple(ends[: topic.partitions]) for name, topic in topics.items()}
        self._switch(f"has seen log ends {found}")
        return found

    def log_starts(self, topics: Mapping[str, Topic]) -> Cuts:
        self._switch("asks for log starts")
        return {name: tuple(self.kafka.starts[p] for p in range(topic.partitions)) for name, topic in topics.items()}

    def committed(self, group: str, topics: Mapping[str, Topic]) -> Cuts:
        self._switch("asks for commits")
        commits = self.kafka.group(group).committed
        found = {name: tuple(commits.get(p, -1) for p in range(topic.partitions)) for name, topic in topics.items()}
        self._switch(f"has seen commits {found} of {group}")
        return found

    def members(self, group: str) -> list[GroupMember]:
        self._switch("asks for members")
        return [GroupMember(member, "client", "host") for member in self.kafka.group(group).members]

    def delete_group(self, group: str) -> None:
        self._switch(f"is about to delete {group}")
        if not self.kafka.group(group).members:
            del self.kafka.groups[group]


def sandbox_group(sandbox: str, generation: int) -> str:
    """
    Return the name of a sandbox's group.
    """
    return group_name(BASE, sandbox, generation)
