"""
What befalls the baseline of a chaos run, its broker and its route store.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.services import Service

from .spec import LEASE, SESSION
from .stage import Actor, Stage

__all__ = ["Faults"]


class Faults:
    """
    Kills, stops and replaces processes of the baseline, and takes its servers away for a while.

    Args:
        stage: The run.
        baseline: The processes of the baseline.
        kafka: The broker.
        store: The server of the route store.
    """

    def __init__(self, stage: Stage, baseline: list[Actor], kafka: Service, store: Service) -> None:
        self._stage = stage
        self._baseline = baseline
        self._kafka = kafka
        self._store = store
        self._random = random.Random(7)
        self._do: dict[str, Callable[[], None]] = {
            "kill": self._kill,
            "pause": self._pause,
            "join": self._join,
            "broker": self._broker,
            "store": self._outage,
        }

    def strike(self, fault: str) -> None:
        """
        Let one of them happen, and return when it is over.
        """
        self._do[fault]()

    def _kill(self) -> None:
        at = self._random.randrange(len(self._baseline))
        self._stage.kill(self._baseline[at])
        self._stage.sleep(self._random.uniform(0, SESSION + 1))
        self._baseline[at] = self._stage.again(self._baseline[at])
        self._stage.ready(self._baseline[at])

    def _pause(self) -> None:
        self._stage.pause(self._random.choice(self._baseline), max(SESSION, LEASE) + 2)

    def _join(self) -> None:
        further = self._stage.worker("baseline-more")
        self._stage.note("join", further)
        self._stage.ready(further)
        self._stage.sleep(3)
        self._stage.note("leave", further)
        self._stage.stop(further)

    def _broker(self) -> None:
        self._stage.note("broker")
        self._kafka.stop()
        self._stage.sleep(1)
        self._kafka.start()

    def _outage(self) -> None:
        self._stage.note("store", seconds=2 * LEASE)
        self._store.stop()
        self._stage.sleep(2 * LEASE)
        self._store.start()
