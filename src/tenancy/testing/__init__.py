"""
Helpers for the tests of services that use request-tenancy. None of them needs pytest; the pytest plugin offers them as fixtures.
"""

from __future__ import annotations

from ._apps import Response
from .carriers import SHAPES, Headers, Shape, carrier, header_lines
from .deduplication import MemoryDeduplication
from .hop import Hop
from .hops import Hops, record_hops
from .isolation import Configure, isolated_settings
from .messages import Answer, KafkaMessage, kafka_message, rabbitmq_message
from .propagation import assert_propagates, assert_propagates_async
from .routes import Forks, MemoryRoutes
from .store import MemoryStore

__all__ = [
    "SHAPES",
    "Answer",
    "Configure",
    "Forks",
    "Headers",
    "Hop",
    "Hops",
    "KafkaMessage",
    "MemoryDeduplication",
    "MemoryRoutes",
    "MemoryStore",
    "Response",
    "Shape",
    "assert_propagates",
    "assert_propagates_async",
    "carrier",
    "header_lines",
    "isolated_settings",
    "kafka_message",
    "rabbitmq_message",
    "record_hops",
]
