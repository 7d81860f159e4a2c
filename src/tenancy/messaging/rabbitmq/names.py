"""
What the queue of one life of a key is called, and what leads to it and back.
"""

from __future__ import annotations

from typing import NamedTuple

from ...key import RoutingKey
from ...naming import partition_name

__all__ = ["Names", "names_of"]


class Names(NamedTuple):
    """
    Names on the broker, for one queue of the baseline and one life of a key.

    Args:
        queue: The sandbox's queue.
        exchange: The exchange through which the baseline forwards to it.
        back: The exchange that brings back to the baseline's queue what finds the sandbox's no more.
        lock: The queue that whoever moves what is left has to himself.
        dead: The queue of what the sandbox rejected, where it has one.
    """

    queue: str
    exchange: str
    back: str
    lock: str
    dead: str


def names_of(base: str, key: RoutingKey, epoch: int) -> Names:
    """
    Return the names for one life of a key; no other queue and life has one of them, since no other name of ours has an ``@`` in it.

    Args:
        base: The baseline's queue.
        key: The routing key.
        epoch: Which life of the key on the workload.
    """
    name = f"{partition_name(key, base, kind='amqp-handover')}@{epoch}"
    return Names(name, name, f"{name}.back", f"{name}.lock", f"{name}.dead")
