"""
urllib: a handler that carries the routing key, and `instrument` for every opener of the process.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from urllib.request import AbstractHTTPHandler, HTTPHandler, HTTPSHandler, Request

from .._patches import Patches
from ..config import settings, switched_on
from ..egress import current_egress
from .outbound import outbound

__all__ = ["TenancyHandler", "instrument", "uninstrument"]

_ADAPTER = "urllib"

_PORT = re.compile(r":[0-9]*\Z")


class TenancyHandler(HTTPSHandler, HTTPHandler):
    """
    Carries the current routing key to trusted hosts, on every hop, and takes it away from requests to others.

    ``urllib.request.build_opener(TenancyHandler())``. It takes the place of both ``HTTPHandler`` and ``HTTPSHandler``, which it simply is
    where tenancy is switched off; its arguments are those of ``HTTPSHandler``.
    """

    def do_open(self, http_class: Any, req: Request, **http_conn_args: Any) -> Any:
        """
        Send a copy of *req* that says what its host may know.
        """
        if not settings().enabled:
            return super().do_open(http_class, req, **http_conn_args)
        return super().do_open(http_class, _leaving(req), **http_conn_args)


_patches = Patches()


def instrument() -> None:
    """
    Make every opener of this process carry the routing key, those that exist already included; nothing where tenancy is switched off.
    """
    if switched_on() and not _patches:
        current_egress()  # a mistake in trusted_hosts shows here, not in the first request
        _patches.wrap(AbstractHTTPHandler, "do_open", _patched)


def uninstrument() -> None:
    """
    Undo `instrument`.
    """
    _patches.undo()


def _patched(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def do_open(self: AbstractHTTPHandler, http_class: Any, req: Request, **http_conn_args: Any) -> Any:
        if not _patches:  # somebody has wrapped this function meanwhile, so that it could not be taken out
            return original(self, http_class, req, **http_conn_args)
        return original(self, http_class, _leaving(req), **http_conn_args)

    return do_open


def _leaving(request: Request) -> Request:
    """
    The request that is sent in place of *request*, which stays as it is: a redirect is made from it.
    """
    # Behind here nobody writes headers any more, so the current context may stay as it is, for a body that is made while it is sent.
    given = dict(request.unredirected_hdrs)  # these go first, as in do_open
    given.update((name, value) for name, value in request.headers.items() if name not in given)
    headers = outbound(given, _host(request), adapter=_ADAPTER).headers
    if headers is None:
        return request
    copied = copy.copy(request)
    copied.headers, copied.unredirected_hdrs = headers, {}
    return copied


def _host(request: Request) -> str | None:
    """
    The host that a request is for, also where it goes through a proxy.
    """
    if not request.has_proxy():
        return _PORT.sub("", getattr(request, "_tunnel_host", None) or request.host or "")
    try:
        parts = urlsplit(request.full_url)
        host = parts.hostname
    except ValueError:
        return None
    # What the proxy makes of the URL is not known here, and these are where parsers disagree.
    return None if "\\" in parts.netloc or parts.netloc.count("@") > 1 else host
