"""
aio-pika: publish with the routing key, and handle only the messages that are this process's.

Every sandbox has a queue of its own with the bindings of the baseline's (`declare_queue`), so each message that is published to an
exchange reaches the baseline and every sandbox, and exactly one of them handles it.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, overload

from .. import propagator
from .._optional import extra
from ..config import Accept, settings, switched_on
from ..context import attached, with_key
from ..errors import ConfigurationError, TenancyError
from ..key import RoutingKey
from ..observe import warn_once
from ..routes import LiveRoutes
from ._gate import Decision, Gate, checked, disguised, find_message, gate_of, own_name
from .rabbitmq.aio import SelectiveIterator, SelectiveQueue
from .rabbitmq.aio_source import OwnedMessage
from .rabbitmq.choice import Choices, EveryChoice

with extra("rabbitmq", "aio_pika"):
    from aio_pika import Message
    from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractIncomingMessage, AbstractQueue
    from aio_pika.exceptions import AMQPError, ChannelInvalidStateError

__all__ = [
    "Binding",
    "SelectiveIterator",
    "SelectiveQueue",
    "consumer",
    "declare_queue",
    "inject",
    "publish",
    "queue_name",
    "selective_queue",
    "synced",
]

P = ParamSpec("P")
R = TypeVar("R")

#: What a queue is bound to: an exchange, by name or object, and the ``amqp_routing_key``; for a headers exchange also its arguments.
Binding: TypeAlias = "tuple[AbstractExchange | str, str] | tuple[AbstractExchange | str, str, Mapping[str, Any]]"

_CURRENT: Any = propagator.CURRENT

# A message that could not be decided on goes back to its queue no sooner than this, and without a table no sooner than
# `Settings.routes_deadline`.
_RETURN_SECONDS = 1.0

# Names that this process was given for queues of its own.
_own_queues: set[str] = set()


def inject(message: Message, *, key: RoutingKey | str | None = _CURRENT) -> Message:
    """
    Return a copy of a message that carries the routing key exactly once; body, properties and all other headers are the same.

    Args:
        message: The message; it is not changed. May be one that was received and is passed on.
        key: What to write; None removes any key. Default: the current key, and where there is none the one that *message* already has,
            unless the work at hand was said to have none.

    Raises:
        InvalidRoutingKeyError: If *key* is given and is not a routing key.
    """
    duplicate = copy.copy(message)
    duplicate.headers = propagator.inject(message.headers, key=key, binary=False)
    return duplicate


async def publish(
    exchange: AbstractExchange, message: Message, amqp_routing_key: str, *, key: RoutingKey | str | None = _CURRENT, **options: Any
) -> Any:
    """
    Publish a copy of a message that carries the routing key.

    Args:
        exchange: Where to; a sandbox gets only what goes to a named exchange, since the default one reaches a single queue.
        message: The message; it is not changed and may be published again.
        amqp_routing_key: RabbitMQ's routing key, which has nothing to do with ours.
        key: As for `inject`.
        options: Passed on to ``exchange.publish``, such as ``mandatory`` and ``timeout``.

    Returns:
        What ``exchange.publish`` returns.
    """
    return await exchange.publish(inject(message, key=key), amqp_routing_key, **options)


def queue_name(base: str, *, workload: str | None = None) -> str:
    """
    Return the queue of this process: *base* for the baseline, a queue of its own for each sandbox.

    Args:
        base: The queue of the baseline, such as ``orders``; sandbox ``pr-42`` then has ``orders.pr-42``.
        workload: This process's workload, ``namespace/name``; default the setting.

    Raises:
        IdentityError: If it is not said who this process is; it never reads the baseline's queue by accident.
    """
    name = own_name(base, "amqp-queue", workload)
    _own_queues.add(name)
    return name


async def declare_queue(
    channel: AbstractChannel,
    name: str,
    *,
    bindings: Iterable[Binding] = (),
    workload: str | None = None,
    sandbox_arguments: Mapping[str, Any] | None = None,
    **options: Any,
) -> AbstractQueue:
    """
    Declare and bind the queue that this process consumes: the baseline's own, or the sandbox's beside it.

    A sandbox's queue has the same bindings, durability and arguments, so it gets a copy of every message. With ``exclusive`` or
    ``auto_delete`` it is deleted with its content when its consumer goes, as the baseline's is. On a channel of ``connect_robust`` the
    queue is declared and bound again after a reconnection.

    Nothing deletes a sandbox's queue when the sandbox is gone, and until somebody does it fills up. ``sandbox_arguments={"x-expires":
    3_600_000}`` makes the broker delete it, with what it holds, after an hour without a consumer.

    Args:
        channel: The channel.
        name: What the baseline calls the queue; not empty.
        bindings: Pairs of exchange (name or object) and ``amqp_routing_key``; a third element is the arguments of the binding.
        workload: This process's workload, ``namespace/name``; default the setting.
        sandbox_arguments: Arguments that only a sandbox's queue has, beside or instead of those in *options*.
        options: Passed on to ``channel.declare_queue``: ``durable``, ``arguments``, ``passive`` and so on.

    Raises:
        IdentityError: If it is not said who this process is.
        ConfigurationError: If *name* is empty.
    """
    own = queue_name(name, workload=workload)
    if own != name and sandbox_arguments:
        options["arguments"] = {**(options.get("arguments") or {}), **sandbox_arguments}
    queue = await channel.declare_queue(own, **options)
    bound = False
    for exchange, amqp_routing_key, *arguments in bindings:
        await queue.bind(exchange, amqp_routing_key, arguments=dict(arguments[0]) if arguments else None)
        bound = True
    if own != name and not bound:
        warn_once(
            f"unbound:{own}",
            "aio_pika: queue %s was declared without bindings, so only what is published to its name gets there.",
            own,
        )
    return queue


async def selective_queue(
    connection: AbstractConnection,
    name: str,
    *,
    workload: str | None = None,
    accept: Accept | None = None,
    routes: LiveRoutes | None = None,
    prefetch_count: int = 20,
    hold: int = 200,
    malformed: Literal["ignore", "dead-letter"] = "ignore",
    **options: Any,
) -> SelectiveQueue:
    """
    Declare a queue of which this process gets only the messages that are its own, each exactly once in the baseline or in one sandbox.

    The baseline declares the queue and consumes it; it forwards what a sandbox forks. A sandbox consumes the queues that
    ``tenancy sandbox create`` made for it. It needs a route store. Where tenancy is switched off all messages are this process's.

    Args:
        connection: A connection, robust or not; the queue has channels of its own on it.
        name: What the baseline calls the queue.
        workload: This process's workload, ``namespace/name``; default the setting.
        accept: Which keys are accepted; the baseline and all forks must agree. Default the setting, else those that the table knows.
        routes: The live route table; default the one of the settings.
        prefetch_count: How many messages are handled at once, and fetched for that.
        hold: How many more may be kept, unacknowledged, while it cannot be said whose they are; beyond, all others wait as well.
        malformed: What the owner does with a message whose key is malformed: ``ignore``, handle it without a key; ``dead-letter``, reject it.
        options: As for ``channel.declare_queue``: ``durable``, ``arguments``, ``timeout``.

    Raises:
        IdentityError: If it is not said who this process is, or the table does not know this workload.
        ConfigurationError: If there is no route store, or the queue is of a kind that cannot be handed over: exclusive, a stream, or one with
            a single active consumer.
        RoutesNotSyncedError: If the route table could not be read before the deadline of the settings.
    """
    choices = Choices("aio_pika", name, workload=workload, accept=accept, routes=routes) if switched_on() else EveryChoice(name)
    queue = SelectiveQueue(connection, choices, prefetch_count=prefetch_count, hold=hold, malformed=malformed, options=options)
    await queue.open()
    return queue


class _Decorator(Protocol):
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> Callable[P, Coroutine[Any, Any, R | None]]: ...


@overload
def consumer(
    workload: str | None = None,
    *,
    accept: Accept | None = None,
    routes: LiveRoutes | None = None,
    skipped: Literal["ack", "leave"] = "ack",
    malformed: Literal["ignore", "dead-letter"] = "ignore",
) -> _Decorator: ...
@overload
def consumer(workload: Callable[P, Awaitable[R]], /) -> Callable[P, Coroutine[Any, Any, R | None]]: ...
def consumer(
    workload: Any = None,
    *,
    accept: Accept | None = None,
    routes: LiveRoutes | None = None,
    skipped: Literal["ack", "leave"] = "ack",
    malformed: Literal["ignore", "dead-letter"] = "ignore",
) -> Any:
    """
    Decorate a coroutine function that handles one message, so that it is called only for this process's messages, with each message's
    routing key current; for any other message it returns None.

    It is called by ``queue.consume(handler)``, inside ``async for message in queue.iterator()``, or after ``queue.get()``:

    - A message that is ours is acknowledged by the function, exactly as without this decorator.
    - A message that is not ours is acknowledged here, unless it already is or needs none (``no_ack``). Where the caller acknowledges,
      as in a loop with ``async with message.process():`` around the call, say ``skipped="leave"``.
    - A message that came through the default exchange reached one queue only. The baseline handles it also where it is a sandbox's, which
      is counted (reason ``only_copy``) and logged once for each queue; a sandbox rejects it to the queue's dead-letter exchange.
    - An exception of the function is passed on as it is.
    - Where the route table cannot be had, the message goes back to its queue, after the deadline of the settings (at least a second), and
      the error is raised. Await `synced` before consuming, and it cannot happen.
    - Where a function *accept* raises, nobody knows whose the message is: it goes back to its queue after a second, which is logged once
      for each kind of error, and the error is raised.

    It takes functions, methods, partials and callable objects; the message is the first argument that is one. Where tenancy is switched
    off the function itself is returned.

    Args:
        workload: This process's workload, ``namespace/name``; default the setting.
        accept: Which keys are accepted; the baseline and all forks must agree, or a message has two owners or none. Default the
            setting, else the keys that the route table knows.
        routes: The live route table; default the one of the settings.
        skipped: Who acknowledges a message that is not ours: ``ack``, the decorator; ``leave``, the caller.
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


async def synced(handler: Callable[..., Any]) -> None:
    """
    Wait for the route table of a decorated handler, and make sure that it knows this workload. Await it before consuming, so that a
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
        await gate.synced()


def _decorated(
    function: Any, workload: str | None, accept: Accept | None, routes: LiveRoutes | None, skipped: str, malformed: str
) -> Any:
    checked(function)
    if not switched_on():
        return function
    gate = Gate("aio_pika", workload=workload, accept=accept, routes=routes)

    async def handle(*args: Any, **kwargs: Any) -> Any:
        message = find_message(args, kwargs, AbstractIncomingMessage, ("headers", "ack"))
        if message is None:  # queue.get(fail=False) found nothing
            return None
        if isinstance(message, OwnedMessage):  # a selective queue has decided
            with attached(with_key(gate.key(message.headers))):
                result = function(*args, **kwargs)
                return await result if inspect.isawaitable(result) else result
        if gate.waits(message.headers):
            await _synced(gate, message, skipped)
        only_copy = message.exchange == ""
        try:
            decision = gate.decide(message.headers, only_copy=only_copy)
        except Exception as error:
            _warn_undecided(error)
            await _give_back(message, skipped, _RETURN_SECONDS)
            raise
        if decision.owned and not (decision.malformed and malformed == "dead-letter" and not message.processed):
            if decision.verdict.code == "only_copy":
                _warn_only_copy(decision, message)
            with attached(decision.context):
                result = function(*args, **kwargs)
                return await result if inspect.isawaitable(result) else result
        if skipped == "ack" and not message.processed:
            await _settle(message.reject(requeue=False) if decision.owned or only_copy else message.ack())
        if not decision.owned:
            _warn_skipped(gate.sandbox, message, only_copy)
        return None

    return disguised(handle, function, gate)


async def _synced(gate: Gate, message: Any, skipped: str) -> None:
    """
    Wait for the route table. If that fails, the message was not decided on, and goes back.
    """
    started = time.monotonic()
    try:
        await gate.synced()
    except TenancyError:
        pause = max(_RETURN_SECONDS, settings().routes_deadline)
        await _give_back(message, skipped, started + pause - time.monotonic())
        raise


async def _give_back(message: Any, skipped: str, pause: float) -> None:
    """
    Return a message that was not decided on to its queue, slowly enough not to spin; where the caller acknowledges, only be as slow.
    """
    await asyncio.sleep(pause)
    if skipped == "ack" and not message.processed:
        await _settle(message.nack(requeue=True))


async def _settle(answer: Awaitable[None]) -> None:
    """
    Send the broker our answer to a message that is not handled. Where its channel is gone the broker has taken the message back already.
    """
    try:
        await answer
    except (AMQPError, ChannelInvalidStateError, ConnectionError):
        return


def _warn_undecided(error: Exception) -> None:
    warn_once(
        f"undecided:{type(error).__qualname__}",
        "aio_pika: whose a message is could not be decided, because the accept function, or what else decides, raised %r. Unless the caller "
        "acknowledges, the message goes back to its queue, and comes again until that is mended. Further ones are not logged.",
        error,
    )


def _warn_only_copy(decision: Decision, message: Any) -> None:
    warn_once(
        f"only-copy:{message.routing_key}",
        "aio_pika: a message with routing key %s came through the default exchange to queue %r, which no sandbox's queue gets a copy "
        "from, so the baseline handles it itself. Publish to a named exchange to which the queues are bound. Further ones are only counted "
        "(tenancy.verdicts, reason only_copy).",
        decision.verdict.key,
        message.routing_key,
    )


def _warn_skipped(sandbox: str | None, message: Any, only_copy: bool) -> None:
    if sandbox is None:
        return
    if only_copy:
        warn_once(
            f"only-copy:{message.routing_key}",
            "aio_pika: a message that is not sandbox %s's was published through the default exchange to its queue %r. It is not handled; "
            "unless the caller acknowledges, it goes to the queue's dead-letter exchange, or nowhere if there is none.",
            sandbox,
            message.routing_key,
        )
    if not _own_queues:
        warn_once(
            "own-queue",
            "aio_pika: sandbox %s skips messages, but its queue's name was not made by declare_queue() or queue_name(). If it reads the "
            "baseline's queue, the messages it skips are lost.",
            sandbox,
        )
