"""
Where the routing key lives while code runs: in OpenTelemetry baggage, in the current OpenTelemetry context, and nowhere else.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from contextvars import Token
from typing import Any

from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.context import Context, get_current

from . import config
from .config import settings
from .key import RoutingKey

__all__ = ["Step", "ambient", "async_steps", "attached", "cache_key", "cleared", "routing_key", "with_key", "without_trace_key"]

# Where OpenTelemetry keeps baggage in a context: what `get_baggage` finds out by five calls at every look.
_BAGGAGE = next(iter(baggage.set_baggage("name", "value", Context())))
# Says that there is no key on purpose (a scope on None, a refused key), as opposed to nobody having said anything. It is no second
# store: `routing_key` never looks at it, and a key in baggage makes it void.
_CLEARED = otel.create_key("tenancy-cleared")


def routing_key(context: Context | None = None) -> RoutingKey | None:
    """
    Return the routing key of the work at hand, or None where it is the baseline's own.

    Args:
        context: The OpenTelemetry context to look in; default the current one.
    """
    members = (get_current() if context is None else context).get(_BAGGAGE)
    if not members:
        return None
    using = config._current
    value = members.get((settings() if using is None else using).member)  # type: ignore[attr-defined]
    return value if value is None or type(value) is RoutingKey else RoutingKey.parse(value)


def cleared(context: Context | None = None) -> bool:
    """
    Return whether the work at hand was said to have no key, so that none may be passed on from elsewhere either.
    """
    return _CLEARED in (get_current() if context is None else context) and routing_key(context) is None


def ambient(context: Context | None = None) -> bool:
    """
    Return whether a context has a baggage member that can hold a key, whatever stands there.
    """
    members = (get_current() if context is None else context).get(_BAGGAGE)
    return isinstance(members, dict) and not settings().members.isdisjoint(members)


def with_key(key: RoutingKey | None, context: Context | None = None) -> Context:
    """
    Return a context that has *key*, or that has none on purpose.

    Args:
        key: The key to set; None removes any and marks the context as cleared.
        context: The context to start from; default the current one.
    """
    using = settings()
    if context is None:
        context = get_current()
    before = context.get(_BAGGAGE)
    members: dict[str, object] = before if isinstance(before, dict) else {}
    # Another dialect's member is as good as ours for whoever reads it further down, so it must not outlive ours.
    others = {name: value for name, value in members.items() if name not in using.members}
    if key is not None:
        # First, because OpenTelemetry writes members in this order and drops the last ones where the header is over its limits.
        context = otel.set_value(_BAGGAGE, {using.member: key, **others}, context)
    else:
        if len(others) != len(members):
            context = otel.set_value(_BAGGAGE, others, context)
        context = otel.set_value(_CLEARED, True, context)
    return without_trace_key(key, context) or context


def without_trace_key(key: RoutingKey | None, context: Context | None = None) -> Context | None:
    """
    Return a context whose span names no routing key but *key* in its ``tracestate``; None where that is so already.

    Whatever OpenTelemetry sends on has the ``tracestate`` that came in, also with a key that was refused, or that a host must not see.

    Args:
        key: The key that may stay.
        context: The OpenTelemetry context to start from; default the current one.
    """
    span = trace.get_current_span(context)
    if span is trace.INVALID_SPAN:
        return None
    known = span.get_span_context()
    state = known.trace_state
    if not state:
        return None
    names = [field.name for field in settings().read if field.kind == "tracestate"]
    stale = [name for name in names if name in state and state[name] != key]
    if not stale:
        return None
    for name in stale:
        state = state.delete(name)
    cleaned = trace.SpanContext(known.trace_id, known.span_id, known.is_remote, known.trace_flags, state)
    return trace.set_span_in_context(_Renamed(span, cleaned), context)


class _Renamed(trace.Span):
    """
    A span under another context; all else is the span's own.
    """

    def __init__(self, span: trace.Span, context: trace.SpanContext) -> None:
        self._span = span
        self._context = context

    def get_span_context(self) -> trace.SpanContext:
        return self._context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._span, name)

    def end(self, *args: Any, **kwargs: Any) -> None:
        self._span.end(*args, **kwargs)

    def is_recording(self) -> bool:
        return self._span.is_recording()

    def set_attribute(self, *args: Any, **kwargs: Any) -> None:
        self._span.set_attribute(*args, **kwargs)

    def set_attributes(self, *args: Any, **kwargs: Any) -> None:
        self._span.set_attributes(*args, **kwargs)

    def add_event(self, *args: Any, **kwargs: Any) -> None:
        self._span.add_event(*args, **kwargs)

    def add_link(self, *args: Any, **kwargs: Any) -> None:
        self._span.add_link(*args, **kwargs)

    def update_name(self, *args: Any, **kwargs: Any) -> None:
        self._span.update_name(*args, **kwargs)

    def set_status(self, *args: Any, **kwargs: Any) -> None:
        self._span.set_status(*args, **kwargs)

    def record_exception(self, *args: Any, **kwargs: Any) -> None:
        self._span.record_exception(*args, **kwargs)


class attached:  # noqa: N801 - it is used as a function: `with attached(context)`
    """
    Make *context* current for a block, and restore the previous one whatever happens in it.
    """

    __slots__ = ("_context", "_token")

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._token = otel.attach(self._context)

    def __exit__(self, *error: object) -> None:
        otel.detach(self._token)


class Step:
    """
    One step of a generator or iterator, as a context manager to be entered again and again: its own context goes in, whatever it left
    current (an open span, say) is kept for the next step, and the consumer's context comes back.

    Args:
        context: The context of the first step.
    """

    __slots__ = ("_token", "context")

    def __init__(self, context: Context) -> None:
        self.context = context
        self._token: Token[Context]

    def __enter__(self) -> None:
        self._token = otel.attach(self.context)

    def __exit__(self, *error: object) -> None:
        self.context = otel.get_current()
        otel.detach(self._token)


async def async_steps(body: AsyncIterable[Any], step: Step) -> AsyncGenerator[Any, None]:
    """
    Yield what *body* yields, each step of it, and its end, as a *step*.
    """
    iterator = aiter(body)
    while True:
        try:
            with step:
                response = await anext(iterator)
        except StopAsyncIteration:
            return
        try:
            yield response
        except GeneratorExit:
            if isinstance(iterator, AsyncGenerator):
                with step:
                    await iterator.aclose()
            raise


def cache_key(name: str) -> str:
    """
    Return the name under which an in-process or shared cache may keep a value of the work at hand: *name* itself for the baseline.

    Args:
        name: The name that the cache would use without tenancy.
    """
    key = routing_key()
    if key is None:
        # A baseline's name that looks like one of ours must not be a key's.
        return f"tenancy::{name}" if name.startswith("tenancy:") else name
    return f"tenancy:{key}:{name}"
