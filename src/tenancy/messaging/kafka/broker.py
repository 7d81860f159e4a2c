"""
What the controller of sandboxes asks of Kafka: how long logs are, how far groups are, and who is a member of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from ..._optional import extra
from ...errors import HandoverError
from ...routes.handover import Cuts

with extra("kafka", "confluent_kafka"):
    from confluent_kafka import (
        IsolationLevel,
        KafkaError,
        KafkaException,
        TopicCollection,
        TopicPartition,
    )
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.admin._listoffsets import OffsetSpec
    from confluent_kafka.cimpl import Consumer

__all__ = ["BrokerError", "GroupMember", "KafkaBroker", "Topic"]

T = TypeVar("T")

_GONE = {KafkaError.GROUP_ID_NOT_FOUND, KafkaError.UNKNOWN_TOPIC_OR_PART}


class BrokerError(HandoverError):
    """
    Kafka does not answer; nothing was changed.
    """


class GroupMember(NamedTuple):
    """
    A member of a consumer group, as the broker knows it.

    Args:
        id: Its member id.
        client: Its client id.
        host: Where it runs.
    """

    id: str
    client: str
    host: str

    def __str__(self) -> str:
        return f"{self.id} (client {self.client}, {self.host})"


class Topic(NamedTuple):
    """
    A topic, as the broker knows it.

    Args:
        id: What the broker calls it for itself; another one if it is made again.
        partitions: How many partitions it has.
    """

    id: str
    partitions: int


class KafkaBroker:
    """
    A Kafka cluster. Every method asks anew, and raises `BrokerError` where no answer comes.

    Args:
        config: The configuration of an ``AdminClient``, with ``bootstrap.servers``.
        timeout: Seconds to wait for an answer.
    """

    def __init__(self, config: Mapping[str, Any], *, timeout: float = 10.0) -> None:
        self.config = dict(config)
        self._timeout = timeout
        self._admin = self._connect()

    def topics(self, names: Iterable[str]) -> dict[str, Topic]:
        """
        Return the topics that exist of those that are named.
        """
        wanted = sorted(set(names))
        if not wanted:
            return {}
        found = self._answers(lambda: self._admin.describe_topics(TopicCollection(wanted), request_timeout=self._timeout))
        return {name: Topic(str(topic.topic_id), len(topic.partitions)) for name, topic in found.items()}

    def log_ends(self, topics: Mapping[str, Topic]) -> Cuts:
        """
        Return the offset after the last record of every partition, asked of its leader: the high watermark.
        """
        return self._offsets(topics, OffsetSpec.latest())  # type: ignore[no-untyped-call]

    def log_starts(self, topics: Mapping[str, Topic]) -> Cuts:
        """
        Return the offset of the first record of every partition that can still be read.
        """
        return self._offsets(topics, OffsetSpec.earliest())  # type: ignore[no-untyped-call]

    def committed(self, group: str, topics: Mapping[str, Topic]) -> Cuts:
        """
        Return what a group has committed; -1 where it has not.
        """
        asked = _partitions(topics)
        if not asked:
            return {}
        # A consumer that never joins. The AdminClient's way to ask (confluent-kafka 2.16.1) ends in a segmentation fault when a broker is
        # restarted at the same time.
        consumer = Consumer({"log_level": 2, **self.config, "group.id": group, "enable.auto.commit": False})
        try:
            listed: list[Any] = consumer.committed(asked, timeout=self._timeout)
        except KafkaException as error:
            raise self._unanswered(error) from error
        finally:
            consumer.close()
        failed = next((entry.error for entry in listed if entry.error is not None), None)
        if failed is not None:
            raise self._unanswered(KafkaException(failed))
        return _cuts(topics, {(entry.topic, entry.partition): max(entry.offset, -1) for entry in listed}, -1)

    def members(self, group: str) -> list[GroupMember]:
        """
        Return the members of a group; none where there is no such group.
        """
        found = self._answers(lambda: self._admin.describe_consumer_groups([group], request_timeout=self._timeout))
        if group not in found:
            return []
        return [GroupMember(str(member.member_id), str(member.client_id), str(member.host)) for member in found[group].members]

    def delete_group(self, group: str) -> None:
        """
        Delete a group without members, if there is one.
        """
        self._answers(lambda: self._admin.delete_consumer_groups([group], request_timeout=self._timeout))

    def _connect(self) -> AdminClient:
        return AdminClient({"log_level": 2, **self.config})

    def _offsets(self, topics: Mapping[str, Topic], spec: Any) -> Cuts:
        asked = dict.fromkeys(_partitions(topics), spec)
        if not asked:
            return {}
        level = IsolationLevel.READ_UNCOMMITTED  # the high watermark: also an open transaction has records before it
        found = self._answers(
            lambda: self._admin.list_offsets(asked, isolation_level=level, request_timeout=self._timeout), missing=False
        )
        return _cuts(topics, {(entry.topic, entry.partition): result.offset for entry, result in found.items()}, 0)

    def _answers(self, ask: Callable[[], Mapping[Any, Future[Any]]], *, missing: bool = True) -> dict[Any, Any]:
        answers = {}
        try:
            for asked, future in ask().items():
                try:
                    answers[asked] = future.result(self._timeout + 1)
                except KafkaException as error:
                    if not (missing and error.args[0].code() in _GONE):
                        raise
        except (KafkaException, TimeoutError) as error:
            # After a broker's restart the client would ask with what it knew of its leaders and coordinators before, for ever.
            self._admin = self._connect()
            raise self._unanswered(error) from error
        return answers

    def _unanswered(self, error: Exception) -> BrokerError:
        servers = self.config.get("bootstrap.servers")
        return BrokerError(f"Kafka at {servers} does not answer: {error}; nothing was changed, so try again")


def _partitions(topics: Mapping[str, Topic]) -> list[Any]:
    return [TopicPartition(name, partition) for name, topic in topics.items() for partition in range(topic.partitions)]


def _cuts(topics: Mapping[str, Topic], offsets: Mapping[tuple[str, int], int], otherwise: int) -> Cuts:
    return {
        name: tuple(offsets.get((name, partition), otherwise) for partition in range(topic.partitions))
        for name, topic in topics.items()
    }
