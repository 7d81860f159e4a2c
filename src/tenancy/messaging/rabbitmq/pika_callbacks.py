"""
A selective channel on one of pika's connections that call back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ...errors import ConfigurationError
from .pika_channel import Callback, Selective
from .pika_steps import run
from .pika_wire import GONE, CallbackWire

__all__ = ["CallbackSelective"]

# How often it is looked whether all is acknowledged.
_LOOK_EVERY = 0.05


class CallbackSelective(Selective):
    """
    What `SelectiveAsyncChannel` does; that one reads the settings.
    """

    _wire: CallbackWire

    def open(self, on_open: Callable[[Any], None], on_error: Callable[[Any, Exception], None] | None) -> None:
        """
        Wait for the route table, and declare the queue, where this is the baseline.

        Args:
            on_open: Is called with this channel when it can be used.
            on_error: Is called with this channel and the error when it cannot; default: the error is raised in the event loop.
        """

        async def opening() -> None:
            try:
                await self._wire.blocking(self._choices.wait_synced)
                await self._open()
            except Exception as error:
                if on_error is None:
                    raise
                on_error(self, error)
                return
            on_open(self)

        run(opening())

    def queue_bind(
        self,
        queue: str,
        exchange: str,
        routing_key: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        callback: Callable[[Any], None] | None = None,
    ) -> None:
        """
        Bind the baseline's queue, as pika's ``queue_bind`` does; a sandbox's gets what the baseline sends on, and needs no binding.
        """
        self._is_own(queue)
        if self._choices.baseline:
            self._channel.queue_bind(queue, exchange, routing_key, arguments, callback)
        elif callback is not None:
            self._wire.later(0, lambda: callback(None))

    def basic_qos(self, *, prefetch_count: int, callback: Callable[[Any], None] | None = None) -> None:
        """
        Say how many messages may be handed on and wait for an answer; as many more as may be kept are fetched.
        """
        if prefetch_count < 1:
            raise ConfigurationError(f"prefetch_count is {prefetch_count}; give 1 or more")
        self._prefetch = prefetch_count
        self._channel.basic_qos(prefetch_count=prefetch_count + self._hold, callback=callback)

    def add_on_close_callback(self, callback: Callable[[Any, Exception], None]) -> None:
        """
        Call *callback* with this channel and the reason when the broker or the connection closes it.
        """
        self._channel.add_on_close_callback(lambda _, reason: callback(self, reason))

    def basic_consume(
        self,
        queue: str,
        on_message_callback: Callback,
        auto_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        callback: Callable[[str], None] | None = None,
    ) -> str:
        """
        Call *on_message_callback* for each message that is this process's, with its routing key current. It gets this channel, the delivery,
        the properties and the body, and acknowledges on this channel.

        Args:
            queue: The queue that this channel is for.
            on_message_callback: The handler.
            auto_ack: Must be false.
            exclusive: Must be false.
            consumer_tag: As for pika's; a sandbox's consumers have tags of their own.
            arguments: As for pika's.
            callback: Is called with the tag when messages can come.

        Returns:
            What `basic_cancel` takes.

        Raises:
            ConfigurationError: For what would lose messages, or keep other instances from theirs; or if this channel consumes already.
        """
        self._check(queue, auto_ack=auto_ack, exclusive=exclusive, arguments=arguments)
        options: dict[str, Any] = {}
        if self._choices.baseline and consumer_tag is not None:
            options["consumer_tag"] = consumer_tag
        if arguments:
            options["arguments"] = dict(arguments)
        tag = self._tag = consumer_tag or f"tenancy.{id(self):x}"
        self._callback = on_message_callback

        async def starting() -> None:
            try:
                await self._consume(options)
            except GONE as error:
                logging.getLogger("tenancy").warning("%s cannot be consumed: %r", queue, error)
                self._stop()
                return
            if callback is not None:
                callback(tag)

        run(starting())
        return tag

    def basic_cancel(self, consumer_tag: str, callback: Callable[[str], None] | None = None) -> None:
        """
        End what `basic_consume` began; what was not begun goes back to its queue, and what was begun can be acknowledged still.

        Args:
            consumer_tag: What `basic_consume` returned.
            callback: Is called with the tag when all that was begun has been acknowledged.
        """
        if consumer_tag != self._tag:
            return
        self._stop()

        async def ending() -> None:
            while self._leaving:
                await self._wire.sleep(_LOOK_EVERY)
            if callback is not None:
                callback(consumer_tag)

        run(ending())

    def close(self, callback: Callable[[], None] | None = None) -> None:
        """
        End it; what is not acknowledged goes back to its queue.

        Args:
            callback: Is called when it is closed; only then close the connection, or the route store hears of it late.
        """

        async def closing() -> None:
            if not self._over:
                await self._close()
            if callback is not None:
                callback()

        run(closing())
