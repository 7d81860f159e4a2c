"""
Route stores: where a route table is kept that can be written; a module for each kind, loaded by the scheme of a URL.
"""

from __future__ import annotations

from ._base import Head, Member, Put, RouteStore, Snapshot, open_store
from ._documents import StoreSource, handover_name, put_handover, put_workload, table_of

__all__ = [
    "Head",
    "Member",
    "Put",
    "RouteStore",
    "Snapshot",
    "StoreSource",
    "handover_name",
    "open_store",
    "put_handover",
    "put_workload",
    "table_of",
]
