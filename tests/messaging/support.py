"""
What the tests of message consumers share: a route table, identities, and stand-ins for messages.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aio_pika
import aiormq
from aiormq.abc import DeliveredMessage
from pamqp.header import ContentHeader

import tenancy
from tenancy.routes import LiveRoutes
from tenancy.routes.sources.file import FileSource

WORKLOAD = "shop/orders"
#: Who owns a message of each kind where pr-1 and pr-2 fork the workload; None is the baseline.
OWNERS: dict[str, str | None] = {"none": None, "pr-1": "pr-1", "pr-2": "pr-2", "pr-7": None, "unknown": None, "malformed": None}
#: What each kind of message carries.
HEADERS: dict[str, list[tuple[str, str]]] = {
    "none": [("other", "1")],
    "pr-1": [("baggage", "a=1,sd-routing-key=pr-1")],
    "pr-2": [("baggage", "sd-routing-key=pr-2;ttl=1")],
    "pr-7": [("baggage", "sd-routing-key=pr-7")],  # the table knows it, but it forks another workload
    "unknown": [("baggage", "sd-routing-key=pr-99")],
    "malformed": [("baggage", "sd-routing-key=PR_1")],
}


def write_table(path: Path, *keys: str) -> None:
    """
    Write a route table in which *keys* fork the workload, and ``pr-7`` another one.
    """
    routes = [{"workload": WORKLOAD, "key": key, "sandbox": key} for key in keys]
    routes.append({"workload": "shop/billing", "key": "pr-7", "sandbox": "pr-7"})
    path.write_text(json.dumps({"workloads": [WORKLOAD], "routes": routes}))


def live(path: Path) -> LiveRoutes:
    """
    Follow a route table in a file.
    """
    return LiveRoutes(FileSource(path), interval=0.02)


def become(sandbox: str | None, **more: Any) -> None:
    """
    Make this process the baseline, or a sandbox.
    """
    role = "baseline" if sandbox is None else None
    tenancy.configure(**{"workload": WORKLOAD, "role": role, "sandbox": sandbox, **more})


class Record:
    """
    Stands in for a ``confluent_kafka.Message``, which old versions do not let anybody make.
    """

    def __init__(self, headers: Any = None, error: Any = None) -> None:
        self._headers, self._error = headers, error

    def headers(self) -> Any:
        return self._headers

    def error(self) -> Any:
        return self._error


def record(kind: str) -> Record:
    """
    Return a Kafka message of one kind.
    """
    return Record([(name, value.encode()) for name, value in HEADERS[kind]])


class Channel:
    """
    Stands in for the AMQP channel of a message, and writes down what is answered on it.
    """

    is_closed = False

    def __init__(self) -> None:
        self.answers: list[tuple[Any, ...]] = []
        self.connection = SimpleNamespace(basic_nack=True)

    async def basic_ack(self, delivery_tag: int, multiple: bool) -> None:
        self.answers.append(("ack", delivery_tag, multiple))

    async def basic_nack(self, delivery_tag: int, multiple: bool, requeue: bool) -> None:
        self.answers.append(("nack", delivery_tag, multiple, requeue))

    async def basic_reject(self, delivery_tag: int, requeue: bool) -> None:
        self.answers.append(("reject", delivery_tag, requeue))


def delivered(
    headers: Any = None, *, exchange: str = "shop", no_ack: bool = False, channel: Any = None, tag: int = 7
) -> aio_pika.IncomingMessage:
    """
    Return a message as aio-pika hands it to a handler.
    """
    return aio_pika.IncomingMessage(
        DeliveredMessage(
            delivery=aiormq.spec.Basic.Deliver("consumer", tag, False, exchange, "orders"),
            header=ContentHeader(properties=aiormq.spec.Basic.Properties(headers=headers)),
            body=b"body",
            channel=Channel() if channel is None else channel,
        ),
        no_ack=no_ack,
    )


def answers(message: Any) -> list[tuple[Any, ...]]:
    """
    Return what was answered to a message of `delivered`.
    """
    channel: Channel = message.channel
    return channel.answers
