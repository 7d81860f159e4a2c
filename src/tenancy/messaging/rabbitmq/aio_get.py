"""
``SelectiveQueue.get``: messages one by one, without a consumer that the broker knows of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from .aio_forward import GONE, Forwarder
from .aio_source import Source
from .choice import Choice, Choices, Life

__all__ = ["Getter"]

_FOLLOW_EVERY = 0.1

#: Gets a message that is this process's; returns whether it has answered it.
Answered = Callable[[Any, Choice], Awaitable[bool]]


class Getter:
    """
    Takes messages out of the baseline's queue, or out of a sandbox's as they come and go. Whoever takes the sandbox's queues away waits for
    what was got and is not acknowledged yet.

    Args:
        connection: The connection.
        choices: Decides.
        forwarder: Sends on.
        answered: Answers what the handler is not to see.
        hold: How many messages may be kept.
    """

    def __init__(self, connection: Any, choices: Choices, forwarder: Forwarder, answered: Answered, *, hold: int) -> None:
        self._connection = connection
        self._choices = choices
        self._forwarder = forwarder
        self._answered = answered
        self._hold = hold
        self._sources: dict[Life | None, Source] = {}
        self._found: list[Any] = []
        self._following: asyncio.Task[None] | None = None

    async def get(self, channel: Any, base: Any, timeout: float | None) -> Any:
        """
        Return the next message that is this process's, or None where there is none.

        Args:
            channel: A channel.
            base: The baseline's queue, where this is the baseline.
            timeout: Seconds to wait for the broker, and for it to be said whose a message is.
        """
        for life in [None] if self._choices.baseline else list(self._choices.lives()):
            source = self._sources.get(life)
            if source is None:
                queue = base if life is None else await channel.get_queue(life.names.queue, ensure=False)
                source = self._sources[life] = Source(
                    self._choices,
                    self._forwarder,
                    queue,
                    self._give,
                    hold=self._hold,
                    epoch=0 if life is None else life.epoch,
                    declared={"consumes": False},
                )
            if self._choices.source is not None:
                await source.keep_known(self._connection)
                if self._following is None:
                    self._following = asyncio.create_task(self._follow())
            while not self._found and (message := await source.queue.get(fail=False, timeout=timeout)) is not None:
                deciding = asyncio.create_task(source.decide(message))
                done, _ = await asyncio.wait({deciding}, timeout=timeout)
                if not done:
                    source.leaving = True  # it goes back to its queue
                await deciding
                if source.leaving:
                    source.leaving = False
                    break
            self._choices.report()
            if self._found:
                return self._found.pop()
        return None

    async def close(self) -> None:
        """
        Be known no more; the channel of what was got is closed already, and the broker has it back.
        """
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        while self._sources:
            await self._sources.popitem()[1].close()

    async def _give(self, message: Any, choice: Choice, _: Source) -> None:
        if not await self._answered(message, choice):
            self._found.append(message)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_FOLLOW_EVERY)
            lives = set(self._choices.lives())
            try:
                for life, source in tuple(self._sources.items()):
                    if life is None or life in lives or source.busy:
                        await source.keep_known(self._connection)
                    else:
                        del self._sources[life]
                        await source.close()
            except (*GONE, asyncio.TimeoutError):
                continue  # the connection is on its way back, or closed for good
