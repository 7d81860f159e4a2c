"""
`SelectiveConsumer.run`: one handler, one message at a time or several at once, and commits of what is done alone.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

__all__ = ["Runner"]


class Runnable(Protocol):
    """
    What a runner needs of a consumer.
    """

    def next_message(self) -> Any: ...

    def scope(self, message: Any) -> Any: ...

    def settle(self, message: Any) -> None: ...


class Runner:
    """
    Calls a handler for each message.

    Args:
        consumer: Where messages come from.
        handler: What handles one; it runs with the message's routing key current.
        workers: How many run at once, each in a thread; with 1 there is none.
    """

    def __init__(self, consumer: Runnable, handler: Callable[[Any], Any], workers: int) -> None:
        self._consumer = consumer
        self._handler = handler
        self._workers = workers
        self._running: dict[Future[Any], Any] = {}
        self._failed: BaseException | None = None
        self.stopped = False

    def run(self) -> None:
        """
        Handle messages until there will be no more; an exception of the handler ends it, once all that runs has ended.
        """
        if self._workers == 1:
            while not self.stopped and (message := self._consumer.next_message()) is not None:
                self._handle(message)
                self._consumer.settle(message)
            return
        with ThreadPoolExecutor(self._workers, thread_name_prefix="tenancy-handler") as pool:
            try:
                while not self.stopped and self._failed is None and (message := self._consumer.next_message()) is not None:
                    self._running[pool.submit(self._handle, message)] = message
                    self.collect(wait=len(self._running) >= 2 * self._workers)
            finally:
                self.finish()
        if self._failed is not None:
            raise self._failed

    def finish(self) -> None:
        """
        Wait until nothing runs any more, as before a partition is given up.
        """
        while self._running:
            self.collect(wait=True)

    def collect(self, *, wait: bool = False) -> None:
        """
        Settle what has ended.

        Args:
            wait: Whether to wait until something has.
        """
        if not self._running:
            return
        done, _ = futures.wait(self._running, timeout=None if wait else 0, return_when=futures.FIRST_COMPLETED)
        for future in done:
            message = self._running.pop(future)
            error = future.exception()
            if error is None:
                self._consumer.settle(message)
            elif self._failed is None:
                self._failed = error

    def _handle(self, message: Any) -> None:
        try:
            with self._consumer.scope(message):
                self._handler(message)
        except BaseException:
            self.stopped = True  # whoever waits for the next message is to come back
            raise
