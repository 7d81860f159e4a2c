"""
Where the data of routing keys lives, as the route table has it for people and tools to see. Pure.

Whether a key has a partition is asked of its database, where that is always true; this is the list of all databases.
"""

from __future__ import annotations

from typing import NamedTuple

from ..key import RoutingKey

__all__ = ["Partition"]


class Partition(NamedTuple):
    """
    The partition of a key in one database.

    Args:
        database: What the database is called among all of them, such as ``shop``.
        key: The routing key.
        place: The schemas, the database or the prefix that it is.
        kind: What it is: ``postgresql-schema``, ``postgresql-database``, ``mysql-database`` or ``redis-prefix``.
        dropped: Whether it was dropped; what comes late is not the baseline's because of that.
        expires: When it may be dropped, as ISO 8601; empty: not by itself.
        version: That of the store's table when this was written; 0: it is not in a store.
    """

    database: str
    key: RoutingKey
    place: tuple[str, ...]
    kind: str
    dropped: bool = False
    expires: str = ""
    version: int = 0
