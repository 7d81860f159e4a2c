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
from ...errors import ConfigurationError, HandoverError
from .aio_forward import GONE, Forwarder, close_channel
from .aio_source import Source
from .choice import Choice, Choices, Life
from .topology import check_queue

with extra("rabbitmq", "aio_pika"):
    from aio_pika.exceptions import ChannelNotFoundEntity, QueueEmpty

__all__ = ["SelectiveIterator", "SelectiveQueue"]

# How often it is looked whether a sandbox has another queue, and whether the connection is another one.
_FOLLOW_EVERY = 0.1
# For so many seconds after a connection is there again its channels may be under restoration.
_COMES_BACK = 10.0

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
        if malformed not in ("ignore", "dead-letter"):
            raise ConfigurationError(f"malformed is {malformed!r}; use 'ignore' or 'dead-letter'")
        if prefetch_count < 1 or hold < 1:
            raise ConfigurationError(f"prefetch_count is {prefetch_count} and hold {hold}; give 1 or more of each")
        for name in ("exclusive", "passive", "auto_delete"):
            if options.get(name):
                raise ConfigurationError(
                    f"{name}=True cannot be used with {choices.queue}: its messages could not be handed over and taken back, since the queue "
                    "goes away by itself, or only this connection may use it. Declare a durable queue"
                )
        try:
            check_queue(choices.queue, options.get("arguments") or {})
        except HandoverError as error:
            raise ConfigurationError(str(error)) from error
        self._connection = connection
        self._choices = choices
        self._prefetch = prefetch_count
        self._hold = hold
        self._malformed = malformed
        self._options = dict(options)
        self._forwarder = Forwarder(connection, choices)
        self._running: list[_Consumption] = []
        self._channel: Any = None
        self._base: Any = None
        self._getting: _Getting | None = None

    async def open(self) -> None:
        """
        Wait for the route table, and declare the queue, where this is the baseline.
        """
        await self._choices.synced()
        if self._choices.baseline:
            self._base = await (await self._opened()).declare_queue(self._choices.queue, **self._options)

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
        if self._base is not None:
            return await self._base.bind(*args, **kwargs)
        return None

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
        slots, choices = asyncio.Semaphore(self._prefetch), self._choices

        async def give(message: Any, choice: Choice, source: Source) -> None:
            if choice.malformed and await self._dead_lettered(message):
                return
            async with slots:
                if choices.stands(choice) and not source.leaving:
                    with attached(choices.context(choice)):
                        try:
                            await callback(message)
                        except BaseException:
                            source.drop(message)
                            raise
                    return
            await source.decide_again(message)  # it had to wait for those before it

        return await self._consume(give, options)

    def iterator(self, **options: Any) -> SelectiveIterator:
        """
        Return an asynchronous iterator over the messages that are this process's: ``async with queue.iterator() as messages: async for ...``.

        The current context stays as it is; use ``with queue.scope(message):`` around the handling.

        Args:
            options: As for ``queue.iterator``.
        """
        return SelectiveIterator(self, options)

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
        self._check({"no_ack": no_ack})
        if self._getting is None:
            self._getting = _Getting(self)
        await self._getting.take_up()
        for known in self._getting.sources():
            message = await self._get(known, timeout)
            self._choices.report()
            if message is not None:
                return message
        if fail:
            raise QueueEmpty
        return None

    async def _get(self, known: Source, timeout: float | None) -> Any:
        """
        Get from one queue. Who gets is known to the broker as a consumer is: what he has in his hands keeps a sandbox's queue alive.
        """

        async def give(message: Any, choice: Choice, _: Source) -> None:
            if not (choice.malformed and await self._dead_lettered(message)):
                found.append(message)

        queue = known.queue
        with known.taking() as found:
            source = Source(self._choices, self._forwarder, queue, give, hold=self._hold, epoch=known.epoch)
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

    async def cancel(self, consumer_tag: str) -> None:
        """
        End what `consume` began; what was not begun goes back to its queue.

        Args:
            consumer_tag: What `consume` returned.
        """
        for running in [running for running in self._running if running.tag == consumer_tag]:
            self._running.remove(running)
            await running.close()

    async def close(self) -> None:
        """
        End all that `consume` began, wait for what is being handled, and give the channels back.
        """
        while self._running:
            await self._running.pop().close()
        getting, self._getting = self._getting, None
        if getting is not None:
            await getting.close()
        await self._forwarder.close()
        await close_channel(self._channel)

    async def __aenter__(self) -> SelectiveQueue:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def _consume(self, give: Any, options: Mapping[str, Any]) -> str:
        self._check(options)
        running = _Consumption(self, give, options)
        await running.start()
        self._running.append(running)
        return running.tag

    def _check(self, options: Mapping[str, Any]) -> None:
        for name, why in (
            ("no_ack", "the broker would forget messages at delivery that are yet to be sent on, or are kept"),
            ("exclusive", "other instances of this workload could not consume, and none could take the messages of one that dies"),
        ):
            if options.get(name):
                raise ConfigurationError(f"{name}=True cannot be used with {self.name}: {why}")
        if "x-stream-offset" in (options.get("arguments") or {}):
            check_queue(self.name, {"x-queue-type": "stream"})

    async def _dead_lettered(self, message: Any) -> bool:
        if self._malformed == "dead-letter":
            await message.reject(requeue=False)
            return True
        return False

    async def _opened(self) -> Any:
        if self._channel is None:
            channel = self._connection.channel()
            await channel.initialize()
            # Those that are handled, and beside them those that are kept: they must not be in the way of others.
            await channel.set_qos(prefetch_count=self._prefetch + self._hold)
            self._channel = channel
        return self._channel


class _Consumption:
    """
    What one call of `SelectiveQueue.consume` began: the baseline's queue, or a sandbox's as they come and go.
    """

    def __init__(self, owner: SelectiveQueue, give: Any, options: Mapping[str, Any]) -> None:
        self._owner = owner
        self._give = give
        self._options = dict(options)
        self._sources: dict[Life | None, Source] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        # Channels that were closed, and since when they might have come back.
        self._closed: dict[Any, float] = {}
        self._following: asyncio.Task[None] | None = None
        self.tag = ""

    async def start(self) -> None:
        owner = self._owner
        await owner._opened()
        if owner._choices.baseline:
            declared = {name: value for name, value in owner._options.items() if name in ("durable", "arguments")}
            source = self._source(owner._base, None, declared)
            self.tag = await source.start(owner._connection, **self._options)
        else:
            self.tag = self._options.pop("consumer_tag", None) or f"tenancy.{id(self):x}"
            await self._take_up()
        self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        await _end(self._following)
        sources, self._sources = list(self._sources.values()), {}
        await asyncio.gather(*(source.close() for source in sources), *self._leaving)
        self._owner._choices.report()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_FOLLOW_EVERY)
            self._owner._choices.report()
            try:
                for source in tuple(self._sources.values()):
                    await source.keep_known(self._owner._connection)
                if not self._owner._choices.baseline:
                    await self._keep_closed()
                    await self._take_up()
            except Exception as error:  # noqa: BLE001 - the connection is on its way back, or closed for good; the client has a bare Exception, too
                logging.getLogger("tenancy").debug("the consumers of %s could not be looked after: %r", self._owner.name, error)

    async def _take_up(self) -> None:
        """
        Consume the queues that the table has for this sandbox, and no others.
        """
        owner = self._owner
        lives = set(owner._choices.lives())
        for life in [life for life in self._sources if life is not None and life not in lives]:
            source = self._sources.pop(life)
            leaving = asyncio.create_task(self._leave(source))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        for life in lives - self._sources.keys():
            channel = None
            try:
                # A channel for each: one that is closed, because a queue is gone, must not take the others along.
                channel = owner._connection.channel()
                await channel.initialize()
                await channel.set_qos(prefetch_count=owner._prefetch + owner._hold)
                queue = await channel.get_queue(life.names.queue)
                source = self._source(queue, life, {})
                await source.start(owner._connection, **self._options)
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
            if not channel.is_closed or not self._owner._connection.connected.is_set():
                self._closed[channel] = now
            elif now - since > _COMES_BACK:
                del self._closed[channel]

    def _source(self, queue: Any, life: Life | None, declared: Mapping[str, Any]) -> Source:
        owner = self._owner
        source = Source(
            owner._choices,
            owner._forwarder,
            queue,
            self._give,
            hold=owner._hold,
            epoch=0 if life is None else life.epoch,
            declared=declared,
        )
        self._sources[life] = source
        return source


class _Getting:
    """
    Who gets messages one by one is known, for each queue, as long as he may have one of it in his hands.
    """

    def __init__(self, owner: SelectiveQueue) -> None:
        self._owner = owner
        self._known: dict[Life | None, Source] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None
        self._taking_up = asyncio.Lock()

    def sources(self) -> list[Source]:
        """
        Return the queues from which it may be got.
        """
        return list(self._known.values())

    async def take_up(self) -> None:
        """
        Be known for the queues that are this process's now, and for no others.
        """
        owner = self._owner
        async with self._taking_up:
            lives: set[Life | None] = {None} if owner._choices.baseline else set(owner._choices.lives())
            lost = {
                life
                for life, source in self._known.items()
                if source.queue.channel.is_closed and not _comes_back(owner._connection)
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
        await _end(self._following)
        for leaving in self._leaving:
            leaving.cancel()
        await asyncio.gather(*(source.close(wait=False) for source in self._known.values()), *self._leaving, return_exceptions=True)
        self._known.clear()

    async def _source(self, life: Life | None) -> Source:
        owner = self._owner
        channel = await owner._opened()
        if life is not None:
            channel = owner._connection.channel()  # one that is closed, because a queue is gone, must not take the others along
            await channel.initialize()
        queue = owner._base if life is None else await channel.get_queue(life.names.queue, ensure=False)
        declared = {name: value for name, value in owner._options.items() if life is None and name in ("durable", "arguments")}
        epoch = 0 if life is None else life.epoch
        source = Source(owner._choices, owner._forwarder, queue, _nobody, hold=1, epoch=epoch, declared=declared, gets=True)
        await source.keep_known(owner._connection)
        return source

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_FOLLOW_EVERY)
            try:
                for source in self.sources():
                    await source.keep_known(self._owner._connection)
                await self.take_up()
            except Exception as error:  # noqa: BLE001 - as above
                logging.getLogger("tenancy").debug("who gets from %s could not be made known: %r", self._owner.name, error)


def _comes_back(connection: Any) -> bool:
    """
    Return whether a connection opens its channels again, as a robust one does.
    """
    return hasattr(connection, "reconnect_callbacks")


async def _nobody(message: Any, choice: Choice, source: Source) -> None:
    """
    Get nothing: this source only makes known.
    """


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class SelectiveIterator:
    """
    The messages of a `SelectiveQueue`, one after the other.
    """

    def __init__(self, queue: SelectiveQueue, options: Mapping[str, Any]) -> None:
        self._queue = queue
        self._options = {name: value for name, value in options.items() if name != "timeout"}
        self._timeout = options.get("timeout")
        self._ready: asyncio.Queue[tuple[Any, Choice, Source]] = asyncio.Queue()
        self._tag: str | None = None
        self._deciding: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> SelectiveIterator:
        if self._tag is None:
            self._tag = await self._queue._consume(self._put, self._options)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def __aiter__(self) -> SelectiveIterator:
        return self

    async def __anext__(self) -> Any:
        await self.__aenter__()
        while True:
            message, choice, source = await asyncio.wait_for(self._ready.get(), self._timeout)
            if self._queue._choices.stands(choice):
                return message
            deciding = asyncio.create_task(source.decide_again(message))
            self._deciding.add(deciding)
            deciding.add_done_callback(self._deciding.discard)

    async def close(self) -> None:
        """
        Stop consuming; what was not taken goes back to its queue.
        """
        tag, self._tag = self._tag, None
        if tag is not None:
            running = [running for running in self._queue._running if running.tag == tag]
            for source in (source for found in running for source in found._sources.values()):
                await source.cancel()
            while not self._ready.empty():
                message, _, _ = self._ready.get_nowait()
                try:
                    await message.nack(requeue=True)
                except GONE:
                    pass
            await self._queue.cancel(tag)

    async def _put(self, message: Any, choice: Choice, source: Source) -> None:
        if not (choice.malformed and await self._queue._dead_lettered(message)):
            self._ready.put_nowait((message, choice, source))
