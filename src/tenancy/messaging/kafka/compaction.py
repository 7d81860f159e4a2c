"""
What keeps a record with a routing key from taking the place of the baseline's in a compacted topic. It asks nobody itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

from ...errors import CompactedTopicError, ConfigurationError
from ...key import RoutingKey
from ...observe import warn_once
from .own_topics import is_own_topic
from .record_key import is_namespaced

__all__ = ["Compacted", "Compaction", "is_compacted"]

#: Which topics are compacted: those of a collection, or those for which a function returns true.
Compacted = Collection[str] | Callable[[str], bool]

# Seconds for which an answer holds: a topic's configuration can be changed. Where there was none, seconds until it is asked again.
_KEEP = 300.0
_AGAIN = 60.0
_MOST = 1000


class Compaction:
    """
    Which topics are compacted, as far as one producer knows; it is asked for the first record that could do harm, and remembered for some
    minutes.

    Args:
        adapter: Who asks, for logs.
        compacted: Which they are; None: the broker is asked.
        clock: Seconds.

    Raises:
        ConfigurationError: If *compacted* is neither a collection of names nor a function.
    """

    def __init__(self, adapter: str, compacted: Compacted | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._adapter = adapter
        self._clock = clock
        self._compacted: Callable[[str], bool] | None = None
        if isinstance(compacted, (str, bytes)):
            raise ConfigurationError(f"compacted is {compacted!r}; give a list of topics, or a function of a topic")
        if compacted is not None:
            self._compacted = compacted if callable(compacted) else frozenset(compacted).__contains__
        # By topic: whether it is, and until when that is believed.
        self._known: dict[str, tuple[bool, float]] = {}

    def concerns(self, topic: str, key: Any, routing_key: RoutingKey | None) -> bool:
        """
        Return whether a record would do harm if its topic were compacted.

        Args:
            topic: Its topic.
            key: Its record key.
            routing_key: Its routing key, or None.
        """
        # A compacted topic takes no record without a record key, and in a topic of its own a sandbox is alone.
        return routing_key is not None and key is not None and not is_namespaced(key, routing_key) and not is_own_topic(topic)

    def known(self, topic: str) -> bool | None:
        """
        Return whether a topic is compacted; None: that is to be asked, and then to be noted.
        """
        if self._compacted is not None:
            return bool(self._compacted(topic))
        compacted, until = self._known.get(topic, (False, 0.0))
        return compacted if self._clock() < until else None

    def note(self, topic: str, compacted: bool | None, why: str = "") -> bool:
        """
        Note an answer, and return whether the topic counts as compacted.

        Args:
            topic: The topic.
            compacted: The answer; None: there was none, so what was known before goes on to hold.
            why: Why there was none, with what to do about it.
        """
        keep = _KEEP
        if compacted is None:
            keep = _AGAIN
            if topic not in self._known:
                warn_once(
                    f"compaction:{self._adapter}:{topic}",
                    "%s: a record with a routing key was sent to %s under a record key that the baseline may use, and it is not known "
                    "whether the topic is compacted: if it is, the record takes the place of the baseline's. %s",
                    self._adapter,
                    topic,
                    why,
                )
            compacted, _ = self._known.get(topic, (False, 0.0))
        if topic not in self._known and len(self._known) >= _MOST:
            del self._known[next(iter(self._known))]
        self._known[topic] = compacted, self._clock() + keep
        return compacted

    def refusal(self, topic: str, key: Any, routing_key: RoutingKey | None) -> CompactedTopicError:
        """
        Return the error about a record that is not sent.
        """
        keyed = f"record_key({key!r:.64})" if isinstance(key, (str, bytes)) else "a key that has the routing key in it"
        return CompactedTopicError(
            f"the topic {topic} is compacted, and a record of {routing_key} under the record key {key!r:.64} would take the place of the "
            f"baseline's value; produce it under {keyed}, or give the sandbox a topic of its own: topic_name({topic!r}), which `tenancy "
            f"sandbox create --own-topic {topic}` makes. If its record keys are told apart in another way, say which topics are to be minded "
            "instead: with_key(..., compacted=[...])"
        )


def is_compacted(policy: str | None) -> bool:
    """
    Return whether a topic's ``cleanup.policy`` has its records compacted: ``compact``, or ``compact,delete``.
    """
    return "compact" in (part.strip() for part in (policy or "").split(","))
