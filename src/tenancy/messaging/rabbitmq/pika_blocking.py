"""
A selective channel on a blocking connection of pika's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import ConfigurationError
from .pika_channel import Callback, Selective
from .pika_forward import Delivery
from .pika_steps import run
from .pika_wire import BlockingWire

__all__ = ["BlockingSelective"]

# How long the connection is read at a time, in seconds.
_READ = 1.0


class BlockingSelective(Selective):
    """
    What `SelectiveChannel` does; that one reads the settings.
    """

    _wire: BlockingWire

    def open(self) -> None:
        """
        Wait for the route table, and declare the queue, where this is the baseline.
        """
        self._choices.wait_synced()
        run(self._open())

    def queue_bind(
        self, queue: str, exchange: str, routing_key: str | None = None, arguments: Mapping[str, Any] | None = None
    ) -> None:
        """
        Bind the baseline's queue, as pika's ``queue_bind`` does; a sandbox's gets what the baseline sends on, and needs no binding.
        """
        self._is_own(queue)
        if self._choices.baseline:
            self._channel.queue_bind(queue, exchange, routing_key, arguments)

    def basic_qos(self, *, prefetch_count: int) -> None:
        """
        Say how many messages may be handed on and wait for an answer; as many more as may be kept are fetched.
        """
        if prefetch_count < 1:
            raise ConfigurationError(f"prefetch_count is {prefetch_count}; give 1 or more")
        self._prefetch = prefetch_count
        self._channel.basic_qos(prefetch_count=prefetch_count + self._hold)

    # A callback

    def basic_consume(
        self,
        queue: str,
        on_message_callback: Callback,
        auto_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str | None = None,
        arguments: Mapping[str, Any] | None = None,
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

        Returns:
            What `basic_cancel` takes.

        Raises:
            ConfigurationError: For what would lose messages, or keep other instances from theirs; or if this channel consumes already.
        """
        self._check(queue, auto_ack=auto_ack, exclusive=exclusive, arguments=arguments)
        self._callback = on_message_callback
        return self._begin_consuming(consumer_tag, arguments)

    def start_consuming(self) -> None:
        """
        Read the connection until `stop_consuming` or `basic_cancel`, or until the broker ends the baseline's consumer.
        """
        if not self._choices.baseline:
            while self._tag is not None:
                self._wire.connection.process_data_events(time_limit=_READ)
            return
        self._channel.start_consuming()

    def stop_consuming(self, consumer_tag: str | None = None) -> None:
        """
        End what `basic_consume` began; what was not begun goes back to its queue, and what was begun can be acknowledged still.
        """
        if consumer_tag in (None, self._tag):
            self._stop()

    def basic_cancel(self, consumer_tag: str) -> None:
        """
        Like `stop_consuming`.
        """
        self.stop_consuming(consumer_tag)

    # A generator

    def consume(
        self,
        queue: str,
        auto_ack: bool = False,
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
        inactivity_timeout: float | None = None,
        consumer_tag: str | None = None,
    ) -> Iterator[tuple[Any, Any, Any]]:
        """
        Return a generator of delivery, properties and body of each message that is this process's; call `cancel` when you leave it.

        The current context stays as it is; use ``with channel.scope(properties):`` around the handling.

        Args:
            queue: The queue that this channel is for.
            auto_ack: Must be false.
            exclusive: Must be false.
            arguments: As for pika's.
            inactivity_timeout: Seconds after which it yields three times None; default never.
            consumer_tag: As for pika's.

        Raises:
            ConfigurationError: As for `basic_consume`.
        """
        self._check(queue, auto_ack=auto_ack, exclusive=exclusive, arguments=arguments)
        self._begin_consuming(consumer_tag, arguments)
        return self._generate(self._run, inactivity_timeout)

    def _generate(self, running: object, timeout: float | None) -> Iterator[tuple[Any, Any, Any]]:
        asked = time.monotonic()
        while self._run is running:
            found = self._next()
            if found is not None:
                yield self._handed_on(found[0])
                asked = time.monotonic()
                continue
            left = _READ if timeout is None else asked + timeout - time.monotonic()
            if left <= 0:
                yield None, None, None
                asked = time.monotonic()
                continue
            self._wire.connection.process_data_events(time_limit=min(left, _READ))
            if self._choices.baseline and self._run is running and not self._sources:
                if not self._channel.is_open:
                    self._channel.basic_qos()  # raises what pika does
                self._stop()  # the broker has ended the consumer

    def cancel(self) -> int:
        """
        End the generator; what it did not yield goes back to its queue.

        Returns:
            How many messages that were.
        """
        return self._stop()

    # One by one

    def basic_get(self, queue: str, auto_ack: bool = False) -> tuple[Any, Any, Any]:
        """
        Return delivery, properties and body of the next message that is this process's, or three times None where there is none now; others
        are sent on, on the way there, and what cannot be decided yet is kept for a later call.

        Args:
            queue: The queue that this channel is for.
            auto_ack: Must be false.

        Raises:
            ConfigurationError: As for `basic_consume`.
        """
        self._check(queue, auto_ack=auto_ack, exclusive=False, arguments=None)
        if self._run is None:
            run(self._consume(None))
        self._wire.connection.process_data_events(0)
        for source in tuple(self._sources.values()):
            while source.channel.is_open and source.undecided < self._hold:
                if not self._waiting:
                    method, properties, body = source.channel.basic_get(source.queue)
                    if method is None:
                        break
                    source.arrived(source.channel, method, properties, body)
                while self._waiting:
                    delivery, choice, _ = self._waiting.popleft()
                    if self._choices.stands(choice) and not delivery.source.leaving:
                        return self._handed_on(delivery)
                    delivery.source.decide(delivery)
        return None, None, None

    def close(self) -> None:
        """
        End it; what is not acknowledged goes back to its queue.
        """
        if not self._over:
            run(self._close())

    def __enter__(self) -> BlockingSelective:
        return self

    def __exit__(self, *error: object) -> None:
        if self._wire.connection.is_open:
            self.close()

    def _begin_consuming(self, consumer_tag: str | None, arguments: Mapping[str, Any] | None) -> str:
        if self._run is not None:
            self._stop()  # messages were got one by one
        options: dict[str, Any] = {}
        if self._choices.baseline and consumer_tag is not None:
            options["consumer_tag"] = consumer_tag
        if arguments:
            options["arguments"] = dict(arguments)
        self._tag = consumer_tag or f"tenancy.{id(self):x}"
        try:
            run(self._consume(options))
        except BaseException:
            self._stop()
            raise
        return self._tag

    def _handed_on(self, delivery: Delivery) -> tuple[Any, Any, Any]:
        self._hand_on(delivery)
        return delivery.method, delivery.properties, delivery.body
