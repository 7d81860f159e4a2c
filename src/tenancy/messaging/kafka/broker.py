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
    from confluent_kafka.admin._config import ConfigResource, ConfigSource
    from confluent_kafka.admin._listoffsets import OffsetSpec
    from confluent_kafka.cimpl import Consumer, NewTopic

__all__ = ["BrokerError", "GroupMember", "KafkaBroker", "Shape", "Topic"]

T = TypeVar("T")

_GONE = {KafkaError.GROUP_ID_NOT_FOUND, KafkaError.UNKNOWN_TOPIC_OR_PART}
_UNMARKED = {KafkaError.INVALID_CONFIG, KafkaError.POLICY_VIOLATION}
_REFUSED = {
    *_UNMARKED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.INVALID_PARTITIONS,
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_EXCEPTION,
}
# What a topic made here is marked with: after how many messages the log is flushed, so many that it never is, which is what is so anyway.
_MARK, _NEVER = "flush.messages", 2**62
_OF_TOPIC = ConfigSource.DYNAMIC_TOPIC_CONFIG.value
# While partitions are moved.
_OF_A_MOMENT = {"follower.replication.throttled.replicas", "leader.replication.throttled.replicas"}


class BrokerError(HandoverError):
    """
    Kafka does not answer; nothing was changed.
    """


class _RefusedError(HandoverError):
    def __init__(self, code: int | None, said: str) -> None:
        super().__init__(said)
        self.code = code


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


class Shape(NamedTuple):
    """
    What a topic is like.

    Args:
        partitions: How many partitions it has.
        replication: How many replicas each of them has.
        config: Its configuration, as far as it is its own and not the cluster's.
    """

    partitions: int
    replication: int
    config: Mapping[str, str]


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

    def shape(self, name: str) -> Shape | None:
        """
        Return what a topic is like, or None where there is none of that name.
        """
        wanted = TopicCollection([name])
        found = self._answers(lambda: self._admin.describe_topics(wanted, request_timeout=self._timeout)).get(name)
        if found is None or not found.partitions:
            return None
        entries = self._configuration(name).values()
        own = {entry.name: entry.value for entry in entries if entry.source == _OF_TOPIC and not entry.is_sensitive}
        return Shape(len(found.partitions), len(found.partitions[0].replicas), own)

    def create_topic(self, name: str, shape: Shape, mark: int) -> bool:
        """
        Make a topic, and return whether it is new; if not, there is one of that name already.

        Args:
            name: What it is called.
            shape: What it is to be like.
            mark: By what `is_marked` tells it from a topic that somebody else made.

        Raises:
            HandoverError: If Kafka refuses to make it.
        """
        config = {entry: text for entry, text in shape.config.items() if entry not in _OF_A_MOMENT}
        if _MARK not in config:
            try:
                return self._create(name, shape, {**config, _MARK: str(_NEVER + mark)})
            except _RefusedError as refused:
                if refused.code not in _UNMARKED:
                    raise
                # By a cluster that does not let everything be set; if it is for another reason, that is said again.
        return self._create(name, shape, config)

    def _create(self, name: str, shape: Shape, config: Mapping[str, str]) -> bool:
        topic = NewTopic(name, shape.partitions, shape.replication, config=dict(config))
        try:
            asked = self._admin.create_topics([topic], operation_timeout=self._timeout, request_timeout=self._timeout)
            asked[name].result(self._timeout + 1)
        except (KafkaException, TimeoutError) as error:
            code = _code(error)
            if code == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            if code in _REFUSED:
                raise _RefusedError(code, f"Kafka does not make the topic {name}: {error.args[0].str()}") from error
            self._admin = self._connect()
            raise self._unanswered(error) from error
        return True

    def has_topic(self, name: str) -> bool:
        """
        Return whether there is a topic, also one that was made just now and which not every broker knows yet.
        """
        topic = NewTopic(name, 1, 1)
        try:
            self._admin.create_topics([topic], validate_only=True, request_timeout=self._timeout)[name].result(self._timeout + 1)
        except (KafkaException, TimeoutError) as error:
            code = _code(error)
            if code not in _REFUSED and code != KafkaError.TOPIC_ALREADY_EXISTS:
                self._admin = self._connect()
                raise self._unanswered(error) from error
            return bool(code == KafkaError.TOPIC_ALREADY_EXISTS)
        return False

    def is_marked(self, name: str, mark: int) -> bool | None:
        """
        Return whether a topic is the one that `create_topic` made with a mark; None: the broker that was asked does not know it yet.
        """
        entries = self._configuration(name)
        if not entries:
            return None
        return _MARK in entries and bool(entries[_MARK].value == str(_NEVER + mark))

    def delete_topic(self, name: str) -> None:
        """
        Delete a topic, if there is one.
        """
        self._answers(lambda: self._admin.delete_topics([name], operation_timeout=self._timeout, request_timeout=self._timeout))

    def _configuration(self, name: str) -> Mapping[str, Any]:
        resource = ConfigResource(ConfigResource.Type.TOPIC, name)
        found = self._answers(lambda: self._admin.describe_configs([resource], request_timeout=self._timeout))
        entries: Mapping[str, Any] = found.get(resource, {})
        return entries

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


def _code(error: Exception) -> int | None:
    return int(error.args[0].code()) if isinstance(error, KafkaException) else None


def _partitions(topics: Mapping[str, Topic]) -> list[Any]:
    return [TopicPartition(name, partition) for name, topic in topics.items() for partition in range(topic.partitions)]


def _cuts(topics: Mapping[str, Topic], offsets: Mapping[tuple[str, int], int], otherwise: int) -> Cuts:
    return {
        name: tuple(offsets.get((name, partition), otherwise) for partition in range(topic.partitions))
        for name, topic in topics.items()
    }
