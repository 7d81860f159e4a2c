"""
What was decided about records of a key, so that it need not be decided again for each; and how often, for the counters. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ...key import RoutingKey
from ...routes import RouteTable

__all__ = ["Known", "Memory", "What"]

#: What is counted: the verdict, its reason as a code, and the key as a label.
What = tuple[str, str, str]

_MOST = 10_000


class Known:
    """
    What is known about all records of one key and partition from an offset on.

    Args:
        first: That offset.
        owned: Whether they are this consumer's.
        what: As what they are counted.
    """

    __slots__ = ("amount", "first", "owned", "what")

    def __init__(self, first: int, owned: bool, what: What) -> None:
        self.first = first
        self.owned = owned
        self.what = what
        #: How many were met, and are not counted yet.
        self.amount = 0


class Memory:
    """
    What is known as long as the route table is the same.
    """

    def __init__(self) -> None:
        # By the key's bytes as they stand in a record, topic and partition.
        self._known: dict[tuple[bytes, str, int], Known] = {}
        self._counted: Counter[What] = Counter()
        #: The table by which it is known.
        self.table: RouteTable | None = None

    def known(self, table: RouteTable) -> Mapping[tuple[bytes, str, int], Known]:
        """
        Return what is known by a table; by another one than before that is nothing yet.
        """
        if table is not self.table:
            self._gather()
            self._known = {}
            self.table = table
        return self._known

    def remember(self, key: RoutingKey, topic: str, partition: int, known: Known) -> None:
        """
        Note what holds by the present table; beyond a number of keys and partitions nothing more.
        """
        if len(self._known) < _MOST:
            self._known[key.encode(), topic, partition] = known

    def count(self, what: What, amount: int = 1) -> None:
        """
        Note that so many records were decided on.
        """
        self._counted[what] += amount

    def counted(self) -> Mapping[What, int]:
        """
        Return what was decided since this was asked last.
        """
        self._gather()
        counted, self._counted = self._counted, Counter()
        return counted

    def _gather(self) -> None:
        for known in self._known.values():
            if known.amount:
                self._counted[known.what] += known.amount
                known.amount = 0
