"""
What a sandbox calls topics of its own.
"""

from __future__ import annotations

from .._gate import own_name

__all__ = ["is_own_topic", "topic_name"]

# A process has few; beyond this many the names are made by mistake.
_MOST = 10_000
_named: set[str] = set()


def topic_name(base: str, *, workload: str | None = None) -> str:
    """
    Return the topic of this process, where a sandbox has topics of its own instead of reading the baseline's: *base* for the baseline.

    ``tenancy sandbox create --own-topic`` makes it, and ``delete`` removes it.

    Args:
        base: The topic of the baseline, such as ``orders``; sandbox ``pr-42`` then has ``orders.pr-42``.
        workload: This process's workload, ``namespace/name``; default the setting.

    Raises:
        IdentityError: If it is not said who this process is.
    """
    name = own_name(base, "kafka-topic", workload)
    if name != base and len(_named) < _MOST:
        _named.add(name)
    return name


def is_own_topic(topic: str) -> bool:
    """
    Return whether a topic is one that `topic_name` has named for the sandbox of this process.
    """
    return topic in _named
