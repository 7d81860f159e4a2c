"""
What a selective channel of pika's is, on either kind of connection: which queues it consumes, what it has handed on, and who gets it.
"""

from __future__ import annotations

import contextvars
import itertools
import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from opentelemetry.context import Context, attach, detach

from ...context import attached, with_key
from ...errors import ConfigurationError
from .choice import Choice, Choices, Life
from .copies import is_copy
from .pika_forward import Delivery, Forwarder, restore
from .pika_properties import publish
from .pika_source import Source
from .pika_steps import run
from .pika_wire import GONE, Wire
from .topology import check_consumer, check_declared

__all__ = ["Callback", "Selective"]

# How often it is looked whether a sandbox has another queue, and whether consumers are still known.
_FOLLOW_EVERY = 0.1

#: A handler of pika's: channel, method, properties and body.
Callback = Callable[[Any, Any, Any, bytes], Any]


class Selective:
    """
    What the selective channels have in common; it is made by them alone.
    """

    def __init__(
        self, wire: Wire, choices: Choices, *, prefetch_count: int, hold: int, malformed: str, options: Mapping[str, Any]
    ) -> None:
        check_declared(choices.queue, options, prefetch_count=prefetch_count, hold=hold, malformed=malformed)
        self._wire = wire
        self._choices = choices
        self._prefetch = prefetch_count
        self._hold = hold
        self._malformed = malformed
        self._options = dict(options)
        self._forwarder = Forwarder(wire, choices)
        self._sources: dict[Life | None, Source] = {}
        #: Of lives that are over; they wait for what was begun.
        self._leaving: set[Source] = set()
        self._channel: Any = None
        self._tag: str | None = None
        self._consuming: dict[str, Any] | None = None
        # Gets what is handed on; None: it is taken out of what waits.
        self._callback: Callback | None = None
        self._waiting: deque[tuple[Delivery, Choice, contextvars.Context]] = deque()
        self._pumping = False
        self._given: dict[int, Delivery] = {}
        self._tags = itertools.count(1)
        # What is being consumed now, as opposed to what was before.
        self._run: object | None = None
        self._over = False

    # What it is

    @property
    def connection(self) -> Any:
        """
        The connection.
        """
        return self._wire.connection

    @property
    def is_open(self) -> bool:
        """
        Whether it can be used.
        """
        return not self._over and self._channel is not None and self._channel.is_open

    @property
    def is_closed(self) -> bool:
        """
        Whether it cannot be used any more, or not yet.
        """
        return not self.is_open

    def scope(self, properties: Any) -> AbstractContextManager[None]:
        """
        Return a context manager that makes a message's routing key current, or none where it has none.

        Args:
            properties: The properties of a message that this channel handed on.
        """
        return attached(with_key(self._choices.key(properties.headers)))

    def basic_publish(self, exchange: str, routing_key: str, body: Any, properties: Any = None, mandatory: bool = False) -> None:
        """
        Publish a message that carries the current routing key; as for ``basic_publish`` of pika's channel.
        """
        publish(self._channel.basic_publish, exchange, routing_key, body, properties, mandatory)

    # Answers

    def basic_ack(self, delivery_tag: int = 0, multiple: bool = False) -> None:
        """
        Acknowledge a message, or with *multiple* all that were handed on before it as well; what is kept or sent on is never meant.

        Raises:
            ValueError: If no message with that tag waits for an answer.
        """
        answered = None if multiple or self._waiting else self._given.pop(delivery_tag, None)
        if answered is not None:
            answered.channel.basic_ack(answered.tag)
            return
        for delivery in self._answered(delivery_tag, multiple):
            delivery.channel.basic_ack(delivery.tag)

    def basic_nack(self, delivery_tag: int = 0, multiple: bool = False, requeue: bool = True) -> None:
        """
        Reject a message, or with *multiple* all that were handed on before it as well.

        Raises:
            ValueError: If no message with that tag waits for an answer.
        """
        for delivery in self._answered(delivery_tag, multiple):
            delivery.channel.basic_nack(delivery.tag, requeue=requeue)

    def basic_reject(self, delivery_tag: int = 0, requeue: bool = True) -> None:
        """
        Reject a message.

        Raises:
            ValueError: If no message with that tag waits for an answer.
        """
        for delivery in self._answered(delivery_tag, multiple=False):
            delivery.channel.basic_reject(delivery.tag, requeue=requeue)

    def _answered(self, tag: int, multiple: bool) -> list[Delivery]:
        given = self._given
        if multiple:
            found = [given.pop(each) for each in list(given) if not tag or each <= tag]
        elif tag in given:
            found = [given.pop(tag)]
        else:
            raise ValueError(
                f"no message of {self._choices.queue} with delivery tag {tag} waits for an answer; it may have had one"
            )
        if self._waiting:
            self._pump_soon()
        return found

    # What is handed on

    def _give(self, delivery: Delivery, choice: Choice, context: Context) -> None:
        """
        Get a message that is this process's, and begin it when its turn has come.
        """
        if choice.malformed and self._malformed == "dead-letter":
            delivery.channel.basic_reject(delivery.tag, requeue=False)
        elif self._callback is not None and not self._waiting and len(self._given) < self._prefetch:
            self._begin(delivery, context)
        else:
            self._waiting.append((delivery, choice, contextvars.copy_context()))

    def _begin(self, delivery: Delivery, context: Context) -> None:
        method, properties = delivery.method, delivery.properties
        if properties.headers and is_copy(properties.headers):
            restore(delivery)
        method.delivery_tag = tag = next(self._tags)
        self._given[tag] = delivery
        token = attach(context)
        try:
            self._callback(self, method, properties, delivery.body)  # type: ignore[misc]
        finally:
            detach(token)

    def _hand_on(self, delivery: Delivery) -> None:
        headers = delivery.properties.headers
        if headers and is_copy(headers):
            restore(delivery)
        delivery.method.delivery_tag = tag = next(self._tags)
        self._given[tag] = delivery

    def _next(self) -> tuple[Delivery, Choice, contextvars.Context] | None:
        """
        Return the first message of those that wait that is still to be begun here, if there is room for it.
        """
        while self._waiting and len(self._given) < self._prefetch:
            delivery, choice, context = self._waiting.popleft()
            if not delivery.channel.is_open:
                continue  # the broker has it back
            if self._choices.stands(choice) and not delivery.source.leaving:
                return delivery, choice, context
            # Meanwhile it may have become somebody else's.
            context.run(delivery.source.decide, delivery)
        return None

    def _pump_soon(self) -> None:
        if self._callback is not None and not self._pumping:
            self._pumping = True
            self._wire.later(0, self._pump)

    def _pump(self) -> None:
        self._pumping = False
        try:
            while (found := self._next()) is not None:
                delivery, choice, context = found
                context.run(self._begin_later, delivery, choice)
        finally:
            if self._waiting and len(self._given) < self._prefetch:
                self._pump_soon()

    def _begin_later(self, delivery: Delivery, choice: Choice) -> None:
        self._begin(delivery, self._choices.context(choice))

    def _busy(self, source: Source) -> bool:
        return any(delivery.source is source for delivery in self._given.values())

    def _give_back(self, source: Source | None = None) -> int:
        """
        Give back what waits, of one source or of all; return how much it was.
        """
        waiting, self._waiting = self._waiting, deque()
        back = 0
        for entry in waiting:
            if source is None or entry[0].source is source:
                entry[0].give_back()
                back += 1
            else:
                self._waiting.append(entry)
        return back

    # Which queues

    async def _open(self) -> None:
        """
        Open the channel, and declare the queue, where this is the baseline.
        """
        self._channel = await self._wire.open(prefetch=self._prefetch + self._hold)
        if self._choices.baseline:
            await self._wire.declare(self._channel, self._choices.queue, self._options)

    async def _consume(self, options: Mapping[str, Any] | None) -> None:
        """
        Consume what is this process's, from now on until `_stop`.

        Args:
            options: As for ``basic_consume``; None: messages are got one by one.
        """
        self._consuming = None if options is None else dict(options)
        self._run = running = object()
        if self._choices.baseline:
            declared = {name: value for name, value in self._options.items() if name in ("durable", "arguments")}
            await self._source(None, self._channel, declared).start(self._consuming)
        else:
            await self._take_up(running)
        run(self._follow(running))

    async def _follow(self, running: object) -> None:
        while self._run is running and self._wire.connection.is_open:
            self._choices.report()
            try:
                for life, source in tuple(self._sources.items()):
                    if self._is_gone(source):
                        del self._sources[life]
                        self._leave(source)
                    else:
                        await source.keep_known()
                if not self._choices.baseline:
                    await self._take_up(running)
            except GONE as error:
                logging.getLogger("tenancy").debug("a consumer of %s could not be looked after: %r", self._choices.queue, error)
            if self._wire.connection.is_open:
                await self._wire.sleep(_FOLLOW_EVERY)

    def _is_gone(self, source: Source) -> bool:
        return not source.channel.is_open or (self._consuming is not None and source.tag is None)

    async def _take_up(self, running: object) -> None:
        """
        Consume the queues that the table has for this sandbox, and no others.
        """
        lives = set(self._choices.lives())
        for life in [life for life in self._sources if life not in lives]:
            self._leave(self._sources.pop(life))
        for life in sorted(lives - self._sources.keys()):
            try:
                # A channel for each: one that is closed, because a queue is gone, must not take the others along.
                channel = await self._wire.open(prefetch=self._prefetch + self._hold)
                await self._wire.declare(channel, life.names.queue, {"passive": True})
                if self._run is not running:
                    await self._wire.close(channel)
                    return
                await self._source(life, channel, {}).start(self._consuming)
            except GONE as error:
                gone = self._sources.pop(life, None)
                if gone is not None:
                    self._leave(gone)
                logging.getLogger("tenancy").debug("the queue %s is not there yet: %r", life.names.queue, error)

    def _leave(self, source: Source) -> None:
        async def leave() -> None:
            try:
                await source.cancel()
                self._give_back(source)
                await source.leave(self._busy)
            except GONE:
                pass
            self._leaving.discard(source)
            # Of what the broker has taken back nobody waits for an answer.
            for tag in [tag for tag, delivery in self._given.items() if delivery.source is source and not source.channel.is_open]:
                del self._given[tag]
            if self._waiting:
                self._pump_soon()

        self._leaving.add(source)
        run(leave())

    def _source(self, life: Life | None, channel: Any, declared: Mapping[str, Any]) -> Source:
        source = Source(
            self._choices,
            self._forwarder,
            self._wire,
            channel,
            self._choices.queue if life is None else life.names.queue,
            self._give,
            hold=self._hold,
            epoch=0 if life is None else life.epoch,
            declared=declared,
        )
        self._sources[life] = source
        return source

    def _stop(self) -> int:
        """
        Begin nothing any more, and give back what was not begun; return how much that was.
        """
        self._run, self._tag, self._callback = None, None, None
        self._choices.report()
        sources, self._sources = list(self._sources.values()), {}
        back = self._give_back()
        for source in sources:
            self._leave(source)
        return back

    async def _close(self) -> None:
        self._over = True
        self._stop()
        for source in list(self._leaving):
            await source.forget()
        if self._wire.connection.is_open:
            try:
                await self._forwarder.close()
                if self._channel.is_open:
                    await self._wire.close(self._channel)
            except GONE:
                pass
        self._given.clear()

    # What is refused

    def _is_own(self, queue: str) -> None:
        if queue != self._choices.queue:
            raise ConfigurationError(
                f"this channel is for {self._choices.queue}, and {queue!r} was asked for; make a selective channel for each queue"
            )

    def _check(self, queue: str, *, auto_ack: bool, exclusive: bool, arguments: Mapping[str, Any] | None) -> None:
        self._is_own(queue)
        check_consumer(queue, arguments, auto_ack=auto_ack, exclusive=exclusive)
        if self._tag is not None:
            raise ConfigurationError(f"this channel consumes {queue} already; make another selective channel")
