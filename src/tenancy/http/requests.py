"""
requests: an adapter that carries the routing key, and `instrument` for every session of the process.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from .._optional import extra
from .._patches import Patches
from ..config import settings, switched_on
from ..context import attached
from ..egress import current_egress
from ..key import RoutingKey
from ..scope import scope
from .outbound import outbound

with extra("requests", "requests"):
    from requests import PreparedRequest, Response
    from requests.adapters import HTTPAdapter
    from requests.structures import CaseInsensitiveDict
    from urllib3.exceptions import HTTPError
    from urllib3.util import parse_url

__all__ = ["TenancyAdapter", "instrument", "uninstrument"]

_ADAPTER = "requests"


class TenancyAdapter(HTTPAdapter):
    """
    Carries the current routing key to trusted hosts, on every hop, and takes it away from requests to others.

    ``session.mount("http://", TenancyAdapter())``, and the same for ``https://``; its arguments are those of
    ``requests.adapters.HTTPAdapter``, which it simply is where tenancy is switched off.
    """

    def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
        """
        Send a copy of *request* that says what its host may know.
        """
        if not settings().enabled:
            return super().send(request, *args, **kwargs)
        return _send(super().send, request, *args, **kwargs)


_patches = Patches()


def instrument() -> None:
    """
    Make every session of this process carry the routing key, those that exist already included; nothing where tenancy is switched off.
    """
    if switched_on() and not _patches:
        current_egress()  # a mistake in trusted_hosts shows here, not in the first request
        _patches.wrap(HTTPAdapter, "send", _patched)


def uninstrument() -> None:
    """
    Undo `instrument`.
    """
    _patches.undo()


def _patched(original: Callable[..., Response]) -> Callable[..., Response]:
    @functools.wraps(original)
    def send(self: HTTPAdapter, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
        if not _patches:  # somebody has wrapped this function meanwhile, so that it could not be taken out
            return original(self, request, *args, **kwargs)
        return _send(functools.partial(original, self), request, *args, **kwargs)

    return send


def _send(inner: Callable[..., Response], request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
    headers, withheld, context = outbound(list((request.headers or {}).items()), _host(request.url), adapter=_ADAPTER)
    leaving = request
    if headers is not None:
        leaving = request.copy()
        leaving.headers = CaseInsensitiveDict(headers)
    if withheld is not None:
        leaving.body = _in_scope(leaving.body, withheld)
    if context is None:
        return inner(leaving, *args, **kwargs)
    with attached(context):
        return inner(leaving, *args, **kwargs)


def _host(url: str | None) -> str | None:
    """
    The host of a URL, if the two parsers that versions of requests connect by agree on it.
    """
    if url is None:
        return None
    try:
        host = urlsplit(url).hostname
        other = parse_url(url).host
    except (ValueError, HTTPError):
        return None
    return host if host and other and host == other.strip("[]").lower() else None


def _in_scope(body: Any, key: RoutingKey) -> Any:
    """
    A body that is made while it is sent, by code that still has the key which the host must not see.
    """
    if body is None or isinstance(body, (str, bytes, bytearray, memoryview, io.IOBase)):
        return body
    if hasattr(body, "read"):
        return _Reader(body, key)
    return _Body(body, key) if isinstance(body, Iterable) else body


def _chunks(body: Iterable[Any]) -> Iterator[Any]:
    yield from body


class _Body:
    """
    A body to iterate over, as often as the original.
    """

    def __init__(self, body: Any, key: RoutingKey) -> None:
        self._body = body
        self._key = key

    def __iter__(self) -> Iterator[Any]:
        return scope(self._key)(_chunks)(self._body)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)


class _Reader(_Body):
    """
    A body to read from, such as a multipart encoder.
    """

    def read(self, *args: Any) -> Any:
        with scope(self._key):
            return self._body.read(*args)
