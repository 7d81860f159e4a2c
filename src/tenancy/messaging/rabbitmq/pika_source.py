"""
One queue on the broker, consumed with pika: each message is handed on, sent on, or kept until it can be said whose it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.context import Context

from ...observe import warn_once
from ...routes import Action
from .choice import Choice, Choices
from .membership import REGISTER_EVERY, Membership
from .outcome import Outcome
from .pika_forward import Delivery, Forwarder
from .pika_steps import run
from .pika_wire import GONE, Wire

__all__ = ["Source"]

# How often it is looked whether a message that is kept can be decided on.
_LOOK_EVERY = 0.05
# What could not be sent on, or decided because something raised, is tried again after so many seconds.
_AGAIN = 1.0

#: Gets a message that is this process's, what was decided about it, and the context in which it is handled.
Give = Callable[[Delivery, Choice, Context], None]


class Source:
    """
    One queue on the broker.

    Args:
        choices: Decides.
        forwarder: Sends on.
        wire: The connection.
        channel: Where the queue is consumed.
        queue: The name of the queue.
        give: Gets what is this process's.
        hold: How many messages may be kept.
        epoch: The life of the key whose queue it is; 0: it is the baseline's.
        declared: With what options the queue was declared, where that is known.
    """

    def __init__(
        self,
        choices: Choices,
        forwarder: Forwarder,
        wire: Wire,
        channel: Any,
        queue: str,
        give: Give,
        *,
        hold: int,
        epoch: int = 0,
        declared: Mapping[str, Any] | None = None,
    ) -> None:
        self._choices = choices
        self._choose = choices.choose
        self._forwarder = forwarder
        self._wire = wire
        self.channel = channel
        self.queue = queue
        self._give = give
        self._hold = hold
        self._epoch = epoch
        self.tag: str | None = None
        #: Whether no message is begun any more.
        self.leaving = False
        #: How many messages are being sent on, or kept.
        self.undecided = 0
        self._member = Membership(choices, queue, declared)
        self._marked: Any = None
        self._registered = 0.0

    async def start(self, options: Mapping[str, Any] | None) -> None:
        """
        Make this consumer known, and start it.

        Args:
            options: As for ``basic_consume``; None: messages are got one by one.
        """
        self._member.gets = options is None
        await self.keep_known()
        if options is not None and not self.leaving:
            self.channel.add_on_cancel_callback(self._cancelled)
            self.tag = await self._wire.consume(self.channel, self.queue, self.arrived, options)
            if self.leaving:
                await self.cancel()

    async def keep_known(self) -> None:
        """
        Make sure that the broker and the route store know of this consumer; call it now and then.
        """
        if self._choices.source is None:  # tenancy is switched off
            return
        first = not self._registered
        if self._marked is None or not self._marked.is_open:
            channel = await self._wire.open()
            await self._wire.declare(channel, self._member.renew(), {"exclusive": True})
            self._marked = channel
            self._registered = 0.0
        now = time.monotonic()
        if not self._registered or now - self._registered > REGISTER_EVERY:
            self._registered = now
            if first:
                await self._wire.blocking(self._member.register)
            else:  # messages need not wait for it
                threading.Thread(target=self._member.register, name="tenancy-register", daemon=True).start()

    async def cancel(self) -> None:
        """
        Stop the consumer; what was not begun goes back to the queue.
        """
        self.leaving = True
        tag, self.tag = self.tag, None
        if tag is not None and self.channel.is_open:
            try:
                await self._wire.cancel(self.channel, tag)
            except GONE:
                return

    async def leave(self, busy: Callable[[Source], bool]) -> None:
        """
        Stop the consumer, wait until everything that was handed on is acknowledged, and be known no more.

        Args:
            busy: Says whether something that was handed on is not acknowledged yet.
        """
        await self.cancel()
        while self.channel.is_open and (self.undecided or busy(self)):
            await self._wire.sleep(_LOOK_EVERY)
        await self.forget()

    async def forget(self) -> None:
        """
        Be known no more; what is not acknowledged goes back to the queue.
        """
        self.leaving = True
        if self._epoch and self.channel.is_open:
            await self._quietly(self._wire.close(self.channel))
        marked, self._marked = self._marked, None
        if marked is not None and marked.is_open:
            await self._quietly(self._wire.delete(marked, self._member.mark))
            if marked.is_open:
                await self._quietly(self._wire.close(marked))
        await self._wire.blocking(self._member.unregister)

    def arrived(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        """
        Decide on a message that was delivered, and do what is to be done; a callback of pika's.
        """
        delivery = Delivery(self, channel, method, properties, body)
        try:
            choice = None if self.leaving else self._choose(properties.headers, epoch=self._epoch, exchange=method.exchange)
        except Exception:  # noqa: BLE001 - it is decided again, where what goes wrong is seen to
            choice = None
        if choice is not None and choice.verdict.action is Action.OWN:
            self._give(delivery, choice, self._choices.context(choice))
        else:
            self.decide(delivery, choice)

    def decide(self, delivery: Delivery, choice: Choice | None = None) -> None:
        """
        See to a message that is not simply handed on, as long as that takes.

        Args:
            delivery: The message.
            choice: What was decided just now, if anything was.
        """
        run(self._settle(delivery, choice))

    async def _settle(self, delivery: Delivery, choice: Choice | None) -> None:
        self.undecided += 1
        try:
            found = await self._decided(delivery, choice)
        finally:
            self.undecided -= 1
        if found is not None:
            self._give(delivery, found, self._choices.context(found))

    def _chosen(self, delivery: Delivery, returned: int) -> Choice | None:
        """
        Decide on a message; None where that raises, as a function for *accept* may.
        """
        try:
            headers, exchange = delivery.properties.headers, delivery.method.exchange
            return self._choices.choose(headers, epoch=self._epoch, returned=returned, exchange=exchange)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing may be lost by it
            warn_once(
                f"undecided:{type(error).__qualname__}",
                "%s: whose a message of %s is could not be decided: %r. It is kept until that is mended. Further ones are not logged.",
                self._choices.adapter,
                self.queue,
                error,
            )
            return None

    async def _decided(self, delivery: Delivery, choice: Choice | None) -> Choice | None:
        kept, returned = False, 0
        try:
            while True:
                if self.leaving:
                    delivery.give_back()
                    return None
                if not delivery.channel.is_open:  # the broker has it back
                    return None
                if choice is None:
                    choice = self._chosen(delivery, returned)
                if choice is not None and choice.action is Action.OWN:
                    return choice
                if choice is not None and choice.action is Action.SKIP:
                    delivery.ack()
                    return None
                if choice is not None and choice.action is Action.FORWARD:
                    outcome = await self._forwarder.forward(delivery, choice.route)
                    if outcome is Outcome.SENT:
                        delivery.ack()
                        return None
                    if outcome is Outcome.RETURNED and choice.route is not None:
                        returned, choice = choice.route.generation, None
                        continue
                # It is kept, and not given back to come again: what is given back stands at the head of the queue, in the way of all others,
                # and a quorum queue counts how often it came.
                kept = True
                self._choices.hold(delivery)
                pause, choice = (_LOOK_EVERY if choice is not None and choice.verdict.held else _AGAIN), None
                await self._wire.sleep(pause)
        except GONE:
            return None
        finally:
            if kept:
                self._choices.unhold(delivery)

    def _cancelled(self, frame: Any) -> None:
        """
        The broker has ended the consumer, as it does where its queue is deleted.
        """
        if frame.method.consumer_tag == self.tag:
            self.tag = None

    async def _quietly(self, step: Any) -> None:
        try:
            await step
        except GONE:
            return
