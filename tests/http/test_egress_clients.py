"""One contract for all clients: who is told the routing key, on every hop, however the client is switched on."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import subprocess
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import httpx
import pytest
import requests
import urllib3
from opentelemetry import trace
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.urllib import URLLibInstrumentor
from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor
from opentelemetry.sdk.trace import TracerProvider

import tenancy
from tenancy.egress import current_egress
from tenancy.http import aiohttp_client as aiohttp_adapter
from tenancy.http import httpx as httpx_adapter
from tenancy.http import requests as requests_adapter
from tenancy.http import urllib as urllib_adapter
from tenancy.http import urllib3 as urllib3_adapter
from tenancy.observe import _logging

OURS = "sd-routing-key"


class Hop(NamedTuple):
    """What a server received: the method, its target, the host it was meant for, the `baggage` headers, all headers in lower case."""

    method: str
    target: str
    host: str
    baggage: list[str]
    text: str


class Handler(BaseHTTPRequestHandler):
    """Writes down what it receives; `/to?<url>` redirects there; as a proxy it answers plain requests itself and tunnels the others."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.note()
        url = urlsplit(self.path)
        self.send_response(302 if url.path == "/to" else 200)
        if url.path == "/to":
            self.send_header("Location", url.query)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_CONNECT(self) -> None:
        self.note()
        self.send_response(200)
        self.end_headers()
        with socket.create_connection(("127.0.0.1", int(self.path.rpartition(":")[2]))) as target:
            back = threading.Thread(target=pump, args=(target, self.connection), daemon=True)
            back.start()
            pump(self.connection, target)
            back.join(10)
        self.close_connection = True

    def note(self) -> None:
        host = (self.headers["host"] or "").rpartition(":")[0]  # urllib writes none in a CONNECT
        self.server.hops.append(Hop(self.command, self.path, host, self.headers.get_all("baggage", []), str(self.headers).lower()))

    def log_message(self, *args: Any) -> None:
        pass


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 100

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hops: list[Hop] = []
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, *args: Any) -> None:
        pass  # a client that hangs up is no error of the server's

    def url(self, host: str, path: str = "/") -> str:
        scheme = "https" if isinstance(self.socket, ssl.SSLSocket) else "http"
        return f"{scheme}://{host}:{self.server_port}{path}"

    def taken(self) -> list[Hop]:
        hops, self.hops = self.hops, []
        return hops


@contextmanager
def running(context: ssl.SSLContext | None = None) -> Iterator[Server]:
    with Server(context) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)


@pytest.fixture(scope="module")
def _server() -> Iterator[Server]:
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def _proxy() -> Iterator[Server]:
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for `orders` and `example.com`, signed by itself, and its private key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=orders", "-addext", "subjectAltName=DNS:orders,DNS:example.com"]
    try:
        subprocess.run([*command, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate with")
    return certificate, key


@pytest.fixture(scope="module")
def _secure(certificate: tuple[Path, Path]) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with running(context) as started:
        yield started


@pytest.fixture
def server(_server: Server) -> Server:
    _server.taken()
    return _server


@pytest.fixture
def proxy(_proxy: Server) -> Server:
    _proxy.taken()
    return _proxy


@pytest.fixture
def secure(_secure: Server) -> Server:
    _secure.taken()
    return _secure


class Client:
    """One client, behind an interface that all have."""

    adapters: ClassVar[tuple[Any, ...]]
    instrumentors: ClassVar[tuple[Any, ...]]
    error: ClassVar[type[Exception]]

    def __init__(self, wrapped: bool, opentelemetry: bool) -> None:
        self.wrapped = wrapped
        self.opentelemetry = opentelemetry

    def get(self, url: str, headers: Any = None, *, proxy: str | None = None, ca: Path | None = None) -> None:
        """Get *url*, redirects included, by a new client."""
        raise NotImplementedError


class Requests(Client):
    adapters = (requests_adapter,)
    instrumentors = (RequestsInstrumentor,)
    error = requests.ConnectionError

    def get(self, url: str, headers: Any = None, *, proxy: str | None = None, ca: Path | None = None) -> None:
        with requests.Session() as session:
            if self.wrapped:
                session.mount("http://", requests_adapter.TenancyAdapter())
                session.mount("https://", requests_adapter.TenancyAdapter())
            session.get(
                url, headers=headers, proxies={"http": proxy, "https": proxy} if proxy else None, verify=str(ca) if ca else None
            )


class RequestsOverUrllib3(Requests):
    """What `tenancy.instrument()` makes of requests: its own adapter and, beneath it, that of urllib3."""

    adapters = (requests_adapter, urllib3_adapter)
    instrumentors = (RequestsInstrumentor, URLLib3Instrumentor)


class RequestsByUrllib3(Requests):
    """requests without an adapter of its own."""

    adapters = (urllib3_adapter,)


class Httpx(Client):
    adapters = (httpx_adapter,)
    instrumentors = (HTTPXClientInstrumentor,)
    error = httpx.ConnectError

    def get(self, url: str, headers: Any = None, *, proxy: str | None = None, ca: Path | None = None) -> None:
        settings: dict[str, Any] = {"verify": context_for(ca), "proxy": proxy}
        if self.wrapped:
            settings = {"transport": httpx_adapter.TenancyTransport(httpx.HTTPTransport(**settings))}
        with httpx.Client(**settings, follow_redirects=True) as client:
            client.get(url, headers=headers)


class AsyncHttpx(Httpx):
    def get(self, url: str, headers: Any = None, *, proxy: str | None = None, ca: Path | None = None) -> None:
        async def get() -> None:
            settings: dict[str, Any] = {"verify": context_for(ca), "proxy": proxy}
            if self.wrapped:
                settings = {"transport": httpx_adapter.AsyncTenancyTransport(httpx.AsyncHTTPTransport(**settings))}
            async with httpx.AsyncClient(**settings, follow_redirects=True) as client:
                await client.get(url, headers=headers)

        asyncio.run(get())


class Aiohttp(Client):
    adapters = (aiohttp_adapter,)
    instrumentors = (AioHttpClientInstrumentor,)
    error = aiohttp.ClientConnectorError

    def get(self, url: str, headers: Any = None, *, proxy: str | None = None, ca: Path | None = None) -> None:
        async def get() -> None:
            settings: dict[str, Any] = {"request_class": aiohttp_adapter.TenancyClientRequest} if self.wrapped else {}
            options: dict[str, Any] = {"headers": headers, "proxy": proxy, "ssl": context_for(ca)}
            async with aiohttp.ClientSession(**settings) as session, session.get(url, **options) as response:
                await response.read()

        asyncio.run(get())


class Urllib3(Client):
    adapters = (urllib3_adapter,)
    instrumentors = (URLLib3Instrumentor,)
    error = urllib3.exceptions.MaxRetryError

    def get(self, url: str, headers: Any = None, *, proxy: str | None = None, ca: Path | None = None) -> None:
        settings: dict[str, Any] = {"ssl_context": context_for(ca)} if ca else {}
        if proxy:
            managers: Any = urllib3_adapter.TenancyProxyManager if self.wrapped else urllib3.ProxyManager
            manager = managers(proxy, **settings)
        else:
            manager = (urllib3_adapter.TenancyPoolManager if self.wrapped else urllib3.PoolManager)(**settings)
        with manager:
            manager.request("GET", url, headers=headers, retries=urllib3.Retry(5, connect=0))


class Urllib(Client):
    adapters = (urllib_adapter,)
    instrumentors = (URLLibInstrumentor,)
    error = urllib.error.URLError

    def get(self, url: str, headers: Any = None, *, proxy: str | None = None, ca: Path | None = None) -> None:
        https = urllib_adapter.TenancyHandler if self.wrapped else urllib.request.HTTPSHandler
        proxies = urllib.request.ProxyHandler({"http": proxy, "https": proxy} if proxy else {})
        opener = urllib.request.build_opener(https(context=context_for(ca)), proxies)
        opener.open(urllib.request.Request(url, headers=headers or {}), timeout=10).close()


def context_for(ca: Path | None) -> ssl.SSLContext:
    return CONTEXT if ca is None else ssl.create_default_context(cafile=str(ca))


CONTEXT = ssl.create_default_context()
CLIENTS = [Requests, RequestsOverUrllib3, RequestsByUrllib3, Httpx, AsyncHttpx, Aiohttp, Urllib3, Urllib]
ARRANGEMENTS = ["instrumented", "opentelemetry first", "opentelemetry last", "wrapped", "wrapped under opentelemetry"]
CASES = [
    (client, arrangement)
    for client in CLIENTS
    for arrangement in ARRANGEMENTS
    if not (client is RequestsByUrllib3 and "wrapped" in arrangement)
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0].__name__}, {case[1]}")
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    kind, arrangement = request.param
    made = kind("wrapped" in arrangement, "opentelemetry" in arrangement)
    ours: list[tuple[Callable[[], Any], Callable[[], Any]]] = [
        (adapter.instrument, adapter.uninstrument) for adapter in kind.adapters if not made.wrapped
    ]
    theirs = [
        (lambda one=one: one().instrument(tracer_provider=TracerProvider()), lambda one=one: one().uninstrument())
        for one in kind.instrumentors
        if made.opentelemetry
    ]
    steps = ours + theirs if arrangement.endswith("last") else theirs + ours
    for start, _ in steps:
        start()
    yield made
    for _, stop in reversed(steps):  # outermost first: none can be taken out from beneath another
        stop()


pytestmark = pytest.mark.usefixtures("names")


def hosts(hops: list[Hop]) -> list[tuple[str, list[str]]]:
    return [(hop.host, hop.baggage) for hop in hops]


TOLD = ["sd-routing-key=pr-42"]


def test_only_trusted_hosts_are_told(client: Client, server: Server) -> None:
    """The key goes to hosts that are trusted, once, and to no other in any header; without a key nothing goes."""
    with tenancy.scope("pr-42"):
        for host in ("127.0.0.1", "orders", "orders.shop.svc"):
            client.get(server.url(host))
            assert hosts(server.taken()) == [(host, TOLD)]
        for host in ("example.com", "orders.shop", "notinternal.com"):
            client.get(server.url(host))
            (hop,) = server.taken()
            assert OURS not in hop.text, host
        assert tenancy.routing_key() == "pr-42"
    client.get(server.url("orders"))
    assert hosts(server.taken()) == [("orders", [])]


def test_more_hosts_are_told_by_setting(client: Client, server: Server) -> None:
    """What TENANCY_TRUSTED_HOSTS names is told as well."""
    tenancy.configure(trusted_hosts="*.example.com")
    with tenancy.scope("pr-42"):
        client.get(server.url("api.example.com"))
        client.get(server.url("example.com"))
    assert hosts(server.taken()) == [("api.example.com", TOLD), ("example.com", [])]


def test_every_hop_of_a_redirect_is_judged(client: Client, server: Server) -> None:
    """Told, not told, told again: each host on the way is decided on by itself, whichever came first."""
    back = server.url("orders")
    away = server.url("example.com", f"/to?{back}")
    with tenancy.scope("pr-42"):
        client.get(server.url("storefront", f"/to?{away}"))
        assert hosts(server.taken()) == [("storefront", TOLD), ("example.com", []), ("orders", TOLD)]
        client.get(away)
        assert hosts(server.taken()) == [("example.com", []), ("orders", TOLD)]
        client.get(server.url("orders", f"/to?{server.url('example.com')}"), {"Baggage": "sd-routing-key=pr-42"})
        told, not_told = server.taken()
        assert told.baggage == TOLD
        assert OURS not in not_told.text


def test_a_key_that_the_caller_wrote(client: Client, server: Server) -> None:
    """Outside of any scope it is kept for trusted hosts alone, on every hop; where the work has none on purpose, it goes nowhere."""
    headers = {"Baggage": "a=1,sd-routing-key=pr-7"}
    away = server.url("example.com", f"/to?{server.url('orders')}")
    client.get(server.url("storefront", f"/to?{away}"), headers)
    assert [hop.baggage for hop in server.taken()] == [["sd-routing-key=pr-7,a=1"], ["a=1"], ["sd-routing-key=pr-7,a=1"]]
    with tenancy.scope(None):
        client.get(server.url("orders"), headers)
    assert [hop.baggage for hop in server.taken()] == [["a=1"]]
    client.get(server.url("orders"), {"baggage": "sd-routing-key=PR_42,a=1"})
    assert [hop.baggage for hop in server.taken()] == [["a=1"]]


# fmt: off
DISGUISES = [
    "134744072", "0x8.8.8.8", "8.526344", "ORDERS", "user:password@orders", "user:password@example.com", "orders@example.com",
    "orders:80@example.com", "example.com@orders", "orders\\@example.com", "example.com\\@orders", "orders%2f@example.com",
    "orders%40example.com", "example%2ecom", "orders%00", "orders.", "orders..", "orders.svc.", "example.com.", "[::1]",
    "[::ffff:8.8.8.8]", "b\xfccher.example", "fa\xdf.svc", "\uff4frders", "example\u3002com", "orders\u200d", "xn--orders",
    "or\tders", "or ders", "", "a..svc",
]
# fmt: on


@pytest.mark.parametrize("way", ["at once", "by a redirect"])
def test_a_host_in_disguise(client: Client, server: Server, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However a host is spelt, the key goes along only where the name that the client looks up is trusted."""
    found: list[str] = []
    resolve = socket.getaddrinfo

    def getaddrinfo(name: Any, *args: Any, **kwargs: Any) -> Any:
        found.append(name.decode() if isinstance(name, bytes) else str(name))
        return resolve(name, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with tenancy.scope("pr-42"):
        for host in DISGUISES:
            found.clear()
            url = server.url(host)
            try:
                client.get(url if way == "at once" else server.url("storefront", f"/to?{url}"))
            except Exception:  # what a client does not take as a host it refuses, in its own way
                pass
            told = [hop for hop in server.taken() if OURS in hop.text and hop.host != "storefront"]
            names = [name for name in found if name != "storefront"]
            assert not told or all(map(current_egress().allows, names)), (host, names, told)


def test_a_host_in_disguise_behind_a_proxy(client: Client, proxy: Server) -> None:
    """The key goes along only where the host is trusted by the strictest reading of the URL that the proxy is given."""
    with tenancy.scope("pr-42"):
        for host in (host for host in DISGUISES if host != "[::1]"):  # httpx leaves out the brackets
            try:
                client.get(f"http://{host}:81/", proxy=proxy.url("127.0.0.1"))
            except Exception:
                pass
            for hop in proxy.taken():
                authority = re.split(r"[/\\?#]", hop.target.partition("://")[2])[0]
                assert OURS not in hop.text or current_egress().allows(authority.rpartition("@")[2]), (host, hop)


@pytest.mark.parametrize("name", ["baggage", "Baggage", "BAGGAGE", "bAgGaGe"])
def test_there_is_one_header_with_one_entry_of_ours(client: Client, server: Server, name: str) -> None:
    """A header that the caller wrote, however it is spelt, is not sent beside ours, and its stale key is replaced."""
    headers = {name: "a=%41;p=1,sd-routing-key=stale", "OT-Baggage-SD-Routing-Key": "stale", "X-Mine": "1"}
    given = dict(headers)
    with tenancy.scope("pr-42"):
        client.get(server.url("orders"), headers)
        (hop,) = server.taken()
        assert len(hop.baggage) == 1
        assert hop.baggage[0].split(",")[0] == "sd-routing-key=pr-42"
        assert hop.text.count(OURS) == 1
        assert "stale" not in hop.text
        assert "x-mine: 1" in hop.text
        if not client.opentelemetry:  # which writes its own in place of the caller's
            assert hop.baggage == ["sd-routing-key=pr-42,a=%41;p=1"]
        client.get(server.url("example.com"), headers)
        (hop,) = server.taken()
        assert OURS not in hop.text
        assert "x-mine: 1" in hop.text
    assert headers == given


def test_a_key_in_the_current_trace_is_withheld_as_well(client: Client, server: Server) -> None:
    """OpenTelemetry writes the tracestate that came in, with whatever key it has."""
    state = trace.TraceState([("v", "1"), (OURS, "pr-42")])
    span = trace.NonRecordingSpan(trace.SpanContext(1, 2, True, trace.TraceFlags(1), state))
    for key in (None, "pr-42"):
        with trace.use_span(span), tenancy.scope(key) if key else nullcontext():
            client.get(server.url("example.com"))
            (hop,) = server.taken()
            assert OURS not in hop.text
            assert trace.get_current_span() is span


def test_a_proxy_for_plain_requests(client: Client, proxy: Server) -> None:
    """The host behind the proxy is judged, and not the proxy."""
    with tenancy.scope("pr-42"):
        for host, told in (("orders", TOLD), ("example.com", [])):
            client.get(f"http://{host}:81/", {"uberctx-sd-routing-key": "pr-7"}, proxy=proxy.url("127.0.0.1"))
            (hop,) = proxy.taken()
            assert (hop.method, hop.host, hop.baggage) == ("GET", host, told)
            assert hop.text.count(OURS) == len(told)


def test_a_proxy_that_tunnels(client: Client, proxy: Server, secure: Server, certificate: tuple[Path, Path]) -> None:
    """A CONNECT never names the key; what goes through the tunnel is for the host at its end."""
    with tenancy.scope("pr-42"):
        for host, told in (("orders", TOLD), ("example.com", [])):
            url, headers = secure.url(host), {"Baggage": "sd-routing-key=pr-7"}
            client.get(url, headers, proxy=proxy.url("127.0.0.1"), ca=certificate[0])
            (connect,) = proxy.taken()
            assert connect.method == "CONNECT"
            assert OURS not in connect.text
            assert hosts(secure.taken()) == [(host, told)]
            assert headers == {"Baggage": "sd-routing-key=pr-7"}


def test_a_connection_that_fails(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """The client's own error comes through, and the key is current again."""
    for host in ("orders", "example.com"):
        with tenancy.scope("pr-42"):
            with pytest.raises(client.error):
                client.get(f"http://{host}:1/")
            assert tenancy.routing_key() == "pr-42"
    assert "detach" not in caplog.text


def test_the_first_drop_is_told(
    client: Client, server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning names the host and the setting; further ones are only counted."""
    monkeypatch.setattr(_logging, "_kinds", Counter())  # how many were given in this process
    with tenancy.scope("pr-42"):
        client.get(server.url("example.com"))
        client.get(server.url("example.com"))
    warnings = [record.getMessage() for record in caplog.records if "TENANCY_TRUSTED_HOSTS" in record.getMessage()]
    assert len(warnings) == 1
    assert "'example.com'" in warnings[0]
    assert "pr-42" not in caplog.text
