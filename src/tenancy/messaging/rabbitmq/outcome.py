"""
What can become of a copy that is published.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Outcome"]


class Outcome(Enum):
    """
    What became of a copy.
    """

    #: The broker has it, in a queue.
    SENT = "sent"
    #: The broker found no queue for it, and has given it back.
    RETURNED = "returned"
    #: The broker has refused it, or cannot be had: it may have it, or not.
    FAILED = "failed"
