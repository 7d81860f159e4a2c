"""
urllib3: pool managers that carry the routing key, and `instrument` for every connection pool of the process.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from .._optional import extra
from .._patches import Patches
from ..config import switched_on
from ..egress import current_egress
from .outbound import outbound

with extra("urllib3", "urllib3"):
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, ProxyManager
    from urllib3.exceptions import HTTPError
    from urllib3.util import parse_url

__all__ = ["TenancyPoolManager", "TenancyProxyManager", "instrument", "uninstrument"]

_ADAPTER = "urllib3"


class _Pool(HTTPConnectionPool):
    def _make_request(self, conn: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        return _send(super()._make_request, self, conn, method, url, *args, **kwargs)


class _SecurePool(HTTPSConnectionPool):
    def _make_request(self, conn: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        return _send(super()._make_request, self, conn, method, url, *args, **kwargs)


_POOLS: dict[str, Any] = {"http": _Pool, "https": _SecurePool}


class TenancyPoolManager(PoolManager):
    """
    Carries the current routing key to trusted hosts, on every hop, and takes it away from requests to others.

    ``TenancyPoolManager().request("GET", "http://orders/")``; its arguments are those of ``urllib3.PoolManager``, which it simply is where
    tenancy is switched off.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if switched_on():
            current_egress()  # a mistake in trusted_hosts shows here, not in the first request
            self.pool_classes_by_scheme = _POOLS


class TenancyProxyManager(ProxyManager):
    """
    Like `TenancyPoolManager`, through a proxy: the host behind it is judged.

    ``TenancyProxyManager("http://proxy:3128")``; its arguments are those of ``urllib3.ProxyManager``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if switched_on():
            current_egress()
            self.pool_classes_by_scheme = _POOLS


_patches = Patches()


def instrument() -> None:
    """
    Make every connection pool of this process carry the routing key, those that exist already included, also where requests, botocore or
    another library uses it; nothing where tenancy is switched off.
    """
    if switched_on() and not _patches:
        current_egress()
        # Not urlopen, which OpenTelemetry's instrumentation wraps, and which calls itself for retries and redirects. This is beneath it:
        # one call for each request on the wire, and none for a CONNECT to a proxy.
        _patches.wrap(HTTPConnectionPool, "_make_request", _patched)


def uninstrument() -> None:
    """
    Undo `instrument`.
    """
    _patches.undo()


def _patched(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _make_request(self: HTTPConnectionPool, conn: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        if not _patches:  # somebody has wrapped this function meanwhile, so that it could not be taken out
            return original(self, conn, method, url, *args, **kwargs)
        return _send(functools.partial(original, self), self, conn, method, url, *args, **kwargs)

    return _make_request


def _send(inner: Callable[..., Any], pool: HTTPConnectionPool, conn: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
    # Behind here nobody writes headers any more, so the current context may stay as it is, for a body that is made while it is sent.
    headers = outbound(kwargs.get("headers"), _host(pool, url), adapter=_ADAPTER).headers
    if headers is not None:
        kwargs["headers"] = headers
    return inner(conn, method, url, *args, **kwargs)


def _host(pool: HTTPConnectionPool, url: str) -> str | None:
    """
    The host that a request is for: the pool's, or the one in the URL where it goes through a proxy that is trusted or is set up as one.
    """
    if url.startswith("/") or url == "*" or (pool.proxy is None and not current_egress().allows(pool.host)):
        return pool.host
    # Two parsers that agree: what the proxy makes of it is not known here.
    try:
        host = urlsplit(url).hostname
        other = parse_url(url).host
    except (ValueError, HTTPError):
        return None
    return host if host and other and host == other.strip("[]").lower() else None
