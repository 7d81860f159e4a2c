"""
A message that pika has delivered, and sending it on: a copy is published, and only what the broker has confirmed and routed counts as sent.
"""

from __future__ import annotations

import copy
import uuid
from typing import Any

from ...observe import warn_once
from ...routes import Route
from .choice import Choices
from .copies import copy_headers, original_of
from .outcome import Outcome
from .pika_steps import Wait
from .pika_wire import GONE, Wire

__all__ = ["Delivery", "Forwarder", "restore"]


class Delivery:
    """
    A message that the broker has delivered, and that it wants an answer for.

    Args:
        source: Whose it was.
        channel: pika's channel.
        method: What pika says of its delivery.
        properties: Its properties.
        body: Its body.
    """

    __slots__ = ("body", "channel", "method", "properties", "source", "tag")

    def __init__(self, source: Any, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self.source = source
        self.channel = channel
        self.method = method
        self.properties = properties
        self.body = body
        #: By what the broker knows it; the method handed on has a tag of ours.
        self.tag: int = method.delivery_tag

    def ack(self) -> None:
        """
        Acknowledge it. Where its channel is gone the broker has taken it back already.
        """
        self._answer("basic_ack")

    def give_back(self) -> None:
        """
        Give it back to its queue.
        """
        self._answer("basic_nack")

    def _answer(self, answer: str) -> None:
        if self.channel.is_open:
            try:
                getattr(self.channel, answer)(self.tag)
            except GONE:
                return


class Forwarder:
    """
    Publishes copies, on a channel of its own: what goes wrong there is nothing to the messages that are being consumed.

    Args:
        wire: The connection.
        choices: Knows what leads to a sandbox.
    """

    def __init__(self, wire: Wire, choices: Choices) -> None:
        self._wire = wire
        self._choices = choices
        self._channel: Any = None
        self._opening: Wait | None = None

    async def forward(self, delivery: Delivery, route: Route | None) -> Outcome:
        """
        Publish a copy of a message. The message itself is still to be acknowledged.

        Args:
            delivery: The message, as it was received.
            route: Whose it is; None: it goes to the baseline's queue.
        """
        method = delivery.method
        if route is None:
            exchange, amqp_routing_key, epoch = "", self._choices.queue, 0
        else:
            exchange, amqp_routing_key, epoch = self._choices.names(route).exchange, method.routing_key, route.generation
        properties = copy.copy(delivery.properties)
        properties.headers = copy_headers(
            properties.headers,
            epoch=epoch,
            exchange=method.exchange,
            amqp_routing_key=method.routing_key,
            user_id=properties.user_id,
            message_id=properties.message_id,
        )
        properties.user_id = None
        # By this it is found out which of several copies under way has come back.
        properties.message_id = uuid.uuid4().hex
        try:
            channel = await self._ready()
            outcome = await self._wire.publish(channel, exchange, amqp_routing_key, delivery.body, properties)
            error: Exception | str = "the broker has refused it"
        except GONE as gone:
            outcome, error = Outcome.FAILED, gone
        if outcome is Outcome.FAILED:
            warn_once(
                f"forward:{self._choices.queue}:{type(error).__name__}",
                "%s: a message of %s could not be forwarded (%r) and is tried again; see that its sandbox reads, and whether %s is full. "
                "Further ones are not logged.",
                self._choices.adapter,
                self._choices.queue,
                error,
                exchange or amqp_routing_key,
            )
        return outcome

    async def close(self) -> None:
        """
        Close the channel.
        """
        if self._channel is not None and self._channel.is_open:
            await self._wire.close(self._channel)

    async def _ready(self) -> Any:
        while self._opening is not None:
            await self._opening
        if self._channel is None or not self._channel.is_open:
            opening = self._opening = Wait()
            try:
                self._channel = await self._wire.open(confirm=True)
            finally:
                self._opening = None
                opening.set()
        return self._channel


def restore(delivery: Delivery) -> None:
    """
    Make a received message look as it did before it was forwarded.

    Args:
        delivery: A message that nobody has seen yet.
    """
    method, properties = delivery.method, delivery.properties
    original = original_of(
        properties.headers,
        exchange=method.exchange,
        amqp_routing_key=method.routing_key,
        user_id=properties.user_id,
        message_id=properties.message_id,
    )
    properties.headers = original.headers
    method.exchange = original.exchange
    method.routing_key = original.amqp_routing_key
    properties.user_id = original.user_id
    properties.message_id = original.message_id
