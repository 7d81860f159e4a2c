"""
The edge: where a request comes from outside and carries no routing key yet, one can be found in its host name, a header, a cookie, a query
parameter, or by a function. Pure; off by default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any, NamedTuple, Union
from urllib.parse import parse_qsl

from ..baggage import ABSENT, Reading
from ..carrier import header_name, text
from ..errors import ConfigurationError
from ..key import RoutingKey

__all__ = ["Edge", "EdgeRequest", "Resolver"]

_KINDS = "'header:NAME', 'host:{key}.preview.example.com', 'cookie:NAME', 'query:NAME'"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2


class EdgeRequest(NamedTuple):
    """
    A request as a resolver sees it.

    Args:
        headers: Pairs of name and value, as text or bytes.
        query: The query string, without its question mark.
        user: Who was authenticated before, as the framework has it: ASGI's ``scope["user"]``, WSGI's ``REMOTE_USER``; None: nobody.
        native: The ASGI scope, the WSGI environment or the framework's request.
    """

    headers: Sequence[tuple[Any, Any]]
    query: str = ""
    user: Any = None
    native: Any = None

    def header(self, name: str) -> str | None:
        """
        Return the last value of a header, or None.

        Args:
            name: The header's name, in any case.
        """
        wanted = name.lower()
        found = [value for key, value in self.headers if header_name(key) == wanted]
        return text(found[-1]) if found else None

    def cookie(self, name: str) -> str | None:
        """
        Return the value of a cookie (RFC 6265, section 4.2), or None.

        Args:
            name: The cookie's name.
        """
        for key, value in self.headers:
            if header_name(key) == "cookie":
                for pair in (text(value) or "").split(";"):
                    found, equals, content = pair.strip().partition("=")
                    if equals and found == name:
                        return _unquoted(content)
        return None

    def parameter(self, name: str) -> str | None:
        """
        Return the last value of a query parameter, or None.

        Args:
            name: The parameter's name.
        """
        found = [value for key, value in parse_qsl(self.query, keep_blank_values=True) if key == name]
        return found[-1] if found else None


#: Where a key is looked for: ``header:NAME``, ``host:{key}.preview.example.com``, ``cookie:NAME``, ``query:NAME``, or a function from the
#: request to a key or None.
Resolver = Union[str, Callable[[EdgeRequest], Union[str, None]]]  # noqa: UP007 - evaluated at run time


class Edge:
    """
    Finds the routing key of requests that carry none.

    Args:
        resolvers: Where to look, in this order; the first that finds something is taken at its word.

    Raises:
        ConfigurationError: If an entry is no resolver.
    """

    def __init__(self, resolvers: Iterable[Resolver] | Resolver) -> None:
        entries = [resolvers] if isinstance(resolvers, str) or callable(resolvers) else list(resolvers)
        self._resolvers = tuple(entry if callable(entry) else _resolver(entry) for entry in entries)
        #: The request headers on which a response depends, in lower case.
        self.vary = tuple(dict.fromkeys(name for entry in entries if isinstance(entry, str) for name in _vary(entry)))

    def __bool__(self) -> bool:
        return bool(self._resolvers)

    def read(self, request: EdgeRequest) -> Reading:
        """
        Return what the first resolver that finds something says; an empty value counts as nothing.
        """
        for resolve in self._resolvers:
            value = resolve(request)
            if value is not None and value != "":
                key = RoutingKey.parse(value)
                return Reading(key, None if key is not None else str(value))
        return ABSENT


def _resolver(entry: Any) -> Callable[[EdgeRequest], str | None]:
    kind, _, name = entry.partition(":") if isinstance(entry, str) else ("", "", "")
    if kind == "host":
        return _host(name)
    if kind not in ("header", "cookie", "query") or not name or (kind != "query" and not _TOKEN.fullmatch(name)):
        raise ConfigurationError(f"edge (TENANCY_EDGE) has {entry!r}; use {_KINDS}, or a function")
    if kind == "header":
        return lambda request: (request.header(name) or "").strip() or None
    if kind == "cookie":
        return lambda request: request.cookie(name)
    return lambda request: request.parameter(name)


def _host(pattern: str) -> Callable[[EdgeRequest], str | None]:
    before, found, after = pattern.lower().partition("{key}")
    if not found or "{" in after or not after.startswith((".", "-")) or not re.fullmatch(r"[a-z0-9.{}-]*", pattern.lower()):
        raise ConfigurationError(
            f"edge (TENANCY_EDGE) has 'host:{pattern}'; use a host name with {{key}} in its place, such as 'host:{{key}}.preview.example.com'"
        )
    matches = re.compile(rf"{re.escape(before)}([^.]+){re.escape(after)}").fullmatch

    def resolve(request: EdgeRequest) -> str | None:
        host = re.sub(r":[0-9]*$", "", (request.header("host") or "").strip().lower()).removesuffix(".")
        match = matches(host)
        return match[1] if match is not None else None

    return resolve


def _vary(entry: str) -> tuple[str, ...]:
    kind, _, name = entry.partition(":")
    return {"header": (name.lower(),), "cookie": ("cookie",)}.get(kind, ())


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value.strip()
    try:
        return SimpleCookie(f"v={value}")["v"].value
    except (CookieError, KeyError):
        return value
