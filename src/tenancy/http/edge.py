"""
The edge: where a request comes from outside and carries no routing key yet, one can be found in its host name, a header, a cookie, a query
parameter, or by a function. Pure; off by default.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Union
from urllib.parse import parse_qsl

from ..baggage import ABSENT, Reading, codec
from ..carrier import header_name, text
from ..config import EdgeField, Field, edge_fields
from ..errors import ConfigurationError
from ..key import RoutingKey

__all__ = ["Edge", "EdgeRequest", "Found", "Resolver"]

_PORT = re.compile(r":[0-9]*\Z")


class EdgeRequest(NamedTuple):
    """
    A request as a resolver sees it.

    Args:
        headers: Pairs of name and value, as text or bytes.
        query: The query string as it came, without its question mark.
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
        return next(iter(self._lines(name)[::-1]), None)

    def cookie(self, name: str) -> str | None:
        """
        Return the first value of a cookie, or None: browsers send the one of the most specific path first (RFC 6265, section 5.4).

        Args:
            name: The cookie's name, in its own case.
        """
        return next(iter(self._cookies(name)), None)

    def parameter(self, name: str) -> str | None:
        """
        Return the last value of a query parameter, decoded, or None.

        Args:
            name: The parameter's name, in its own case.
        """
        return next(iter(self._parameters(name)[::-1]), None)

    def _lines(self, name: str) -> list[str]:
        wanted = name.lower()
        return [text(value) or "" for key, value in self.headers if header_name(key) == wanted]

    def _cookies(self, name: str) -> list[str]:
        found = []
        for line in self._lines("cookie"):  # HTTP/2 may send one line for each (RFC 9113, section 8.2.3)
            for pair in line.split(";"):
                key, equals, value = pair.partition("=")
                if equals and key.strip() == name:
                    value = value.strip()
                    quoted = len(value) > 1 and value[0] == value[-1] == '"'
                    found.append(value[1:-1] if quoted else value)
        return found

    def _parameters(self, name: str) -> list[str]:
        return [value for key, value in parse_qsl(self.query, keep_blank_values=True) if key == name]


#: Where a key is looked for: ``header:NAME``, ``host:{key}.preview.example.com``, ``cookie:NAME``, ``query:NAME``, or a function from the
#: request to a key or None.
Resolver = Union[str, EdgeField, Callable[[EdgeRequest], Union[str, None]]]  # noqa: UP007 - evaluated at run time


class Found(Reading):
    """
    What a request says in a place where the edge looks.
    """

    #: Where that is, in words.
    place: str

    @classmethod
    def at(cls, place: str, reading: Reading) -> Found:
        """
        Return what was read, with its place.

        Args:
            place: The place, such as ``cookie 'routing-key'``.
            reading: What stands there.
        """
        found = cls(*reading)
        found.place = place
        return found


class Edge:
    """
    Finds the routing key of requests that carry none.

    Args:
        resolvers: Where to look, in this order; the first that finds something is taken at its word.

    Raises:
        ConfigurationError: If an entry is no resolver.
    """

    def __init__(self, resolvers: Iterable[Resolver] | Resolver) -> None:
        entries = edge_fields(resolvers)
        self._resolvers = tuple((_place(entry), _resolver(entry)) for entry in entries)
        #: The request headers on which a response depends, in lower case; the host and the query are part of its address.
        self.vary = tuple(dict.fromkeys(name for entry in entries for name in _vary(entry)))

    def __bool__(self) -> bool:
        return bool(self._resolvers)

    def read(self, request: EdgeRequest) -> Reading:
        """
        Return what the first resolver that finds something says; an empty value counts as nothing.

        Raises:
            ConfigurationError: If a function returns something that is neither text nor None. What a function raises itself is passed on.
        """
        for place, resolve in self._resolvers:
            reading = resolve(request)
            if reading is not ABSENT:
                return Found.at(place, reading)
        return ABSENT


def _resolver(entry: EdgeField | Callable[[EdgeRequest], str | None]) -> Callable[[EdgeRequest], Reading]:
    if not isinstance(entry, EdgeField):
        return _function(entry)
    name = entry.name
    if entry.kind == "host":
        return _host(name)
    if entry.kind == "header":
        return _header(name)
    if entry.kind == "cookie":
        return lambda request: _reading(request._cookies(name))
    return lambda request: _reading(request._parameters(name)[::-1])


def _header(name: str) -> Callable[[EdgeRequest], Reading]:
    read = codec((Field("header", name),), ()).read

    def resolve(request: EdgeRequest) -> Reading:
        reading = read(request.headers)
        return ABSENT if reading.malformed == "" else reading

    return resolve


def _host(pattern: str) -> Callable[[EdgeRequest], Reading]:
    before, _, after = pattern.partition("{key}")
    matches = re.compile(rf"{re.escape(before)}([^.]+){re.escape(after)}").fullmatch

    def resolve(request: EdgeRequest) -> Reading:
        hosts = {_PORT.sub("", line.strip()).lower().removesuffix(".") for line in request._lines("host")}
        # Of several hosts a proxy may have taken another one than we would (RFC 9112, section 3.2, wants such requests refused).
        host = hosts.pop() if len(hosts) == 1 else ""
        match = matches(host)
        return ABSENT if match is None else _reading([match[1]])

    return resolve


def _function(function: Callable[[EdgeRequest], str | None]) -> Callable[[EdgeRequest], Reading]:
    def resolve(request: EdgeRequest) -> Reading:
        found: Any = function(request)
        if found is None:
            return ABSENT
        if isinstance(found, str):
            return _reading([str.__str__(found)])  # of an enumeration's member the value, not the name
        if inspect.iscoroutine(found):
            found.close()
        raise ConfigurationError(
            f"the edge function {function!r} returned a {type(found).__name__}; return a routing key as text, or None where there is none"
        )

    return resolve


def _reading(values: list[str]) -> Reading:
    """
    What a list of values says, of which the first goes before the others.
    """
    found = [value for value in values if value]
    if not found:
        return ABSENT
    key = RoutingKey.parse(found[0])
    return Reading(key, None if key is not None else found[0], any(other != found[0] for other in found))


def _vary(entry: Any) -> tuple[str, ...]:
    if not isinstance(entry, EdgeField):
        return ()  # nobody knows what it looks at
    return {"header": (entry.name.lower(),), "cookie": ("cookie",)}.get(entry.kind, ())


def _place(entry: Any) -> str:
    if not isinstance(entry, EdgeField):
        return "request as a whole"
    return {"host": "host name", "query": f"query parameter '{entry.name}'"}.get(entry.kind, f"{entry.kind} '{entry.name}'")
