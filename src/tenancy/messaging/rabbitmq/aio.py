"""
An ``aio_pika`` queue that hands on only what this process owns, sends on what is a sandbox's, and reads a sandbox's queues in their time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from ..._optional import extra
from ...context import attached, with_key
from .aio_consume import Consumption
from .aio_forward import GONE
from .aio_get import Getting
from .aio_source import Give, Source
from .aio_wiring import Wiring
from .choice import Choice, Choices
from .topology import check_consumer, check_declared

with extra("rabbitmq", "aio_pika"):
    from aio_pika.exceptions import QueueEmpty

__all__ = ["SelectiveIterator", "SelectiveQueue"]

Callback = Callable[[Any], Awaitable[Any]]


class SelectiveQueue:
    """
    A queue whose messages are this process's alone; made by `selective_queue`.

    The baseline consumes the queue that is named. What has a key that a sandbox forks it sends on to that sandbox's queue, and acknowledges
    once the broker has confirmed that; what cannot be decided yet it keeps, unacknowledged, until that can be said. A sandbox consumes the
    queues that the route table gives it, one for each of its keys, as they come and go; it never touches the baseline's.

    A message is handed on as it was published: exchange, ``routing_key``, properties and headers. The handler acknowledges it, as without
    this class. Receiving changes nothing about the current context, except for a callback of `consume`, which runs in the message's.
    """

    def __init__(
        self,
        connection: Any,
        choices: Choices,
        *,
        prefetch_count: int,
        hold: int,
        malformed: str,
        options: Mapping[str, Any],
    ) -> None:
        check_declared(choices.queue, options, prefetch_count=prefetch_count, hold=hold, malformed=malformed)
        self._choices = choices
        self._wiring = Wiring(connection, choices, prefetch_count, hold, malformed == "dead-letter", dict(options))
        self._running: list[Consumption] = []
        self._getting: Getting | None = None

    async def open(self) -> None:
        """
        Wait for the route table, and declare the queue, where this is the baseline.
        """
        await self._choices.synced()
        if self._choices.baseline:
            self._wiring.base = await (await self._wiring.opened()).declare_queue(self._choices.queue, **self._wiring.options)

    @property
    def name(self) -> str:
        """
        What the baseline calls the queue.
        """
        return self._choices.queue

    async def bind(self, *args: Any, **kwargs: Any) -> Any:
        """
        Bind the baseline's queue, as ``queue.bind`` does; a sandbox's gets what the baseline sends on, and needs no binding.
        """
        base = self._wiring.base
        return None if base is None else await base.bind(*args, **kwargs)

    async def consume(self, callback: Callback, **options: Any) -> str:
        """
        Call *callback* for each message that is this process's, with its routing key current, up to ``prefetch_count`` at once.

        Args:
            callback: A coroutine function of one message; it acknowledges it.
            options: As for ``queue.consume``: ``consumer_tag``, ``arguments``, ``timeout``.

        Returns:
            What `cancel` takes.

        Raises:
            ConfigurationError: For ``no_ack`` and ``exclusive``, which would lose messages, or keep other instances from theirs.
        """
        slots, choices = asyncio.Semaphore(self._wiring.prefetch), self._choices

        async def give(message: Any, choice: Choice, source: Source) -> None:
            await slots.acquire()
            try:
                if source.stands(choice):
                    with attached(choices.context(choice)):
                        try:
                            await callback(message)
                        except BaseException:
                            source.drop(message)
                            raise
                        if message.processed:
                            source.drop(message)
                    return
            finally:
                slots.release()
            await source.decide_again(message)  # it had to wait for those before it

        return (await self._begin(give, options)).tag

    def iterator(self, **options: Any) -> SelectiveIterator:
        """
        Return an asynchronous iterator over the messages that are this process's: ``async with queue.iterator() as messages: async for ...``.

        The current context stays as it is; use ``with queue.scope(message):`` around the handling.

        Args:
            options: As for ``queue.iterator``.
        """
        return SelectiveIterator(self._begin, self._end, options)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.iterator()

    async def run(self, handler: Callback, *, requeue: bool = False) -> None:
        """
        Handle messages, each with its routing key current, until this is cancelled; a message is acknowledged when its handler has returned.

        Args:
            handler: A coroutine function of one message. An exception of it is logged, and the message is rejected: it goes to the queue's
                dead-letter exchange, or nowhere if there is none.
            requeue: Whether it goes back to its queue instead, and comes again.
        """

        async def handle(message: Any) -> None:
            try:
                async with message.process(requeue=requeue, ignore_processed=True):
                    await handler(message)
            except GONE:
                raise
            except Exception:
                logging.getLogger("tenancy").exception("the handler of %s failed, and the message is rejected", self.name)

        tag = await self.consume(handle)
        try:
            await asyncio.Event().wait()
        finally:
            await self.cancel(tag)

    def scope(self, message: Any) -> AbstractContextManager[None]:
        """
        Return a context manager that makes a message's routing key current, or none where it has none.

        Args:
            message: A message that this queue handed on.
        """
        return attached(with_key(self._choices.key(message.headers)))

    async def get(self, *, no_ack: bool = False, fail: bool = True, timeout: float | None = 5.0) -> Any:
        """
        Return the next message that is this process's, as ``queue.get`` does; others are sent on, on the way there.

        Args:
            no_ack: Must be false.
            fail: Whether to raise where there is none, instead of returning None.
            timeout: Seconds to wait for the broker, and for it to be said whose a message is.

        Raises:
            aio_pika.exceptions.QueueEmpty: If there is none.
            ConfigurationError: For ``no_ack``.
        """
        check_consumer(self.name, None, no_ack=no_ack)
        if self._getting is None:
            self._getting = Getting(self._wiring)
        message = await self._getting.get(timeout)
        if message is None and fail:
            raise QueueEmpty
        return message

    async def cancel(self, consumer_tag: str) -> None:
        """
        End what `consume` began; what was not begun goes back to its queue.

        Args:
            consumer_tag: What `consume` returned.
        """
        for running in [running for running in self._running if running.tag == consumer_tag]:
            await self._end(running)

    async def close(self) -> None:
        """
        End all that `consume` began, wait for what is being handled, and give the channels back.
        """
        while self._running:
            await self._running.pop().close()
        getting, self._getting = self._getting, None
        if getting is not None:
            await getting.close()
        await self._wiring.close()

    async def __aenter__(self) -> SelectiveQueue:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def _begin(self, give: Give, options: Mapping[str, Any]) -> Consumption:
        refused = {name: options.get(name) for name in ("no_ack", "exclusive")}
        check_consumer(self.name, options.get("arguments"), **refused)
        running = Consumption(self._wiring, give, options)
        await running.start()
        self._running.append(running)
        return running

    async def _end(self, running: Consumption) -> None:
        if running in self._running:
            self._running.remove(running)
            await running.close()


class SelectiveIterator:
    """
    The messages of a `SelectiveQueue`, one after the other.
    """

    def __init__(
        self,
        begin: Callable[[Give, Mapping[str, Any]], Awaitable[Consumption]],
        end: Callable[[Consumption], Awaitable[None]],
        options: Mapping[str, Any],
    ) -> None:
        self._begin = begin
        self._end = end
        self._options = {name: value for name, value in options.items() if name != "timeout"}
        self._timeout = options.get("timeout")
        self._ready: asyncio.Queue[tuple[Any, Choice, Source]] = asyncio.Queue()
        self._running: Consumption | None = None
        self._deciding: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> SelectiveIterator:
        if self._running is None:
            self._running = await self._begin(self._put, self._options)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def __aiter__(self) -> SelectiveIterator:
        return self

    async def __anext__(self) -> Any:
        await self.__aenter__()
        while True:
            message, choice, source = await asyncio.wait_for(self._ready.get(), self._timeout)
            if source.stands(choice):
                return message
            deciding = asyncio.create_task(source.decide_again(message))
            self._deciding.add(deciding)
            deciding.add_done_callback(self._deciding.discard)

    async def close(self) -> None:
        """
        Stop consuming; what was not taken goes back to its queue.
        """
        running, self._running = self._running, None
        if running is not None:
            for source in running.sources():
                await source.cancel()
            while not self._ready.empty():
                message, _, _ = self._ready.get_nowait()
                try:
                    await message.nack(requeue=True)
                except GONE:
                    pass
            await self._end(running)

    async def _put(self, message: Any, choice: Choice, source: Source) -> None:
        self._ready.put_nowait((message, choice, source))
