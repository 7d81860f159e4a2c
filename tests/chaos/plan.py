"""
How much a chaos run does: the full one, and the quick one for CI, which is the same with smaller numbers.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["FULL", "QUICK", "TINY", "TWISTS", "Plan"]

#: What may befall a life of a key, beside what befalls the baseline at any time.
TWISTS = (
    "plain",
    "kill-creator",  # the controller is killed while it creates; another one goes on
    "kill-active",  # the sandbox is killed while it is active, and started again
    "dead-handle",  # the sandbox is killed at its end; a function handles what it leaves
    "pause-active",  # the sandbox is stopped for longer than its session and the lease
    "dead-drop",  # the sandbox is killed at its end; what it leaves is dropped
    "kill-deleter",  # the controller is killed while it deletes; another one goes on
    "hung-handle",  # the sandbox is stopped at its end until a gap reader has done its work, and then goes on
    "two",  # a second process of the sandbox joins, and leaves
    "late",  # the sandbox starts when its key is active already
    "kill-gap",  # the controller is killed while it reads what a dead sandbox leaves; another one goes on
    "abandon",  # the first attempt to create is given up
)


class Plan(NamedTuple):
    """
    How much is done, at least.

    Args:
        name: What it is called.
        rate: Messages a second.
        slots: Sandboxes at a time.
        lives: Lives of keys, one after the other in each slot.
        twists: What befalls lives, in turn.
        faults: What befalls the baseline, in order: ``kill``, ``pause``, ``join``, ``broker``, ``store``.
        every: Seconds between two of these.
        deadline: Seconds in which all of it has to be done.
        messages: Bar: how many messages at least.
        kills: Bar: how many processes killed at least.
        pauses: Bar: how many processes stopped for long at least.
        side: Bar: how many records with the key at least on each side of a cut.
        transactions: Seconds of the transactional part.
    """

    name: str
    rate: float
    slots: int
    lives: int
    twists: tuple[str, ...]
    faults: tuple[str, ...]
    every: float
    deadline: float
    messages: int
    kills: int
    pauses: int
    side: int = 50
    transactions: float = 15.0

    @property
    def cycles(self) -> int:
        """
        How many lives there are in all.
        """
        return self.slots * self.lives


FULL = Plan(
    name="full",
    rate=420.0,
    slots=4,
    lives=10,
    twists=TWISTS,
    faults=("kill", "join", "pause", "kill", "store", "pause", "kill", "broker", "kill", "join", "pause", "kill", "pause", "kill"),
    every=4.0,
    deadline=900.0,
    messages=100_000,
    kills=20,
    pauses=10,
    transactions=25.0,
)

QUICK = Plan(
    name="quick",
    rate=300.0,
    slots=4,
    lives=1,
    twists=("kill-creator", "dead-handle", "kill-active", "pause-active"),
    faults=("kill", "pause", "store", "broker"),
    every=2.0,
    deadline=150.0,
    messages=5_000,
    kills=4,
    pauses=2,
    transactions=8.0,
)

#: For the tests of the harness.
TINY = Plan(
    name="tiny",
    rate=200.0,
    slots=1,
    lives=1,
    twists=("dead-handle",),
    faults=("kill",),
    every=2.0,
    deadline=90.0,
    messages=1_000,
    kills=2,
    pauses=0,
    transactions=0.0,
)
