"""
The configuration of a `SelectiveConsumer`: what of it the client gets, and what is done here in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...errors import ConfigurationError
from .selection import Selection

__all__ = ["Plan", "planned"]

_LATEST = {"latest", "largest", "end"}
_ON = {"true", "1", "t"}


class Plan(NamedTuple):
    """
    How a consumer is run.

    Args:
        config: What the client gets.
        group: The consumer group.
        commits: Whether the client commits by itself what is stored (``enable.auto.commit``).
        stores: Whether what was handed on is stored as soon as the next is asked for (``enable.auto.offset.store``).
        interval: Seconds between two commits of what was skipped, where nobody commits anything else.
        incremental: Whether assignments are changed step by step: with cooperative assignors, and with KIP-848.
        ends: Whether the client tells of the end of a partition though nobody asked for it.
    """

    config: dict[str, Any]
    group: str
    commits: bool
    stores: bool
    interval: float
    incremental: bool
    ends: bool


def planned(config: Mapping[str, Any], selection: Selection | None) -> Plan:
    """
    Return how a consumer of this configuration is run.

    Args:
        config: The configuration, as for ``confluent_kafka.Consumer``.
        selection: What belongs to this process; None where tenancy is switched off.

    Raises:
        ConfigurationError: If there is no group, or if a sandbox would lose messages.
        IdentityError: If the route table has nothing for this sandbox.
        RoutesNotSyncedError: If a sandbox's routes could not be read before the deadline of the settings.
    """
    given = dict(config)
    ends = False
    commits, stores = _is_on(given.get("enable.auto.commit")), _is_on(given.get("enable.auto.offset.store"))
    cooperative = "cooperative" in str(given.get("partition.assignment.strategy", ""))
    incremental = cooperative or str(given.get("group.protocol", "")).lower() == "consumer"
    interval = float(given.get("auto.commit.interval.ms", 5000)) / 1000
    base = str(given.get("group.id") or "")
    if selection is not None:
        if not base:
            raise ConfigurationError(
                "config has no 'group.id'; give the baseline's consumer group, of which a sandbox's is derived"
            )
        if not selection.baseline:
            given["auto.offset.reset"] = _reset(given.get("auto.offset.reset"), selection)
            # Whoever waits for a sandbox to drain waits for it to come to the end, where there may be no message.
            ends = not _is_on(given.get("enable.partition.eof", "false"))
            given["enable.partition.eof"] = True
        given["group.id"] = base = selection.join(base)
        given["enable.auto.offset.store"] = False
    return Plan(given, base, commits, stores, interval, incremental, ends)


def _reset(reset: Any, selection: Selection) -> Any:
    if reset in _LATEST:
        raise ConfigurationError(
            f"config has 'auto.offset.reset': {reset!r}, with which sandbox {selection.reader.identity.sandbox} would lose messages: those "
            "between where its key was handed to it and where it joined. Use 'earliest'; it begins at the hand-over, not at the beginning "
            "of the topic"
        )
    return reset or "earliest"


def _is_on(value: Any) -> bool:
    return value is None or str(value).lower() in _ON
