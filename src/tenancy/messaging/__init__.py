"""
Consumers that take only their own messages, and producers that send the key; one module for each client library.
"""

from __future__ import annotations

__all__: list[str] = []
