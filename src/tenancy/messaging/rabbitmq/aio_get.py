"""
Getting messages one by one with aio-pika, as ``queue.get`` does.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ..._optional import extra
from .aio_source import Source
from .aio_wiring import FOLLOW_EVERY, Wiring, comes_back, ended
from .choice import Choice, Life

with extra("rabbitmq", "aio_pika"):
    from aio_pika.exceptions import ChannelNotFoundEntity

__all__ = ["Getting"]


class Getting:
    """
    Who gets messages one by one is known to the broker as a consumer is, for each queue, as long as he may have one of it in his hands: that
    keeps a sandbox's queue alive.

    Args:
        wiring: The queue.
    """

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._known: dict[Life | None, Source] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None
        self._taking_up = asyncio.Lock()

    async def get(self, timeout: float | None) -> Any:
        """
        Return the next message that is this process's, or None where there is none.

        Args:
            timeout: Seconds to wait for the broker, and for it to be said whose a message is.
        """
        await self._take_up()
        for life, known in tuple(self._known.items()):
            message = await self._get(life, known, timeout)
            self._wiring.choices.report()
            if message is not None:
                return message
        return None

    async def _take_up(self) -> None:
        """
        Be known for the queues that are this process's now, and for no others.
        """
        wiring = self._wiring
        async with self._taking_up:
            lives: set[Life | None] = {None} if wiring.choices.baseline else set(wiring.choices.lives())
            lost = {
                life for life, source in self._known.items() if source.queue.channel.is_closed and not comes_back(wiring.connection)
            }
            for life in (self._known.keys() - lives) | lost:
                leaving = asyncio.create_task(self._known.pop(life).close())
                self._leaving.add(leaving)
                leaving.add_done_callback(self._leaving.discard)
            for life in lives - self._known.keys():
                self._known[life] = await self._source(life)
            if self._following is None:
                self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """
        Be known no more, and give back what is not acknowledged.
        """
        await ended(self._following)
        for leaving in self._leaving:
            leaving.cancel()
        await asyncio.gather(*(source.close(wait=False) for source in self._known.values()), *self._leaving, return_exceptions=True)
        self._known.clear()

    async def _source(self, life: Life | None) -> Source:
        wiring = self._wiring
        queue = wiring.base
        if life is not None:
            queue = await (await wiring.channel()).get_queue(life.names.queue, ensure=False)
        source = wiring.source(queue, life, _nobody, gets=True)
        await source.keep_known(wiring.connection)
        return source

    async def _get(self, life: Life | None, known: Source, timeout: float | None) -> Any:
        async def give(message: Any, _: Choice, __: Source) -> None:
            found.append(message)

        queue = known.queue
        with known.taking() as found:
            source = self._wiring.source(queue, life, give)
            while not (found or known.leaving or source.leaving):
                try:
                    message = await queue.get(fail=False, timeout=timeout)
                except ChannelNotFoundEntity:
                    break  # a sandbox's queue that is gone, or not there yet
                if message is None:
                    break
                waiting = asyncio.create_task(source.decide(message))
                done, _ = await asyncio.wait({waiting}, timeout=timeout)
                if not done:
                    source.leaving = True  # it goes back to its queue
                await waiting
            return found[0] if found else None

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_EVERY)
            try:
                for source in tuple(self._known.values()):
                    await source.keep_known(self._wiring.connection)
                await self._take_up()
            except Exception as error:  # noqa: BLE001 - the connection is on its way back, or closed for good; the client has a bare Exception, too
                logging.getLogger("tenancy").debug(
                    "who gets from %s could not be made known: %r", self._wiring.choices.queue, error
                )


async def _nobody(message: Any, choice: Choice, source: Source) -> None:
    """
    Get nothing: this source only makes known.
    """
