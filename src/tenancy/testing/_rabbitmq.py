"""
A message as aio-pika hands it to a consumer, on a channel that writes down what is answered.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import aio_pika
from aiormq import spec
from aiormq.abc import DeliveredMessage
from pamqp.header import ContentHeader

from .. import propagator
from ..key import RoutingKey
from .messages import Answer

__all__ = ["Deliver", "RabbitMQMessage", "make"]

Deliver = spec.Basic.Deliver


class RabbitMQMessage(aio_pika.IncomingMessage):
    """
    An ``aio_pika.IncomingMessage`` that no broker has delivered.
    """

    def __init__(self, message: DeliveredMessage, no_ack: bool, recording: _Channel) -> None:
        super().__init__(message, no_ack=no_ack)
        self._recording = recording

    @property
    def answers(self) -> list[Answer]:
        """
        What was answered so far.
        """
        return self._recording.answers


class _Channel:
    """
    As much of an AMQP channel as answering takes.
    """

    def __init__(self, closed: bool) -> None:
        self.answers: list[Answer] = []
        self.is_closed = closed
        self.connection = SimpleNamespace(basic_nack=True)

    async def basic_ack(self, delivery_tag: int, multiple: bool = False, **_: Any) -> None:  # noqa: ARG002 - aiormq's own signature
        self.answers.append(Answer("ack", multiple=multiple))

    async def basic_nack(self, delivery_tag: int, multiple: bool = False, requeue: bool = True, **_: Any) -> None:  # noqa: ARG002
        self.answers.append(Answer("nack", requeue, multiple))

    async def basic_reject(self, delivery_tag: int, *, requeue: bool = True, **_: Any) -> None:  # noqa: ARG002
        self.answers.append(Answer("reject", requeue))


def make(
    body: bytes | aio_pika.Message,
    headers: dict[str, str],
    key: RoutingKey | str | None,
    delivery: Deliver,
    *,
    no_ack: bool,
    closed: bool,
) -> RabbitMQMessage:
    """
    Return a message that was delivered; the arguments are those of `tenancy.testing.rabbitmq_message`.
    """
    published = body if isinstance(body, aio_pika.Message) else aio_pika.Message(body)
    properties = published.properties
    merged = {**(properties.headers or {}), **headers}
    properties.headers = merged if key is None else propagator.inject(merged, key=key, binary=False)
    channel: Any = _Channel(closed)
    message = DeliveredMessage(delivery=delivery, header=ContentHeader(properties=properties), body=published.body, channel=channel)
    return RabbitMQMessage(message, no_ack, channel)
