"""
confluent-kafka: send the routing key, and handle only the messages that are this process's.

Every sandbox reads the topic in a consumer group of its own (`group_id`), so each record reaches the baseline and every sandbox, and
exactly one of them handles it. Nothing is acknowledged here: offsets are committed as they are without this library, skipped records with
the others.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar, cast, overload

from opentelemetry.context import Context

from .. import propagator
from .._optional import extra
from .._proxy import Proxy
from ..config import Accept, switched_on
from ..context import attached, routing_key
from ..context import with_key as context_with
from ..key import RoutingKey
from ..observe import count, warn_once
from ..propagator import current_codec
from ..routes import LiveRoutes
from ._gate import Gate, checked, disguised, find_message, gate_of, own_name
from .kafka.compaction import Compacted
from .kafka.confluent import SelectiveConsumer
from .kafka.confluent_guard import Guard
from .kafka.own_topics import topic_name
from .kafka.record_key import record_key, split_record_key
from .kafka.selection import HoldLimit

with extra("kafka", "confluent_kafka"):
    from confluent_kafka import DeserializingConsumer, KafkaException, Message, SerializingProducer

__all__ = [
    "Headers",
    "HoldLimit",
    "SelectiveConsumer",
    "SelectiveDeserializingConsumer",
    "consumer",
    "group_id",
    "inject",
    "record_key",
    "split_record_key",
    "synced",
    "topic_name",
    "transactional_id",
    "wait_synced",
    "with_key",
]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

#: Headers as confluent-kafka takes them.
Headers: TypeAlias = "Mapping[str, str | bytes | None] | Sequence[tuple[str, str | bytes | None]]"

_CURRENT: Any = propagator.CURRENT


def inject(headers: Headers | None = None, *, key: RoutingKey | str | None = _CURRENT) -> list[tuple[str, str | bytes | None]]:
    """
    Return headers that carry the routing key exactly once, for ``producer.produce(topic, value, headers=inject())``.

    Args:
        headers: The headers so far, as a list of pairs, a dictionary, or ``message.headers()`` of a message that is passed on; they are
            not changed. All others stay as they are, in their order.
        key: What to write; None removes any key. Default: the current key, and where there is none the one that *headers* already has,
            unless the work at hand was said to have none.

    Returns:
        A new list of pairs; what we write is bytes.

    Raises:
        InvalidRoutingKeyError: If *key* is given and is not a routing key.
    """
    given = list(headers.items()) if isinstance(headers, Mapping) else list(headers or ())
    return propagator.inject(given, key=key, binary=True)


def group_id(base: str, *, workload: str | None = None) -> str:
    """
    Return the consumer group of this process: *base* for the baseline, a group of its own for each sandbox.

    Args:
        base: The group of the baseline, such as ``orders``; sandbox ``pr-42`` then has ``orders.pr-42``.
        workload: This process's workload, ``namespace/name``; default the setting.

    Raises:
        IdentityError: If it is not said who this process is; it never joins the baseline's group by accident.
    """
    return own_name(base, "kafka-group", workload)


def transactional_id(base: str, *, workload: str | None = None) -> str:
    """
    Return the ``transactional.id`` of this process: *base* for the baseline, one of its own for each sandbox, which would fence the
    baseline's producer with the same one (KIP-98).

    Args:
        base: The baseline's, which tells its instances apart, such as ``orders-0``.
        workload: This process's workload, ``namespace/name``; default the setting.

    Raises:
        IdentityError: If it is not said who this process is.
    """
    return own_name(base, "kafka-group", workload)


def with_key(producer: T, *, admin: Any = None, compacted: Compacted | None = None) -> T:
    """
    Return a producer whose messages carry the routing key that is current when they are produced: those of ``produce`` and, one by one, of
    ``produce_batch``, which by itself cannot send headers.

    A message with a routing key is refused where it would take the place of the baseline's: in a compacted topic, under a record key that
    is not one of `record_key`. Whether a topic is compacted is asked when the first such message is produced, which waits for the answer,
    and again after some minutes. A producer does not tell how to reach its cluster, so that is said by *admin*; without it, and without
    *compacted*, nobody knows, and there is a warning.

    Args:
        producer: A ``confluent_kafka.Producer``, or one of its kinds. It is not changed: use what is returned in its place, also for
            ``flush`` and ``poll``.
        admin: An ``AdminClient`` of the producer's cluster, or a configuration for one; the producer's will do.
        compacted: The topics that are compacted, or a function that says it of one; nobody is asked then.

    Raises:
        ConfigurationError: If *compacted* is neither.
    """
    if not switched_on():
        return producer
    keyed: Any = _Producer(producer, Guard(admin, compacted))
    return keyed  # type: ignore[no-any-return]


class _Producer(Proxy):
    """
    A producer that writes the routing key; everything else is the producer's own.
    """

    def __init__(self, producer: Any, guard: Guard) -> None:
        super().__init__(producer)
        self._tenancy_guard = guard
        # Where record key and headers stand among the arguments of produce() after the topic.
        self._tenancy_places = (0, 5) if isinstance(producer, SerializingProducer) else (1, 6)

    def produce(self, topic: str, *args: Any, **kwargs: Any) -> Any:
        key_at, headers_at = self._tenancy_places
        given = args[headers_at] if len(args) > headers_at else kwargs.get("headers")
        headers = inject(given)
        self._tenancy_guard.check(
            topic,
            args[key_at] if len(args) > key_at else kwargs.get("key"),
            routing_key() or (current_codec().read(headers).key if given else None),
        )
        if len(args) > headers_at:
            args = (*args[:headers_at], headers, *args[headers_at + 1 :])
        else:
            kwargs["headers"] = headers
        return self._tenancy_target.produce(topic, *args, **kwargs)

    def produce_batch(self, topic: str, messages: list[dict[str, Any]], partition: int = -1, on_delivery: Any = None) -> int:
        key = routing_key()
        if key is None:
            return int(self._tenancy_target.produce_batch(topic, messages, partition, on_delivery))
        for message in messages:  # before any is sent
            self._tenancy_guard.check(topic, message.get("key"), key)
        # A batch of librdkafka's has no headers, so these go one by one; what fails is noted as there.
        queued = 0
        for message in messages:
            given = {name: message[name] for name in ("value", "key", "timestamp") if name in message}
            try:
                self.produce(
                    topic,
                    partition=message.get("partition", partition),
                    on_delivery=message.get("callback", on_delivery),
                    **given,
                )
                queued += 1
            except (BufferError, KafkaException) as error:
                message["_error"] = error.args[0]
        return queued


class SelectiveDeserializingConsumer(DeserializingConsumer, SelectiveConsumer):  # type: ignore[misc]
    """
    A ``confluent_kafka.DeserializingConsumer`` that yields only the messages that are this process's; the others are not deserialized.

    Args:
        config: The configuration, as for ``DeserializingConsumer``.
        options: As for `SelectiveConsumer`: ``workload``, ``accept``, ``routes``, ``hold``, ``in_order``.
    """

    def __init__(self, config: Mapping[str, Any], **options: Any) -> None:
        self._options = options
        super().__init__(dict(config))


class _Decorator(Protocol):
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Callable[P, Coroutine[Any, Any, R | None]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R | None]: ...


@overload
def consumer(workload: str | None = None, *, accept: Accept | None = None, routes: LiveRoutes | None = None) -> _Decorator: ...
@overload
def consumer(workload: Callable[P, Coroutine[Any, Any, R]], /) -> Callable[P, Coroutine[Any, Any, R | None]]: ...
@overload
def consumer(workload: Callable[P, R], /) -> Callable[P, R | None]: ...
def consumer(workload: Any = None, *, accept: Accept | None = None, routes: LiveRoutes | None = None) -> Any:
    """
    Decorate a function that handles one ``confluent_kafka.Message``, so that it is called only for this process's messages, with each
    message's routing key current; for any other message it returns None.

    It is called with what ``poll()`` or ``consume()`` returned, between two polls:

    - Nobody acknowledges here. The loop around it commits as before, and a skipped message with the others.
    - None, which ``poll()`` returns when there is nothing, is not handled.
    - A message with an ``error()`` concerns the consumer and has no owner: it is always handled, without a key.
    - A malformed key counts as none; so does one that is not accepted.
    - An exception of the function is passed on as it is. So is the error where the route table cannot be had, which happens before the
      first message with a key is decided on; call `wait_synced` at start to have it there.

    It takes functions and coroutine functions, methods, partials and callable objects; the message is the first argument that is one.
    Where tenancy is switched off the function itself is returned.

    Args:
        workload: This process's workload, ``namespace/name``; default the setting.
        accept: Which keys are accepted; the baseline and all forks must agree, or a message has two owners or none. Default the
            setting, else the keys that the route table knows.
        routes: The live route table; default the one of the settings.

    Raises:
        IdentityError: If it is not said who this process is.
        ConfigurationError: If there is no route source, or *workload* is no handler where the decorator is used without parentheses.
    """
    if workload is not None and not isinstance(workload, str):
        return _decorated(workload, None, None, None)
    return functools.partial(_decorated, workload=workload, accept=accept, routes=routes)


def wait_synced(handler: Callable[..., Any]) -> None:
    """
    Wait for the route table of a decorated handler, and make sure that it knows this workload. Call it at start, so that a mistake is
    found there; otherwise it happens before the first message with a key.

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


async def synced(handler: Callable[..., Any]) -> None:
    """
    Like `wait_synced`, without blocking the event loop.
    """
    gate = gate_of(handler)
    if gate is not None:
        await gate.synced()


def _decorated(function: Any, workload: str | None, accept: Accept | None, routes: LiveRoutes | None) -> Any:
    call = checked(function)
    if not switched_on():
        return function
    gate = Gate("confluent_kafka", workload=workload, accept=accept, routes=routes, instead="confluent_kafka.SelectiveConsumer")
    return disguised((_coroutine if inspect.iscoroutinefunction(call) else _function)(function, gate), function, gate)


def _function(function: Callable[..., Any], gate: Gate) -> Callable[..., Any]:
    def handle(*args: Any, **kwargs: Any) -> Any:
        message = _message(args, kwargs)
        headers = _headers(message)
        if gate.waits(headers):
            gate.wait_synced()
        context = _context(message, headers, gate)
        if context is None:
            return None
        with attached(context):
            result = function(*args, **kwargs)
        # A task has the context in which it was made, and is handed on as what it is.
        return _awaited(result, context) if inspect.isawaitable(result) and not asyncio.isfuture(result) else result

    return handle


def _coroutine(function: Callable[..., Any], gate: Gate) -> Callable[..., Any]:
    async def handle(*args: Any, **kwargs: Any) -> Any:
        message = _message(args, kwargs)
        headers = _headers(message)
        if gate.waits(headers):
            await gate.synced()
        context = _context(message, headers, gate)
        if context is None:
            return None
        with attached(context):
            return await function(*args, **kwargs)

    return handle


async def _awaited(result: Awaitable[Any], context: Context) -> Any:
    with attached(context):
        return await result


def _message(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return find_message(args, kwargs, cast(type, Message), ("headers", "error"))


def _headers(message: Any) -> Any:
    """
    The headers by which a message is decided on; None where there is nothing to decide.
    """
    if message is None or message.error() is not None:
        return None
    try:
        return message.headers()
    except (SystemError, UnicodeError) as error:
        # A header's name is not UTF-8. The client does not survive being asked a second time.
        count("tenancy.keys.malformed", {"adapter": "confluent_kafka"})
        warn_once(
            "unreadable:confluent_kafka",
            "confluent_kafka: the headers of a message cannot be read (%r), so it counts as one without a routing key. Further ones are "
            "only counted (tenancy.keys.malformed).",
            error,
        )
        return None


def _context(message: Any, headers: Any, gate: Gate) -> Context | None:
    """
    The context in which a message is handled, or None where it is not.
    """
    if message is None:
        return None
    if message.error() is not None:
        return context_with(None)
    decision = gate.decide(headers)
    return decision.context if decision.owned else None
