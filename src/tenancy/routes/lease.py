"""
The lease: for how long what was read of a route table may be acted on, and how long whoever changes it has to wait for that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from .table import RouteTable

__all__ = ["DEFAULT_LEASE", "View", "now", "outwait"]

#: Seconds.
DEFAULT_LEASE = 10.0

# Clocks may run apart by this much, and an answer may be under way for this long.
_DRIFT = 1.01
_MARGIN = 1.0


def _clock() -> Callable[[], float]:
    # A clock that stands still while the machine sleeps, or that can be set, would make an old table look young.
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    if clock is None:
        clock = getattr(time, "CLOCK_MONOTONIC", None)  # on macOS it counts sleep, which time.monotonic() does not
    if clock is None:
        return time.monotonic
    return lambda: time.clock_gettime(clock)


#: Seconds on a clock that is never set and also counts while the machine sleeps.
now: Callable[[], float] = _clock()


class View(NamedTuple):
    """
    A route table as it was read.

    Args:
        table: The table.
        taken: When the read was begun, by the clock of this module.
    """

    table: RouteTable
    taken: float

    def fresh(self) -> bool:
        """
        Return whether the read is younger than the table's lease.
        """
        lease = self.table.lease
        return lease is None or now() - self.taken < lease


def outwait(lease: float) -> float:
    """
    Return how many seconds after a write nobody acts on what was before it any more, counted from the answer to the write.

    Args:
        lease: The table's lease, in seconds.
    """
    return lease * _DRIFT + _MARGIN
