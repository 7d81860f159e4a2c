"""
What the selective channels do on the broker, by the two kinds of pika's connections: one that blocks, and one that calls back.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol

from opentelemetry.context import set_value

from ..._optional import extra
from ...context import attached
from .outcome import Outcome
from .pika_steps import Wait

with extra("pika", "pika"):
    from pika.exceptions import AMQPError, ChannelWrongStateError, ConnectionWrongStateError, NackError, UnroutableError
    from pika.spec import Basic

__all__ = ["GONE", "BlockingWire", "CallbackWire", "Wire"]

#: What pika raises where a channel or connection is gone.
GONE = (AMQPError, ConnectionError)

# How often it is looked whether a thread has ended.
_LOOK_EVERY = 0.01


def _as_it_is() -> AbstractContextManager[None]:
    """
    What is published in here OpenTelemetry's instrumentation leaves alone: it would write what is current over the key of a copy.
    """
    return attached(set_value("suppress_instrumentation", True))


class Wire(Protocol):
    """
    A connection of either kind. What is awaited fails with one of `GONE` if the channel is closed meanwhile.
    """

    connection: Any

    async def open(self, *, prefetch: int = 0, confirm: bool = False) -> Any:
        """Open a channel."""

    async def close(self, channel: Any) -> None:
        """Close a channel; its messages go back to their queues."""

    async def declare(self, channel: Any, queue: str, options: Mapping[str, Any]) -> None:
        """Declare a queue."""

    async def delete(self, channel: Any, queue: str) -> None:
        """Delete a queue."""

    async def consume(self, channel: Any, queue: str, callback: Callable[..., None], options: Mapping[str, Any]) -> str:
        """Start a consumer and return its tag."""

    async def cancel(self, channel: Any, tag: str) -> None:
        """Stop a consumer; what was fetched and not given to its callback goes back to the queue."""

    async def publish(self, channel: Any, exchange: str, amqp_routing_key: str, body: bytes, properties: Any) -> Outcome:
        """Publish on a channel that was opened with *confirm*, and wait for what becomes of it."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def blocking(self, function: Callable[[], None]) -> None:
        """Call a function that does I/O of its own."""

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call a function after a time, where the connection calls its callbacks."""


class BlockingWire:
    """
    A ``pika.BlockingConnection``: all but `sleep` is over when it returns. Timers run while the connection is being read.

    Args:
        connection: The connection.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def open(self, *, prefetch: int = 0, confirm: bool = False) -> Any:
        channel = self.connection.channel()
        if prefetch:
            channel.basic_qos(prefetch_count=prefetch)
        if confirm:
            channel.confirm_delivery()
        return channel

    async def close(self, channel: Any) -> None:
        channel.close()

    async def declare(self, channel: Any, queue: str, options: Mapping[str, Any]) -> None:
        channel.queue_declare(queue, **options)

    async def delete(self, channel: Any, queue: str) -> None:
        channel.queue_delete(queue)

    async def consume(self, channel: Any, queue: str, callback: Callable[..., None], options: Mapping[str, Any]) -> str:
        tag: str = channel.basic_consume(queue, callback, **options)
        return tag

    async def cancel(self, channel: Any, tag: str) -> None:
        channel.basic_cancel(tag)

    async def publish(self, channel: Any, exchange: str, amqp_routing_key: str, body: bytes, properties: Any) -> Outcome:
        try:
            with _as_it_is():
                channel.basic_publish(exchange, amqp_routing_key, body, properties, mandatory=True)
        except UnroutableError:
            return Outcome.RETURNED
        except NackError:
            return Outcome.FAILED
        return Outcome.SENT

    async def sleep(self, seconds: float) -> None:
        wait = Wait()
        self.later(seconds, wait.set)
        await wait

    async def blocking(self, function: Callable[[], None]) -> None:
        function()

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        try:
            self.connection.call_later(seconds, callback)
        except (TypeError, ValueError) as error:
            if self.connection.is_open:
                raise
            # A connection that was lost has no timers, which pika says in a way of its own, other than for everything else.
            raise ConnectionWrongStateError("the connection is closed") from error


class CallbackWire:
    """
    A ``pika.SelectConnection``, or another one with an ``ioloop`` that has timers, such as ``AsyncioConnection``.

    Args:
        connection: The connection, which is open.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        # What is waited for on each channel, which nobody answers any more once it is closed.
        self._waiting: dict[Any, set[Wait]] = {}
        self._confirms: dict[Any, _Confirms] = {}

    async def open(self, *, prefetch: int = 0, confirm: bool = False) -> Any:
        wait = Wait()
        channel = self.connection.channel(on_open_callback=wait.set)
        self._waiting[channel] = {wait}
        channel.add_on_close_callback(self._closed)
        await wait
        self._waiting[channel].discard(wait)
        if prefetch:
            await self._call(channel, channel.basic_qos, prefetch_count=prefetch)
        if confirm:
            confirms = self._confirms[channel] = _Confirms()
            channel.add_on_return_callback(confirms.returned)
            await self._call(channel, functools.partial(channel.confirm_delivery, confirms.confirmed))
        return channel

    async def close(self, channel: Any) -> None:
        channel.close()

    async def declare(self, channel: Any, queue: str, options: Mapping[str, Any]) -> None:
        await self._call(channel, channel.queue_declare, queue, **options)

    async def delete(self, channel: Any, queue: str) -> None:
        await self._call(channel, channel.queue_delete, queue)

    async def consume(self, channel: Any, queue: str, callback: Callable[..., None], options: Mapping[str, Any]) -> str:
        answer = await self._call(channel, channel.basic_consume, queue, callback, **options)
        tag: str = answer.method.consumer_tag
        return tag

    async def cancel(self, channel: Any, tag: str) -> None:
        await self._call(channel, channel.basic_cancel, tag)

    async def publish(self, channel: Any, exchange: str, amqp_routing_key: str, body: bytes, properties: Any) -> Outcome:
        confirms = self._confirms.get(channel)
        if confirms is None:
            raise ChannelWrongStateError("Channel is closed.")
        with _as_it_is():
            channel.basic_publish(exchange, amqp_routing_key, body, properties, mandatory=True)
        outcome: Outcome = await confirms.expect(properties.message_id)
        return outcome

    async def sleep(self, seconds: float) -> None:
        wait = Wait()
        self.connection.ioloop.call_later(seconds, wait.set)
        await wait

    async def blocking(self, function: Callable[[], None]) -> None:
        errors: list[BaseException] = []

        def work() -> None:
            try:
                function()
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                errors.append(error)

        thread = threading.Thread(target=work, name="tenancy-pika", daemon=True)
        thread.start()
        while thread.is_alive():
            await self.sleep(_LOOK_EVERY)
        if errors:
            raise errors[0]

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        self.connection.ioloop.call_later(seconds, callback)

    async def _call(self, channel: Any, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        waiting = self._waiting.get(channel)
        if waiting is None:
            raise ChannelWrongStateError("Channel is closed.")
        wait = Wait()
        waiting.add(wait)
        try:
            method(*args, callback=wait.set, **options)
            return await wait
        finally:
            waiting.discard(wait)

    def _closed(self, channel: Any, reason: Exception) -> None:
        for wait in self._waiting.pop(channel, ()):
            wait.fail(reason)
        confirms = self._confirms.pop(channel, None)
        if confirms is not None:
            confirms.lost()


class _Confirms:
    """
    What became of the copies that were published on a channel.

    The broker counts them, from 1. One that it could not route it gives back *before* it confirms it
    (https://www.rabbitmq.com/docs/confirms#when-publishes-are-confirmed); by its ``message_id``, which no other has, it is known which.
    """

    def __init__(self) -> None:
        self._published = 0
        self._pending: dict[int, tuple[str, Wait]] = {}
        self._returned: set[str] = set()

    def expect(self, message_id: str) -> Wait:
        wait = Wait()
        self._published += 1
        self._pending[self._published] = message_id, wait
        return wait

    def returned(self, _channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        self._returned.add(properties.message_id)

    def confirmed(self, frame: Any) -> None:
        method = frame.method
        last = method.delivery_tag
        tags = [tag for tag in self._pending if tag <= last] if method.multiple else [last]
        ended = [self._pending.pop(tag) for tag in tags if tag in self._pending]
        with ExitStack() as steps:  # all are told, also if what follows from one raises, as a handler may
            for message_id, wait in reversed(ended):
                back = message_id in self._returned
                self._returned.discard(message_id)
                sent = Outcome.RETURNED if back else Outcome.SENT
                steps.callback(wait.set, sent if isinstance(method, Basic.Ack) else Outcome.FAILED)

    def lost(self) -> None:
        pending, self._pending = self._pending, {}
        for _, wait in pending.values():
            wait.set(Outcome.FAILED)
