"""
One queue on the broker, consumed with aio-pika: each message is handed on, sent on, or kept until it can be said whose it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..._optional import extra
from ...observe import warn_once
from ...routes import Action
from .aio_forward import GONE, Forwarder, close_channel, restore
from .aio_frames import Frames
from .choice import Choice, Choices
from .copies import is_copy
from .membership import REGISTER_EVERY, Membership
from .outcome import Outcome

with extra("rabbitmq", "aio_pika"):
    from aio_pika import IncomingMessage
    from aio_pika.exceptions import ChannelInvalidStateError

__all__ = ["Give", "OwnedMessage", "Source"]

#: Gets a message that is this process's, what was decided about it, and the source, which decides again where the message has to wait.
Give = Callable[[Any, Choice, "Source"], Awaitable[None]]

# How often it is looked whether a message that is kept can be decided on.
_LOOK_EVERY = 0.05
# What could not be sent on, or decided because something raised, is tried again after so many seconds.
_AGAIN = 1.0


class OwnedMessage(IncomingMessage):
    """
    A message of which it was decided already that it is this process's. Instances have no room for more than that.
    """

    __slots__ = ()


class Source:
    """
    One queue on the broker.

    Args:
        choices: Decides.
        forwarder: Sends on.
        queue: The ``aio_pika`` queue.
        give: Gets what is this process's.
        hold: How many messages may be kept.
        rejects: Whether a message whose key is malformed is rejected.
        epoch: The life of the key whose queue it is; 0: it is the baseline's.
        declared: With what options the queue was declared, where that is known.
        gets: Whether messages are got from it one by one.
    """

    def __init__(
        self,
        choices: Choices,
        forwarder: Forwarder,
        queue: Any,
        give: Give,
        *,
        hold: int,
        rejects: bool,
        epoch: int = 0,
        declared: Mapping[str, Any] | None = None,
        gets: bool = False,
    ) -> None:
        self._choices = choices
        self._forwarder = forwarder
        self.queue = queue
        self._give = give
        self._hold = hold
        self._rejects = rejects
        self.epoch = epoch
        self.tag: str | None = None
        #: Whether no message is begun any more.
        self.leaving = False
        # What may still be acknowledged, by identity: messages can be equal.
        self._given: dict[int, Any] = {}
        # With so many it is looked which of them are acknowledged meanwhile.
        self._look_at = hold
        self._deciding = 0
        self._member = Membership(choices, queue.name, declared, gets=gets)
        self._connection: Any = None
        # The channel by which the mark was declared. A robust one comes back without it, so what is beneath tells whether it is there.
        self._marked: Any = None
        self._beneath: Any = None
        self._registered = 0.0
        self._frames: Frames | None = None

    async def start(self, connection: Any, **options: Any) -> str:
        """
        Make this consumer known, and start it; return its tag.

        Args:
            connection: The connection.
            options: As for ``queue.consume``.
        """
        await self.keep_known(connection)
        self.tag = await self.queue.consume(self.decide, **options)
        return self.tag

    async def keep_known(self, connection: Any) -> None:
        """
        Make sure that the broker and the route store know of this consumer, also after the connection was lost; call it now and then.
        """
        if self._choices.source is None:  # tenancy is switched off
            return
        self._connection = connection
        if self._beneath is None or self._beneath.is_closed:
            channel = connection.channel()
            await channel.initialize()
            # A robust channel would declare it again by the same name, which the broker may still have for the connection that was lost.
            options = {"robust": False} if hasattr(connection, "reconnect_callbacks") else {}
            await channel.declare_queue(self._member.renew(), exclusive=True, **options)
            lost, self._marked = self._marked, channel
            self._beneath = await channel.get_underlay_channel()
            self._registered = 0.0
            await close_channel(lost)
        now = asyncio.get_running_loop().time()
        if not self._registered or now - self._registered > REGISTER_EVERY:
            self._registered = now
            await asyncio.to_thread(self._member.register)

    async def cancel(self) -> None:
        """
        Stop the consumer; what was not begun goes back to the queue.
        """
        self.leaving = True
        tag, self.tag = self.tag, None
        if tag is not None:
            # Also on a channel that is lost just now: a robust one would come back with its consumer.
            try:
                await asyncio.wait_for(self.queue.cancel(tag), _AGAIN if self.queue.channel.is_closed else None)
            except (*GONE, asyncio.TimeoutError):
                pass

    async def close(self, *, wait: bool = True) -> None:
        """
        Stop the consumer, wait until everything that was handed on is acknowledged, and be known no more.

        Args:
            wait: Whether to wait for that.
        """
        if self._connection is not None:
            try:
                await self.keep_known(self._connection)  # also if the connection was lost just now, and is there again
            except (*GONE, asyncio.TimeoutError):
                pass  # then there is nothing in its hands either
        await self.cancel()
        while wait and self.busy:  # noqa: ASYNC110 - clients tell nobody of an acknowledgement
            await asyncio.sleep(_LOOK_EVERY)
        if self.epoch:  # before the mark: as long as that is there the queue is
            await close_channel(self.queue.channel)
        await asyncio.to_thread(self._member.unregister)
        if self._marked is not None and not self._marked.is_closed:
            try:
                await self._marked.queue_delete(self._member.mark)
            except GONE:
                pass
        await close_channel(self._marked)

    @property
    def busy(self) -> bool:
        """
        Whether a message that was handed on is not acknowledged yet, or one is being sent on.
        """
        self._given = _open(self._given)
        return bool(self._given or self._deciding or (self._frames is not None and self._frames.pending))

    @contextmanager
    def taking(self) -> Iterator[list[Any]]:
        """
        Wait at the end for what is taken meanwhile, and for the acknowledgement of what is put into the list.
        """
        taken: list[Any] = []
        self._deciding += 1
        try:
            yield taken
        finally:
            self._deciding -= 1
            self._given.update((id(message), message) for message in taken)

    def stands(self, choice: Choice) -> bool:
        """
        Return whether a message that was handed on, and is to be begun only now, is still this process's.
        """
        return not self.leaving and self._choices.stands(choice)

    def drop(self, message: Any) -> None:
        """
        Wait no more for the acknowledgement of a message: it was sent, or its handler has failed and nobody will send it.
        """
        self._given.pop(id(message), None)

    async def decide_again(self, message: Any) -> None:
        """
        Decide on a message that was handed on and not begun: it had to wait, and meanwhile it may have become somebody else's.
        """
        self.drop(message)
        await self.decide(message)

    async def decide(self, message: Any) -> None:
        """
        Decide on a message that was delivered, as long as that takes, and do what is to be done.
        """
        if self.leaving:  # it goes back to its queue, whosever it is
            await _answer(message.nack(requeue=True))
            return
        choice = self._choose(message, 0)
        if choice is None or choice.action is not Action.OWN:
            self._deciding += 1
            try:
                choice = await self._settled(message, choice)
            finally:
                self._deciding -= 1
            if choice is None:
                return
        if choice.malformed and self._rejects:
            await _answer(message.reject(requeue=False))
            return
        if is_copy(message.headers):
            restore(message)
        given = self._given
        given[id(message)] = message
        if len(given) > self._look_at:
            self._given = _open(given)
            self._look_at = 2 * len(self._given) + self._hold
        message.__class__ = OwnedMessage
        await self._give(message, choice, self)

    async def _settled(self, message: Any, choice: Choice | None) -> Choice | None:
        """
        Send a message on, or keep it until it can be said whose it is; return what was decided if it is this process's after all.
        """
        returned = 0
        try:
            while True:
                if self.leaving and (choice is None or choice.action is not Action.SKIP):
                    await _answer(message.nack(requeue=True))
                    return None
                if choice is not None and choice.action is Action.OWN:
                    return choice
                if choice is not None and choice.action is Action.SKIP:
                    await _answer(message.ack())
                    return None
                sent_on = choice is not None and choice.action is Action.FORWARD
                if choice is not None and sent_on:
                    outcome = await self._forwarder.forward(message, choice.route)
                    if outcome is Outcome.SENT:
                        self._ack(message)
                        return None
                    if outcome is Outcome.RETURNED and choice.route is not None:
                        returned = choice.route.generation
                        choice = self._choose(message, returned)
                        continue
                # It is kept, and not given back to come again: what is given back stands at the head of the queue, in the way of all others,
                # and a quorum queue counts how often it came.
                self._choices.hold(message)
                if self.leaving:
                    continue
                if _is_lost(message):
                    return None
                await asyncio.sleep(_AGAIN if choice is None or sent_on else _LOOK_EVERY)
                choice = self._choose(message, returned)
        finally:
            self._choices.unhold(message)

    def _ack(self, message: Any) -> None:
        """
        Acknowledge a message that nobody was given. Where its channel is gone the broker has taken it back already.
        """
        if _is_lost(message):
            return
        if self._frames is None or self._frames.channel is not message.channel:
            self._frames = Frames(message.channel)
        self._frames.ack(message.delivery_tag)

    def _choose(self, message: Any, returned: int) -> Choice | None:
        """
        Decide on a message; None where that raises, as a function for *accept* may.
        """
        try:
            return self._choices.choose(message.headers, epoch=self.epoch, returned=returned, exchange=message.exchange)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing may be lost by it
            warn_once(
                f"undecided:{type(error).__qualname__}",
                "%s: whose a message of %s is could not be decided: %r. It is kept until that is mended. Further ones are not logged.",
                self._choices.adapter,
                self.queue.name,
                error,
            )
            return None


def _open(messages: dict[int, Any]) -> dict[int, Any]:
    """
    Return those that are still to be acknowledged, and can be.
    """
    return {key: message for key, message in messages.items() if not message.processed and not _is_lost(message)}


def _is_lost(message: Any) -> bool:
    """
    Return whether the channel is closed that a message came by: the broker has it back.
    """
    try:
        return bool(message.channel.is_closed)
    except ChannelInvalidStateError:
        return True


async def _answer(answer: Awaitable[None]) -> None:
    """
    Send the broker an answer. Where its channel is gone the broker has taken the message back already.
    """
    try:
        await answer
    except GONE:
        return
