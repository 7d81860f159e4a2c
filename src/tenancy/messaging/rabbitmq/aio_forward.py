"""
Sending a message on with aio-pika: a copy is published, and only what the broker has confirmed and routed counts as sent.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from typing import Any

from ..._optional import extra
from ...observe import warn_once
from ...routes import Route
from .aio_frames import Frames
from .choice import Choices
from .copies import copy_headers, original_of
from .outcome import Outcome

with extra("rabbitmq", "aio_pika"):
    from aio_pika.exceptions import AMQPError, ChannelInvalidStateError, PublishError

__all__ = ["GONE", "Forwarder", "close_channel", "restore"]

#: What a client raises where its channel or connection is gone.
GONE = (AMQPError, ChannelInvalidStateError, ConnectionError, RuntimeError)

# How long the broker may take to confirm a copy, in seconds; it is sent again then, since it may not have it.
_CONFIRMED_WITHIN = 30.0


class Forwarder:
    """
    Publishes copies, on a channel of its own: what goes wrong there is nothing to the messages that are being consumed.

    Args:
        connection: The connection.
        choices: Knows what leads to a sandbox.
    """

    def __init__(self, connection: Any, choices: Choices) -> None:
        self._connection = connection
        self._choices = choices
        self._channel: Any = None
        self._frames: Frames | None = None
        self._opening = asyncio.Lock()
        self._mark = uuid.uuid4().hex
        self._number = itertools.count(1)

    async def forward(self, message: Any, route: Route | None) -> Outcome:
        """
        Publish a copy of a message. The message itself is still to be acknowledged.

        Args:
            message: The message, as it was received.
            route: Whose it is; None: it goes to the baseline's queue.
        """
        if route is None:
            exchange, amqp_routing_key, epoch = "", self._choices.queue, 0
        else:
            exchange, amqp_routing_key, epoch = self._choices.names(route).exchange, message.routing_key or "", route.generation
        properties = message.properties
        properties.headers = copy_headers(
            message.headers,
            epoch=epoch,
            exchange=message.exchange or "",
            amqp_routing_key=message.routing_key or "",
            user_id=message.user_id,
            message_id=message.message_id,
        )
        properties.user_id = None
        # By this the client finds out which of several copies under way has come back.
        properties.message_id = f"{self._mark}-{next(self._number)}"
        try:
            # What limits how much is under way is how much may be delivered without an acknowledgement.
            frames = self._frames
            if frames is None or frames.channel.is_closed:
                frames = await self._ready()
            await frames.publish(message.body, exchange=exchange, amqp_routing_key=amqp_routing_key, properties=properties)
        except PublishError:
            return Outcome.RETURNED
        except Exception as error:  # noqa: BLE001 - also a bare Exception, as the client has where a channel ends; whatever it is, it is tried again
            warn_once(
                f"forward:{self._choices.queue}:{type(error).__name__}",
                "%s: a message of %s could not be forwarded (%r) and is tried again; see that its sandbox reads, and whether %s is full. "
                "Further ones are not logged.",
                self._choices.adapter,
                self._choices.queue,
                error,
                exchange or amqp_routing_key,
            )
            return Outcome.FAILED
        return Outcome.SENT

    async def close(self) -> None:
        """
        Close the channel.
        """
        await close_channel(self._channel)

    async def _ready(self) -> Frames:
        async with self._opening:
            if self._channel is None:
                opened = self._connection.channel(publisher_confirms=True, on_return_raises=True)
                await opened.initialize()
                self._channel = opened
            elif self._channel.is_closed:
                await self._channel.reopen()
            beneath = await self._channel.get_underlay_channel()
            if self._frames is None or self._frames.channel is not beneath:
                self._frames = Frames(beneath, confirmed_within=_CONFIRMED_WITHIN)
            return self._frames


async def close_channel(channel: Any) -> None:
    """
    Close a channel, also a robust one that is lost: it would come back, with its consumers.

    Args:
        channel: The channel; None: there is none.
    """
    if channel is not None:
        try:
            await channel.close()
        except GONE:
            return


def restore(message: Any) -> None:
    """
    Make a received message look as it did before it was forwarded.

    Args:
        message: An ``aio_pika.IncomingMessage`` that nobody has seen yet.
    """
    original = original_of(
        message.headers,
        exchange=message.exchange or "",
        amqp_routing_key=message.routing_key or "",
        user_id=message.user_id,
        message_id=message.message_id,
    )
    message.headers = original.headers
    message.exchange = original.exchange
    message.routing_key = original.amqp_routing_key
    message.user_id = original.user_id
    message.message_id = original.message_id
