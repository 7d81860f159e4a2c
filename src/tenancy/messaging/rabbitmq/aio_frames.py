"""
Writing many small frames on one of aio-pika's channels at the price of one: what is asked for in one turn of the event loop is sent together.

The client sends each publish and each acknowledgement by itself, which costs more than all the rest of forwarding a message.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from ..._optional import extra

with extra("rabbitmq", "aio_pika"):
    from aio_pika.exceptions import ChannelInvalidStateError
    from aiormq.abc import ChannelFrame
    from pamqp.body import ContentBody
    from pamqp.commands import Basic
    from pamqp.frame import marshal
    from pamqp.header import ContentHeader

__all__ = ["Frames"]


class Frames:
    """
    What is to be written on one channel.

    Args:
        channel: The ``aiormq`` channel, beneath one of aio-pika's. If it is to publish, it has confirms, and nobody else publishes on it.
        confirmed_within: How long the broker may take to confirm what was published, in seconds.
    """

    def __init__(self, channel: Any, *, confirmed_within: float = 30.0) -> None:
        self.channel = channel
        self._confirmed_within = confirmed_within
        self._frames: list[bytes] = []
        self._writing: asyncio.Task[None] | None = None
        # Until when each is to be confirmed, in the order in which they were published.
        self._awaited: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._watching: asyncio.TimerHandle | None = None

    @property
    def pending(self) -> bool:
        """
        Whether something was asked for and is not written yet.
        """
        return self._writing is not None

    def ack(self, delivery_tag: int) -> None:
        """
        Acknowledge a message; if the channel is closed meanwhile, the broker has it back.
        """
        self._write([marshal(Basic.Ack(delivery_tag=delivery_tag), self.channel.number)])

    def publish(self, body: bytes, *, exchange: str, amqp_routing_key: str, properties: Any) -> asyncio.Future[Any]:
        """
        Publish a message with ``mandatory``, and return what becomes of it.

        Args:
            body: Its body.
            exchange: Where it goes.
            amqp_routing_key: With which routing key of RabbitMQ's.
            properties: Its properties; the ``message_id`` is one that no other message has.

        Returns:
            A future that is done when the broker has confirmed it. It fails with ``PublishError`` if the message came back, ``DeliveryError``
            if it was refused, ``TimeoutError`` if it was not confirmed in time, and with what closed the channel.

        Raises:
            aio_pika.exceptions.ChannelInvalidStateError: If the channel is closed.
            ValueError, TypeError: If AMQP cannot say what is in the properties; nothing was published then.
        """
        channel = self.channel
        if channel.is_closed:
            raise ChannelInvalidStateError(f"{channel!r} closed")
        room = channel.max_content_size
        parts = [body] if 0 < len(body) < room else [body[start : start + room] for start in range(0, len(body), room)]
        # First of all: what cannot be written must not be counted, or all confirmations that follow would be taken for those of others.
        content: list[Any] = [Basic.Publish(exchange=exchange, routing_key=amqp_routing_key, mandatory=True)]
        content += [ContentHeader(properties=properties, body_size=len(body)), *map(ContentBody, parts)]
        frames = [marshal(frame, channel.number) for frame in content]
        # By these the client finds what a confirmation, or a message that comes back, is about: it counts like the broker.
        channel.delivery_tag += 1
        message_id = properties.message_id
        confirmation: asyncio.Future[Any] = channel.create_future()
        channel.confirmations[channel.delivery_tag] = confirmation
        channel.message_id_delivery_tag[message_id] = channel.delivery_tag
        confirmation.add_done_callback(lambda _: channel.message_id_delivery_tag.pop(message_id, None))
        self._write(frames)
        self._expect(confirmation)
        return confirmation

    def _write(self, frames: list[bytes]) -> None:
        self._frames += frames
        if self._writing is None:
            self._writing = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        try:
            while self._frames:
                frames, self._frames = self._frames, []
                # On a channel that is closed the broker takes nothing, and ends the whole connection where something comes.
                if not self.channel.is_closed:
                    await self.channel.write_queue.put(ChannelFrame(payload=b"".join(frames), should_close=False))
        finally:
            self._writing = None

    def _expect(self, confirmation: asyncio.Future[Any]) -> None:
        loop = asyncio.get_running_loop()
        awaited = self._awaited
        while awaited and awaited[0][1].done():
            awaited.popleft()
        awaited.append((loop.time() + self._confirmed_within, confirmation))
        if self._watching is None:
            self._watching = loop.call_later(self._confirmed_within, self._watch)

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        awaited, self._watching = self._awaited, None
        while awaited and (awaited[0][1].done() or awaited[0][0] <= loop.time()):
            _, confirmation = awaited.popleft()
            if not confirmation.done():
                confirmation.set_exception(asyncio.TimeoutError(f"not confirmed within {self._confirmed_within} s"))
        if awaited:
            self._watching = loop.call_later(awaited[0][0] - loop.time(), self._watch)
