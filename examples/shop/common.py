"""
What all services of the shop share: where things are, the ledger in which each tells what it handled, and the rows.
"""

from __future__ import annotations

import json
import os
import signal
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Integer, MetaData, String, Table

import tenancy
from tenancy.data.postgresql import cover
from tenancy.data.sqlalchemy import RowPartition

RUN = Path(os.environ["SHOP_RUN"])
SERVICE = os.environ["SHOP_SERVICE"]
VERSION = os.environ["SHOP_VERSION"]
SABOTAGE = os.environ.get("SHOP_SABOTAGE", "")
DATABASE = os.environ["SHOP_DATABASE"]
KAFKA = os.environ["SHOP_KAFKA"]
RABBITMQ = os.environ.get("SHOP_RABBITMQ", "")
#: Whether the route table says when a key is handed over; a file does not.
EXACT = not os.environ.get("TENANCY_ROUTES", "").startswith("file:")

# Every run has names of its own, so that runs can share servers.
RUN_ID = os.environ["SHOP_ID"]
TOPIC = f"shop-orders-{RUN_ID}"
GROUP = f"shop-fulfilment-{RUN_ID}"
EXCHANGE = f"shop.fulfilled.{RUN_ID}"
QUEUE = f"shop.notify.{RUN_ID}"

#: Whether each key has a partition of the database; else a column tells whose a row is.
PARTITIONED = DATABASE.startswith("postgresql")


def _tenant() -> list[Column[Any]]:
    return [] if PARTITIONED else [Column("tenant", String(63), nullable=False)]


metadata = MetaData()
orders = Table(
    f"orders_{RUN_ID}",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("order_id", String(64), nullable=False),
    Column("price", Integer, nullable=False),
    *_tenant(),
)
notifications = Table(
    f"notifications_{RUN_ID}",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("order_id", String(64), nullable=False),
    *_tenant(),
)

_SWAPPED = {"pr-42": "pr-77", "pr-77": "pr-42"}


def isolate(engine: Any) -> None:
    """
    Keep what is done under a routing key to the key's own data.
    """
    if PARTITIONED:
        cover(engine)
    else:
        RowPartition(column="tenant", value=str, baseline="baseline").install(engine)


def own_data() -> AbstractContextManager[Any]:
    """
    Work on the data of the key at hand; or, on request, with the mistake that each sandbox gets the other's.
    """
    other = _SWAPPED.get(tenancy.routing_key() or "") if SABOTAGE == "wrong-partition" else None
    return nullcontext() if other is None else tenancy.scope(other)


def handled(order: str) -> None:
    """
    Write down that this process handled this order, with the routing key that it saw.
    """
    line = json.dumps({"order": order, "service": SERVICE, "version": VERSION, "key": tenancy.routing_key()})
    ledger = os.open(RUN / "ledger.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(ledger, f"{line}\n".encode())
    finally:
        os.close(ledger)


def ready() -> None:
    """
    Tell the demo that this process is at work.
    """
    (RUN / f"ready-{SERVICE}-{VERSION}").touch()


def consumer_or_sabotage(decorate: Any, handler: Any) -> Any:
    """
    Return the handler with its filter; or, on request, with one of the mistakes that the demo must catch.
    """
    if SABOTAGE == "no-filter":  # handles whatever comes

        async def unfiltered(message: Any) -> Any:
            with tenancy.scope(message):
                return await handler(message)

        return unfiltered
    if SABOTAGE == "ambient":  # decides from the context around the consumer, where no message's key ever is

        async def ambient(message: Any) -> Any:
            if str(tenancy.routing_key() or "baseline") != VERSION:
                return await _acknowledge(message)
            with tenancy.scope(message):
                return await handler(message)

        return ambient
    return decorate(handler)


async def _acknowledge(message: Any) -> None:
    ack = getattr(message, "ack", None)
    if ack is not None:
        await ack()


def stop_on_sigterm() -> None:
    """
    Make SIGTERM end the process by way of its ``finally`` blocks.
    """

    def stop(*_: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
