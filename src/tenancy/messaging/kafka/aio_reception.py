"""
How records come to a `SelectiveConsumer` of aiokafka: from the client, decided on, to whoever asks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from ..._optional import extra
from ...propagator import current_codec
from .aio_membership import LOOK_EVERY, Membership
from .aio_offsets import Client, Offsets
from .selection import Selection

with extra("aiokafka", "aiokafka"):
    from aiokafka.errors import ConsumerStoppedError
    from aiokafka.structs import TopicPartition

__all__ = ["Reception"]

# How many records are taken from the client at once where they are asked for one by one.
_BATCH = 500


class Reception:
    """
    Hands on the records of one consumer. A record is decided on when it is handed on, and stays here until then: whoever is cancelled
    while he waits loses none.

    Args:
        selection: Decides.
        offsets: What was fetched and handed on.
        membership: The partitions.
        client: The client.
        check: Raises what the client has to tell, or that it is closed.
    """

    def __init__(
        self, selection: Selection, offsets: Offsets, membership: Membership, client: Client, *, check: Callable[[], None]
    ) -> None:
        self._selection = selection
        self._offsets = offsets
        self._membership = membership
        self._client = client
        self._check = check
        self._absent = current_codec().absent
        self._cautious = 0

    async def one(self, partitions: tuple[Any, ...], seconds: float) -> Any:
        """
        Return the next record that is this process's, or None where none came in time.

        Args:
            partitions: From which partitions; empty: from any.
            seconds: How long to wait at most.
        """
        self._offsets.asked()
        began = time.monotonic()
        while True:
            await self._membership.tend()
            if self._membership.steady.is_set():
                if partitions or self._selection.ready:
                    for records in self._chosen(partitions, 1).values():
                        return records[0]
                elif (record := self._first()) is not None:
                    return record
            left = began + seconds - time.monotonic()
            if left <= 0:
                return None
            await self._fill(partitions, min(LOOK_EVERY, left), _BATCH)

    async def many(self, partitions: tuple[Any, ...], seconds: float, most: int | None) -> dict[Any, list[Any]]:
        """
        Return records that are this process's by partition; none where none came in time.

        Args:
            partitions: From which partitions; empty: from any.
            seconds: How long to wait at most where there is none.
            most: How many at most; None: what is there.
        """
        self._offsets.asked()
        began, looked = time.monotonic(), False
        while True:
            await self._membership.tend()
            if self._membership.steady.is_set() and (batch := self._chosen(partitions, most)):
                return batch
            left = began + seconds - time.monotonic()
            if looked and left <= 0:
                return {}
            await self._fill(partitions, max(0.0, min(LOOK_EVERY, left)), most)
            looked = True

    def _first(self) -> Any:
        fetched = self._offsets.fetched
        while fetched:
            record = fetched[0]
            owned = self._owned(record)
            fetched.popleft()  # not before it is decided on: that may raise
            if owned:
                self._offsets.pending.append(record)
                return record
        return None

    def _owned(self, record: Any) -> bool:
        headers = record.headers
        selection = self._selection
        if (not headers or self._absent(headers)) and (selection.baseline or record.topic not in selection.own_topics()):
            selection.unkeyed += 1
            return selection.baseline
        size = 100 + max(record.serialized_key_size, 0) + max(record.serialized_value_size, 0)
        return selection.take(headers, record.topic, record.partition, record.offset, record, size)

    def _chosen(self, partitions: Collection[Any], most: int | None) -> dict[Any, list[Any]]:
        """
        Decide on what was fetched, after what was set aside and is decided; the order stays.
        """
        ready, fetched, pending = self._selection.ready, self._offsets.fetched, self._offsets.pending
        batch: dict[Any, list[Any]] = {}
        left = float("inf") if most is None else most
        for _ in range(len(ready)):
            entry = ready.popleft()
            if left <= 0 or (partitions and entry[0] not in partitions):
                ready.append(entry)
                continue
            self._offsets.handed_again()
            batch.setdefault(TopicPartition(*entry[0]), []).append(entry[2])
            left -= 1
        others: list[Any] = []
        try:
            while left > 0 and fetched:
                record = fetched[0]
                place = TopicPartition(record.topic, record.partition)
                if partitions and place not in partitions:
                    others.append(fetched.popleft())
                    continue
                owned = self._owned(record)
                fetched.popleft()
                if owned:
                    pending.append(record)
                    batch.setdefault(place, []).append(record)
                    left -= 1
        except Exception:
            if not batch:
                raise
            # It is raised again at the next call: its record is still the first.
        finally:
            fetched.extendleft(reversed(others))
        return batch

    async def _fill(self, partitions: tuple[Any, ...], seconds: float, most: int | None) -> None:
        """
        Wait for records, and take them from the client.
        """
        await asyncio.sleep(0)  # a client that has records at hand never lets others run
        self._check()
        if self._membership.retired:
            raise ConsumerStoppedError
        if not self._membership.steady.is_set():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._membership.steady.wait(), seconds)
            return
        if self._membership.unplaced and not await self._membership.place_unplaced():
            await asyncio.sleep(seconds)
            return
        assignment, positions, moves = self._client.assignment(), self._client.positions(), self._membership.moves
        if self._cautious:
            self._cautious -= 1
            most = 1
        try:
            batches = await self._client.getmany(*partitions, timeout_ms=int(seconds * 1000), max_records=most)
        except Exception:
            # The client drops what it had read when a deserializer or a checksum fails on a later record. Read it anew, one by one.
            self._cautious = _BATCH
            if self._client.assignment() is assignment and self._membership.moves == moves:
                for place, offset in positions.items():
                    self._client.seek(TopicPartition(*place), offset)
            raise
        for records in batches.values():
            self._offsets.fetched.extend(records)
