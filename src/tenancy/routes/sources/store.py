"""
A route table in a route store: ``sqlite:///routes.db``, ``postgresql://host/database``, ``redis://host/0``.
"""

from __future__ import annotations

from ..stores import StoreSource, open_store

__all__ = ["open_source"]


def open_source(url: str) -> StoreSource:
    """
    Return the source of a store's URL.
    """
    return StoreSource(open_store(url))
