"""
How far a partition may be committed: never past a record that was set aside, nor past one that was handed on and is not settled. Pure.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from operator import attrgetter
from typing import Any, NamedTuple

from ...key import RoutingKey

__all__ = ["Held", "PartitionLedger"]

# Whoever keeps offsets somewhere else never settles anything; beyond this many the ledger knows only the first.
_MOST_HANDED = 100_000


class Held(NamedTuple):
    """
    A record that was set aside.

    Args:
        offset: Its offset.
        record: The record, as the client has it.
        key: Its routing key; None: it has none.
        size: About how many bytes it takes.
        since: When it was set aside, in seconds.
    """

    offset: int
    record: Any
    key: RoutingKey | None
    size: int
    since: float


class PartitionLedger:
    """
    What became of the records of one partition since it was assigned.

    A record is skipped, handed on or held. One that was handed on stands in the way of a commit until it is settled: its user has committed
    or stored it. What is skipped is committed with what is before it.
    """

    __slots__ = ("_coarse", "_handed", "committed", "held", "held_bytes")

    def __init__(self) -> None:
        #: Records that were set aside, in the order of their offsets.
        self.held: deque[Held] = deque()
        self.held_bytes = 0
        #: The last offset that was committed or stored for the partition by us; -1: none was.
        self.committed = -1
        self._handed: deque[int] = deque()
        self._coarse = -1

    def hand(self, offset: int) -> None:
        """
        A record is handed on; one that was held comes later than others with higher offsets.
        """
        if self._coarse >= 0:
            return
        if not self._handed or self._handed[-1] < offset:
            self._handed.append(offset)
        else:
            insort(self._handed, offset)
        if len(self._handed) > _MOST_HANDED:
            self._coarse = self._handed[0]
            self._handed.clear()

    def hold(self, held: Held) -> None:
        """
        A record is set aside; one that was handed out before, and taken back, comes later than others with higher offsets.
        """
        insort(self.held, held, key=attrgetter("offset"))
        self.held_bytes += held.size

    def release(self, held: Held) -> None:
        """
        A record that was set aside is so no longer.
        """
        self.held.remove(held)
        self.held_bytes -= held.size

    def settle(self, offset: int) -> None:
        """
        One record that was handed on is done.
        """
        at = bisect_left(self._handed, offset)
        if at < len(self._handed) and self._handed[at] == offset:
            del self._handed[at]

    def settle_before(self, offset: int) -> None:
        """
        All records before an offset that were handed on so far are done: what committing that offset says.
        """
        if self._coarse >= 0:
            self._coarse = max(self._coarse, offset)
        while self._handed and self._handed[0] < offset:
            self._handed.popleft()

    def settle_all(self) -> None:
        """
        All records that were handed on so far are done.
        """
        self._handed.clear()
        self._coarse = -1

    def committable(self, position: int) -> int:
        """
        Return the offset up to which everything is done.

        Args:
            position: The offset after that of the last record that was fetched and decided on; less than 0: none was.
        """
        if self._handed:
            position = min(position, self._handed[0])
        if self._coarse >= 0:
            position = min(position, self._coarse)
        if self.held:
            position = min(position, self.held[0].offset)
        return position

    @property
    def outstanding(self) -> int:
        """
        How many records were handed on and are not settled, as far as that is known.
        """
        return len(self._handed)
