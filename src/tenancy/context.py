"""
Where the routing key lives while code runs: in OpenTelemetry baggage, in the current OpenTelemetry context, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import baggage
from opentelemetry import context as otel
from opentelemetry.context import Context

from .config import settings
from .key import RoutingKey

__all__ = ["attached", "cache_key", "cleared", "routing_key", "with_key"]

# Says that there is no key on purpose (a scope on None, a refused key), as opposed to nobody having said anything. It is no second
# store: `routing_key` never looks at it, and a key in baggage makes it void.
_CLEARED = otel.create_key("tenancy-cleared")


def routing_key(context: Context | None = None) -> RoutingKey | None:
    """
    Return the routing key of the work at hand, or None where it is the baseline's own.

    Args:
        context: The OpenTelemetry context to look in; default the current one.
    """
    value = baggage.get_baggage(settings().member, context)
    return value if value is None or type(value) is RoutingKey else RoutingKey.parse(value)


def cleared(context: Context | None = None) -> bool:
    """
    Return whether the work at hand was said to have no key, so that none may be passed on from elsewhere either.
    """
    return otel.get_value(_CLEARED, context) is not None and routing_key(context) is None


def with_key(key: RoutingKey | None, context: Context | None = None) -> Context:
    """
    Return a context that has *key*, or that has none on purpose.

    Args:
        key: The key to set; None removes any and marks the context as cleared.
        context: The context to start from; default the current one.
    """
    current = settings()
    if key is None:
        context = otel.set_value(_CLEARED, True, context)
    for field in current.read:
        # Another dialect's member is as good as ours for whoever reads it further down, so it must not outlive ours.
        replaced = field.kind == "baggage" and (key is None or field.name != current.member)
        if replaced and baggage.get_baggage(field.name, context) is not None:
            context = baggage.remove_baggage(field.name, context)
    if key is not None:
        others = baggage.get_all(context)
        if not others or next(iter(others)) == current.member:
            context = baggage.set_baggage(current.member, key, context)
        else:
            # First, because OpenTelemetry writes members in this order and drops the last ones where the header is over its limits.
            context = baggage.set_baggage(current.member, key, baggage.clear(context))
            for name, value in others.items():
                if name != current.member:
                    context = baggage.set_baggage(name, value, context)
    return context if context is not None else otel.get_current()


@contextmanager
def attached(context: Context) -> Iterator[None]:
    """
    Make *context* current for a block, and restore the previous one whatever happens in it.
    """
    token = otel.attach(context)
    try:
        yield
    finally:
        otel.detach(token)


def cache_key(name: str) -> str:
    """
    Return the name under which an in-process or shared cache may keep a value of the work at hand: *name* itself for the baseline.

    Args:
        name: The name that the cache would use without tenancy.
    """
    key = routing_key()
    return name if key is None else f"tenancy:{key}:{name}"
