"""
FastStream on Kafka, with aiokafka or confluent-kafka underneath: a middleware by which subscribers handle only the messages that are this
process's, and by which what is published carries the routing key::

    tenancy_middleware = TenancyMiddleware()
    broker = KafkaBroker("localhost:9092", middlewares=[tenancy_middleware])

    @broker.subscriber("orders", **tenancy_middleware.group("orders"), ack_policy=AckPolicy.NACK_ON_ERROR)
    async def on_order(order: Order) -> None: ...
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from opentelemetry.context import Context

from .. import propagator
from .._optional import extra
from ..config import Accept, switched_on
from ..context import attached, with_key
from ..errors import ConfigurationError
from ..key import RoutingKey
from ..observe import warn_once
from ..propagator import current_codec
from ..routes import LiveRoutes, Position, State, Verdict
from ..routes.judge import Judge
from .kafka.registration import Registration
from .kafka.selection import Selection

with extra("faststream", "faststream"):
    from faststream import AckPolicy, BaseMiddleware
    from faststream.exceptions import SkipMessage, StopApplication

__all__ = ["TenancyMiddleware"]

# How often it is looked whether a message that waits can be decided on, and whether a sandbox's route is gone.
_LOOK_EVERY = 0.05
_WATCH_EVERY = 0.5
# How often at most what is skipped is committed while more of the partition is known to come.
_ACK_EVERY = 1.0


class TenancyMiddleware:
    """
    A middleware for a ``KafkaBroker`` of FastStream; put it last in ``middlewares``, or others see the messages that are not this process's.

    A message that is another's is skipped before it is parsed, and committed as if it had been handled. Around the handler the message's
    routing key is current, also in what it publishes and returns. A message of which it cannot be said yet whose it is waits in place, with
    all of its subscriber behind it, until a sandbox was created or deleted, or the route table can be read again. Publishing carries the
    current key.

    Use `group` for each subscriber, await `follow` once the broker has started, and give each subscriber an ``ack_policy``: FastStream's
    default, ``ACK_FIRST``, commits a message before it is handled, so one that waits when the process dies is lost. Batch subscribers are
    refused, since a batch has many owners, and messages of several keys cannot be handled in one call.

    Where tenancy is switched off it does nothing.

    Args:
        workload: This process's workload, ``namespace/name``; default the setting.
        accept: Which keys are accepted; the baseline and all forks must agree. Default the setting, else those that the table knows.
        routes: The live route table; default the one of the settings.

    Raises:
        IdentityError: If it is not said who this process is.
        ConfigurationError: If there is no route source.
    """

    def __init__(self, *, workload: str | None = None, accept: Accept | None = None, routes: LiveRoutes | None = None) -> None:
        self._decider: _Decider | None = None
        if switched_on():
            self._decider = _Decider(workload=workload, accept=accept, routes=routes)

    def __call__(self, message: Any, /, *, context: Any) -> BaseMiddleware[Any, Any]:
        """
        Return the middleware of one message, as FastStream asks for it.
        """
        if self._decider is None:
            return BaseMiddleware(message, context=context)
        return _Middleware(message, context=context, decider=self._decider)

    def group(self, base: str) -> dict[str, Any]:
        """
        Return the options with which a subscriber of this process joins its group, for
        ``@broker.subscriber("orders", **middleware.group("orders"))``.

        The baseline reads in the group *base*, a sandbox in one of its own, from the beginning of the topic, and skips what came before its
        key was handed to it. In a sandbox this waits for the route table, so call it before the event loop runs, as a decorator does.

        Args:
            base: The group of the baseline, such as ``orders``.

        Raises:
            IdentityError: If the route table has nothing for this sandbox.
            RoutesNotSyncedError: If a sandbox's route table could not be read before the deadline of the settings.
        """
        if self._decider is None or self._decider.selection.baseline:
            return {"group_id": base}
        return {"group_id": self._decider.selection.join(base), "auto_offset_reset": "earliest"}

    async def follow(self, broker: Any) -> None:
        """
        Register the subscribers of a broker that was started, without which no sandbox can be created beside them; and in a sandbox stop
        them once its route is gone, without which it cannot be deleted. For ``@app.after_startup``; it returns at once.

        Args:
            broker: The broker.
        """
        if self._decider is not None:
            self._decider.follow(broker)


class _Decider:
    """
    Whose each message is, for all brokers that have one middleware.
    """

    def __init__(self, *, workload: str | None, accept: Accept | None, routes: LiveRoutes | None) -> None:
        self.selection = Selection("faststream", workload=workload, accept=accept, routes=routes)
        self._judge = Judge("faststream", workload=workload, routes=routes)
        self._absent = current_codec().absent
        self._looked = False
        # By consumer, of which a process has few, for ever.
        self._acked: dict[Any, float] = {}
        self._registered: dict[Any, Registration] = {}
        self._following: set[asyncio.Task[None]] = set()

    async def decide(self, message: Any, subscriber: Any) -> Context:
        """
        Return the context in which a message is handled.

        Raises:
            SkipMessage: If it is not.
        """
        topic, partition, offset, headers = _parts(message)
        key = None if not headers or self._absent(headers) else self.selection.key(headers)
        policy = getattr(subscriber, "ack_policy", None)
        if key is None and topic not in self.selection.own_topics():
            if self.selection.baseline:
                return with_key(None)
        else:
            verdict = await self._settled(key, Position(topic, partition, offset), subscriber)
            self._judge.record(verdict)
            if verdict.owned:
                return with_key(self.selection.context_key(key))
        if policy is not AckPolicy.ACK_FIRST:
            await self._skipped(message, subscriber, topic, partition, offset)
        raise SkipMessage

    async def _settled(self, key: RoutingKey | None, position: Position, subscriber: Any) -> Verdict:
        """
        Wait until it can be said whose a message is.
        """
        if not self._looked:
            await asyncio.to_thread(self.selection.view)  # the first look at the table may take a while
            self._looked = True
        while True:
            pause = _LOOK_EVERY
            try:
                verdict = self.selection.decide(key, position)
                if not verdict.held:
                    return verdict
                if getattr(subscriber, "ack_policy", None) is AckPolicy.ACK_FIRST:
                    _warn_acked_first()
                view = self.selection.view()
                if view is None or not view.fresh():
                    self._judge.routes.hurry()
            except Exception as error:  # noqa: BLE001 - nobody knows whose it is, so nobody may pass it
                pause = _WATCH_EVERY
                warn_once(
                    f"faststream:{error!r}",
                    "faststream: %s waits because it cannot be decided on: %r",
                    position,
                    error,
                    level=logging.ERROR,
                )
            if not getattr(subscriber, "running", True):
                # It stops, and as nothing is committed whoever comes after it gets the message again.
                raise SkipMessage
            await asyncio.sleep(pause)

    async def _skipped(self, message: Any, subscriber: Any, topic: str, partition: int, offset: int) -> None:
        """
        Commit what was skipped: the client is not ahead of it, since messages are handled one by one.
        """
        consumer = getattr(message, "consumer", None) or getattr(subscriber, "consumer", None)
        if consumer is None:  # a broker of a test
            return
        now = time.monotonic()
        if now - self._acked.get(consumer, 0.0) < _ACK_EVERY and _more(consumer, topic, partition, offset):
            return
        self._acked[consumer] = now
        await _ExactCommits.where(consumer, message).commit()

    # Subscribers

    def follow(self, broker: Any) -> None:
        task = asyncio.create_task(self._follow(broker))
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    async def _follow(self, broker: Any) -> None:
        while True:
            running = [subscriber for subscriber in broker.subscribers if subscriber.running]
            if not running:
                break
            for subscriber in running:
                if self._is_over():
                    await subscriber.stop()
                else:
                    self._register(subscriber)
            await asyncio.sleep(_WATCH_EVERY)
        for registration in self._registered.values():
            registration.close()

    def _is_over(self) -> bool:
        """
        Whether this is a sandbox whose route is gone, or in whose place somebody else reads what is left.
        """
        view, reader = self.selection.view(), self.selection.reader
        if self.selection.baseline or view is None or view.table.lease is None or not view.fresh():
            return False
        rows = view.table.handovers(reader.identity.workload)
        states = {row.state for row in rows if row.sandbox == reader.identity.sandbox and row.generation == reader.generation}
        return State.RECLAIMING in states or states <= {State.NONE}

    def _register(self, subscriber: Any) -> None:
        for consumer in getattr(subscriber, "consumer_subgroup", None) or [subscriber.consumer]:
            if consumer is None:
                continue
            registration = self._registered.get(consumer)
            if registration is None:
                registration = self._registered[consumer] = Registration(self.selection, subscriber.group_id)
                registration.topics = tuple(topic.name for topic in subscriber.topics)
            registration.assigned(_member(consumer))


class _ExactCommits:
    """
    What a message acknowledges itself by, where FastStream's consumer is of confluent-kafka.

    That commits without an offset, and does not wait for it: what was handed out last when librdkafka's own thread gets to it. By then that
    can be the next message, which may be one that has to wait, and would be lost with the process
    (https://docs.confluent.io/platform/current/clients/confluent-kafka-python/html/index.html#confluent_kafka.Consumer.commit).

    Args:
        consumer: FastStream's consumer.
        message: The message of confluent-kafka.
    """

    def __init__(self, consumer: Any, message: Any) -> None:
        self._consumer = consumer
        self._message = message

    @classmethod
    def where(cls, consumer: Any, message: Any) -> Any:
        """
        Return it, or the consumer where that is another's, as a test's.
        """
        return cls(consumer, message) if hasattr(getattr(consumer, "consumer", None), "memberid") else consumer

    async def commit(self, asynchronous: bool = True) -> None:
        from confluent_kafka import TopicPartition  # only with that client

        place = TopicPartition(self._message.topic(), self._message.partition(), self._message.offset() + 1)
        # In FastStream's only thread for this client, so that it is not closed at the same time.
        pool = getattr(self._consumer, "_thread_pool", None)
        client = self._consumer.consumer
        await asyncio.get_running_loop().run_in_executor(pool, lambda: client.commit(offsets=[place], asynchronous=asynchronous))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)


class _Middleware(BaseMiddleware[Any, Any]):
    """
    The middleware of one message, or of what is published outside of any.
    """

    def __init__(self, message: Any, /, *, context: Any, decider: _Decider) -> None:
        super().__init__(message, context=context)
        self._decider = decider
        self._handled: Context | None = None

    async def on_receive(self) -> None:
        if self.msg is not None:
            self._handled = await self._decider.decide(self.msg, self.context.get("handler_"))

    async def consume_scope(self, call_next: Callable[[Any], Awaitable[Any]], msg: Any) -> Any:
        if (consumer := getattr(msg, "consumer", None)) is not None:
            msg.consumer = _ExactCommits.where(consumer, msg.raw_message)
        with attached(with_key(None) if self._handled is None else self._handled):
            return await call_next(msg)

    async def publish_scope(self, call_next: Callable[[Any], Awaitable[Any]], cmd: Any) -> Any:
        if self._handled is None:
            cmd.headers = propagator.inject(dict(cmd.headers or {}), binary=False)
            return await call_next(cmd)
        # What a handler returned is published when its scope has ended.
        with attached(self._handled):
            cmd.headers = propagator.inject(dict(cmd.headers or {}), binary=False)
            return await call_next(cmd)


class _BatchError(ConfigurationError, StopApplication):
    """
    Ends the application before it takes a batch of many owners for its own.
    """


def _parts(message: Any) -> tuple[str, int, int, Any]:
    if isinstance(message, tuple):
        error = (
            "a subscriber with batch=True gets messages of many owners in one call, which TenancyMiddleware cannot split; use a subscriber "
            "without batch, or a SelectiveConsumer"
        )
        warn_once("faststream:batch", "faststream: %s", error, level=logging.ERROR)
        raise _BatchError(error)
    if hasattr(message, "timestamp_type"):  # aiokafka
        return message.topic, message.partition, message.offset, message.headers
    if callable(getattr(message, "offset", None)):  # confluent-kafka
        return message.topic(), message.partition(), message.offset(), message.headers()
    raise ConfigurationError(
        f"TenancyMiddleware got a {type(message).__name__}, which is no message of Kafka; use it with a KafkaBroker"
    )


def _more(consumer: Any, topic: str, partition: int, offset: int) -> bool:
    """
    Whether the client knows of more on a partition, so that this is not the last commit.
    """
    highwater = getattr(consumer, "highwater", None)
    if highwater is None:
        return False
    from aiokafka import TopicPartition  # only with that client

    known = None
    with suppress(AssertionError):  # not assigned any more
        known = highwater(TopicPartition(topic, partition))
    return known is not None and known > offset + 1


def _member(consumer: Any) -> str | None:
    """
    What the broker calls a consumer; None as long as it has not joined.
    """
    coordinator = getattr(consumer, "_coordinator", None)
    if coordinator is not None:
        return getattr(coordinator, "member_id", None)
    client = getattr(consumer, "consumer", None)
    return None if client is None else client.memberid() or None


def _warn_acked_first() -> None:
    warn_once(
        "faststream:ack-first",
        "faststream: a message waits that was committed before, since its subscriber's ack_policy is ACK_FIRST; if this process ends now it "
        "is lost. Use ack_policy=AckPolicy.NACK_ON_ERROR or ACK.",
    )
