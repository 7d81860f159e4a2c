"""
The controller's connection to RabbitMQ: in a thread of its own, a channel for each step, and locks that last as long as the connection.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from ..._optional import extra
from ...errors import HandoverError

with extra("rabbitmq", "aio_pika"):
    import aio_pika
    from aio_pika.exceptions import AMQPError
    from aiormq.exceptions import ChannelLockedResource
    from yarl import URL

__all__ = ["TIMEOUT", "QueueError", "Session"]

T = TypeVar("T")

#: How long the broker may take for an answer, in seconds.
TIMEOUT = 10.0
# How soon the broker notices that a controller's machine is gone, and gives its locks and what it had in its hands to others, in seconds.
_HEARTBEAT = 10

# What a step may end with because the broker, or the way to it, is not as it should be. A task that waits for an answer when its connection
# is lost may be told by a cancellation, or by a bare Exception.
_BROKEN = (AMQPError, ConnectionError, OSError, asyncio.TimeoutError, RuntimeError, asyncio.InvalidStateError)


class QueueError(HandoverError):
    """
    RabbitMQ does not answer, or not as it should; nothing was lost.
    """


class Session:
    """
    A connection that is made anew when it is lost.

    A lock is an exclusive queue, which the broker deletes with the connection: whoever asks for it afterwards gets it. So a lock counts
    only on the connection on which it was taken, and what it guards is done on that one, or not at all.

    Args:
        url: ``amqp://user:password@host:5672/vhost``, or ``amqps``.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._connection: Any = None
        # Of the locks that are held on this connection, how many had been taken before.
        self._locks: dict[str, int] = {}
        self._taken = 0

    def run(self, step: Callable[[Any], Coroutine[Any, Any, T]], *, lock: str = "", timeout: float | None = 3 * TIMEOUT) -> T:
        """
        Take a step on a channel of its own; what it had in its hands when it fails goes back to its queue.

        Args:
            step: The step.
            lock: A lock under which it is to be taken.
            timeout: How long it may take, in seconds.

        Raises:
            QueueError: If the broker does not answer as it should, or the lock is not held any more.
        """
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="tenancy-rabbitmq", daemon=True)
            self._thread.start()
        future = asyncio.run_coroutine_threadsafe(self._run(step, lock, timeout), self._loop)
        try:
            return future.result()
        except HandoverError:
            raise
        except (*_BROKEN, concurrent.futures.CancelledError) as error:
            raise QueueError(f"RabbitMQ does not answer as it should: {error!r}") from error
        except BaseException as error:
            future.cancel()  # who is interrupted must not go on in another thread
            if type(error) is Exception:
                raise QueueError("the connection to RabbitMQ was lost") from error
            raise

    def lock(self, name: str) -> int:
        """
        Take a lock, unless it is ours already.

        Returns:
            A number that is another one each time that it is taken; 0: somebody else has it.
        """

        async def step(channel: Any) -> int:
            held = self._locks.get(name)
            if held is None:
                try:
                    await channel.declare_queue(name, exclusive=True)
                except ChannelLockedResource:
                    return 0
                self._taken += 1
                held = self._locks[name] = self._taken
            return held

        return self.run(step)

    def unlock(self, name: str) -> None:
        """
        Let somebody else have a lock.
        """
        if name not in self._locks:
            return

        async def step(channel: Any) -> None:
            if self._locks.pop(name, None) is not None:
                await channel.queue_delete(name)

        self.run(step)

    def close(self) -> None:
        """
        Give the connection back.
        """
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is None or thread is None:
            return
        with suppress(Exception, concurrent.futures.CancelledError):
            asyncio.run_coroutine_threadsafe(self._drop(), loop).result(2 * TIMEOUT)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(TIMEOUT)
        if not thread.is_alive():
            loop.close()

    async def _run(self, step: Callable[[Any], Coroutine[Any, Any, T]], lock: str, timeout: float | None) -> T:
        channel = await asyncio.wait_for(self._channel(), 3 * TIMEOUT)
        if lock and lock not in self._locks:
            await self._give_back(channel)
            raise QueueError(f"the lock {lock} was lost with its connection")
        try:
            return await asyncio.wait_for(step(channel), timeout)
        except (asyncio.TimeoutError, asyncio.CancelledError):
            await self._drop()  # it may have anything in its hands
            raise
        finally:
            await self._give_back(channel)

    async def _channel(self) -> Any:
        if not self._lives():
            await self._drop()
            url = URL(self._url)
            url = url if "heartbeat" in url.query else url.update_query(heartbeat=_HEARTBEAT)
            self._connection = await aio_pika.connect(
                url, timeout=TIMEOUT, client_properties={"connection_name": "tenancy controller"}
            )
        channel = self._connection.channel(publisher_confirms=True, on_return_raises=True)
        try:
            await channel.initialize(timeout=TIMEOUT)
        except BaseException:
            await self._drop()
            raise
        return channel

    def _lives(self) -> bool:
        # A connection of aio-pika that was lost is not "closed" by its own account, as long as nobody has closed it.
        transport = None if self._connection is None else self._connection.transport
        return transport is not None and not self._connection.is_closed and not transport.connection.is_closed

    async def _give_back(self, channel: Any) -> None:
        if not channel.is_closed:
            try:
                await asyncio.wait_for(channel.close(), TIMEOUT)
            except Exception:  # noqa: BLE001 - then all of the connection goes
                await self._drop()

    async def _drop(self) -> None:
        """
        Give up the connection, and with it what it has in its hands, and its locks.
        """
        connection, self._connection = self._connection, None
        self._locks.clear()
        if connection is not None:
            with suppress(Exception):
                await asyncio.wait_for(connection.close(), TIMEOUT)
