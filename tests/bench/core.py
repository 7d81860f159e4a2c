"""
The ground floor against OpenTelemetry's own: reading the key, the codec, injecting.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import tenancy
from tenancy.context import attached, with_key
from tenancy.propagator import current_codec

from .harness import Case

__all__ = ["cases"]

_UNIQUE = 20_000
# As many as fit into the processor's cache, where a server that has just parsed a request has its headers, too.
_REQUESTS = 200


def over(values: Sequence[Any], function: Callable[[Any], object]) -> Callable[[int], object]:
    """
    Make a variant that calls a function with the next value, and the next, so that no memo can help.
    """
    endless = itertools.cycle(values)

    def work(times: int) -> None:
        for value in itertools.islice(endless, times):
            function(value)

    return work


def repeated(function: Callable[[], object]) -> Callable[[int], object]:
    """
    Make a variant that calls a function.
    """

    def work(times: int) -> None:
        for _ in itertools.repeat(None, times):
            function()

    return work


def under_key(work: Callable[[int], object]) -> Callable[[int], object]:
    """
    Run a variant with a current key.
    """

    def keyed(times: int) -> None:
        with attached(with_key(tenancy.RoutingKey("pr-42"), Context())):
            work(times)

    return keyed


def _ratio(ours: str, yardstick: str) -> Callable[[Mapping[str, float]], float]:
    return lambda seconds: seconds[ours] / seconds[yardstick]


def cases() -> list[Case]:
    """
    Return the cases.
    """
    codec = current_codec()
    standard = W3CBaggagePropagator()
    with_ours = [f"user=u{n},tier=t{n % 7},sd-routing-key=pr-{n},region=eu-{n % 9}" for n in range(_UNIQUE)]
    without = [f"user=u{n},tier=t{n % 7},session=s-{n},region=eu-{n % 9}" for n in range(_UNIQUE)]
    names = [
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "connection",
        "content-type",
        "x-request-id",
        "traceparent",
        "baggage",
        "via",
    ]
    asgi = [[(name.encode(), (line if name == "baggage" else "value").encode()) for name in names] for line in without[:_REQUESTS]]
    empty = Context()
    extract = over([{"baggage": line} for line in with_ours], lambda carrier: standard.extract(carrier, empty))
    extract_without = over([{"baggage": line} for line in without], lambda carrier: standard.extract(carrier, empty))
    composite = CompositePropagator([TraceContextTextMapPropagator(), standard])
    tracer = TracerProvider().get_tracer("bench")

    def in_span(work: Callable[[int], object]) -> Callable[[int], object]:
        def traced(times: int) -> None:
            with tracer.start_as_current_span("request"):
                work(times)

        return traced

    def loaded(work: Callable[[int], object]) -> Callable[[int], object]:
        context = Context()
        for name in ("user", "tier", "region"):
            context = baggage.set_baggage(name, "value", context)

        def with_members(times: int) -> None:
            with attached(with_key(tenancy.RoutingKey("pr-42"), context)):
                work(times)

        return with_members

    inject = repeated(lambda: composite.inject({}))

    def both() -> None:
        headers: dict[str, str] = {}
        composite.inject(headers)
        tenancy.inject(headers)

    return [
        Case(
            "routing_key_read",
            1.2,
            {
                "get_baggage": under_key(repeated(lambda: baggage.get_baggage("sd-routing-key"))),
                "ours": under_key(repeated(lambda: tenancy.routing_key())),
            },
            _ratio("ours", "get_baggage"),
            "get_baggage",
            "routing_key() / get_baggage()",
        ),
        Case(
            "codec_read",
            0.10,
            {"extract": extract, "ours": over(with_ours, codec.read_baggage)},
            _ratio("ours", "extract"),
            "extract",
            "read a baggage value with the key / W3C extract",
        ),
        Case(
            "codec_absent",
            0.03,
            {"extract": extract_without, "ours": over(without, codec.read_baggage)},
            _ratio("ours", "extract"),
            "extract",
            "read a baggage value without the key / W3C extract",
        ),
        Case(
            "codec_absent_asgi",
            0.08,
            {"extract": extract_without, "ours": over(asgi, codec.read)},
            _ratio("ours", "extract"),
            "extract",
            "read ten ASGI headers without the key / W3C extract",
        ),
        Case(
            "inject_added",
            0.15,
            {"standard": loaded(in_span(inject)), "both": loaded(in_span(repeated(both)))},
            lambda seconds: (seconds["both"] - seconds["standard"]) / seconds["standard"],
            "standard",
            "what inject() adds / composite inject",
        ),
    ]
