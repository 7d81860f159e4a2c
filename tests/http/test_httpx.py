from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider

import tenancy
from tenancy.http import httpx as adapter
from tenancy.http.httpx import AsyncTenancyTransport, TenancyTransport
from tests.http.servers import SSL_CONTEXT, recorder

OURS = "sd-routing-key"


@pytest.fixture(autouse=True)
def _uninstrumented() -> Iterator[None]:
    yield
    adapter.uninstrument()


@pytest.fixture(params=["ours alone", "theirs outside", "theirs inside"])
def instrumented(request: pytest.FixtureRequest) -> Iterator[None]:
    theirs = HTTPXClientInstrumentor()
    if request.param == "theirs inside":
        theirs.instrument(tracer_provider=TracerProvider())
    adapter.instrument()
    if request.param == "theirs outside":
        theirs.instrument(tracer_provider=TracerProvider())
    yield
    # Outermost first: neither can be taken out from beneath the other.
    steps = [theirs.uninstrument] if request.param == "theirs outside" else []
    steps.append(adapter.uninstrument)
    steps.extend([theirs.uninstrument] if request.param == "theirs inside" else [])
    for step in steps:
        step()


class Both:
    """Sync and async clients behind one interface, so that one test is for both."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    async def get(self, url: str, **options: Any) -> httpx.Response:
        return await self.send("GET", url, **options)

    async def send(self, method: str, url: str, *, client_options: dict[str, Any] | None = None, **options: Any) -> httpx.Response:
        settings = {"verify": SSL_CONTEXT, "timeout": 10, "follow_redirects": True, **(client_options or {})}
        if self.kind == "sync":
            with httpx.Client(**settings) as client:
                return client.request(method, url, **options)
        async with httpx.AsyncClient(**settings) as asynchronous:
            return await asynchronous.request(method, url, **options)

    def transport(self, inner: Any) -> Any:
        return TenancyTransport(inner) if self.kind == "sync" else AsyncTenancyTransport(inner)


@pytest.fixture(params=["sync", "async"])
def both(request: pytest.FixtureRequest) -> Both:
    return Both(request.param)


def baggage(response: httpx.Response) -> list[str]:
    return [value for name, value in response.json()["headers"] if name == "baggage"]


def at(host: str, url: str) -> str:
    return url.replace("127.0.0.1", host)


@pytest.mark.usefixtures("names", "instrumented")
async def test_only_trusted_hosts_are_told(both: Both, recorder_url: str) -> None:
    """In either order with OpenTelemetry's instrumentation, the key goes to trusted hosts and to no other."""
    with tenancy.scope("pr-42"):
        assert baggage(await both.get(recorder_url)) == ["sd-routing-key=pr-42"]
        assert baggage(await both.get(at("orders", recorder_url))) == ["sd-routing-key=pr-42"]
        assert baggage(await both.get(at("example.com", recorder_url))) == []
        assert baggage(await both.get(at("134744072", recorder_url))) == []
        headers = {"Baggage": "a=1,sd-routing-key=pr-42", "OT-Baggage-SD-Routing-Key": "pr-42"}
        response = await both.get(at("example.com", recorder_url), headers=headers)
        assert OURS not in json.dumps(response.json()).lower()
        assert tenancy.routing_key() == "pr-42"
    assert baggage(await both.get(recorder_url)) == []


@pytest.mark.usefixtures("names", "instrumented")
async def test_a_key_in_the_current_trace_is_withheld_as_well(both: Both, recorder_url: str) -> None:
    """OpenTelemetry writes the tracestate that came in, with whatever key it has."""
    state = trace.TraceState([("v", "1"), (OURS, "pr-42")])
    span = trace.NonRecordingSpan(trace.SpanContext(1, 2, True, trace.TraceFlags(1), state))
    for key in (None, "pr-42"):
        with trace.use_span(span), tenancy.scope(key) if key else nullcontext():
            assert OURS not in (await both.get(at("example.com", recorder_url))).text
            await both.get(recorder_url)
            assert trace.get_current_span() is span


@pytest.mark.usefixtures("names", "instrumented")
async def test_every_hop_of_a_redirect_is_judged(both: Both, recorder_url: str) -> None:
    """From a trusted host to another one and back: told, not told, told again, with all that comes between."""
    back = at("orders", recorder_url)
    away = at("example.com", recorder_url) + "/to307?" + back
    with tenancy.scope("pr-42"):
        for method, content in (("GET", None), ("POST", b"the body")):
            response = await both.send(method, recorder_url + "/to307?" + away, content=content)
            assert [hop.headers["x-seen-baggage"] for hop in response.history] == ["sd-routing-key=pr-42", "-"]
            assert baggage(response) == ["sd-routing-key=pr-42"]
            assert response.json()["size"] == len(content or b"")


@pytest.mark.usefixtures("instrumented")
async def test_one_entry_of_ours(both: Both, recorder_url: str) -> None:
    """A stale key in the request's headers is replaced."""
    with tenancy.scope("pr-42"):
        response = await both.get(recorder_url, headers=[("Baggage", "sd-routing-key=stale"), ("uberctx-sd-routing-key", "stale")])
    assert baggage(response) == ["sd-routing-key=pr-42"]
    assert "stale" not in response.text


async def test_the_members_of_others_keep_their_bytes(both: Both, recorder_url: str) -> None:
    """All lines become one header, ours first; a request outside of any scope that names a key itself keeps it."""
    adapter.instrument()
    headers = [(b"x-one", b"1"), (b"baggage", b"a=%41;p=1 , b=b"), (b"Baggage", b"sd-routing-key=pr-7,c=\xc3\xbc")]
    with tenancy.scope("pr-42"):
        response = await both.get(recorder_url, headers=headers)
    assert baggage(response) == ["sd-routing-key=pr-42,a=%41;p=1 , b=b,c=\xc3\xbc"]
    assert baggage(await both.get(recorder_url, headers={"baggage": "a=1,sd-routing-key=pr-7"})) == ["sd-routing-key=pr-7,a=1"]


def test_the_callers_request_is_not_changed(recorder_url: str) -> None:
    """The request that is handed in, and that the response shows, is the caller's own."""
    adapter.instrument()
    with httpx.Client(verify=SSL_CONTEXT) as client, tenancy.scope("pr-42"):
        request = client.build_request("POST", recorder_url, headers={"Baggage": "a=1"}, content=b"x", extensions={"mine": 1})
        before = request.headers.raw
        response = client.send(request)
    assert baggage(response) == ["sd-routing-key=pr-42,a=1"]
    assert response.request is request
    assert request.headers.raw == before
    assert request.extensions["mine"] == 1


def test_what_the_inner_transport_gets() -> None:
    """A new request with the same method, URL, body, stream and extensions."""
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=request.content)

    class Reading(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            return handle(request)

    with httpx.Client(transport=TenancyTransport(Reading())) as client, tenancy.scope("pr-42"):
        given = client.build_request(
            "PUT", "http://orders/a%20b?c=d#e", content=b"body", headers={"X-A": "1"}, extensions={"trace": 1}
        )
        assert client.send(given).content == b"body"
        client.build_request("GET", "http://orders/")
    (got,) = seen
    assert got is not given
    assert (got.method, got.url, got.content) == (given.method, given.url, b"body")
    assert got.stream is given.stream
    assert got.extensions is given.extensions
    assert [pair for pair in got.headers.raw if pair[0] != b"baggage"] == given.headers.raw
    assert got.headers["baggage"] == "sd-routing-key=pr-42"


def test_without_a_key_the_request_is_the_same_object() -> None:
    """Nothing is copied where there is nothing to carry."""
    seen: list[httpx.Request] = []

    class Reading(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return httpx.Response(200)

    with httpx.Client(transport=TenancyTransport(Reading())) as client:
        given = client.build_request("GET", "http://example.com/", headers={"baggage": "a=1"})
        client.send(given)
    assert seen[0] is given


@pytest.mark.usefixtures("names", "instrumented")
@pytest.mark.parametrize("host", ["orders", "example.com"])
async def test_bodies_are_made_under_the_callers_key(both: Both, recorder_url: str, host: str) -> None:
    """Code that makes a body while it is sent has the key, also where the host must not see it; multipart files are sent whole."""
    keys: list[str | None] = []

    def chunks() -> Iterator[bytes]:
        for _ in range(3):
            keys.append(tenancy.routing_key())
            yield b"1234"

    async def async_chunks() -> AsyncIterator[bytes]:
        for chunk in chunks():
            yield chunk

    with tenancy.scope("pr-42"):
        response = await both.send("POST", at(host, recorder_url), content=chunks() if both.kind == "sync" else async_chunks())
        assert response.json()["size"] == 12
        assert keys == ["pr-42"] * 3
        response = await both.send("POST", at(host, recorder_url), files={"f": b"x" * 1000})
        assert response.json()["size"] > 1000
    assert [entry for entry in baggage(response) if OURS in entry] == (["sd-routing-key=pr-42"] if host == "orders" else [])


@pytest.mark.usefixtures("names", "instrumented")
@pytest.mark.parametrize("host", ["127.0.0.1", "example.com"])
async def test_exceptions_pass_and_the_context_is_restored(both: Both, host: str, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that fails raises httpx's own error, and the key is current again."""
    with tenancy.scope("pr-42"):
        with pytest.raises(httpx.ConnectError):
            await both.get(f"http://{host}:1/", client_options={})
        assert tenancy.routing_key() == "pr-42"
    assert "detach" not in caplog.text


@pytest.mark.usefixtures("names", "instrumented")
def test_a_pooled_connection_does_not_remember(recorder_url: str) -> None:
    """Requests of several keys, and of none, over one connection carry their own."""
    with httpx.Client(verify=SSL_CONTEXT, limits=httpx.Limits(max_connections=1)) as client:
        for key in ("pr-1", None, "pr-2", None):
            with tenancy.scope(key):
                assert baggage(client.get(recorder_url)) == ([f"sd-routing-key={key}"] if key else [])
                assert baggage(client.get(at("example.com", recorder_url))) == []
            assert baggage(client.get(recorder_url)) == []


@pytest.mark.usefixtures("instrumented")
async def test_streamed_responses(recorder_url: str) -> None:
    """A response that is read bit by bit is the same."""
    with tenancy.scope("pr-42"), httpx.Client(verify=SSL_CONTEXT) as client, client.stream("GET", recorder_url) as response:
        assert b"pr-42" in b"".join(response.iter_bytes())
    with tenancy.scope("pr-42"):
        async with httpx.AsyncClient(verify=SSL_CONTEXT) as asynchronous, asynchronous.stream("GET", recorder_url) as response:
            assert b"pr-42" in b"".join([chunk async for chunk in response.aiter_bytes()])


async def test_transports_that_open_no_socket() -> None:
    """An application in this process, or a mock, is told as any other host."""
    async with httpx.AsyncClient(transport=AsyncTenancyTransport(httpx.ASGITransport(recorder))) as client:
        with tenancy.scope("pr-42"):
            assert baggage(await client.get("http://orders/")) == ["sd-routing-key=pr-42"]
            assert baggage(await client.get("http://example.com/")) == []
    mock = httpx.MockTransport(lambda request: httpx.Response(200, json={"headers": list(request.headers.items())}))
    with httpx.Client(transport=TenancyTransport(mock)) as sync, tenancy.scope("pr-42"):
        assert baggage(sync.get("http://orders/")) == ["sd-routing-key=pr-42"]


async def test_a_wrapped_transport_is_opened_and_closed(both: Both) -> None:
    """Entering, leaving and closing reach the inner transport."""
    calls: list[str] = []

    class Inner(httpx.BaseTransport, httpx.AsyncBaseTransport):
        def __enter__(self) -> Any:
            calls.append("enter")
            return self

        def __exit__(self, *error: object) -> None:
            calls.append("exit")

        async def __aenter__(self) -> Any:
            return self.__enter__()

        async def __aexit__(self, *error: object) -> None:
            self.__exit__()

        def close(self) -> None:
            calls.append("close")

        async def aclose(self) -> None:
            self.close()

    if both.kind == "sync":
        with httpx.Client(transport=TenancyTransport(Inner())):
            pass
        httpx.Client(transport=TenancyTransport(Inner())).close()
    else:
        async with httpx.AsyncClient(transport=AsyncTenancyTransport(Inner())):
            pass
        await httpx.AsyncClient(transport=AsyncTenancyTransport(Inner())).aclose()
    assert calls == ["enter", "exit", "close"]


async def test_wrapped_and_instrumented(both: Both, recorder_url: str) -> None:
    """Doing both is the same as doing one."""
    adapter.instrument()
    inner: Any = httpx.HTTPTransport(verify=SSL_CONTEXT) if both.kind == "sync" else httpx.AsyncHTTPTransport(verify=SSL_CONTEXT)
    with tenancy.scope("pr-42"):
        response = await both.get(recorder_url, headers={"baggage": "a=1"}, client_options={"transport": both.transport(inner)})
    assert baggage(response) == ["sd-routing-key=pr-42,a=1"]


def test_a_mistake_in_the_trusted_hosts_shows_at_the_start() -> None:
    """It raises where the adapter is switched on, and not in the first request that has a key."""
    tenancy.configure(trusted_hosts="https://example.com")
    for start in (adapter.instrument, TenancyTransport, AsyncTenancyTransport):
        with pytest.raises(tenancy.ConfigurationError, match="trusted_hosts"):
            start()


def test_switched_off_nothing_is_patched() -> None:
    """Every attribute is the original, and a transport is the one that it was given."""
    originals = [httpx.HTTPTransport.handle_request, httpx.AsyncHTTPTransport.handle_async_request]
    tenancy.configure(enabled=False)
    adapter.instrument()
    assert httpx.HTTPTransport.handle_request is originals[0]
    assert httpx.AsyncHTTPTransport.handle_async_request is originals[1]
    mock = httpx.MockTransport(lambda request: httpx.Response(200))
    assert TenancyTransport(mock) is mock
    assert AsyncTenancyTransport(mock) is mock
    assert type(TenancyTransport()) is httpx.HTTPTransport
    assert type(AsyncTenancyTransport()) is httpx.AsyncHTTPTransport


def test_it_can_be_undone(recorder_url: str) -> None:
    """After uninstrument() the attributes are the originals; beneath somebody else's patch ours does nothing any more."""
    originals = [httpx.HTTPTransport.handle_request, httpx.AsyncHTTPTransport.handle_async_request]
    adapter.instrument()
    adapter.instrument()
    adapter.uninstrument()
    adapter.uninstrument()
    assert [httpx.HTTPTransport.handle_request, httpx.AsyncHTTPTransport.handle_async_request] == originals
    adapter.instrument()
    ours = httpx.HTTPTransport.handle_request
    httpx.HTTPTransport.handle_request = lambda self, request: ours(self, request)  # type: ignore[method-assign]
    try:
        adapter.uninstrument()
        with httpx.Client(verify=SSL_CONTEXT) as client, tenancy.scope("pr-42"):
            assert baggage(client.get(recorder_url)) == []
    finally:
        httpx.HTTPTransport.handle_request = originals[0]  # type: ignore[method-assign]
