"""
What a `SelectiveConsumer` of aiokafka commits: never past what was set aside or is still in somebody's hands.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from ..._optional import extra
from ...observe import warn_once
from .selection import Partition, Selection

with extra("aiokafka", "aiokafka"):
    from aiokafka.errors import KafkaError
    from aiokafka.structs import OffsetAndMetadata, TopicPartition

__all__ = ["Client", "Offsets"]

# How long the last commit may take before a partition is given up without it; whoever gets it then handles some again.
_LAST_COMMIT = 10.0


class Client(NamedTuple):
    """
    What the client itself does, beneath all that is added to it.
    """

    getmany: Callable[..., Awaitable[dict[Any, list[Any]]]]
    commit: Callable[[Any], Awaitable[None]]
    committed: Callable[[Any], Awaitable[int | None]]
    seek: Callable[[Any, int], None]
    pause: Callable[..., None]
    resume: Callable[..., None]
    subscribe: Callable[..., None]
    unsubscribe: Callable[[], None]
    #: The present assignment, which is another object after a rebalance, or None.
    assignment: Callable[[], Any]

    def assigned(self) -> set[Any]:
        """
        Return the partitions that are assigned.
        """
        assignment = self.assignment()
        return set() if assignment is None else set(assignment.tps)

    def positions(self) -> dict[Partition, int]:
        """
        Return where the client is, on each partition on which it is anywhere; its own method would wait for the others.
        """
        assignment = self.assignment()
        return {} if assignment is None else {place: entry.offset for place, entry in assignment.all_consumed_offsets().items()}


class Offsets:
    """
    The offsets of one consumer, and the records that the client gave it and nobody has decided on yet.

    Args:
        selection: What was skipped and set aside.
        client: The client.
        automatic: Whether whoever asks for a record is done with those before.
    """

    def __init__(self, selection: Selection, client: Client, *, automatic: bool) -> None:
        self._selection = selection
        self._client = client
        self._committing = asyncio.Lock()
        #: Whether records that were handed on stand in the way of a commit until somebody settles or commits them.
        self.tracking = not automatic
        #: Records that the client gave us and that are not decided on.
        self.fetched: deque[Any] = deque()
        #: Records that were handed on and are not in the ledgers, where they cost too much one by one.
        self.pending: list[Any] = []
        # Whether the ledgers have records that are done once somebody asks for more.
        self._entered = False
        # Partitions whose user went elsewhere: where nothing counts as done by itself, that is no reason to commit.
        self._sought: set[Partition] = set()

    def asked(self) -> None:
        """
        Somebody asks for more: where that says so, what was handed on before is done.
        """
        if not self.tracking and (self.pending or self._entered):
            self.pending.clear()
            if self._entered:
                self._entered = False
                self.settle_all()

    def handed_again(self) -> None:
        """
        A record that had been set aside was handed on; the ledger has it already.
        """
        self._entered = True

    def settle(self, record: Any) -> None:
        """
        A record that was handed on is done.
        """
        self.tracking = True
        self._enter_pending()
        self._sought.discard((record.topic, record.partition))
        self._selection.ledger(record.topic, record.partition).settle(record.offset)

    def settle_all(self) -> None:
        """
        All records that were handed on are done.
        """
        self.pending.clear()
        self._sought.clear()
        for ledger in self._selection.ledgers.values():
            ledger.settle_all()
        # What was set aside and is not handed on yet stands in the way all the same.
        for place, offset, _ in self._selection.ready:
            self._selection.ledger(*place).hand(offset)

    def committable(self) -> dict[Any, Any]:
        """
        Return up to where all is done on each partition, where that is more than was committed.
        """
        self._enter_pending()
        listed = {}
        for place, position in self._read_to().items():
            if self.tracking and place in self._sought:
                continue
            ledger = self._selection.ledger(*place)
            offset = ledger.committable(position)
            if offset > ledger.committed:
                listed[TopicPartition(*place)] = OffsetAndMetadata(offset, "")
        return listed

    def extended(self, asked: Mapping[Any, Any]) -> dict[Any, Any]:
        """
        Return offsets that somebody commits, moved behind what was skipped after them, and not past what was set aside.

        Args:
            asked: By partition the offset and the metadata.
        """
        self._enter_pending()
        read_to = self._read_to()
        listed = {}
        for place, (offset, metadata) in asked.items():
            if place in read_to:
                self._sought.discard(place)
                ledger = self._selection.ledger(*place)
                ledger.settle_before(offset)
                offset = ledger.committable(max(offset, read_to[place]))
            listed[place] = OffsetAndMetadata(offset, metadata)
        return listed

    async def commit(self, asked: Mapping[Any, Any] | None) -> None:
        """
        Commit for somebody, who gives offsets and metadata by partition, or None for all that is done.
        """
        async with self._committing:
            listed = self.committable() if asked is None else self.extended(asked)
            if listed:
                await self._client.commit(listed)
                self._note_all(listed)

    async def flush(self, group: str | None) -> None:
        """
        Commit what is done.

        Args:
            group: The consumer group, for messages; None: there is none.
        """
        self._selection.report()
        if group is None:
            return
        async with self._committing:
            listed = self.committable()
            if not listed:
                return
            try:
                await self._client.commit(listed)
            except KafkaError as error:  # of a partition that is just being given up: whoever gets it skips the same again
                warn_once(f"commit:{group}", "aiokafka: offsets of %s could not be committed: %s", group, error)
                return
            self._note_all(listed)

    async def last_flush(self, group: str | None) -> None:
        """
        Commit what is done, before partitions are given up; without a broker that must not take for ever.
        """
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.flush(group), _LAST_COMMIT)

    def noted(self, place: Partition) -> int:
        """
        Return what was committed last of a partition since it was assigned; -1: nothing was.
        """
        ledger = self._selection.ledgers.get(place)
        return -1 if ledger is None else ledger.committed

    def note(self, place: Partition, offset: int) -> None:
        """
        Something was committed of a partition, here or in a transaction.
        """
        self._selection.ledger(*place).committed = offset

    def resumable(self, place: Partition, position: int) -> int:
        """
        Return where to go on, after what was handed on so far, on a partition at whose position the client is.
        """
        ledger = self._selection.ledgers.get(place)
        waiting = [position]
        if ledger is not None and ledger.held:
            waiting.append(ledger.held[0].offset)
        waiting += [offset for ready, offset, _ in self._selection.ready if ready == place]
        waiting += [record.offset for record in self.fetched if (record.topic, record.partition) == place]
        return min(waiting)

    def sought(self, partitions: Iterable[Partition]) -> None:
        """
        Partitions are read anew, from where their user wants.
        """
        self.forget(partitions)
        self._sought |= set(partitions)

    def unread(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """
        Drop what nobody decided on of some partitions, and return where each has to be read from to have it again.
        """
        gone = set(partitions)
        first: dict[Partition, int] = {}
        for record in self.fetched:
            place = (record.topic, record.partition)
            if place in gone:
                first.setdefault(place, record.offset)
        if first:
            self.fetched = deque(record for record in self.fetched if (record.topic, record.partition) not in gone)
        return first

    def forget(self, partitions: Iterable[Partition]) -> None:
        """
        Drop everything about partitions that are given up.
        """
        gone = set(partitions)
        self.unread(gone)
        self.pending = [record for record in self.pending if (record.topic, record.partition) not in gone]
        self._sought -= gone
        self._selection.forget(gone)

    def _read_to(self) -> dict[Partition, int]:
        read_to: dict[Partition, int] = self._client.positions()
        for record in self.fetched:
            place = (record.topic, record.partition)
            if read_to.get(place, -1) > record.offset:
                read_to[place] = record.offset
        return read_to

    def _enter_pending(self) -> None:
        for record in self.pending:
            self._selection.ledger(record.topic, record.partition).hand(record.offset)
        self._entered = self._entered or bool(self.pending)
        self.pending.clear()

    def _note_all(self, committed: Mapping[Any, Any]) -> None:
        for place, entry in committed.items():
            ledger = self._selection.ledgers.get(place)
            if ledger is not None:
                ledger.committed = entry.offset
