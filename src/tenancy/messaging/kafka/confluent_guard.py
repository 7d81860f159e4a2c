"""
How a producer of confluent-kafka learns whether a topic is compacted.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from ..._optional import extra
from ...key import RoutingKey
from .compaction import Compacted, Compaction, is_compacted

with extra("kafka", "confluent_kafka"):
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.admin._config import ConfigResource

__all__ = ["Guard"]

_TIMEOUT = 5.0
# What a client that only asks has no use for, or does not know.
_LEFT_OUT = {"enable.idempotence", "key.serializer", "value.serializer", "statistics.interval.ms", "transactional.id"}


class Guard:
    """
    Refuses records that would take the place of the baseline's in a compacted topic.

    Args:
        admin: An ``AdminClient``, or a configuration for one; None: nobody can be asked.
        compacted: Which topics are compacted; None: the broker is asked.
    """

    def __init__(self, admin: Any = None, compacted: Compacted | None = None) -> None:
        self._admin = admin
        self._compaction = Compaction("confluent_kafka", compacted)
        self._asking = threading.Lock()

    def check(self, topic: str, key: Any, routing_key: RoutingKey | None) -> None:
        """
        Make sure that a record does no harm; it may have to wait for an answer of the broker.

        Args:
            topic: Its topic.
            key: Its record key.
            routing_key: Its routing key, or None.

        Raises:
            CompactedTopicError: If it would.
        """
        if self._compaction.concerns(topic, key, routing_key) and self._is_compacted(topic):
            raise self._compaction.refusal(topic, key, routing_key)

    def _is_compacted(self, topic: str) -> bool:
        known = self._compaction.known(topic)
        if known is not None:
            return known
        with self._asking:
            known = self._compaction.known(topic)  # another thread may have asked meanwhile
            return self._compaction.note(topic, *self._ask(topic)) if known is None else known

    def _ask(self, topic: str) -> tuple[bool | None, str]:
        if self._admin is None:
            return (
                None,
                "Say where to ask, with_key(producer, admin=...), or which topics are: with_key(producer, compacted=[...]).",
            )
        try:
            if isinstance(self._admin, Mapping):
                self._admin = AdminClient(_asking(self._admin))
            resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
            answer = self._admin.describe_configs([resource], request_timeout=_TIMEOUT)[resource]
            entry = answer.result(_TIMEOUT + 1).get("cleanup.policy")
        except Exception as error:  # noqa: BLE001 - who only cannot ask is not kept from producing
            if isinstance(error, KafkaException) and error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return False, ""
            return None, f"It was asked in vain ({error!r}); the right DescribeConfigs on the topic is needed."
        return is_compacted(None if entry is None else entry.value), ""


def _asking(config: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the configuration of a client that only asks; of a producer's functions it needs none but the one that gets a token.
    """
    return {name: value for name, value in config.items() if name not in _LEFT_OUT and (name == "oauth_cb" or not callable(value))}
