"""
What consumers of Kafka share, whatever their client library: which records are theirs, and how far they may commit.
"""

from __future__ import annotations

__all__: list[str] = []
