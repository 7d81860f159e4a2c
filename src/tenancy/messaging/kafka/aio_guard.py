"""
How a producer of aiokafka learns whether a topic is compacted.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ..._optional import extra
from ...key import RoutingKey
from .compaction import Compacted, Compaction, is_compacted

with extra("aiokafka", "aiokafka"):
    from aiokafka.errors import UnknownTopicOrPartitionError, for_code
    from aiokafka.protocol.admin import DescribeConfigsRequest

__all__ = ["Guard"]

_TIMEOUT = 5.0
_TOPIC = 2  # among the kinds of resources that have a configuration


class Guard:
    """
    Refuses records that would take the place of the baseline's in a compacted topic.

    Args:
        producer: The ``AIOKafkaProducer``, by whose own connections it is asked.
        compacted: Which topics are compacted; None: the broker is asked.
    """

    def __init__(self, producer: Any, compacted: Compacted | None = None) -> None:
        self._producer = producer
        self._compaction = Compaction("aiokafka", compacted)
        self._asking = asyncio.Lock()

    async def check(self, topic: str, key: Any, routing_key: RoutingKey | None) -> None:
        """
        Make sure that a record does no harm; it may have to wait for an answer of the broker, and others go on meanwhile.

        Args:
            topic: Its topic.
            key: Its record key.
            routing_key: Its routing key, or None.

        Raises:
            CompactedTopicError: If it would.
        """
        if self._compaction.concerns(topic, key, routing_key) and await self._is_compacted(topic):
            raise self._compaction.refusal(topic, key, routing_key)

    async def _is_compacted(self, topic: str) -> bool:
        known = self._compaction.known(topic)
        if known is not None:
            return known
        async with self._asking:
            known = self._compaction.known(topic)  # another task may have asked meanwhile
            return self._compaction.note(topic, *await self._ask(topic)) if known is None else known

    async def _ask(self, topic: str) -> tuple[bool | None, str]:
        try:
            client = self._producer.client
            answer = await asyncio.wait_for(client.send(client.get_random_node(), _request(topic)), _TIMEOUT)
            (code, said, _, _, entries), *_ = answer.resources
        except Exception as error:  # noqa: BLE001 - who only cannot ask is not kept from sending
            return None, f"It was asked in vain ({error!r})."
        if for_code(code) is UnknownTopicOrPartitionError:
            return False, ""
        if code:
            return None, f"It was asked in vain ({said or for_code(code)}); the right DescribeConfigs on the topic is needed."
        return is_compacted(next((value for name, value, *_ in entries if name == "cleanup.policy"), None)), ""


def _request(topic: str) -> Any:
    resources = [(_TOPIC, topic, ["cleanup.policy"])]
    if isinstance(DescribeConfigsRequest, list):  # of its versions, before aiokafka 0.13
        return DescribeConfigsRequest[1](resources, False)
    return DescribeConfigsRequest(resources)
