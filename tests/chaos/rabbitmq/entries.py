"""
What the processes of a run on RabbitMQ write down.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..journal import Fault, Progressed

__all__ = ["KINDS", "Confirmed", "Did", "Returned", "Took", "Tried", "Wrote"]


class Tried(NamedTuple):
    """
    A message that the producer is about to publish; it may not get there.
    """

    id: str
    queue: str
    key: str | None
    at: float


class Confirmed(NamedTuple):
    """
    A message that the broker has confirmed to the producer.
    """

    id: str
    queue: str
    key: str | None
    tried: float
    at: float


class Did(NamedTuple):
    """
    A message that a handler is done with, and that is not acknowledged yet.

    *sandbox*: for whom, empty for the baseline. *altered*: what was not as it was published.
    """

    id: str
    queue: str
    key: str | None
    worker: str
    sandbox: str
    pid: int
    began: float
    ended: float
    altered: str = ""


class Took(NamedTuple):
    """
    A message of which a process is about to publish a copy: the baseline to a sandbox, whoever moves what is left to the baseline.
    """

    id: str
    worker: str
    pid: int
    at: float


class Wrote(NamedTuple):
    """
    A row of the route store that a controller asked to be written; *replied*: when it was, 0 for what is about to be.
    """

    key: str
    epoch: int
    state: str
    sandbox: str
    asked: float
    replied: float = 0.0


class Returned(NamedTuple):
    """
    A call of ``create`` or ``delete`` that has returned.
    """

    act: str
    key: str
    epoch: int
    sandbox: str
    at: float


#: What may stand in a journal.
KINDS: tuple[type[Any], ...] = (Tried, Confirmed, Did, Took, Wrote, Returned, Progressed, Fault)
