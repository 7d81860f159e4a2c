"""
What a sandbox forks, and how far the work on it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..errors import HandoverError
from ..key import RoutingKey
from ..naming import is_workload
from ..routes import State
from .own_topics import checked_bases

__all__ = ["Fork", "Progress", "checked"]


class Fork(NamedTuple):
    """
    What a sandbox forks.

    Args:
        workload: The workload, ``namespace/name``.
        key: The routing key under which.
        groups: The consumer groups in which the baseline of this workload reads Kafka, each with its topics. None: those that its running
            instances have registered.
        own_topics: The topics of the baseline in whose place it has topics of its own on this workload, as ``topic_name`` names them: each is
            made like that of the baseline before the key is active, and removed when the sandbox is gone.
        queues: The queues that the baseline of this workload consumes on RabbitMQ, each with the headers exchange that routes to the
            sandbox's by itself, or with nothing where the baseline forwards. None: those that its running instances have registered.
    """

    workload: str
    key: RoutingKey | str
    groups: Mapping[str, Sequence[str]] | None = None
    own_topics: Sequence[str] = ()
    queues: Mapping[str, str] | None = None


class Progress(NamedTuple):
    """
    Where the work on one key and workload is.

    Args:
        workload: The workload.
        key: The key.
        state: Where in its life the key is.
        waiting: What is being waited for, in words; empty: nothing.
    """

    workload: str
    key: RoutingKey
    state: State
    waiting: str = ""


def checked(fork: Fork) -> Fork:
    """
    Return a fork as it is meant.

    Raises:
        HandoverError: If it names what cannot be.
    """
    if not is_workload(fork.workload):
        raise HandoverError(f"{fork.workload!r} is no workload; write namespace/name in lower case, such as shop/orders")
    return fork._replace(key=RoutingKey(fork.key), own_topics=checked_bases(fork.own_topics))
