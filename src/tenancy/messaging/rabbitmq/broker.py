"""
What the controller of sandboxes asks of RabbitMQ: a queue for one life of a key and what leads to it, and the way back of what is left.

Everything goes over AMQP 0-9-1; the broker's management interface is not needed.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

from ..._optional import extra
from ...errors import HandoverError
from ...key import RoutingKey
from .copies import copy_headers
from .names import Names
from .topology import check_queue, sandbox_arguments

with extra("rabbitmq", "aio_pika"):
    import aio_pika
    from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity, ChannelPreconditionFailed
    from aiormq.exceptions import ChannelLockedResource

__all__ = ["Moved", "QueueError", "QueueState", "RabbitBroker"]

T = TypeVar("T")

_TIMEOUT = 10.0
_BATCH = 100


class QueueError(HandoverError):
    """
    RabbitMQ does not answer, or not as it should; nothing was changed.
    """


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
        self._url = url
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Any = None
        # The locks that are held, by name: each is a queue that only its connection may use.
        self._locks: dict[str, Any] = {}

    # What there is

    def state(self, queue: str) -> QueueState | None:
        """
        Return what is in a queue and who reads it, or None where there is none of that name.

        Raises:
            QueueError: If the broker does not answer.
        """
        return self._run(lambda channel: self._state(channel, queue))

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

        return self._run(look)

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
            if await self._state(channel, base) is None:
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
                await queue.bind(exchange, "", arguments={"x-match": "all", "sd-routing-key": str(key)})

        try:
            self._run(step)
        except ChannelPreconditionFailed as error:
            raise HandoverError(
                f"{names.queue} is there with other options than {base} has now ({error}); it is left from a create that was given up: "
                "see that it is empty, delete it, and run the same again"
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
                await raw.queue_unbind(names.queue, exchange, arguments={"x-match": "all", "sd-routing-key": str(key)})
            await raw.queue_unbind(names.queue, names.exchange)

        self._run(step)

    def remove(self, names: Names) -> None:
        """
        Delete a sandbox's queue, which is empty, with what led to it; what is gone already is no error.

        Raises:
            QueueError: If the broker does not answer, or if we are not the only one who moves what is left; see `lock`.
        """

        async def step(_: Any) -> None:
            # On the lock's own channel: where the lock is lost, somebody else may have a message of the queue in his hands.
            held = self._held(names)
            for queue in (names.queue, names.dead):  # nor is it an error to delete what is not there
                await held.queue_delete(queue)
            for exchange in (names.exchange, names.back):
                await held.exchange_delete(exchange)

        self._run(step)
        self.unlock(names)

    # What is left

    def lock(self, names: Names) -> bool:
        """
        Be the only one who moves what is left, for as long as the connection lives; return whether we are.
        """
        if self.holds(names):
            return True

        async def step(channel: Any) -> bool:
            try:
                await channel.declare_queue(names.lock, exclusive=True)
            except ChannelLockedResource:
                return False
            self._locks[names.lock] = channel
            return True

        return self._run(step, keep=True)

    def holds(self, names: Names) -> bool:
        """
        Return whether we are the only one who moves what is left, as far as is known.
        """
        held = self._locks.get(names.lock)
        return held is not None and not held.is_closed

    def unlock(self, names: Names) -> None:
        """
        Let others move what is left.
        """
        held = self._locks.pop(names.lock, None)
        if held is not None and not held.is_closed:

            async def step(_: Any) -> None:
                await held.queue_delete(names.lock)
                await held.close()

            self._run(step)

    def move(
        self, base: str, names: Names, policy: Literal["baseline", "drop"], *, tell: Callable[[Moved], None] = lambda _: None
    ) -> Moved:
        """
        Take out of a sandbox's queue what nobody has in his hands, each message acknowledged only once the broker has confirmed it elsewhere.

        Args:
            base: The baseline's queue.
            names: The sandbox's names.
            policy: Whether it goes back to the baseline's queue, or nobody handles it.
            tell: Is told now and then what was moved so far.

        Raises:
            QueueError: If the broker does not answer, or takes a message back, or if we are not the only one who moves what is left; what
                was not moved is still in the queue.
        """

        async def step(channel: Any) -> Moved:
            moved = Moved()
            self._held(names)
            if await self._state(channel, names.queue) is None:
                return moved
            channel = await self._channel()
            queue = await channel.get_queue(names.queue, ensure=False)
            while (message := await queue.get(fail=False, timeout=_TIMEOUT)) is not None:
                if policy == "drop":
                    moved = moved._replace(dropped=moved.dropped + 1)
                else:
                    await _publish_back(channel, base, message)
                    moved = moved._replace(returned=moved.returned + 1)
                await message.ack()
                if (moved.returned + moved.dropped) % _BATCH == 0:
                    tell(moved)
            return moved

        return self._run(step, timeout=None)

    def close(self) -> None:
        """
        Give the connection back.
        """
        loop, self._loop = self._loop, None
        if loop is not None:
            if self._connection is not None:
                asyncio.run_coroutine_threadsafe(self._connection.close(), loop).result(_TIMEOUT)
            loop.call_soon_threadsafe(loop.stop)
        self._connection = None
        self._locks.clear()

    async def _state(self, channel: Any, queue: str) -> QueueState | None:
        try:
            found = await channel.declare_queue(queue, passive=True)
        except ChannelNotFoundEntity:
            return None
        result = found.declaration_result
        return QueueState(result.message_count or 0, result.consumer_count or 0)

    def _held(self, names: Names) -> Any:
        held = self._locks.get(names.lock)
        if held is None or held.is_closed:
            raise QueueError(f"the lock of {names.queue} is lost, and somebody else may have messages of it in his hands")
        return held

    async def _channel(self) -> Any:
        # A connection that was lost does not count as closed, which is what whoever has it would do.
        if self._connection is None or self._connection.is_closed or not self._connection.connected.is_set():
            self._locks.clear()  # with their connection
            self._connection = await aio_pika.connect(
                self._url, timeout=_TIMEOUT, client_properties={"connection_name": "tenancy controller"}
            )
        channel = self._connection.channel(publisher_confirms=True, on_return_raises=True)
        await channel.initialize(timeout=_TIMEOUT)
        return channel

    def _run(self, step: Callable[[Any], Coroutine[Any, Any, T]], *, keep: bool = False, timeout: float | None = 3 * _TIMEOUT) -> T:
        """
        Take a step on a channel of its own, in the thread of the connection.
        """
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="tenancy-rabbitmq", daemon=True).start()

        async def run() -> T:
            channel = await self._channel()
            try:
                return await asyncio.wait_for(step(channel), timeout)
            finally:
                if not keep and not channel.is_closed:
                    await channel.close()

        future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        try:
            return future.result()
        except (HandoverError, ChannelPreconditionFailed):
            raise
        except (AMQPError, ConnectionError, OSError, asyncio.TimeoutError, RuntimeError) as error:
            raise QueueError(f"RabbitMQ does not answer as it should: {error!r}") from error


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
    await underlay.basic_publish(message.body, exchange="", routing_key=base, properties=properties, mandatory=True)
