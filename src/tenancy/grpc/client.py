"""
The interceptor for channels of ``grpc``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel

from .._optional import extra
from ..config import switched_on
from ..context import Step, attached, routing_key
from .metadata import outgoing
from .steps import Requests, responses
from .target import Destination

with extra("grpc", "grpc"):
    import grpc

if TYPE_CHECKING:
    _UnaryUnary = grpc.UnaryUnaryClientInterceptor[Any, Any]
    _UnaryStream = grpc.UnaryStreamClientInterceptor[Any, Any]
    _StreamUnary = grpc.StreamUnaryClientInterceptor[Any, Any]
    _StreamStream = grpc.StreamStreamClientInterceptor[Any, Any]
else:
    _UnaryUnary = grpc.UnaryUnaryClientInterceptor
    _UnaryStream = grpc.UnaryStreamClientInterceptor
    _StreamUnary = grpc.StreamUnaryClientInterceptor
    _StreamStream = grpc.StreamStreamClientInterceptor

__all__ = ["ClientInterceptor", "with_metadata"]


class ClientInterceptor(_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream):
    """
    Sends the routing key with every call of a channel: ``grpc.intercept_channel(channel, ClientInterceptor())``.

    The key that is current when the call is made counts, also where the responses are read later and elsewhere. A generator of requests,
    which grpc runs in a thread of its own, has the key too.

    Args:
        trusted: Whether the key may go where the channel leads. An interceptor cannot see that, so say True (the default: you put it
            there), False, or the channel's target, which is then judged by the setting ``trusted_hosts``.
    """

    def __init__(self, *, trusted: bool | str = True) -> None:
        self._destination = Destination(trusted) if switched_on() else None

    def intercept_unary_unary(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        """
        Send the key with a call.
        """
        return self._call(continuation, client_call_details, request)

    def intercept_unary_stream(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        """
        Send the key with a call.
        """
        return self._call(continuation, client_call_details, request)

    def intercept_stream_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Iterator[Any]
    ) -> Any:
        """
        Send the key with a call, and produce its requests under it.
        """
        return self._call(continuation, client_call_details, self._requests(request_iterator))

    def intercept_stream_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Iterator[Any]
    ) -> Any:
        """
        Send the key with a call, and produce its requests under it.
        """
        return self._call(continuation, client_call_details, self._requests(request_iterator))

    def _requests(self, requests: Iterator[Any]) -> Iterator[Any]:
        return requests if self._destination is None or routing_key() is None else Requests(requests, otel.get_current())

    def _call(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        if self._destination is None:
            return continuation(details, request)
        out = outgoing(details.metadata, self._destination)
        if out is None:
            context, call = None, continuation(details, request)
        else:
            context = out.context
            metadata = out.metadata if isinstance(details.metadata, list) else tuple(out.metadata)
            if context is None:
                call = continuation(with_metadata(details, metadata), request)
            else:
                with attached(context):
                    call = continuation(with_metadata(details, metadata), request)
        if isinstance(call, GeneratorType):
            # OpenTelemetry's interceptor, inside of ours, has not sent anything yet: it injects what is current at the first response.
            return responses(call, Step(otel.get_current() if context is None else context))
        return call


class _Details(grpc.ClientCallDetails):
    """
    Call details of somebody else's making, with other metadata.
    """

    def __init__(self, details: Any, metadata: Any) -> None:
        for name in ("method", "timeout", "credentials", "wait_for_ready", "compression"):
            if hasattr(details, name):
                setattr(self, name, getattr(details, name))
        self.metadata = metadata


def with_metadata(details: Any, metadata: Any) -> Any:
    """
    Return a copy of call details that has *metadata*.
    """
    replace = getattr(details, "_replace", None)
    return _Details(details, metadata) if replace is None else replace(metadata=metadata)
