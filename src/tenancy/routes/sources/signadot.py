"""
Signadot's route server: ``signadot+http://routeserver.signadot.svc:7778?workload=shop/orders``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qsl, urlsplit, urlunsplit
from urllib.request import ProxyHandler, Request, build_opener

from ...errors import ConfigurationError, RouteSourceError
from ...naming import is_workload
from ..table import RouteTable, parse_table

__all__ = ["SignadotSource", "open_source"]

_RULES = "/api/v1/workloads/routing-rules"
_TIMEOUT = 2.0
_LARGEST = 32 * 1024 * 1024
_LIKE = "write signadot+http://routeserver.signadot.svc:7778?workload=namespace/name"


class SignadotSource:
    """
    Reads the routing rules of all workloads from Signadot's route server. It knows no cuts and no lease: hand-over is not exact.

    Args:
        address: ``http://host:port``.
        workloads: Workloads that exist; the server tells only of those that a sandbox forks.
    """

    def __init__(self, address: str, workloads: tuple[str, ...] = ()) -> None:
        self.name = f"the route server {address}"
        self._url = address.rstrip("/") + _RULES
        self._workloads = workloads
        # A proxy is for what is outside of the cluster.
        self._opener = build_opener(ProxyHandler({}))
        self._last: tuple[str, bytes] | None = None  # a body with its ETag

    def read(self) -> RouteTable:
        """
        Read all rules.

        Raises:
            RouteSourceError: If that is not possible, or if what is answered is something else.
        """
        body = self._fetch()
        try:
            document = json.loads(body)
        except ValueError as error:
            raise RouteSourceError(f"{self.name} answered what is not JSON: {error}") from error
        # A rollout may stand beside the deployment that it takes over from, under one name.
        routes = [dict(zip(("workload", "key", "sandbox"), route, strict=True)) for route in dict.fromkeys(self._routes(document))]
        return parse_table({"workloads": list(self._workloads), "routes": routes}, origin=self.name)

    def mark(self) -> object:
        """
        Return a hash of all rules; where the server gives an ETag, they are sent only if they have changed.

        Raises:
            RouteSourceError: If the server cannot be asked.
        """
        return hashlib.blake2b(self._fetch(), digest_size=16).digest()

    def _fetch(self) -> bytes:
        last = self._last
        request = Request(self._url, headers={"Accept": "application/json"})  # noqa: S310 - the scheme is checked by open_source
        if last is not None:
            request.add_header("If-None-Match", last[0])
        try:
            with self._opener.open(request, timeout=_TIMEOUT) as response:
                body: bytes = response.read(_LARGEST + 1)
                etag = response.headers.get("ETag")
        except HTTPError as error:
            with error:
                if error.code == 304 and last is not None:
                    return last[1]
            raise RouteSourceError(
                f"{self.name} answered {error.code} {error.reason} to GET {_RULES}; is this the REST port of Signadot's route server?"
            ) from error
        except (OSError, HTTPException) as error:
            raise RouteSourceError(f"{self.name} cannot be reached: {getattr(error, 'reason', None) or error}") from error
        if len(body) > _LARGEST:
            raise RouteSourceError(f"{self.name} answered more than {_LARGEST} bytes, which is not read")
        self._last = None if etag is None else (etag, body)
        return body

    def _routes(self, document: Any) -> Iterator[tuple[Any, ...]]:
        # What is empty is left out of the JSON of a protocol buffer.
        rules = document.get("routingRules", []) if isinstance(document, dict) else None
        if not isinstance(rules, list):
            raise RouteSourceError(f"{self.name} answered JSON without a list routingRules; is this Signadot's route server?")
        for index, rule in enumerate(rules):
            try:
                baseline = rule["baseline"]
                yield f"{baseline['namespace']}/{baseline['name']}", rule["routingKey"], rule["destinationSandbox"]["name"]
            except (KeyError, TypeError) as error:
                raise RouteSourceError(
                    f"{self.name}: routingRules[{index}] has not the fields baseline, destinationSandbox and routingKey: {error!r}"
                ) from error


def open_source(url: str) -> SignadotSource:
    """
    Return the source of a ``signadot+http:`` or ``signadot+https:`` URL.

    Raises:
        ConfigurationError: If the URL is another one, or names what is no workload.
    """
    parts = urlsplit(url)
    scheme = parts.scheme.partition("+")[2]
    if scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ConfigurationError(f"routes (TENANCY_ROUTES) is {url!r}; {_LIKE}")
    options = parse_qsl(parts.query, keep_blank_values=True)
    for name, value in options:
        if name != "workload" or not is_workload(value):
            raise ConfigurationError(f"routes (TENANCY_ROUTES) has {name}={value} in its query; {_LIKE}")
    address = urlunsplit((scheme, parts.netloc, parts.path, "", ""))
    return SignadotSource(address, tuple(value for _, value in options))
