"""
What the processes of a run on RabbitMQ are told when they start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ..spec import told, told_to

__all__ = ["QUEUES", "SINGLE", "Spec", "arguments_of", "queues_of"]

#: The kinds of queues, of each of which the baseline has one.
QUEUES = ("classic", "quorum")

#: How many messages a process handles at once.
SINGLE = 20


class Spec(NamedTuple):
    """
    What one process is told.

    Args:
        name: What it is called in the journals.
        run: The directory of the run.
        rabbitmq: URL of the broker, by way of this process's own proxy.
        store: URL of the route store.
        base: What the names of all queues of the run begin with.
        sandbox: The sandbox's name; empty for the baseline.
        key: The sandbox's key, for controllers.
        act: What a controller does, or how a worker consumes: ``callback`` or ``iterator``.
        keys: The keys that the producer uses.
        rate: Messages a second, of the producer.
        slow: Seconds that each message takes, of a worker, or of a controller that moves it.
        once: Whether handlers ask the deduplication.
        mutant: What is broken on purpose; empty for nothing.
    """

    name: str
    run: str
    rabbitmq: str
    store: str
    base: str
    sandbox: str = ""
    key: str = ""
    act: str = ""
    keys: tuple[str, ...] = ()
    rate: float = 100.0
    slow: float = 0.0
    once: bool = True
    mutant: str = ""

    def variables(self) -> dict[str, str]:
        """
        Return the environment of the process.
        """
        return told_to(self._asdict())

    @staticmethod
    def given() -> Spec:
        """
        Return what this process was told.
        """
        fields = told()
        return Spec(**{**fields, "keys": tuple(fields["keys"])})

    @property
    def directory(self) -> Path:
        """
        The directory of the run.
        """
        return Path(self.run)

    def sign(self, what: str) -> Path:
        """
        Return the file whose being there tells this process, or whoever started it, something.
        """
        return self.directory / f"{what}-{self.name}"


def queues_of(base: str) -> dict[str, str]:
    """
    Return the baseline's queues of a run, by kind.
    """
    return {kind: f"{base}-{kind}" for kind in QUEUES}


def arguments_of(kind: str) -> dict[str, Any]:
    """
    Return with what arguments a queue of a kind is declared.
    """
    return {"x-queue-type": kind}
