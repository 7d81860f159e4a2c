"""
Messages in memory, for unit tests of decorated handlers. What only a broker does (offsets, redelivery, queues) they do not do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .._optional import extra
from ..key import RoutingKey
from .carriers import Headers, carrier, header_pairs

if TYPE_CHECKING:
    from aio_pika import Message

    from ._rabbitmq import RabbitMQMessage

__all__ = ["Answer", "KafkaMessage", "kafka_message", "rabbitmq_message"]


class Answer(NamedTuple):
    """
    What a consumer told the broker about a message.

    Args:
        kind: ``ack``, ``nack`` or ``reject``.
        requeue: Whether the message goes back to its queue.
        multiple: Whether all messages before it are meant as well.
    """

    kind: str
    requeue: bool = False
    multiple: bool = False


class KafkaMessage:
    """
    Stands in for a ``confluent_kafka.Message``, which old versions do not let anybody make: the same methods, on plain data.

    It is no instance of that class, so a client's own functions (``consumer.commit(message)``) do not take it.
    """

    def __init__(
        self, topic: str, value: Any, record_key: Any, headers: Any, *, partition: int, offset: int, timestamp: int, error: Any
    ) -> None:
        self._topic, self._value, self._key, self._headers = topic, value, record_key, headers
        self._partition, self._offset, self._timestamp, self._error = partition, offset, timestamp, error

    def topic(self) -> str:
        return self._topic

    def value(self, payload: Any = None) -> Any:  # noqa: ARG002 - the client's own signature
        return self._value

    def key(self, payload: Any = None) -> Any:  # noqa: ARG002
        """
        Return Kafka's key of the record, which has nothing to do with a routing key.
        """
        return self._key

    def headers(self) -> Any:
        return None if self._headers is None else list(self._headers)

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return (1, self._timestamp)  # confluent_kafka.TIMESTAMP_CREATE_TIME

    def latency(self) -> float | None:
        return None

    def leader_epoch(self) -> int | None:
        return None

    def error(self) -> Any:
        return self._error

    def set_value(self, value: Any) -> None:
        self._value = value

    def set_key(self, key: Any) -> None:
        self._key = key

    def set_headers(self, headers: Any) -> None:
        self._headers = headers

    def __len__(self) -> int:
        return len(self._value or b"")

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<KafkaMessage {self._topic}[{self._partition}]@{self._offset}>"


def kafka_message(
    value: Any = b"",
    *,
    key: RoutingKey | str | None = None,
    headers: Headers | None = None,
    topic: str = "orders",
    partition: int = 0,
    offset: int = 0,
    record_key: Any = None,
    timestamp: int = 0,
    error: Any = None,
) -> KafkaMessage:
    """
    Return a message as ``confluent_kafka.Consumer.poll`` does, for a handler that is called without a broker.

    Args:
        value: The payload: bytes, or what a deserializer made of them.
        key: The routing key that it carries; None: only *headers* say one.
        headers: Further headers, as text; without any, and without a key, ``headers()`` is None, as the client's is.
        topic: The topic.
        partition: The partition.
        offset: The offset.
        record_key: Kafka's key of the record.
        timestamp: When the record was made, in milliseconds since 1970.
        error: What ``error()`` returns, such as a ``confluent_kafka.KafkaError``.

    Raises:
        InvalidRoutingKeyError: If *key* is not a routing key. For one that is malformed on purpose give the header itself.
    """
    made = carrier("kafka", headers or (), key=key) or None
    return KafkaMessage(topic, value, record_key, made, partition=partition, offset=offset, timestamp=timestamp, error=error)


def rabbitmq_message(
    body: bytes | Message = b"",
    *,
    key: RoutingKey | str | None = None,
    headers: Headers | None = None,
    exchange: str = "test",
    amqp_routing_key: str = "orders",
    redelivered: bool = False,
    no_ack: bool = False,
    delivery_tag: int = 1,
    closed: bool = False,
) -> RabbitMQMessage:
    """
    Return a message as aio-pika hands it to a consumer: an ``aio_pika.IncomingMessage``, whose ``answers`` are those that it was given.

    Args:
        body: The payload; or a whole ``aio_pika.Message``, as it would be published.
        key: The routing key that it carries; None: only its headers say one.
        headers: Further headers, as text.
        exchange: The exchange through which it came; ``""``, the default exchange, reaches one queue only.
        amqp_routing_key: RabbitMQ's routing key, which has nothing to do with ours.
        redelivered: Whether the broker says that it was delivered before.
        no_ack: Whether it was delivered without being waited for.
        delivery_tag: Its number on its channel.
        closed: Whether its channel is gone, so that nothing can be answered.

    Raises:
        InvalidRoutingKeyError: If *key* is not a routing key.
        MissingDependencyError: If aio-pika is not installed.
    """
    with extra("rabbitmq", "aio_pika"):
        from ._rabbitmq import Deliver, make

    delivery = Deliver("test", delivery_tag, redelivered, exchange, amqp_routing_key)
    return make(body, dict(header_pairs(headers or ())), key, delivery, no_ack=no_ack, closed=closed)
