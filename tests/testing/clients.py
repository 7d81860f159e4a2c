"""
What the tests of the recorder share: one request by each client, bare, and the name under which `tenancy.instrument` knows it.
"""

from __future__ import annotations

import asyncio
import http.client
import urllib.request
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp
import httpx
import requests
import urllib3

try:
    import httpx2  # type: ignore[import-not-found,unused-ignore]
except ModuleNotFoundError:  # it needs Python 3.11
    httpx2 = None

from tests.http.servers import SSL_CONTEXT

Headers = Mapping[str, str]


class Client(NamedTuple):
    """
    A client: how it asks, what it is told to be, and what instruments it.
    """

    get: Callable[[str, Headers], None]
    layer: str
    library: str | None


def by_http_client(url: str, headers: Headers) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=20)
    path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    connection.request("GET", path, headers=dict(headers))
    connection.getresponse().read()
    connection.close()


def by_urllib(url: str, headers: Headers) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers)), timeout=20) as response:
        response.read()


def by_urllib3(url: str, headers: Headers) -> None:
    with urllib3.PoolManager() as pool:
        pool.request("GET", url, headers=headers)


def by_requests(url: str, headers: Headers) -> None:
    requests.get(url, headers=headers, timeout=20)


def by_httpx(url: str, headers: Headers) -> None:
    with httpx.Client(verify=SSL_CONTEXT, timeout=20, follow_redirects=True) as client:
        client.get(url, headers=headers)


def by_async_httpx(url: str, headers: Headers) -> None:
    async def get() -> None:
        async with httpx.AsyncClient(verify=SSL_CONTEXT, timeout=20, follow_redirects=True) as client:
            await client.get(url, headers=headers)

    asyncio.run(get())


def by_httpx2(url: str, headers: Headers) -> None:
    with httpx2.Client(verify=SSL_CONTEXT, timeout=20, follow_redirects=True) as client:
        client.get(url, headers=headers)


def by_aiohttp(url: str, headers: Headers) -> None:
    async def get() -> None:
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
            await response.read()

    asyncio.run(get())


CLIENTS: dict[str, Client] = {
    "http.client": Client(by_http_client, "http.client", None),
    "urllib": Client(by_urllib, "http.client", "urllib"),
    "urllib3": Client(by_urllib3, "urllib3", "urllib3"),
    "requests": Client(by_requests, "urllib3", "requests"),
    "httpx": Client(by_httpx, "httpcore", "httpx"),
    "httpx async": Client(by_async_httpx, "httpcore", "httpx"),
    "aiohttp": Client(by_aiohttp, "aiohttp", "aiohttp"),
}
if httpx2 is not None:
    CLIENTS["httpx2"] = Client(by_httpx2, "httpcore2", None)
