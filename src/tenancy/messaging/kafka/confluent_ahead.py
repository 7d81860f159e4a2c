"""
Messages that the client gave out and nobody has got yet: fetched several at a time, since to fetch them one by one costs more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from itertools import chain
from typing import Any

from .selection import Partition

__all__ = ["Ahead", "place_of"]

_MOST = 500
_SLOW = 0.1


class Ahead:
    """
    Messages in the order in which they are handed on.
    """

    def __init__(self) -> None:
        #: What is handed on next; always the same object.
        self.queue: deque[Any] = deque()
        #: What `consume` has collected and not returned yet.
        self.batch: list[Any] = []
        #: How many to fetch next time.
        self.wanted = 1
        self._paused: dict[Partition, list[Any]] = {}
        self._fetched = 0.0

    def adapt(self, found: int, now: float) -> None:
        """
        Learn how many to fetch: more while they are there and taken quickly; few where handling takes its time, since what is fetched is
        read again by others after a crash or a rebalance.

        Args:
            found: How many came.
            now: When, in seconds.
        """
        if now - self._fetched > _SLOW:
            self.wanted = 1
        elif found >= self.wanted:
            self.wanted = min(2 * self.wanted, _MOST)
        else:
            self.wanted = max(1, found)
        self._fetched = now

    def take_back(self) -> list[Any]:
        """
        Empty the queue, and return what was in it.
        """
        messages = list(self.queue)
        self.queue.clear()
        return messages

    def pause(self, partitions: Collection[Partition]) -> None:
        """
        Put aside what is of these partitions.
        """
        for message in self.take_back():
            place = place_of(message)
            if place in partitions:
                self._paused.setdefault(place, []).append(message)
            else:
                self.queue.append(message)

    def resume(self, partitions: Collection[Partition]) -> None:
        """
        Take back what was put aside.
        """
        for place in partitions:
            self.queue.extend(self._paused.pop(place, ()))

    def forget(self, partitions: Collection[Partition]) -> None:
        """
        Drop what is of these partitions.
        """
        self.queue.extend(message for message in self.take_back() if place_of(message) not in partitions)
        self.batch[:] = [message for message in self.batch if place_of(message) not in partitions]
        for place in partitions:
            self._paused.pop(place, None)

    def drop(self, place: Partition, first: int) -> None:
        """
        Drop what is of a partition from an offset on, since it will come again.
        """
        for listed in (self.queue, self.batch, *self._paused.values()):
            kept = [message for message in listed if place_of(message) != place or message.offset() < first]
            listed.clear()
            listed.extend(kept)

    def firsts(self) -> dict[Partition, int]:
        """
        Return, for each partition, the lowest offset of a message that nobody has got yet.
        """
        firsts: dict[Partition, int] = {}
        for message in chain(self.queue, self.batch, *self._paused.values()):
            if message.error() is None:
                place, offset = place_of(message), message.offset()
                firsts[place] = min(offset, firsts.get(place, offset))
        return firsts


def place_of(message: Any) -> Partition:
    """
    Return the topic and partition of a message.
    """
    return message.topic(), message.partition()
