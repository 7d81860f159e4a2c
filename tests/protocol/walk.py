"""
A walker through worlds: random steps, far more in a second than Hypothesis takes, the same ones for the same seed.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from tests.protocol.checker import ViolationError
from tests.protocol.world import ACTIONS, Config, Switches, World

__all__ = ["Found", "Step", "drawn", "replayed", "shrunk", "walk"]

Step = tuple[str, int, int]

_FAULTS = ("crash", "evict", "stop", "outage", "partition", "retention", "rebalance", "operators")


class Found(NamedTuple):
    """
    What a walk came to.

    Args:
        steps: What was tried.
        taken: How many of these could be taken.
        world: The world after them.
        violation: What went wrong; None: nothing.
    """

    steps: list[Step]
    taken: int
    world: World
    violation: ViolationError | None


def drawn(random_: random.Random) -> Config:
    """
    Draw a world: half of them have few faults, so that not every repeat is excused by one.
    """
    amount = random_.choice((0, 1, 2, 3, len(_FAULTS)))
    return Config(
        partitions=random_.choice((1, 1, 2)),
        baselines=random_.choice((1, 2)),
        sandboxes=random_.choice((1, 1, 2)),
        keys=random_.choice((1, 1, 2)),
        stranger=random_.random() < 0.1,
        faults=frozenset(random_.sample(_FAULTS, amount)),
        rates=random_.choice(((1.0,), (0.995, 1.005), (0.995, 0.995, 0.995, 1.005))),
    )


def walk(
    seed: int, config: Config, switches: Switches, weights: dict[str, int], length: int, script: tuple[Step, ...] = ()
) -> Found:
    """
    Walk through one world.

    Args:
        seed: Of the random numbers.
        config: What there is in it.
        switches: The rules of the model.
        weights: Which steps to try more, or less, often than `ACTIONS` says.
        length: How many steps to try.
        script: Steps to begin with.
    """
    random_ = random.Random(seed)
    tried = {**ACTIONS, **weights}
    names = random_.choices(list(tried), list(tried.values()), k=length)
    return replayed([*script, *((name, random_.randrange(64), random_.randrange(64)) for name in names)], config, switches)


def replayed(steps: list[Step], config: Config, switches: Switches) -> Found:
    """
    Take steps, and let the world settle.
    """
    world = World(config, switches)
    violation = None
    taken = 0
    try:
        for at, step in enumerate(steps):
            world.act(*step)
            taken = at + 1
        world.settle()
    except ViolationError as raised:
        violation = raised
    finally:
        world.close()
    return Found(steps[:taken], len(world.trace), world, violation)


def shrunk(found: Found) -> Found:
    """
    Leave out of a walk what is not needed for what it found.
    """
    assert found.violation is not None
    kind, best = found.violation.kind, found
    size = max(1, len(found.steps) // 2)
    while size:
        at = 0
        while at < len(best.steps):
            tried = replayed(best.steps[:at] + best.steps[at + size :], found.world.config, found.world.switches)
            if tried.violation is not None and tried.violation.kind == kind:
                best = tried
            else:
                at += size
        size //= 2
    return best
