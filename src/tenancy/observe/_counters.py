"""
Counters of the OpenTelemetry metrics API, with labels whose number is bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from opentelemetry import metrics

from ..key import RoutingKey

__all__ = ["MAX_KEY_LABELS", "CounterName", "count", "key_label"]

#: How many different routing keys may appear as a label value in this process.
MAX_KEY_LABELS = 100

CounterName = Literal[
    "tenancy.verdicts",
    "tenancy.keys.malformed",
    "tenancy.keys.conflicting",
    "tenancy.keys.refused",
    "tenancy.baggage.dropped_members",
    "tenancy.egress.withheld",
    "tenancy.routes.reload_failures",
    "tenancy.partition.unknown_keys",
    "tenancy.messages.claims",
]

_DESCRIPTIONS: Mapping[CounterName, str] = {
    "tenancy.verdicts": "Pieces of work decided on, by verdict and reason.",
    "tenancy.keys.malformed": "Routing keys that break the grammar.",
    "tenancy.keys.conflicting": "Carriers that named several routing keys.",
    "tenancy.keys.refused": "Well-formed routing keys that were not accepted.",
    "tenancy.baggage.dropped_members": "Baggage members of others left out because the header would be over its limit.",
    "tenancy.egress.withheld": "Requests that went out without their routing key because the host is not trusted.",
    "tenancy.routes.reload_failures": "Attempts to read a changed route table that failed; the last good one holds.",
    "tenancy.partition.unknown_keys": "Statements of a routing key that has no partition in the database.",
    "tenancy.messages.claims": "Claims of message ids, by what came of them.",
}

_meter = metrics.get_meter("tenancy")
_counters = {name: _meter.create_counter(name, unit="1", description=text) for name, text in _DESCRIPTIONS.items()}
_labelled: set[RoutingKey] = set()


def count(name: CounterName, attributes: Mapping[str, str] | None = None, amount: int = 1) -> None:
    """
    Add to one of this library's counters.

    Args:
        name: The counter.
        attributes: Labels from a bounded set of values; a routing key only by way of `key_label`.
        amount: How much to add.
    """
    _counters[name].add(amount, dict(attributes) if attributes else None)


def key_label(key: RoutingKey | None, *, known: bool) -> str:
    """
    Return the value under which *key* may be a label: itself only if the route table knows it, and for 100 keys at most.

    Args:
        key: The key, or None (``_none``).
        known: Whether the route table has the key; if not, ``_unknown``.
    """
    if key is None:
        return "_none"
    if not known:
        return "_unknown"
    if key not in _labelled:
        if len(_labelled) >= MAX_KEY_LABELS:
            return "_other"
        _labelled.add(key)
    return key
