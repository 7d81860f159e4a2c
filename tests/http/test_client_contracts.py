"""The propagation contract for every client, over real sockets, with OpenTelemetry's instrumentation outside, inside and absent."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import aiohttp
import httpx
import pytest
import requests
import urllib3
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.urllib import URLLibInstrumentor
from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor
from opentelemetry.sdk.trace import TracerProvider

import tenancy
from tenancy.http import aiohttp_client as aiohttp_adapter
from tenancy.http import httpx as httpx_adapter
from tenancy.http import requests as requests_adapter
from tenancy.http import urllib as urllib_adapter
from tenancy.http import urllib3 as urllib3_adapter
from tenancy.http.asgi import TenancyMiddleware
from tests.contract import Headers, PropagationContract, Rejected
from tests.http.servers import SSL_CONTEXT, Work, header, recorder, respond, through


def otel(instrumentor: Any) -> Any:
    """OpenTelemetry's instrumentor, with an SDK of its own."""

    class Step:
        @staticmethod
        def instrument() -> None:
            instrumentor().instrument(tracer_provider=TracerProvider())

        @staticmethod
        def uninstrument() -> None:
            instrumentor().uninstrument()

    return Step


@pytest.fixture(scope="class")
def patched(request: pytest.FixtureRequest, recorder_url: str) -> Iterator[None]:
    request.cls.url = recorder_url
    steps = request.cls.steps
    for step in steps:
        step.instrument()
    try:
        yield
    finally:
        for step in reversed(steps):
            step.uninstrument()


@pytest.mark.usefixtures("patched")
class ClientContract(PropagationContract):
    malformed = "rejected"
    url: str
    #: What is instrumented, in this order: the later one is further out.
    steps: ClassVar[tuple[Any, ...]] = ()

    async def receive(self, headers: Headers, body: Callable[[], Any] = tenancy.routing_key) -> Any:
        work = Work()
        name = work.add(body)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(0)
            work.run(header(scope, b"x-body") or "")
            await asyncio.sleep(0)
            await respond(send)

        response = await through(TenancyMiddleware(app), [*headers, ("x-body", name)])
        if response.status_code == 400:
            raise Rejected(response.text)
        return work.result(name)


def pairs(body: Any) -> Headers:
    return [(name, value) for name, value in body["headers"]]


class TestRequestsAdapter(ClientContract):
    async def send(self) -> Headers:
        with requests.Session() as session:
            session.mount("http://", requests_adapter.TenancyAdapter())
            return pairs(session.get(self.url).json())


class TestRequests(ClientContract):
    steps = (requests_adapter,)

    async def send(self) -> Headers:
        return pairs(requests.get(self.url, timeout=30).json())


class TestRequestsInsideOpenTelemetry(TestRequests):
    steps = (requests_adapter, otel(RequestsInstrumentor))


class TestRequestsOpenTelemetryFirst(TestRequests):
    steps = (otel(RequestsInstrumentor), requests_adapter)


class TestRequestsAdapterOpenTelemetry(TestRequestsAdapter):
    steps = (otel(RequestsInstrumentor),)


class TestHttpxTransport(ClientContract):
    async def send(self) -> Headers:
        inner = httpx.HTTPTransport(verify=SSL_CONTEXT)
        with httpx.Client(transport=httpx_adapter.TenancyTransport(inner), timeout=30) as client:
            return pairs(client.get(self.url).json())


class TestHttpx(ClientContract):
    steps = (httpx_adapter,)

    async def send(self) -> Headers:
        with httpx.Client(verify=SSL_CONTEXT, timeout=30) as client:
            return pairs(client.get(self.url).json())


class TestHttpxInsideOpenTelemetry(TestHttpx):
    steps = (httpx_adapter, otel(HTTPXClientInstrumentor))


class TestHttpxOutsideOpenTelemetry(TestHttpx):
    steps = (otel(HTTPXClientInstrumentor), httpx_adapter)


class TestHttpxTransportOpenTelemetry(TestHttpxTransport):
    steps = (otel(HTTPXClientInstrumentor),)


class TestAsyncHttpxTransport(ClientContract):
    async def send(self) -> Headers:
        inner = httpx.AsyncHTTPTransport(verify=SSL_CONTEXT)
        async with httpx.AsyncClient(transport=httpx_adapter.AsyncTenancyTransport(inner), timeout=60) as client:
            return pairs((await client.get(self.url)).json())


class TestAsyncHttpx(ClientContract):
    steps = (httpx_adapter,)

    async def send(self) -> Headers:
        async with httpx.AsyncClient(verify=SSL_CONTEXT, timeout=60) as client:
            return pairs((await client.get(self.url)).json())


class TestAsyncHttpxInsideOpenTelemetry(TestAsyncHttpx):
    steps = (httpx_adapter, otel(HTTPXClientInstrumentor))


class TestAsyncHttpxOutsideOpenTelemetry(TestAsyncHttpx):
    steps = (otel(HTTPXClientInstrumentor), httpx_adapter)


class TestAsyncHttpxTransportOpenTelemetry(TestAsyncHttpxTransport):
    steps = (otel(HTTPXClientInstrumentor),)


class TestAsyncHttpxInProcess(ClientContract):
    """Transports that open no socket, which OpenTelemetry's instrumentation does not see."""

    async def send(self) -> Headers:
        async with httpx.AsyncClient(transport=httpx_adapter.AsyncTenancyTransport(httpx.ASGITransport(recorder))) as client:
            return pairs((await client.get("http://orders/")).json())


class TestAiohttpRequestClass(ClientContract):
    async def send(self) -> Headers:
        async with (
            aiohttp.ClientSession(request_class=aiohttp_adapter.TenancyClientRequest) as session,
            session.get(self.url) as response,
        ):
            return pairs(await response.json(content_type=None))


class TestAiohttp(ClientContract):
    steps = (aiohttp_adapter,)

    async def send(self) -> Headers:
        async with aiohttp.ClientSession() as session, session.get(self.url) as response:
            return pairs(await response.json(content_type=None))


class TestAiohttpInsideOpenTelemetry(TestAiohttp):
    steps = (aiohttp_adapter, otel(AioHttpClientInstrumentor))


class TestAiohttpOpenTelemetryFirst(TestAiohttp):
    steps = (otel(AioHttpClientInstrumentor), aiohttp_adapter)


class TestAiohttpRequestClassOpenTelemetry(TestAiohttpRequestClass):
    steps = (otel(AioHttpClientInstrumentor),)


class TestUrllib3Manager(ClientContract):
    async def send(self) -> Headers:
        with urllib3_adapter.TenancyPoolManager() as manager:
            return pairs(json.loads(manager.request("GET", self.url).data))


class TestUrllib3(ClientContract):
    steps = (urllib3_adapter,)

    async def send(self) -> Headers:
        with urllib3.PoolManager() as manager:
            return pairs(json.loads(manager.request("GET", self.url).data))


class TestUrllib3InsideOpenTelemetry(TestUrllib3):
    steps = (urllib3_adapter, otel(URLLib3Instrumentor))


class TestUrllib3OpenTelemetryFirst(TestUrllib3):
    steps = (otel(URLLib3Instrumentor), urllib3_adapter)


class TestUrllib3ManagerOpenTelemetry(TestUrllib3Manager):
    steps = (otel(URLLib3Instrumentor),)


class TestUrllib3BeneathRequests(TestRequests):
    """All that `tenancy.instrument()` patches for one request of requests, and all that OpenTelemetry does."""

    steps = (otel(URLLib3Instrumentor), urllib3_adapter, requests_adapter, otel(RequestsInstrumentor))


class TestUrllibHandler(ClientContract):
    async def send(self) -> Headers:
        with urllib.request.build_opener(urllib_adapter.TenancyHandler(context=SSL_CONTEXT)).open(self.url, timeout=30) as response:
            return pairs(json.load(response))


class TestUrllib(ClientContract):
    steps = (urllib_adapter,)

    async def send(self) -> Headers:
        with urllib.request.urlopen(self.url, timeout=30) as response:
            return pairs(json.load(response))


class TestUrllibInsideOpenTelemetry(TestUrllib):
    steps = (urllib_adapter, otel(URLLibInstrumentor))


class TestUrllibOpenTelemetryFirst(TestUrllib):
    steps = (otel(URLLibInstrumentor), urllib_adapter)


class TestUrllibHandlerOpenTelemetry(TestUrllibHandler):
    steps = (otel(URLLibInstrumentor),)
