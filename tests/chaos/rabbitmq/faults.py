"""
What befalls the baseline of a run on RabbitMQ, its producer and its broker.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.services import Service

from ..journal import clock
from ..troupe import Actor
from .stage import Stage

__all__ = ["Faults"]

# RabbitMQ 3.10 notes which quorum queues it serves in a file that it writes after up to three seconds. One that was declared later than that
# before it is killed is there afterwards, and has no leader: it answers no get and confirms no publish, whoever asks.
_FLUSHED = 5.0


class Faults:
    """
    Kills and replaces processes of the baseline, cuts connections, and takes the broker away for a while.

    Args:
        stage: The run.
        baseline: The processes of the baseline.
        producer: The producer.
        rabbitmq: The broker.
    """

    def __init__(self, stage: Stage, baseline: list[Actor], producer: Actor, rabbitmq: Service) -> None:
        self._stage = stage
        self._baseline = baseline
        self._producer = producer
        self._rabbitmq = rabbitmq
        self._random = random.Random(7)
        self._do: dict[str, Callable[[], None]] = {
            "kill": self._kill,
            "cut": lambda: self._stage.cut(self._random.choice(self._baseline)),
            "cut-producer": lambda: self._stage.cut(self._producer),
            "join": self._join,
            "stop-broker": lambda: self._restart(self._rabbitmq.stop),
            "kill-broker": self._kill_broker,
        }

    def strike(self, fault: str) -> None:
        """
        Let one of them happen, and return when it is over.
        """
        self._do[fault]()

    def _kill(self) -> None:
        at = self._random.randrange(len(self._baseline))
        self._stage.kill(self._baseline[at])
        self._stage.sleep(self._random.uniform(0, 2))
        self._baseline[at] = self._stage.again(self._baseline[at])
        self._stage.ready(self._baseline[at])

    def _join(self) -> None:
        further = self._stage.worker("baseline-more", kind="iterator")
        self._stage.note("join", further)
        self._stage.ready(further)
        self._stage.sleep(3)
        self._stage.note("leave", further)
        self._stage.stop(further)

    def _kill_broker(self) -> None:
        with self._stage.making:
            self._stage.sleep(_FLUSHED)
            self._restart(self._rabbitmq.kill)

    def _restart(self, end: Callable[[], None]) -> None:
        began = clock()
        end()
        self._stage.sleep(1)
        self._rabbitmq.start()
        self._stage.note("broker", seconds=clock() - began, at=began)
