"""
What leaves with an HTTP request: the routing key to hosts that are trusted, and to no other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from opentelemetry.context import Context

from ..context import cleared, routing_key, with_key, without_trace_key
from ..egress import current_egress, report_withheld
from ..key import RoutingKey
from ..observe import report_malformed
from ..propagator import current_codec, inject

__all__ = ["Outbound", "outbound"]


class Outbound(NamedTuple):
    """
    How one request, or one hop of a redirect, leaves.

    Args:
        headers: Its headers, of the shape that was given; None: those that it has.
        withheld: The current key, where the host must not be told it.
        context: The context in which it is sent, so that an OpenTelemetry instrumentation further in does not write again what the host
            must not see; None: the current one is right.
    """

    headers: Any
    withheld: RoutingKey | None = None
    context: Context | None = None


_AS_IT_IS = Outbound(None)


def outbound(headers: Any, host: str | None, *, adapter: str) -> Outbound:
    """
    Decide what one request carries.

    Args:
        headers: The request's headers, in any shape; they are not changed.
        host: The host that is connected to, as the client spells it; None: it could not be found out.
        adapter: Who asks, for counters and warnings.
    """
    key = routing_key()
    if key is None:
        reading = current_codec().read(headers)
        if reading.malformed is not None:
            report_malformed(adapter, reading.malformed, "it is not sent")
        elif reading.key is None:
            context = without_trace_key(None)
            return _AS_IT_IS if context is None or current_egress().allows(host) else Outbound(None, None, context)
        named = reading.key
    else:
        named = key
    if current_egress().allows(host):
        return Outbound(inject(headers, key=None if key is None and cleared() else named))
    if named is not None:
        report_withheld(adapter, host)
    return Outbound(inject(headers, key=None), key, without_trace_key(None) if key is None else with_key(None))
