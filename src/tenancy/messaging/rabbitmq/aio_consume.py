"""
Consuming with aio-pika: the baseline's queue, or a sandbox's as they come and go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from .aio_forward import close_channel
from .aio_source import Give, Source
from .aio_wiring import FOLLOW_EVERY, Wiring, ended
from .choice import Life

__all__ = ["Consumption"]

# For so many seconds after a connection is there again its channels may be under restoration.
_COMES_BACK = 10.0


class Consumption:
    """
    What one call of `SelectiveQueue.consume` began.

    Args:
        wiring: The queue.
        give: Gets what is this process's.
        options: As for ``queue.consume``.
    """

    def __init__(self, wiring: Wiring, give: Give, options: Mapping[str, Any]) -> None:
        self._wiring = wiring
        self._give = give
        self._options = dict(options)
        self._sources: dict[Life | None, Source] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        # Channels that were closed, and since when they might have come back.
        self._closed: dict[Any, float] = {}
        self._following: asyncio.Task[None] | None = None
        self.tag = ""

    def sources(self) -> list[Source]:
        """
        Return the queues that are consumed.
        """
        return list(self._sources.values())

    async def start(self) -> None:
        """
        Begin.
        """
        wiring = self._wiring
        if wiring.choices.baseline:
            self._sources[None] = source = wiring.source(wiring.base, None, self._give)
            self.tag = await source.start(wiring.connection, **self._options)
        else:
            self.tag = self._options.pop("consumer_tag", None) or f"tenancy.{id(self):x}"
            await self._take_up()
        self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """
        End, and wait for what is being handled.
        """
        await ended(self._following)
        sources, self._sources = list(self._sources.values()), {}
        await asyncio.gather(*(source.close() for source in sources), *self._leaving)
        self._wiring.choices.report()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_EVERY)
            self._wiring.choices.report()
            try:
                for source in tuple(self._sources.values()):
                    await source.keep_known(self._wiring.connection)
                if not self._wiring.choices.baseline:
                    await self._keep_closed()
                    await self._take_up()
            except Exception as error:  # noqa: BLE001 - the connection is on its way back, or closed for good; the client has a bare Exception, too
                logging.getLogger("tenancy").debug(
                    "the consumers of %s could not be looked after: %r", self._wiring.choices.queue, error
                )

    async def _take_up(self) -> None:
        """
        Consume the queues that the table has for this sandbox, and no others.
        """
        wiring = self._wiring
        lives = set(wiring.choices.lives())
        for life in [life for life in self._sources if life is not None and life not in lives]:
            source = self._sources.pop(life)
            leaving = asyncio.create_task(self._leave(source))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        for life in lives - self._sources.keys():
            channel = None
            try:
                channel = await wiring.channel()
                queue = await channel.get_queue(life.names.queue)
                self._sources[life] = source = wiring.source(queue, life, self._give)
                await source.start(wiring.connection, **self._options)
            except Exception as error:  # noqa: BLE001 - it is not there yet, or the connection is on its way back; the client has a bare Exception
                failed = self._sources.pop(life, None)
                if failed is not None:
                    await failed.close()  # it may be known already
                await close_channel(channel)
                logging.getLogger("tenancy").debug("the queue %s is not there yet: %r", life.names.queue, error)

    async def _leave(self, source: Source) -> None:
        await source.close()
        self._closed[source.queue.channel] = asyncio.get_running_loop().time()

    async def _keep_closed(self) -> None:
        """
        Close channels again that have come back: a robust one that is closed amid its restoration is open afterwards, with its consumer.
        """
        now = asyncio.get_running_loop().time()
        for channel, since in tuple(self._closed.items()):
            if not channel.is_closed:
                await close_channel(channel)
            if not channel.is_closed or not self._wiring.connection.connected.is_set():
                self._closed[channel] = now
            elif now - since > _COMES_BACK:
                del self._closed[channel]
