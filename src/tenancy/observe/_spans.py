"""
The key and the verdict on the current span.
"""

from __future__ import annotations

from opentelemetry import trace

from ..key import RoutingKey

__all__ = ["annotate_span"]


def annotate_span(key: RoutingKey | None, *, verdict: str | None = None, reason: str | None = None) -> None:
    """
    Set ``tenancy.routing_key``, ``tenancy.verdict`` and ``tenancy.reason`` on the current span, as far as they are known.

    Args:
        key: The routing key of the work that the span is about.
        verdict: What was decided, such as ``own``.
        reason: Why, in words.
    """
    span = trace.get_current_span()
    if not span.is_recording():
        return
    if key is not None:
        span.set_attribute("tenancy.routing_key", str(key))
    if verdict is not None:
        span.set_attribute("tenancy.verdict", verdict)
    if reason is not None:
        span.set_attribute("tenancy.reason", reason)
