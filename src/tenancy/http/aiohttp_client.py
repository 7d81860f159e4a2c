"""
aiohttp, the client: a request class that carries the routing key, and `instrument` for every session of the process.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

from .._optional import extra
from .._patches import Patches
from ..config import settings, switched_on
from ..egress import current_egress
from ..propagator import inject
from .outbound import outbound

with extra("aiohttp", "aiohttp"):
    from aiohttp import ClientRequest, ClientResponse, hdrs

__all__ = ["TenancyClientRequest", "instrument", "uninstrument"]

_ADAPTER = "aiohttp"


class TenancyClientRequest(ClientRequest):
    """
    Carries the current routing key to trusted hosts, on every hop, and takes it away from requests to others; WebSockets included.

    ``aiohttp.ClientSession(request_class=TenancyClientRequest)``. Where tenancy is switched off it is what aiohttp's own is.
    """

    async def send(self, conn: Any) -> ClientResponse:
        """
        Send the request with headers that say what its host may know.
        """
        if not settings().enabled:
            return await super().send(conn)
        return await _send(super().send, self, conn)


_patches = Patches()


def instrument() -> None:
    """
    Make every session of this process carry the routing key, those that exist already included; nothing where tenancy is switched off.
    """
    if switched_on() and not _patches:
        current_egress()  # a mistake in trusted_hosts shows here, not in the first request
        _patches.wrap(ClientRequest, "send", _patched)


def uninstrument() -> None:
    """
    Undo `instrument`.
    """
    _patches.undo()


def _patched(original: Callable[..., Awaitable[ClientResponse]]) -> Callable[..., Awaitable[ClientResponse]]:
    @functools.wraps(original)
    async def send(self: ClientRequest, conn: Any) -> ClientResponse:
        if not _patches:  # somebody has wrapped this function meanwhile, so that it could not be taken out
            return await original(self, conn)
        return await _send(functools.partial(original, self), self, conn)

    return send


async def _send(inner: Callable[[Any], Awaitable[ClientResponse]], request: ClientRequest, conn: Any) -> ClientResponse:
    # Here is each hop of a redirect, and behind here nobody writes headers any more: OpenTelemetry's instrumentation has done so when
    # the whole request began. So the current context may stay as it is, for the body, which is made in it.
    headers = _headers(request)
    if headers is None:
        return await inner(conn)
    # aiohttp has made the request for this hop, but client middleware sees it and may send it again.
    given, request.headers = request.headers, headers
    try:
        return await inner(conn)
    finally:
        request.headers = given


def _headers(request: ClientRequest) -> Any:
    if request.method == hdrs.METH_CONNECT:  # it is told to a proxy, whoever is behind it
        return inject(request.headers, key=None)
    return outbound(request.headers, request.url.raw_host, adapter=_ADAPTER).headers
