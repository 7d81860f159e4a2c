"""
httpx: transports that carry the routing key, and `instrument` for every client of the process.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context

from .._optional import extra
from .._patches import Patches
from ..config import switched_on
from ..context import attached
from ..egress import current_egress
from ..key import RoutingKey
from ..scope import scope
from .outbound import outbound

with extra("httpx", "httpx"):
    import httpx

__all__ = ["AsyncTenancyTransport", "TenancyTransport", "instrument", "uninstrument"]

_ADAPTER = "httpx"


class TenancyTransport(httpx.BaseTransport):
    """
    Carries the current routing key to trusted hosts, on every hop, and takes it away from requests to others.

    ``httpx.Client(transport=TenancyTransport())``. Where tenancy is switched off it is the inner transport itself.

    Args:
        transport: The transport that sends, for example with its own limits or proxy; default ``httpx.HTTPTransport()``.
    """

    if not TYPE_CHECKING:

        def __new__(cls, transport=None):
            if not switched_on():
                return httpx.HTTPTransport() if transport is None else transport
            return super().__new__(cls)

    def __init__(self, transport: httpx.BaseTransport | None = None) -> None:
        current_egress()  # a mistake in trusted_hosts shows here, not in the first request
        self._inner = httpx.HTTPTransport() if transport is None else transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """
        Send a copy of *request* that says what its host may know.
        """
        return _send(self._inner.handle_request, request)

    def close(self) -> None:
        """
        Close the inner transport.
        """
        self._inner.close()

    def __enter__(self) -> TenancyTransport:
        self._inner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._inner.__exit__(exc_type, exc_value, traceback)


class AsyncTenancyTransport(httpx.AsyncBaseTransport):
    """
    Like `TenancyTransport`, for ``httpx.AsyncClient``.

    Args:
        transport: The transport that sends; default ``httpx.AsyncHTTPTransport()``.
    """

    if not TYPE_CHECKING:

        def __new__(cls, transport=None):
            if not switched_on():
                return httpx.AsyncHTTPTransport() if transport is None else transport
            return super().__new__(cls)

    def __init__(self, transport: httpx.AsyncBaseTransport | None = None) -> None:
        current_egress()
        self._inner = httpx.AsyncHTTPTransport() if transport is None else transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """
        Send a copy of *request* that says what its host may know.
        """
        return await _send_async(self._inner.handle_async_request, request)

    async def aclose(self) -> None:
        """
        Close the inner transport.
        """
        await self._inner.aclose()

    async def __aenter__(self) -> AsyncTenancyTransport:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._inner.__aexit__(exc_type, exc_value, traceback)


_patches = Patches()


def instrument() -> None:
    """
    Make every client of this process carry the routing key, those that exist already included; nothing where tenancy is switched off.
    """
    if switched_on() and not _patches:
        current_egress()  # a mistake in trusted_hosts shows here, not in the first request
        _patches.wrap(httpx.HTTPTransport, "handle_request", _patched)
        _patches.wrap(httpx.AsyncHTTPTransport, "handle_async_request", _patched_async)


def uninstrument() -> None:
    """
    Undo `instrument`.
    """
    _patches.undo()


def _patched(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def handle_request(self: httpx.HTTPTransport, request: httpx.Request) -> Any:
        if not _patches:  # somebody has wrapped this function meanwhile, so that it could not be taken out
            return original(self, request)
        return _send(functools.partial(original, self), request)

    return handle_request


def _patched_async(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def handle_async_request(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> Any:
        if not _patches:
            return await original(self, request)
        return await _send_async(functools.partial(original, self), request)

    return handle_async_request


def _leaving(request: httpx.Request) -> tuple[httpx.Request, Context | None]:
    """
    The request that is sent in place of *request*, which stays as it is: the client may still send it elsewhere; and the context for it.
    """
    # The host as the connection pool gets it, which is not always what `url.host` shows.
    headers, withheld, context = outbound(request.headers.raw, request.url.raw_host.decode("ascii", "replace"), adapter=_ADAPTER)
    if headers is None:
        return request, context
    stream = request.stream
    if withheld is not None and not isinstance(stream, httpx.ByteStream):
        stream = _InScope(stream, withheld)
    copied = httpx.Request(request.method, request.url, headers=headers, stream=stream)
    copied.extensions = request.extensions
    if isinstance(stream, httpx.ByteStream):
        copied.read()
    return copied, context


def _send(inner: Callable[[httpx.Request], httpx.Response], request: httpx.Request) -> httpx.Response:
    leaving, context = _leaving(request)
    if context is None:
        return inner(leaving)
    with attached(context):
        return inner(leaving)


async def _send_async(inner: Callable[[httpx.Request], Any], request: httpx.Request) -> httpx.Response:
    leaving, context = _leaving(request)
    if context is None:
        return await inner(leaving)  # type: ignore[no-any-return]
    with attached(context):
        return await inner(leaving)  # type: ignore[no-any-return]


class _InScope(httpx.SyncByteStream, httpx.AsyncByteStream):
    """
    A body that is made while it is sent, by code that still has the key which the host must not see.
    """

    def __init__(self, stream: httpx.SyncByteStream | httpx.AsyncByteStream, key: RoutingKey) -> None:
        self._stream = stream
        self._key = key

    def __iter__(self) -> Iterator[bytes]:
        return scope(self._key)(self._chunks)()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return scope(self._key)(self._async_chunks)()

    def close(self) -> None:
        if isinstance(self._stream, httpx.SyncByteStream):
            self._stream.close()

    async def aclose(self) -> None:
        if isinstance(self._stream, httpx.AsyncByteStream):
            await self._stream.aclose()

    def _chunks(self) -> Iterator[bytes]:
        assert isinstance(self._stream, httpx.SyncByteStream)  # noqa: S101 - the client has checked
        yield from self._stream

    async def _async_chunks(self) -> AsyncIterator[bytes]:
        assert isinstance(self._stream, httpx.AsyncByteStream)  # noqa: S101
        async for chunk in self._stream:
            yield chunk
