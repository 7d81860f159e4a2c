"""
Topics of a sandbox's own: all that is in one is the sandbox's, whatever key it has, for as long as the sandbox lives. Pure.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["OwnTopic"]


class OwnTopic(NamedTuple):
    """
    One topic of a sandbox's own. It is noted before it is made, and until after it is gone, so that none is left behind.

    Args:
        name: What it is called.
        base: The topic of the baseline in whose place it stands.
        sandbox: Whose it is.
        mark: A number by which one that was made can be told from one that somebody else made.
        id: What the broker calls it for itself; empty: it is about to be made.
        leaving: Whether it is about to be removed.
        version: That of the store's table when this was written; 0: it is not in a store.
    """

    name: str
    base: str
    sandbox: str
    mark: int
    id: str = ""
    leaving: bool = False
    version: int = 0
