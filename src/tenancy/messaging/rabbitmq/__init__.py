"""
RabbitMQ, whatever the client: what a queue's messages are a sandbox's, how the baseline sends them on, and how they come back.
"""

from __future__ import annotations

__all__: list[str] = []
