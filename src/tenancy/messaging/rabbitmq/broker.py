"""
What the controller of sandboxes asks of RabbitMQ: a queue for one life of a key and what leads to it, and the way back of what is left.

Everything goes over AMQP 0-9-1; the broker's management interface is not needed.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from ..._optional import extra
from ...errors import HandoverError
from ...key import RoutingKey
from .copies import copy_headers
from .names import Names
from .session import TIMEOUT, QueueError, Session
from .topology import check_queue, sandbox_arguments

with extra("rabbitmq", "aio_pika"):
    import aio_pika
    from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed, DeliveryError, PublishError
    from aiormq.exceptions import ChannelLockedResource

__all__ = ["Moved", "QueueError", "QueueState", "RabbitBroker"]


class QueueState(NamedTuple):
    """
    A queue, as the broker knows it.

    Args:
        ready: How many messages are in it that nobody has in his hands.
        consumers: How many consumers it has.
    """

    ready: int
    consumers: int


class Moved(NamedTuple):
    """
    What was taken out of a sandbox's queue.

    Args:
        returned: How many messages went back to the baseline's queue.
        dropped: How many nobody handles.
    """

    returned: int = 0
    dropped: int = 0


class RabbitBroker:
    """
    A RabbitMQ broker.

    Args:
        url: ``amqp://user:password@host:5672/vhost``, or ``amqps``.
    """

    def __init__(self, url: str) -> None:
        self._session = Session(url)

    # What there is

    def state(self, queue: str) -> QueueState | None:
        """
        Return what is in a queue and who reads it, or None where there is none of that name.

        Raises:
            QueueError: If the broker does not answer.
        """
        return self._session.run(lambda channel: _state(channel, queue))

    def is_there(self, names: Names) -> bool:
        """
        Return whether a sandbox's queue, or something that leads to it, is there.

        Raises:
            QueueError: If the broker does not answer.
        """

        async def look(channel: Any) -> bool:
            try:
                await channel.get_exchange(names.exchange, ensure=True)
            except ChannelNotFoundEntity:
                return False
            return True

        return any(self.state(queue) is not None for queue in (names.queue, names.dead)) or self._session.run(look)

    def alive(self, mark: str) -> bool:
        """
        Return whether the connection lives that has declared an exclusive queue.

        Raises:
            QueueError: If the broker does not answer.
        """

        async def look(channel: Any) -> bool:
            try:
                await channel.declare_queue(mark, passive=True)
            except ChannelLockedResource:
                return True
            except ChannelNotFoundEntity:
                return False
            return True

        return self._session.run(look)

    # Making and unmaking

    def make(self, base: str, names: Names, declared: Mapping[str, Any], *, key: RoutingKey, exchange: str = "") -> None:
        """
        Make a sandbox's queue and what leads to it; what is there already stays.

        Args:
            base: The baseline's queue.
            names: The sandbox's names.
            declared: With what options the baseline's queue was declared: ``durable`` and ``arguments``.
            key: The routing key.
            exchange: A headers exchange, to which publishers write the key as a plain header, and which is to route to the queue by itself.

        Raises:
            HandoverError: If messages of such a queue cannot be handed over, or if there is no such queue.
        """
        arguments = dict(declared.get("arguments") or {})
        check_queue(base, arguments)

        async def step(channel: Any) -> None:
            if await _state(channel, base) is None:
                raise HandoverError(
                    f"RabbitMQ has no queue {base}, which is said to be the baseline's; start the baseline first, or correct the name"
                )
            await channel.declare_exchange(names.back, aio_pika.ExchangeType.FANOUT, durable=True)
            await (await channel.get_underlay_channel()).queue_bind(base, names.back)
            forward = await channel.declare_exchange(
                names.exchange, aio_pika.ExchangeType.FANOUT, durable=True, arguments={"alternate-exchange": names.back}
            )
            own = sandbox_arguments(names, arguments)
            if own.get("x-dead-letter-routing-key") == names.dead:
                kind = {"x-queue-type": arguments["x-queue-type"]} if "x-queue-type" in arguments else {}
                await channel.declare_queue(names.dead, durable=True, arguments={**kind, "x-max-length": own["x-max-length"]})
            queue = await channel.declare_queue(names.queue, durable=True, arguments=own)
            await queue.bind(forward, "")
            if exchange:
                try:
                    await queue.bind(exchange, "", arguments=_binding(key))
                except ChannelNotFoundEntity as error:
                    raise HandoverError(
                        f"RabbitMQ has no exchange {exchange}, which is said to route to {base}; declare it first, or correct the name"
                    ) from error

        try:
            self._session.run(step)
        except QueueError as error:
            if not isinstance(error.__cause__, ChannelPreconditionFailed):
                raise
            raise HandoverError(
                f"{names.queue} is there with other options than {base} has now ({error.__cause__}); it is left from a create that was given "
                "up: see that it is empty, delete it, and run the same again"
            ) from error

    def close_in(self, names: Names, *, key: RoutingKey, exchange: str = "") -> None:
        """
        Let nothing more into a sandbox's queue: what is still sent there goes back to the baseline's.

        Args:
            names: The sandbox's names.
            key: The routing key.
            exchange: The headers exchange that routes to it, if there is one.
        """

        async def step(channel: Any) -> None:
            raw = await channel.get_underlay_channel()
            # To unbind what is not bound, or not there, is no error.
            if exchange:
                await raw.queue_unbind(names.queue, exchange, arguments=_binding(key))
            await raw.queue_unbind(names.queue, names.exchange)

        self._session.run(step)

    def remove(self, names: Names) -> None:
        """
        Delete a sandbox's queue, which is empty, with what led to it; what is gone already is no error.

        Raises:
            QueueError: If the lock is not held, or the broker does not answer.
        """

        async def step(channel: Any) -> None:
            for queue in (names.queue, names.dead):  # nor is it to delete what is not there
                await channel.queue_delete(queue)
            for exchange in (names.exchange, names.back):
                await channel.exchange_delete(exchange)

        self._session.run(step, lock=names.lock)
        self.unlock(names)

    # What is left

    def lock(self, names: Names) -> int:
        """
        Be the only one who moves what is left, for as long as the connection lives.

        Returns:
            A number, another one each time that we become so, or 0 where somebody else is.
        """
        return self._session.lock(names.lock)

    def unlock(self, names: Names) -> None:
        """
        Let others move what is left.
        """
        self._session.unlock(names.lock)

    def move(self, base: str, names: Names, policy: Literal["baseline", "drop"], *, seconds: float = 5.0) -> Moved:
        """
        Take out of a sandbox's queue what nobody has in his hands, each message acknowledged only once the broker has confirmed it elsewhere.

        Args:
            base: The baseline's queue.
            names: The sandbox's names.
            policy: Whether it goes back to the baseline's queue, or nobody handles it.
            seconds: When to stop, whatever is left.

        Raises:
            QueueError: If the lock is not held, or the broker does not answer, or takes a message back; what was not moved is still there.
        """

        async def step(channel: Any) -> Moved:
            moved = Moved()
            until = asyncio.get_running_loop().time() + seconds
            queue = await channel.get_queue(names.queue, ensure=False)
            while asyncio.get_running_loop().time() < until:
                try:
                    message = await asyncio.wait_for(queue.get(fail=False, timeout=TIMEOUT), TIMEOUT)
                except ChannelNotFoundEntity:
                    break
                if message is None:
                    break
                if policy == "baseline":
                    await asyncio.wait_for(_publish_back(channel, base, message), TIMEOUT)
                await asyncio.wait_for(message.ack(), TIMEOUT)
                went = (1, 0) if policy == "baseline" else (0, 1)
                moved = Moved(moved.returned + went[0], moved.dropped + went[1])
            return moved

        return self._session.run(step, lock=names.lock, timeout=seconds + 3 * TIMEOUT)

    def close(self) -> None:
        """
        Give the connection back.
        """
        self._session.close()


async def _state(channel: Any, queue: str) -> QueueState | None:
    try:
        found = await channel.declare_queue(queue, passive=True)
    except ChannelNotFoundEntity:
        return None
    result = found.declaration_result
    return QueueState(result.message_count or 0, result.consumer_count or 0)


def _binding(key: RoutingKey) -> dict[str, Any]:
    return {"x-match": "all", "sd-routing-key": str(key)}


async def _publish_back(channel: Any, base: str, message: Any) -> None:
    properties = message.properties
    properties.headers = copy_headers(
        message.headers,
        epoch=0,
        exchange=message.exchange or "",
        amqp_routing_key=message.routing_key or "",
        user_id=message.user_id,
        message_id=message.message_id,
    )
    properties.user_id, properties.message_id = None, uuid.uuid4().hex
    underlay = await channel.get_underlay_channel()
    try:
        await underlay.basic_publish(message.body, exchange="", routing_key=base, properties=properties, mandatory=True)
    except PublishError as error:
        raise QueueError(f"RabbitMQ has no queue {base} any more, to which messages are to go back; declare it again") from error
    except DeliveryError as error:
        raise QueueError(f"{base} takes no messages, such as go back to it now; see whether it is full") from error
