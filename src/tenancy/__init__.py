"""
Request tenancy: test a pull request beside shared staging.

Carry the routing key of a request over every hop, take only the messages that are yours, and keep each key's rows apart.
"""

from __future__ import annotations

from .config import Settings, configure, settings
from .context import cache_key, routing_key
from .errors import (
    ClaimLostError,
    CompactedTopicError,
    ConfigurationError,
    ConflictError,
    DeduplicationError,
    HandoverError,
    IdentityError,
    InvalidRoutingKeyError,
    MissingDependencyError,
    PartitionError,
    RoutesNotSyncedError,
    RouteSourceError,
    TenancyError,
)
from .instrumentation import instrument, uninstrument
from .key import RoutingKey
from .naming import find_partition_key, partition_name
from .propagator import extract, inject
from .scope import scope

__all__ = [
    "ClaimLostError",
    "CompactedTopicError",
    "ConfigurationError",
    "ConflictError",
    "DeduplicationError",
    "HandoverError",
    "IdentityError",
    "InvalidRoutingKeyError",
    "MissingDependencyError",
    "PartitionError",
    "RouteSourceError",
    "RoutesNotSyncedError",
    "RoutingKey",
    "Settings",
    "TenancyError",
    "cache_key",
    "configure",
    "extract",
    "find_partition_key",
    "inject",
    "instrument",
    "partition_name",
    "routing_key",
    "scope",
    "settings",
    "uninstrument",
]
