"""
The documents of a route store: what of the route table each of them holds, and the table that they make.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...errors import InvalidRoutingKeyError, RouteSourceError
from ...key import RoutingKey
from ...naming import is_workload
from ..handover import Cuts, Epoch, Handover, State
from ..partitions import Partition
from ..table import RouteTable
from ..topics import OwnTopic
from ._base import SCHEMA, Put, RouteStore, Snapshot

__all__ = [
    "StoreSource",
    "forget_partition",
    "forget_topic",
    "handover_name",
    "put_handover",
    "put_partition",
    "put_topic",
    "put_workload",
    "table_of",
]


def handover_name(workload: str, key: RoutingKey | str) -> str:
    """
    Return the name of the document about a key's lives on a workload.
    """
    return f"handover/{workload}/{key}"


def put_handover(row: Handover) -> Put:
    """
    Return how the lives of a key are written; its version is the one that is expected.
    """
    document = {
        "workload": row.workload,
        "key": row.key,
        "state": row.state.value,
        "epoch": row.epoch,
        "sandbox": row.sandbox,
        "generation": row.generation,
        "epochs": [
            {**epoch._asdict(), "start": _plain(epoch.start), "end": _plain(epoch.end), "ids": dict(epoch.ids)}
            for epoch in row.epochs
        ],
        "groups": {group: list(topics) for group, topics in row.groups.items()},
        "claimant": row.claimant,
        "progress": {group: _plain(cuts) for group, cuts in row.progress.items()},
        "late": row.late,
        "queues": dict(row.queues),
    }
    return Put(handover_name(row.workload, row.key), document, row.version)


def put_workload(workload: str, *, expected: int = 0) -> Put:
    """
    Return how a workload is made known.
    """
    return Put(f"workload/{workload}", {"workload": workload}, expected)


def put_topic(topic: OwnTopic) -> Put:
    """
    Return how a topic of a sandbox's own is written; its version is the one that is expected.
    """
    document = topic._asdict()
    del document["version"]
    return Put(f"topic/{topic.name}", document, topic.version)


def forget_topic(topic: OwnTopic) -> Put:
    """
    Return how a topic of a sandbox's own, which is gone, is written.
    """
    return Put(f"topic/{topic.name}", None, topic.version)


def _partition_name(partition: Partition) -> str:
    return f"partition/{partition.database}/{partition.key}"


def put_partition(partition: Partition) -> Put:
    """
    Return how it is written where the data of a key lives; its version is the one that is expected.
    """
    document = {**partition._asdict(), "place": list(partition.place)}
    del document["version"]
    return Put(_partition_name(partition), document, partition.version)


def forget_partition(partition: Partition) -> Put:
    """
    Return how it is written that the data of a key lives nowhere any more.
    """
    return Put(_partition_name(partition), None, partition.version)


def table_of(snapshot: Snapshot, *, origin: str) -> RouteTable:
    """
    Return the route table that a store's documents make. Documents of other kinds are left out.

    Args:
        snapshot: What was read.
        origin: Where from, for messages.

    Raises:
        RouteSourceError: If the documents are of a later form than is known here, or one is not what it should be.
    """
    head = snapshot.head
    if not SCHEMA - 1 <= head.schema <= SCHEMA:
        raise RouteSourceError(
            f"{origin} holds documents of form {head.schema}, and this version of request-tenancy reads {SCHEMA}; install a later version"
            if head.schema > SCHEMA
            else f"{origin} holds documents of form {head.schema}, which this version of request-tenancy does not read any more"
        )
    workloads, rows, topics, partitions = [], [], [], []
    for name, (version, document) in snapshot.documents.items():
        try:
            if name.startswith("workload/"):
                workloads.append(_checked(document["workload"]))
            elif name.startswith("handover/"):
                rows.append(_handover(document, version))
            elif name.startswith("topic/"):
                topics.append(_topic(document, version))
            elif name.startswith("partition/"):
                partitions.append(_partition(document, version))
        except (KeyError, TypeError, ValueError, AttributeError, InvalidRoutingKeyError) as error:
            raise RouteSourceError(f"{origin}: the document {name!r} is not what it should be: {error!r}") from error
    return RouteTable(
        workloads=workloads,
        version=head.version,
        handovers=rows,
        lease=head.lease,
        id=head.id,
        topics=topics,
        partitions=partitions,
    )


class StoreSource:
    """
    A route store as a source of the live route table.

    Args:
        store: The store.
    """

    def __init__(self, store: RouteStore) -> None:
        self.store = store
        self.name = store.name

    def read(self) -> RouteTable:
        """
        Read the whole table.

        Raises:
            RouteSourceError: If that is not possible.
        """
        return table_of(self.store.snapshot(), origin=self.name)

    def mark(self) -> object:
        """
        Return the table's id and version.
        """
        return self.store.head()

    def watch(self, changed: Callable[[], None], closed: Callable[[], bool]) -> None:
        """
        Call *changed* soon after each write, until *closed* returns true.
        """
        self.store.watch(changed, closed)


def _handover(document: Mapping[str, Any], version: int) -> Handover:
    return Handover(
        workload=_checked(document["workload"]),
        key=RoutingKey(document["key"]),
        state=State(document["state"]),
        epoch=int(document["epoch"]),
        sandbox=str(document["sandbox"]),
        generation=int(document["generation"]),
        epochs=tuple(_epoch(entry) for entry in document["epochs"]),
        version=version,
        groups={group: tuple(topics) for group, topics in document["groups"].items()},
        claimant=str(document["claimant"]),
        progress={group: _cuts(cuts) for group, cuts in document["progress"].items()},
        late=str(document["late"]),
        queues={str(queue): str(exchange) for queue, exchange in document["queues"].items()},
    )


def _partition(document: Mapping[str, Any], version: int) -> Partition:
    return Partition(
        database=str(document["database"]),
        key=RoutingKey(document["key"]),
        place=tuple(str(name) for name in document["place"]),
        kind=str(document["kind"]),
        dropped=bool(document["dropped"]),
        expires=str(document["expires"]),
        version=version,
    )


def _topic(document: Mapping[str, Any], version: int) -> OwnTopic:
    return OwnTopic(
        name=str(document["name"]),
        base=str(document["base"]),
        sandbox=str(document["sandbox"]),
        mark=int(document["mark"]),
        id=str(document["id"]),
        leaving=bool(document["leaving"]),
        version=version,
    )


def _epoch(entry: Mapping[str, Any]) -> Epoch:
    end = entry["end"]
    return Epoch(
        number=int(entry["number"]),
        sandbox=str(entry["sandbox"]),
        start=_cuts(entry["start"]),
        end=None if end is None else _cuts(end),
        ids={topic: str(name) for topic, name in entry["ids"].items()},
    )


def _cuts(offsets: Mapping[str, Any]) -> Cuts:
    return {topic: tuple(map(int, listed)) for topic, listed in offsets.items()}


def _plain(cuts: Cuts | None) -> Any:
    return None if cuts is None else {topic: list(offsets) for topic, offsets in cuts.items()}


def _checked(workload: Any) -> str:
    if not is_workload(workload):
        raise ValueError(f"{workload!r} is no workload")
    return str(workload)
