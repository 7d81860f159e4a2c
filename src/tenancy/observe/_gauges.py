"""
What is set aside because it cannot be said yet whose it is: how much, and for how long.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol
from weakref import WeakSet

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

__all__ = ["Holding", "watch_held"]


class Holding(Protocol):
    """
    Somebody who sets messages aside.
    """

    def held(self) -> tuple[int, float]:
        """
        Return how many are set aside, and for how many seconds the first of them.
        """
        ...

    def labels(self) -> dict[str, str]:
        """
        Return what tells whose they are, from a bounded set of values.
        """
        ...


_watched: WeakSet[Any] = WeakSet()


def watch_held(holding: Holding) -> None:
    """
    Make known what somebody sets aside, for as long as he is there.
    """
    _watched.add(holding)


def _amounts(_: CallbackOptions) -> Iterable[Observation]:
    return [Observation(holding.held()[0], holding.labels()) for holding in list(_watched)]


def _ages(_: CallbackOptions) -> Iterable[Observation]:
    return [Observation(holding.held()[1], holding.labels()) for holding in list(_watched)]


_meter = metrics.get_meter("tenancy")
_meter.create_observable_gauge(
    "tenancy.held.messages", [_amounts], unit="1", description="Messages set aside because it cannot be said yet whose they are."
)
_meter.create_observable_gauge("tenancy.held.age", [_ages], unit="s", description="How long the first of them has been waiting.")
