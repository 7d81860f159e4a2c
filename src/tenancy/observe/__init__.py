"""
What can be seen of tenancy: counters, span attributes, a logging filter. Everything goes through the OpenTelemetry API; without an
SDK it costs next to nothing and goes nowhere.
"""

from __future__ import annotations

from ._counters import count, key_label
from ._gauges import watch_held
from ._logging import RoutingKeyFilter, report_malformed, warn_once
from ._spans import annotate_span

__all__ = ["RoutingKeyFilter", "annotate_span", "count", "key_label", "report_malformed", "warn_once", "watch_held"]
