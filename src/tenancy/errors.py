"""
The errors that request-tenancy raises, one small tree under `TenancyError`.

Every message names the thing, the value, and what to do next.
"""

from __future__ import annotations

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
    "TenancyError",
]


class TenancyError(Exception):
    """
    The base of every error that this library raises on purpose.
    """


class InvalidRoutingKeyError(TenancyError, ValueError):
    """
    A value is not a routing key: it breaks the grammar, or is a reserved word.
    """


class ConfigurationError(TenancyError, ValueError):
    """
    A setting, an argument or an environment variable has a value that cannot be used.
    """


class IdentityError(ConfigurationError):
    """
    This process does not know which workload it is, or whether it is the baseline or a sandbox.
    """


class RouteSourceError(TenancyError):
    """
    A route table could not be read, or what was read is not a route table.
    """


class ConflictError(RouteSourceError):
    """
    A route table was changed by somebody else meanwhile; nothing was written.
    """


class HandoverError(TenancyError):
    """
    A key cannot be handed to a sandbox or taken from it as things are; what is there stays as it is.
    """


class CompactedTopicError(TenancyError):
    """
    A record with a routing key would take the place of the baseline's in a compacted topic; it was not sent.
    """


class DeduplicationError(TenancyError):
    """
    Which messages were handled could not be read or noted.
    """


class ClaimLostError(DeduplicationError):
    """
    The claim of a message expired while it was handled, and somebody else has claimed the message since.
    """


class RoutesNotSyncedError(RouteSourceError):
    """
    The route table was not read within the start-up deadline, so nothing with a key may be decided.
    """


class PartitionError(TenancyError):
    """
    A statement or a row cannot be kept inside the partition of the current routing key.
    """


class MissingDependencyError(TenancyError, ImportError):
    """
    An adapter was imported whose client library is not installed.
    """
