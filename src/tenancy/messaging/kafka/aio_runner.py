"""
`SelectiveConsumer.run` of aiokafka: one handler, several records at once, and commits of what is done alone.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Runner"]


class Runnable(Protocol):
    """
    What a runner needs of a consumer.
    """

    async def next_record(self, seconds: float) -> Any: ...

    def scope(self, record: Any) -> Any: ...

    def settle(self, record: Any) -> None: ...


# How long it takes at most until the failure of one handler keeps others from being started.
_STEP = 0.2


class Runner:
    """
    Calls a handler for each record, each in a task of its own.

    Args:
        consumer: Where records come from.
        handler: What handles one; it runs with the record's routing key current.
        workers: How many run at once.
    """

    def __init__(self, consumer: Runnable, handler: Callable[[Any], Any], workers: int) -> None:
        self._consumer = consumer
        self._handler = handler
        self._workers = workers
        self._running: dict[asyncio.Task[Any], Any] = {}
        self._failed: BaseException | None = None
        self.stopped = False

    async def run(self, ended: type[BaseException]) -> None:
        """
        Handle records until there will be no more; an exception of the handler ends it, once all that runs has ended.

        Args:
            ended: What the consumer raises once there will be no more.
        """
        try:
            while not self.stopped and self._failed is None:
                if len(self._running) >= self._workers:
                    await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                    continue
                try:
                    record = await self._consumer.next_record(_STEP)
                except ended:
                    break
                if record is not None:
                    task = asyncio.create_task(self._handle(record))
                    self._running[task] = record
                    task.add_done_callback(self._done)
            await self.finish()
        except BaseException:
            # We were cancelled, or the client failed: what was begun is not left behind unattended.
            for task in self._running:
                task.cancel()
            await self.finish()
            raise
        if self._failed is not None:
            raise self._failed

    async def finish(self, seconds: float | None = None) -> None:
        """
        Wait until nothing runs any more, as before a partition is given up; whoever calls it from a handler does not wait for himself.

        Args:
            seconds: How long to wait at most.
        """
        others = set(self._running) - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=seconds)

    async def _handle(self, record: Any) -> None:
        with self._consumer.scope(record):
            result = self._handler(record)
            if inspect.isawaitable(result):
                await result

    def _done(self, task: asyncio.Task[Any]) -> None:
        record = self._running.pop(task)
        error = asyncio.CancelledError("the handler was cancelled") if task.cancelled() else task.exception()
        if error is None:
            self._consumer.settle(record)
        elif self._failed is None:
            self._failed = error
