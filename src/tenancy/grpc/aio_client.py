"""
The interceptors for channels of ``grpc.aio``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel

from .._optional import extra
from ..config import switched_on
from ..context import attached
from .client import with_metadata
from .metadata import outgoing
from .steps import arequests
from .target import Destination

with extra("grpc", "grpc"):
    import grpc
    import grpc.aio

if TYPE_CHECKING:
    _UnaryUnaryBase = grpc.aio.UnaryUnaryClientInterceptor[Any, Any]
    _UnaryStreamBase = grpc.aio.UnaryStreamClientInterceptor[Any, Any]
    _StreamUnaryBase = grpc.aio.StreamUnaryClientInterceptor[Any, Any]
    _StreamStreamBase = grpc.aio.StreamStreamClientInterceptor[Any, Any]
else:
    _UnaryUnaryBase = grpc.aio.UnaryUnaryClientInterceptor
    _UnaryStreamBase = grpc.aio.UnaryStreamClientInterceptor
    _StreamUnaryBase = grpc.aio.StreamUnaryClientInterceptor
    _StreamStreamBase = grpc.aio.StreamStreamClientInterceptor

__all__ = ["aio_client_interceptors"]

_Continuation = Callable[..., Any]


def aio_client_interceptors(*, trusted: bool | str = True) -> list[grpc.aio.ClientInterceptor]:
    """
    Return what sends the routing key with every call of a channel:
    ``grpc.aio.insecure_channel(target, interceptors=aio_client_interceptors())``.

    They are four, since grpc takes one kind of call from each interceptor. The key that is current when the call is made counts. Put them
    last, next to the wire, so that no other interceptor writes over what they send.

    Args:
        trusted: Whether the key may go where the channel leads. An interceptor cannot see that, so say True (the default: you put it
            there), False, or the channel's target, which is then judged by the setting ``trusted_hosts``.
    """
    destination = Destination(trusted) if switched_on() else None
    interceptors: list[Any] = [kind(destination) for kind in (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)]
    return interceptors


class _Sender:
    def __init__(self, destination: Destination | None) -> None:
        self._destination = destination

    async def _call(self, continuation: _Continuation, details: Any, request: Any, *, stream: bool = False) -> Any:
        out = None if self._destination is None else outgoing(details.metadata, self._destination)
        if out is None:
            return await continuation(details, request)
        details = with_metadata(details, grpc.aio.Metadata(*out.metadata))
        if out.context is None:
            return await continuation(details, request)
        if stream:
            request = arequests(request, otel.get_current())
        with attached(out.context):
            return await continuation(details, request)


class _UnaryUnary(_Sender, _UnaryUnaryBase):
    async def intercept_unary_unary(self, continuation: _Continuation, client_call_details: Any, request: Any) -> Any:
        return await self._call(continuation, client_call_details, request)


class _UnaryStream(_Sender, _UnaryStreamBase):
    async def intercept_unary_stream(self, continuation: _Continuation, client_call_details: Any, request: Any) -> Any:
        return await self._call(continuation, client_call_details, request)


class _StreamUnary(_Sender, _StreamUnaryBase):
    async def intercept_stream_unary(self, continuation: _Continuation, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._call(continuation, client_call_details, request_iterator, stream=True)


class _StreamStream(_Sender, _StreamStreamBase):
    async def intercept_stream_stream(self, continuation: _Continuation, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._call(continuation, client_call_details, request_iterator, stream=True)
