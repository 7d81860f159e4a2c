"""
Which records of its partitions a worker has under way, and how far it may commit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

__all__ = ["Tracker"]

Place = tuple[str, int]


class Tracker:
    """
    The handlers that run out of order in a pool. A commit goes up to the first record that is not done.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[Place, set[int]] = {}
        self._next: dict[Place, int] = {}

    def begin(self, place: Place, offset: int) -> None:
        """
        A record is given to a handler.
        """
        with self._lock:
            self._under_way.setdefault(place, set()).add(offset)
            self._next[place] = max(self._next.get(place, 0), offset + 1)

    def end(self, place: Place, offset: int) -> None:
        """
        A record is done.
        """
        with self._lock:
            self._under_way.get(place, set()).discard(offset)

    def under_way(self, places: Iterable[Place] | None = None) -> int:
        """
        Return how many records are under way, on some partitions or on all.
        """
        with self._lock:
            return sum(len(self._under_way.get(place, ())) for place in (self._under_way if places is None else places))

    def done(self) -> dict[Place, int]:
        """
        Return how far each partition may be committed.
        """
        with self._lock:
            return {place: min(self._under_way.get(place) or {reached}) for place, reached in self._next.items()}

    def wait(self, places: Iterable[Place] | None, seconds: float) -> None:
        """
        Wait until nothing is under way any more on some partitions, or on all.
        """
        places = None if places is None else list(places)
        end = time.monotonic() + seconds
        while self.under_way(places) and time.monotonic() < end:
            time.sleep(0.005)

    def forget(self, places: Iterable[Place]) -> None:
        """
        Know nothing of partitions that are given up; a handler that still runs ends as it likes.
        """
        with self._lock:
            for place in places:
                self._under_way.pop(place, None)
                self._next.pop(place, None)
