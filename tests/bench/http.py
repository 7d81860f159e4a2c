"""
What the ASGI middleware adds to an application, against OpenTelemetry's own instrumentation with the SDK on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from tenancy.http.asgi import TenancyMiddleware

from .harness import Case

__all__ = ["cases"]

_NAMES = ["host", "user-agent", "accept", "accept-encoding", "connection", "content-type", "x-request-id", "traceparent", "via"]


class Nowhere(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """An application that does nothing: what is measured is what stands before it."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"ok"})


def fastapi() -> FastAPI:
    """The smallest application that people write."""
    app = FastAPI()

    @app.get("/")
    async def handle() -> dict[str, str]:
        return {"status": "ok"}

    return app


def requests(app: Any, baggage: str) -> Callable[[int], object]:
    """
    Make a variant that puts requests through an application, each with headers of its own, as from a server.
    """
    shared = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 80),
    }
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    async def run(times: int) -> None:
        for _ in range(times):
            headers = [(name.encode(), (parent if name == "traceparent" else "value").encode()) for name in _NAMES]
            headers.append((b"baggage", baggage.encode()))
            await app({**shared, "headers": headers, "state": {}}, receive, send)

    def work(times: int) -> None:
        asyncio.run(run(times))

    return work


def _added(seconds: Mapping[str, float]) -> float:
    return (seconds["ours"] - seconds["bare"]) / (seconds["opentelemetry"] - seconds["bare"])


def cases() -> list[Case]:
    """
    Return the cases.
    """
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    meters = MeterProvider([InMemoryMetricReader()])
    instrumented = OpenTelemetryMiddleware(bare, tracer_provider=provider, meter_provider=meters)
    others, keyed = "user=u1,tier=gold,region=eu-1", "sd-routing-key=pr-42,user=u1,tier=gold"
    found = []
    for suffix, baggage, what in (("", others, "without a key"), ("_keyed", keyed, "with a key")):
        variants = {
            "bare": requests(bare, baggage),
            "ours": requests(TenancyMiddleware(bare), baggage),
            "opentelemetry": requests(instrumented, baggage),
        }
        found.append(
            Case(
                f"asgi_added{suffix}",
                None if suffix else 0.02,
                variants,
                _added,
                "opentelemetry",
                f"middleware adds / OTel ASGI adds, {what}",
            )
        )
    for suffix, baggage, what in (("", others, "without a key"), ("_keyed", keyed, "with a key")):
        variants = {"bare": requests(fastapi(), baggage), "ours": requests(TenancyMiddleware(fastapi()), baggage)}
        found.append(
            Case(
                f"asgi_over_bare{suffix}",
                None if suffix else 1.15,
                variants,
                lambda seconds: seconds["ours"] / seconds["bare"],
                "bare",
                f"FastAPI with middleware / without, {what}",
            )
        )
    return found
