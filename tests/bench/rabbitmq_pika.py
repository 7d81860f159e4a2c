"""
What a selective channel of pika's adds to consuming and acknowledging: real RabbitMQ, this thread's CPU time.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pika

import tenancy
from tenancy.messaging.pika import SelectiveChannel
from tenancy.routes import Handover, LiveRoutes, RouteTable, State

from .harness import Case

__all__ = ["NAMES", "cases"]

#: What `cases` yields.
NAMES = ("pika_filter",)

_MESSAGES = 2_000
_PREFETCH = 20
_HOLD = 200
_WORKLOAD = "shop/orders"
_BODY = json.dumps({"order": 12345, "items": [{"sku": f"sku-{i}", "count": i} for i in range(6)], "note": "x" * 40}).encode()


class _Table:
    """A route store that never changes."""

    name = "the bench's route table"

    def __init__(self, queue: str) -> None:
        row = Handover(_WORKLOAD, tenancy.RoutingKey("pr-1"), State.ACTIVE, 1, "pr-1", queues={queue: ""})
        self._table = RouteTable(workloads=[_WORKLOAD], handovers=[row], lease=10.0, id="bench", version=1)

    def read(self) -> RouteTable:
        return self._table

    def mark(self) -> object:
        return 1


class _Queue:
    """
    A queue that is filled for each round: one message in ten has a key that is not forked here.

    Args:
        url: The broker.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = f"bench-{uuid.uuid4().hex[:8]}"
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self.connection.channel()
        self._channel.queue_declare(self.name, durable=True)

    def fill(self) -> None:
        for number in range(_MESSAGES):
            mark = uuid.uuid4().hex[:16]
            key = "sd-routing-key=pr-9," if number % 10 == 0 else ""
            headers = {
                "traceparent": f"00-4bf92f3577b34da6{mark}-00f067aa0ba902b7-01",
                "baggage": f"user=u{mark},{key}tier=gold",
            }
            self._channel.basic_publish("", self.name, _BODY, pika.BasicProperties(headers=headers))
        while self._channel.queue_declare(self.name, passive=True).method.message_count < _MESSAGES:
            time.sleep(0.01)


def _variant(queue: _Queue, make: Callable[[Any], Any]) -> Callable[[int], float]:
    """
    Return what consumes the whole queue, filled once more, and says how long each message of it took.

    Args:
        queue: The queue.
        make: Makes the channel on a connection.
    """

    def work(_: int) -> float:
        queue.fill()
        with pika.BlockingConnection(pika.URLParameters(queue.url)) as connection:
            channel = make(connection)
            found = 0

            def handle(channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
                nonlocal found
                channel.basic_ack(method.delivery_tag)
                found += 1
                if found == _MESSAGES:
                    channel.stop_consuming()

            channel.basic_consume(queue.name, handle)
            began = time.thread_time_ns()
            channel.start_consuming()
            seconds = (time.thread_time_ns() - began) / 1e9 / _MESSAGES
            channel.close()
        return seconds

    return work


def _bare(connection: Any) -> Any:
    channel = connection.channel()
    channel.basic_qos(prefetch_count=_PREFETCH + _HOLD)  # what the other fetches, so that nothing but the work differs
    return channel


def _ours(queue: _Queue, routes: LiveRoutes) -> Callable[[Any], Any]:
    def make(connection: Any) -> Any:
        before = tenancy.settings()
        tenancy.configure(workload=_WORKLOAD, role="baseline")
        try:
            return SelectiveChannel(connection, queue.name, routes=routes, prefetch_count=_PREFETCH, hold=_HOLD, durable=True)
        finally:
            tenancy.configure(before)

    return make


def cases(url: str) -> Iterator[Case]:
    """
    Yield the cases.

    Args:
        url: A RabbitMQ broker.
    """
    queue = _Queue(url)
    variants = {"bare": _variant(queue, _bare), "ours": _variant(queue, _ours(queue, LiveRoutes(_Table(queue.name))))}
    yield Case(
        "pika_filter",
        1.1,
        variants,
        lambda seconds: seconds["ours"] / seconds["bare"],
        "bare",
        "pika's basic_consume and basic_ack: ours / bare",
    )
