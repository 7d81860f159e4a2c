"""
gRPC metadata: what a call carries, and what a handler sees of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from opentelemetry.context import Context

from ..context import cleared, routing_key, with_key, without_trace_key
from ..key import RoutingKey
from ..observe import report_malformed
from ..propagator import current_codec, inject
from .target import Destination

__all__ = ["Metadatum", "outgoing", "rewritten"]


class Metadatum(NamedTuple):
    """
    One entry of metadata, as grpc itself shows it to a handler.
    """

    key: str
    value: str | bytes


class Outgoing(NamedTuple):
    """
    What goes out with a call.

    Args:
        metadata: All entries.
        context: The context in which everything between us and the wire must run, where the current one says something else: another
            interceptor there may write the current baggage over ours.
    """

    metadata: list[Any]
    context: Context | None


def outgoing(metadata: Iterable[Any] | None, destination: Destination) -> Outgoing | None:
    """
    Return what goes out with a call that was given *metadata*, or None where that is just what was given.
    """
    current = routing_key()
    # Another interceptor may send the tracestate that came in, with a key that the target must not see.
    clean = None if destination.trusted or current is not None else without_trace_key(None)
    if current is None and not metadata and clean is None:
        return None
    entries = list(metadata or ())
    key = current
    if key is None:
        reading = current_codec().read(entries)
        if reading.malformed is not None:
            report_malformed("grpc", reading.malformed, "it is not sent")
        elif reading.key is None:
            # Reading has used up what can be read only once.
            return None if clean is None and isinstance(metadata, Collection) else Outgoing(entries, clean)
        key = None if cleared() else reading.key
    if key is not None and not destination.trusted:
        destination.withhold()
        key = None
    # Values of -bin entries are bytes; ours is text whatever stands beside it.
    return Outgoing(inject(entries, key=key, binary=False), clean if key == current else with_key(key))


def rewritten(metadata: Iterable[Any], key: RoutingKey | None) -> tuple[Metadatum, ...]:
    """
    Return metadata that names *key* exactly once, or none.
    """
    return tuple(Metadatum(*entry) for entry in inject(list(metadata), key=key, binary=False))
