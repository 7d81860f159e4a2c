"""
aiokafka: send the routing key, and handle only the records that are this process's.

Every sandbox reads the topic in a consumer group of its own, so each record reaches the baseline and every sandbox, and exactly one of
them handles it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar, overload

from .. import propagator
from .._optional import extra
from .._proxy import Proxy
from ..config import Accept, switched_on
from ..context import attached, routing_key
from ..key import RoutingKey
from ..propagator import current_codec
from ..routes import LiveRoutes
from ._gate import Gate, checked, disguised, find_message, gate_of, own_name
from .kafka.aio import SelectiveConsumer
from .kafka.aio_guard import Guard
from .kafka.compaction import Compacted
from .kafka.own_topics import topic_name
from .kafka.record_key import is_namespaced, record_key, split_record_key
from .kafka.selection import HoldLimit

with extra("aiokafka", "aiokafka"):
    from aiokafka.structs import ConsumerRecord

__all__ = [
    "Headers",
    "HoldLimit",
    "SelectiveConsumer",
    "consumer",
    "group_id",
    "inject",
    "record_key",
    "split_record_key",
    "synced",
    "topic_name",
    "with_key",
]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

#: Headers as aiokafka takes them, or as a dictionary.
Headers: TypeAlias = "Mapping[str, bytes] | Iterable[tuple[str, bytes]]"

_CURRENT: Any = propagator.CURRENT


def inject(headers: Headers | None = None, *, key: RoutingKey | str | None = _CURRENT) -> list[tuple[str, bytes]]:
    """
    Return headers that carry the routing key exactly once, for ``producer.send(topic, value, headers=inject())``.

    Args:
        headers: The headers so far, as pairs, a dictionary, or ``record.headers`` of a record that is passed on; they are not changed. All
            others stay as they are, in their order.
        key: What to write; None removes any key. Default: the current key, and where there is none the one that *headers* already has,
            unless the work at hand was said to have none.

    Returns:
        A new list of pairs; what we write is bytes.

    Raises:
        InvalidRoutingKeyError: If *key* is given and is not a routing key.
    """
    given = list(headers.items()) if isinstance(headers, Mapping) else list(headers or ())
    return propagator.inject(given, key=key, binary=True)


def with_key(producer: T, *, compacted: Compacted | None = None) -> T:
    """
    Return a producer whose records carry the routing key that is current when they are sent: those of ``send``, ``send_and_wait`` and,
    where each is appended, ``create_batch``; also in transactions.

    A record with a routing key is refused where it would take the place of the baseline's: in a compacted topic, under a record key that is
    not one of `record_key`. Whether a topic is compacted is asked, by the producer's own connections, when the first such record is sent,
    and again after some minutes. It is sent, with a warning, where the broker does not tell.

    Args:
        producer: An ``AIOKafkaProducer``, started or not. It is not changed: use what is returned in its place.
        compacted: The topics that are compacted, or a function that says it of one; the broker is not asked then.

    Raises:
        ConfigurationError: If *compacted* is neither.
    """
    if not switched_on():
        return producer
    keyed: Any = _Producer(producer, Guard(producer, compacted))
    return keyed  # type: ignore[no-any-return]


class _Producer(Proxy):
    """
    A producer that writes the routing key; everything else is the producer's own.
    """

    def __init__(self, producer: Any, guard: Guard) -> None:
        super().__init__(producer)
        self._tenancy_guard = guard

    async def send(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Any = None,
    ) -> Any:
        written = inject(headers)
        await self._tenancy_guard.check(topic, key, _key_of(headers, written))
        return await self._tenancy_target.send(topic, value, key, partition, timestamp_ms, written)

    async def send_and_wait(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Any = None,
    ) -> Any:
        written = inject(headers)
        await self._tenancy_guard.check(topic, key, _key_of(headers, written))
        return await self._tenancy_target.send_and_wait(topic, value, key, partition, timestamp_ms, written)

    def create_batch(self) -> Any:
        batch = self._tenancy_target.create_batch()
        append = batch.append
        appended: dict[RoutingKey, Any] = {}

        def append_with_key(*, timestamp: Any, key: Any, value: Any, headers: Any = ()) -> Any:
            written = inject(headers)
            space = _key_of(headers, written)
            if space is not None and key is not None and not is_namespaced(key, space):
                appended.setdefault(space, key)  # the first of each will do: all are refused, or none is
            return append(timestamp=timestamp, key=key, value=value, headers=written)

        # It was made for our caller alone, and ``send_batch`` wants to see no other class.
        batch.append = append_with_key
        batch.tenancy_appended = appended
        return batch

    async def send_batch(self, batch: Any, topic: str, **options: Any) -> Any:
        for space, key in getattr(batch, "tenancy_appended", {}).items():
            await self._tenancy_guard.check(topic, key, space)
        return await self._tenancy_target.send_batch(batch, topic, **options)

    async def __aenter__(self) -> Any:
        await self._tenancy_target.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._tenancy_target.stop()


def _key_of(given: Any, written: list[tuple[str, bytes]]) -> RoutingKey | None:
    """
    Return the routing key of a record: the current one, or that of the headers with which it is passed on.
    """
    return routing_key() or (current_codec().read(written).key if given else None)


def group_id(base: str, *, workload: str | None = None) -> str:
    """
    Return the consumer group of this process for a plain ``AIOKafkaConsumer``: *base* for the baseline, a group of its own for each sandbox.
    A `SelectiveConsumer` takes the baseline's group itself.

    Args:
        base: The group of the baseline, such as ``orders``; sandbox ``pr-42`` then has ``orders.pr-42``.
        workload: This process's workload, ``namespace/name``; default the setting.

    Raises:
        IdentityError: If it is not said who this process is; it never joins the baseline's group by accident.
    """
    return own_name(base, "kafka-group", workload)


class _Decorator(Protocol):
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> Callable[P, Coroutine[Any, Any, R | None]]: ...


@overload
def consumer(workload: str | None = None, *, accept: Accept | None = None, routes: LiveRoutes | None = None) -> _Decorator: ...
@overload
def consumer(workload: Callable[P, Awaitable[R]], /) -> Callable[P, Coroutine[Any, Any, R | None]]: ...
def consumer(workload: Any = None, *, accept: Accept | None = None, routes: LiveRoutes | None = None) -> Any:
    """
    Decorate a coroutine function that handles one ``ConsumerRecord`` of a plain ``AIOKafkaConsumer``, so that it is called only for this
    process's records, with each record's routing key current; for any other record it returns None.

    Nobody acknowledges here: the loop around it commits as before, and a skipped record with the others. A `SelectiveConsumer` needs no
    such decorator, and hands over exactly where a route is added or removed; this one decides by the table as it is at the moment.

    It takes functions, methods, partials and callable objects; the record is the first argument that is one. Where tenancy is switched off
    the function itself is returned.

    Args:
        workload: This process's workload, ``namespace/name``; default the setting.
        accept: Which keys are accepted; the baseline and all forks must agree, or a record has two owners or none. Default the setting,
            else the keys that the route table knows.
        routes: The live route table; default the one of the settings.

    Raises:
        IdentityError: If it is not said who this process is.
        ConfigurationError: If there is no route source, or *workload* is no handler where the decorator is used without parentheses.
    """
    if workload is not None and not isinstance(workload, str):
        return _decorated(workload, None, None, None)
    return functools.partial(_decorated, workload=workload, accept=accept, routes=routes)


async def synced(handler: Callable[..., Any]) -> None:
    """
    Wait for the route table of a decorated handler, and make sure that it knows this workload. Await it at start, so that a mistake is
    found there; otherwise it happens before the first record with a key.

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


def _decorated(function: Any, workload: str | None, accept: Accept | None, routes: LiveRoutes | None) -> Any:
    checked(function)
    if not switched_on():
        return function
    gate = Gate("aiokafka", workload=workload, accept=accept, routes=routes, instead="aiokafka.SelectiveConsumer")

    async def handle(*args: Any, **kwargs: Any) -> Any:
        record = find_message(args, kwargs, ConsumerRecord, ("headers", "offset"))
        if record is None:
            return None
        if gate.waits(record.headers):
            await gate.synced()
        decision = gate.decide(record.headers)
        if not decision.owned:
            return None
        with attached(decision.context):
            result = function(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

    return disguised(handle, function, gate)
