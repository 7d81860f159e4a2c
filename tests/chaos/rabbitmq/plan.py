"""
How much a run on RabbitMQ does: the full one, and the quick one for CI, which is the same with smaller numbers.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["FULL", "QUICK", "TINY", "TWISTS", "Plan"]

#: What may befall a life of a key, beside what befalls the baseline at any time.
TWISTS = (
    "kill-mover",  # the sandbox is dead, and the controller is killed while it moves what is left; another one goes on
    "kill-active",  # the sandbox is killed while it is active, and started again
    "plain",
    "kill-creator",  # the controller is killed while it creates; another one goes on
    "cut-active",  # the sandbox's connections are cut while it is active
    "dead",  # the sandbox is killed at its end; what it leaves goes back to the baseline
    "cut-mover",  # the sandbox is dead, and the controller's connections are cut while it moves what is left
    "late",  # the sandbox starts when its key is active already
    "kill-deleter",  # the controller is killed while it deletes; another one goes on
    "two",  # a second process of the sandbox joins, and leaves
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
        faults: What befalls the baseline, in order: ``kill``, ``cut``, ``cut-producer``, ``join``, ``stop-broker``, ``kill-broker``.
        every: Seconds between two of these.
        deadline: Seconds in which all of it has to be done.
        messages: Bar: how many messages at least.
        kills: Bar: how many processes killed at least.
        restarts: Bar: how often the broker is started again at least.
        cuts: Bar: how many processes have their connections cut at least.
        side: Bar: how many messages with the key at least are published during each create and each delete.
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
    restarts: int
    cuts: int
    side: int = 20

    @property
    def cycles(self) -> int:
        """
        How many lives there are in all.
        """
        return self.slots * self.lives


FULL = Plan(
    name="full",
    rate=260.0,
    slots=3,
    lives=7,
    twists=TWISTS,
    faults=(
        *("kill", "cut", "join", "kill", "cut-producer", "kill", "stop-broker", "cut", "kill", "kill"),
        *("cut", "kill-broker", "kill", "cut-producer", "cut", "kill", "join", "kill", "cut", "kill"),
    ),
    every=4.0,
    deadline=900.0,
    messages=40_000,
    kills=20,
    restarts=2,
    cuts=8,
)

QUICK = Plan(
    name="quick",
    rate=200.0,
    slots=3,
    lives=1,
    twists=("kill-mover", "kill-active", "cut-active"),
    faults=("kill", "cut", "kill-broker", "cut-producer"),
    every=2.0,
    deadline=120.0,
    messages=3_000,
    kills=4,
    restarts=1,
    cuts=2,
    side=15,
)

#: For the tests of the harness.
TINY = Plan(
    name="tiny",
    rate=150.0,
    slots=1,
    lives=1,
    twists=("dead",),
    faults=("kill", "cut"),
    every=2.0,
    deadline=90.0,
    messages=1_000,
    kills=2,
    restarts=0,
    cuts=1,
)
