"""
pika: publish with the routing key, and handle only the messages that are this process's.

`SelectiveChannel` is for a ``BlockingConnection``, `SelectiveAsyncChannel` for ``SelectConnection``, ``AsyncioConnection`` and others that
call back. Where every sandbox has a queue of its own with the bindings of the baseline's instead, `consumer` decorates the callback.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar, overload

from .._optional import extra
from .._proxy import Proxy
from ..config import Accept, settings, switched_on
from ..context import attached
from ..context import with_key as context_with
from ..errors import ConfigurationError, TenancyError
from ..observe import warn_once
from ..routes import LiveRoutes
from ..scope import scope
from ._gate import Decision, Gate, checked, disguised, gate_of, own_name
from .rabbitmq.choice import Choices, EveryChoice
from .rabbitmq.pika_blocking import BlockingSelective
from .rabbitmq.pika_callbacks import CallbackSelective
from .rabbitmq.pika_channel import Selective
from .rabbitmq.pika_properties import inject, publish
from .rabbitmq.pika_wire import GONE, BlockingWire, CallbackWire

with extra("pika", "pika"):
    from pika.spec import BasicProperties

__all__ = ["SelectiveAsyncChannel", "SelectiveChannel", "consumer", "inject", "queue_name", "scope", "synced", "with_key"]

P = ParamSpec("P")
R = TypeVar("R")
ChannelT = TypeVar("ChannelT")

# A message that could not be decided on goes back to its queue no sooner than this, and without a table no sooner than
# `Settings.routes_deadline`.
_RETURN_SECONDS = 1.0

# Names that this process was given for queues of its own.
_own_queues: set[str] = set()


def with_key(channel: ChannelT) -> ChannelT:
    """
    Return the channel with a ``basic_publish`` that writes the current routing key into each message; it is the channel in all else.

    Args:
        channel: A channel of either kind of connection. It is not changed.
    """
    if not switched_on():
        return channel
    proxy: Any = _KeyedChannel(channel)
    return proxy  # type: ignore[no-any-return]


class _KeyedChannel(Proxy):
    """
    A channel that writes the key.
    """

    def basic_publish(
        self, exchange: str, routing_key: str, body: Any, properties: BasicProperties | None = None, mandatory: bool = False
    ) -> Any:
        return publish(self._tenancy_target.basic_publish, exchange, routing_key, body, properties, mandatory)


def queue_name(base: str, *, workload: str | None = None) -> str:
    """
    Return the queue of this process: *base* for the baseline, a queue of its own for each sandbox. For `consumer`; a selective channel is
    given the baseline's queue in every process.

    Args:
        base: The queue of the baseline, such as ``orders``; sandbox ``pr-42`` then has ``orders.pr-42``.
        workload: This process's workload, ``namespace/name``; default the setting.

    Raises:
        IdentityError: If it is not said who this process is; it never reads the baseline's queue by accident.
    """
    name = own_name(base, "amqp-queue", workload)
    _own_queues.add(name)
    return name


def _choices(queue: str, workload: str | None, accept: Accept | None, routes: LiveRoutes | None) -> Choices:
    return Choices("pika", queue, workload=workload, accept=accept, routes=routes) if switched_on() else EveryChoice(queue)


class SelectiveChannel(BlockingSelective):
    """
    A channel on a ``BlockingConnection`` for one queue, of which this process gets only the messages that are its own, each exactly once in
    the baseline or in one sandbox.

    The baseline declares the queue and consumes it. What has a key that a sandbox forks it sends on to that sandbox's queue, and
    acknowledges once the broker has confirmed that; what cannot be decided yet it keeps, unacknowledged, until that can be said. A sandbox
    consumes the queues that ``tenancy sandbox create`` made for it, one for each of its keys, as they come and go; it never touches the
    baseline's. It needs a route store. Where tenancy is switched off all messages are this process's.

    A message is handed on as it was published: exchange, ``routing_key``, properties and headers. Its ``delivery_tag`` is this channel's, on
    which it is to be acknowledged. All that this channel does by itself it does while the connection is being read: by `start_consuming`,
    `consume`, or ``process_data_events``. Like the connection it is for one thread.

    Args:
        connection: The connection, which is open; the channel has several of pika's own on it.
        queue: What the baseline calls the queue.
        workload: This process's workload, ``namespace/name``; default the setting.
        accept: Which keys are accepted; the baseline and all forks must agree. Default the setting, else those that the table knows.
        routes: The live route table; default the one of the settings.
        prefetch_count: How many messages may be handed on and wait for an answer.
        hold: How many more may be kept, unacknowledged, while it cannot be said whose they are; beyond, the queue waits.
        malformed: What the owner does with a message whose key is malformed: ``ignore``, handle it without a key; ``dead-letter``, reject it.
        options: As for ``queue_declare``: ``durable``, ``arguments``.

    Raises:
        IdentityError: If it is not said who this process is, or the table does not know this workload.
        ConfigurationError: If there is no route store, or the queue is of a kind that cannot be handed over: exclusive, a stream, or one with
            a single active consumer.
        RoutesNotSyncedError: If the route table could not be read before the deadline of the settings.
    """

    def __init__(
        self,
        connection: Any,
        queue: str,
        *,
        workload: str | None = None,
        accept: Accept | None = None,
        routes: LiveRoutes | None = None,
        prefetch_count: int = 20,
        hold: int = 200,
        malformed: Literal["ignore", "dead-letter"] = "ignore",
        **options: Any,
    ) -> None:
        if not hasattr(connection, "process_data_events"):
            raise ConfigurationError(
                f"a {type(connection).__name__} is no BlockingConnection; use SelectiveAsyncChannel for connections that call back"
            )
        super().__init__(
            BlockingWire(connection),
            _choices(queue, workload, accept, routes),
            prefetch_count=prefetch_count,
            hold=hold,
            malformed=malformed,
            options=options,
        )
        self.open()


class SelectiveAsyncChannel(CallbackSelective):
    """
    Like `SelectiveChannel`, on a connection that calls back: ``SelectConnection``, ``AsyncioConnection``, or another whose ``ioloop`` has a
    ``call_later``. Copies are confirmed while others are under way.

    Args:
        connection: The connection, which is open.
        queue: What the baseline calls the queue.
        on_open_callback: Is called with this channel when it can be used.
        on_open_error_callback: Is called with this channel and the error where it cannot: one of those of `SelectiveChannel`, or pika's. By
            default the error is raised in the event loop.
        workload: As for `SelectiveChannel`.
        accept: As for `SelectiveChannel`.
        routes: As for `SelectiveChannel`.
        prefetch_count: As for `SelectiveChannel`.
        hold: As for `SelectiveChannel`.
        malformed: As for `SelectiveChannel`.
        options: As for ``queue_declare``: ``durable``, ``arguments``.

    Raises:
        IdentityError: If it is not said who this process is.
        ConfigurationError: As for `SelectiveChannel`.
    """

    def __init__(
        self,
        connection: Any,
        queue: str,
        on_open_callback: Callable[[SelectiveAsyncChannel], None],
        on_open_error_callback: Callable[[SelectiveAsyncChannel, Exception], None] | None = None,
        *,
        workload: str | None = None,
        accept: Accept | None = None,
        routes: LiveRoutes | None = None,
        prefetch_count: int = 20,
        hold: int = 200,
        malformed: Literal["ignore", "dead-letter"] = "ignore",
        **options: Any,
    ) -> None:
        if hasattr(connection, "process_data_events"):
            raise ConfigurationError("a BlockingConnection does not call back; use SelectiveChannel")
        super().__init__(
            CallbackWire(connection),
            _choices(queue, workload, accept, routes),
            prefetch_count=prefetch_count,
            hold=hold,
            malformed=malformed,
            options=options,
        )
        self.open(on_open_callback, on_open_error_callback)


@overload
def consumer(
    workload: str | None = None,
    *,
    accept: Accept | None = None,
    routes: LiveRoutes | None = None,
    skipped: Literal["ack", "leave"] = "ack",
    malformed: Literal["ignore", "dead-letter"] = "ignore",
) -> Callable[[Callable[P, R]], Callable[P, R | None]]: ...
@overload
def consumer(workload: Callable[P, R], /) -> Callable[P, R | None]: ...
def consumer(
    workload: Any = None,
    *,
    accept: Accept | None = None,
    routes: LiveRoutes | None = None,
    skipped: Literal["ack", "leave"] = "ack",
    malformed: Literal["ignore", "dead-letter"] = "ignore",
) -> Any:
    """
    Decorate a callback of ``basic_consume`` (channel, method, properties, body), so that it is called only for this process's messages,
    with each message's routing key current; for any other message it returns None. It may as well be called in a loop over ``consume()``,
    or after ``basic_get()``.

    - A message that is ours is acknowledged by the function, exactly as without this decorator.
    - A message that is not ours is acknowledged here. With ``auto_ack=True`` the broker wants no answer, and takes one for an error: say
      ``skipped="leave"``, also where the caller acknowledges.
    - A message that came through the default exchange reached one queue only. The baseline handles it also where it is a sandbox's, which
      is counted (reason ``only_copy``) and logged once for each queue; a sandbox rejects it to the queue's dead-letter exchange.
    - An exception of the function is passed on as it is.
    - Where the route table cannot be had, or a function *accept* raises, the message goes back to its queue, after the deadline of the
      settings or a second, and the error is raised. Call `synced` before consuming: a callback that waits blocks its connection.
    - In a selective channel, which has decided already, it only makes the key current.

    It takes functions, methods, partials and callable objects. Where tenancy is switched off the function itself is returned.

    Args:
        workload: This process's workload, ``namespace/name``; default the setting.
        accept: Which keys are accepted; the baseline and all forks must agree, or a message has two owners or none. Default the
            setting, else the keys that the route table knows.
        routes: The live route table; default the one of the settings.
        skipped: Who acknowledges a message that is not ours: ``ack``, the decorator; ``leave``, the caller, or nobody.
        malformed: What the owner does with a message whose key is malformed: ``ignore``, handle it without a key; ``dead-letter``, reject
            it, so that the queue's dead-letter exchange takes it (without one, the broker drops it).

    Raises:
        IdentityError: If it is not said who this process is.
        ConfigurationError: If there is no route source, or an argument cannot be used.
    """
    if workload is not None and not isinstance(workload, str):
        return _decorated(workload, None, None, None, "ack", "ignore")
    if skipped not in ("ack", "leave"):
        raise ConfigurationError(f"skipped is {skipped!r}; use 'ack' or 'leave'")
    if malformed not in ("ignore", "dead-letter"):
        raise ConfigurationError(f"malformed is {malformed!r}; use 'ignore' or 'dead-letter'")
    if (skipped, malformed) == ("leave", "dead-letter"):
        raise ConfigurationError(
            "malformed='dead-letter' rejects the message here, and skipped='leave' has the caller acknowledge; use one"
        )
    return functools.partial(_decorated, workload=workload, accept=accept, routes=routes, skipped=skipped, malformed=malformed)


def synced(handler: Callable[..., Any]) -> None:
    """
    Wait for the route table of a decorated callback, and make sure that it knows this workload. Call it before consuming, so that a
    mistake is found there; otherwise it happens before the first message with a key.

    Args:
        handler: What `consumer` returned; where tenancy is switched off there is nothing to wait for.

    Raises:
        RoutesNotSyncedError: If the deadline of the settings passed.
        IdentityError: If the table does not know this workload.
        ConfigurationError: If *handler* was not decorated.
    """
    gate = gate_of(handler)
    if gate is not None:
        gate.wait_synced()


class _Message(NamedTuple):
    channel: Any
    method: Any
    properties: BasicProperties


def _decorated(
    function: Any, workload: str | None, accept: Accept | None, routes: LiveRoutes | None, skipped: str, malformed: str
) -> Any:
    checked(function)
    if not switched_on():
        return function
    gate = Gate("pika", workload=workload, accept=accept, routes=routes)

    def handle(*args: Any, **kwargs: Any) -> Any:
        message = _message(args)
        if message is None:  # basic_get() found nothing
            return None
        headers = message.properties.headers
        if isinstance(message.channel, Selective):
            with attached(context_with(gate.key(headers))):
                return function(*args, **kwargs)
        started = time.monotonic()
        pause = _RETURN_SECONDS
        try:
            if gate.waits(headers):
                pause = max(_RETURN_SECONDS, settings().routes_deadline)
                gate.wait_synced()
                pause = _RETURN_SECONDS
            decision = gate.decide(headers, only_copy=message.method.exchange == "")
        except Exception as error:
            if not isinstance(error, TenancyError):
                _warn_undecided(error)
            _give_back(message, skipped, started + pause - time.monotonic())
            raise
        if decision.owned and not (decision.malformed and malformed == "dead-letter"):
            if decision.verdict.code == "only_copy":
                _warn_only_copy(decision, message)
            with attached(decision.context):
                return function(*args, **kwargs)
        _leave(message, decision, skipped, gate.sandbox)
        return None

    return disguised(handle, function, gate)


def _message(args: tuple[Any, ...]) -> _Message | None:
    for place, argument in enumerate(args):
        if isinstance(argument, BasicProperties) and place >= 2:
            return _Message(args[place - 2], args[place - 1], argument)
    if any(argument is None for argument in args):
        return None
    given = ", ".join(type(argument).__name__ for argument in args) or "nothing"
    raise TypeError(f"a callback of pika's was called without channel, method and properties: got {given}")


def _leave(message: _Message, decision: Decision, skipped: str, sandbox: str | None) -> None:
    """
    See to a message that is not handled here.
    """
    channel, method, _ = message
    only_copy = method.exchange == ""
    if skipped == "ack" and channel.is_open:
        try:
            if decision.owned or only_copy:
                channel.basic_reject(method.delivery_tag, requeue=False)
            else:
                channel.basic_ack(method.delivery_tag)
        except GONE:  # the broker has it back
            pass
    if sandbox is None or decision.owned:
        return
    if only_copy:
        warn_once(
            f"only-copy:{method.routing_key}",
            "pika: a message that is not sandbox %s's was published through the default exchange to its queue %r. It is not handled; "
            "unless the caller acknowledges, it goes to the queue's dead-letter exchange, or nowhere if there is none.",
            sandbox,
            method.routing_key,
        )
    if not _own_queues:
        warn_once(
            "own-queue",
            "pika: sandbox %s skips messages, but its queue's name was not made by queue_name(). If it reads the baseline's queue, the "
            "messages it skips are lost.",
            sandbox,
        )


def _give_back(message: _Message, skipped: str, pause: float) -> None:
    """
    Return a message that was not decided on to its queue, slowly enough not to spin; where the caller acknowledges, only be as slow.
    """
    channel, method, _ = message
    pause = max(pause, 0.0)
    connection = channel.connection
    if hasattr(connection, "process_data_events"):
        connection.sleep(pause)
        _requeue(channel, method.delivery_tag, skipped)
    else:  # to wait here would be to stop all that its event loop does
        connection.ioloop.call_later(pause, functools.partial(_requeue, channel, method.delivery_tag, skipped))


def _requeue(channel: Any, tag: int, skipped: str) -> None:
    if skipped == "ack" and channel.is_open:
        try:
            channel.basic_nack(tag, requeue=True)
        except GONE:
            return


def _warn_undecided(error: Exception) -> None:
    warn_once(
        f"undecided:{type(error).__qualname__}",
        "pika: whose a message is could not be decided, because the accept function, or what else decides, raised %r. Unless the caller "
        "acknowledges, the message goes back to its queue, and comes again until that is mended. Further ones are not logged.",
        error,
    )


def _warn_only_copy(decision: Decision, message: _Message) -> None:
    warn_once(
        f"only-copy:{message.method.routing_key}",
        "pika: a message with routing key %s came through the default exchange to queue %r, which no sandbox's queue gets a copy "
        "from, so the baseline handles it itself. Publish to a named exchange to which the queues are bound, or use SelectiveChannel. "
        "Further ones are only counted (tenancy.verdicts, reason only_copy).",
        decision.verdict.key,
        message.method.routing_key,
    )
