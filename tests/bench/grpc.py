"""
What the interceptors add to a gRPC call, on both sides, against OpenTelemetry's own with the SDK on.

The interceptors are called as grpc calls them, without a network between: its work is many times theirs, and would drown the difference.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import grpc
from opentelemetry.context import Context
from opentelemetry.instrumentation.grpc import client_interceptor, grpcext, server_interceptor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import tenancy
from tenancy.context import attached, with_key
from tenancy.grpc import ClientInterceptor, ServerInterceptor

from .harness import Case
from .http import Nowhere

__all__ = ["cases"]


class _Metadatum(NamedTuple):
    key: str
    value: str


class _HandlerDetails(NamedTuple):
    method: str
    invocation_metadata: Any


class _Servicer:
    """As much of a servicer context as interceptors touch."""

    def __init__(self, metadata: Any) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> Any:
        return self._metadata

    def peer(self) -> str:
        return "ipv4:10.0.0.1:40000"

    def code(self) -> Any:
        return None

    def details(self) -> Any:
        return None

    def set_code(self, code: Any) -> None:
        pass

    def set_details(self, details: Any) -> None:
        pass


class _Call:
    """A call that has ended well."""

    def code(self) -> Any:
        return grpc.StatusCode.OK

    def details(self) -> str:
        return ""

    def initial_metadata(self) -> Any:
        return ()

    def trailing_metadata(self) -> Any:
        return ()

    def result(self, timeout: float | None = None) -> bytes:
        return b""

    def exception(self) -> None:
        return None


class _UnaryUnary(grpc.UnaryUnaryMultiCallable):
    def __call__(self, request: Any, timeout: Any = None, metadata: Any = None, *more: Any, **most: Any) -> Any:
        return b""

    def with_call(self, request: Any, timeout: Any = None, metadata: Any = None, *more: Any, **most: Any) -> Any:
        return b"", _CALL

    def future(self, request: Any, timeout: Any = None, metadata: Any = None, *more: Any, **most: Any) -> Any:
        return _CALL


class _Channel(grpc.Channel):
    """A channel that answers at once."""

    def unary_unary(self, method: str, *more: Any, **most: Any) -> Any:
        return _UnaryUnary()

    def unary_stream(self, method: str, *more: Any, **most: Any) -> Any:
        raise NotImplementedError

    stream_unary = stream_stream = unary_stream

    def subscribe(self, callback: Any, try_to_connect: bool = False) -> None:
        pass

    def unsubscribe(self, callback: Any) -> None:
        pass

    def close(self) -> None:
        pass

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def _bare(*_: Any) -> bytes:
    return b""


_CALL = _Call()
_METHOD = "/shop.Pricing/Quote"
_HANDLER = grpc.unary_unary_rpc_method_handler(_bare)


def _client(channel: Any) -> Callable[[], object]:
    ask = channel.unary_unary(_METHOD)
    return lambda: ask(b"")


def _server(interceptor: Any, baggage: str) -> Callable[[], object]:
    details = _HandlerDetails(_METHOD, ())
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    numbers = itertools.count()

    def call() -> None:
        metadata = (
            _Metadatum("user-agent", "grpc-python/1.80"),
            _Metadatum("traceparent", parent),
            _Metadatum("x-request-id", f"r-{next(numbers)}"),
            _Metadatum("baggage", baggage),
        )
        handler = _HANDLER if interceptor is None else interceptor.intercept_service(lambda _: _HANDLER, details)
        handler.unary_unary(b"", _Servicer(metadata))

    return call


def _both(client: Callable[[], object], server: Callable[[], object], key: str | None) -> Callable[[int], object]:
    context = with_key(None if key is None else tenancy.RoutingKey(key), Context())

    def work(times: int) -> None:
        with attached(context):
            for _ in itertools.repeat(None, times):
                client()
        for _ in itertools.repeat(None, times):
            server()

    return work


def _added(seconds: Mapping[str, float]) -> float:
    return (seconds["ours"] - seconds["bare"]) / (seconds["opentelemetry"] - seconds["bare"])


def cases() -> list[Case]:
    """
    Return the cases.
    """
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    found = []
    for suffix, key, baggage, what in (
        ("", None, "user=u1,tier=gold,region=eu-1", "without a key"),
        ("_keyed", "pr-42", "sd-routing-key=pr-42,user=u1,tier=gold", "with a key"),
    ):
        variants = {
            "bare": _both(_client(_Channel()), _server(None, baggage), key),
            "ours": _both(
                _client(grpc.intercept_channel(_Channel(), ClientInterceptor())), _server(ServerInterceptor(), baggage), key
            ),
            "opentelemetry": _both(
                _client(grpcext.intercept_channel(_Channel(), client_interceptor(tracer_provider=provider))),
                _server(server_interceptor(tracer_provider=provider), baggage),
                key,
            ),
        }
        found.append(
            Case(
                f"grpc_added{suffix}",
                None if suffix else 0.10,
                variants,
                _added,
                "opentelemetry",
                f"interceptors add / OTel's add, {what}",
            )
        )
    return found
