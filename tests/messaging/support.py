"""
What the tests of message consumers share: a route table, identities, and messages of each kind.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tenancy
from tenancy.routes import LiveRoutes
from tenancy.routes.sources.file import FileSource
from tenancy.testing import KafkaMessage, kafka_message

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


def forks(*keys: str) -> dict[str, list[str]]:
    """
    Return a table in which *keys* fork the workload, and ``pr-7`` another one, as `MemoryRoutes` takes it.
    """
    return {WORKLOAD: list(keys), "shop/billing": ["pr-7"]}


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


def record(kind: str) -> KafkaMessage:
    """
    Return a Kafka message of one kind.
    """
    return kafka_message(headers=HEADERS[kind])
