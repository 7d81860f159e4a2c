"""
Route stores: where a route table is kept that can be written; a module for each kind, loaded by the scheme of a URL.
"""

from __future__ import annotations

from ._base import Head, Member, Put, RouteStore, Snapshot, open_store
from ._documents import (
    StoreSource,
    forget_partition,
    forget_topic,
    handover_name,
    put_handover,
    put_partition,
    put_topic,
    put_workload,
    table_of,
)

__all__ = [
    "Head",
    "Member",
    "Put",
    "RouteStore",
    "Snapshot",
    "StoreSource",
    "forget_partition",
    "forget_topic",
    "handover_name",
    "open_store",
    "put_handover",
    "put_partition",
    "put_topic",
    "put_workload",
    "table_of",
]
