from __future__ import annotations

import http.client
import io
import json
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import AbstractHTTPHandler, HTTPHandler, HTTPSHandler, OpenerDirector, Request

import pytest
from opentelemetry.instrumentation.urllib import URLLibInstrumentor
from opentelemetry.sdk.trace import TracerProvider

import tenancy
from tenancy.http import urllib as adapter
from tenancy.http.urllib import TenancyHandler
from tests.contract import CROWD
from tests.http.servers import SSL_CONTEXT, header, respond, serving

OURS = "sd-routing-key"


@pytest.fixture(autouse=True)
def _uninstrumented() -> Iterator[None]:
    yield
    adapter.uninstrument()


@pytest.fixture(params=["ours alone", "theirs first", "ours first"])
def instrumented(request: pytest.FixtureRequest) -> Iterator[None]:
    theirs = URLLibInstrumentor()
    if request.param == "theirs first":
        theirs.instrument(tracer_provider=TracerProvider())
    adapter.instrument()
    if request.param == "ours first":
        theirs.instrument(tracer_provider=TracerProvider())
    yield
    if request.param != "ours alone":
        theirs.uninstrument()


def fetch(request: str | Request, *, opener: OpenerDirector | None = None, data: Any = None) -> dict[str, Any]:
    if opener is None:
        opener = urllib.request.build_opener(HTTPSHandler(context=SSL_CONTEXT))
    with opener.open(request, data, timeout=10) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def baggage(answer: dict[str, Any]) -> list[str]:
    return [value for name, value in answer["headers"] if name == "baggage"]


def at(host: str, url: str) -> str:
    return url.replace("127.0.0.1", host)


@pytest.mark.usefixtures("names")
def test_the_members_of_others_keep_their_bytes(recorder_url: str) -> None:
    """Ours goes first, wherever a request or its opener has the header: redirected or not, text or bytes."""
    adapter.instrument()
    with tenancy.scope("pr-42"):
        request = Request(recorder_url, headers={"BAGGAGE": "a=%41;p=1 , sd-routing-key=pr-7,c=\xfc"})
        assert baggage(fetch(request)) == ["sd-routing-key=pr-42,a=%41;p=1 ,c=\xfc"]
        request = Request(recorder_url, headers={"baggage": b"a=1,sd-routing-key=pr-7"})  # type: ignore[dict-item]
        assert baggage(fetch(request)) == ["sd-routing-key=pr-42,a=1"]
        request = Request(recorder_url + "/to?" + recorder_url)
        request.add_unredirected_header("Baggage", "a=1,sd-routing-key=pr-7")
        assert baggage(fetch(request)) == ["sd-routing-key=pr-42"]
        opener = urllib.request.build_opener(HTTPSHandler(context=SSL_CONTEXT))
        opener.addheaders = [("Baggage", "a=1,sd-routing-key=pr-7"), ("X-Mine", "1")]
        answer = fetch(recorder_url, opener=opener)
        assert baggage(answer) == ["sd-routing-key=pr-42,a=1"]
        assert ["x-mine", "1"] in answer["headers"]
        assert OURS not in json.dumps(fetch(at("example.com", recorder_url), opener=opener))


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("host", ["orders", "example.com"])
def test_the_callers_request_is_not_changed(recorder_url: str, host: str) -> None:
    """It may be sent again for another key, and what urllib itself puts into it stays there."""
    adapter.instrument()

    class Deleting(Request):
        def get_method(self) -> str:
            return "DELETE"

    request = Deleting(at(host, recorder_url), headers={"Baggage": "a=1,sd-routing-key=pr-7"})
    for key in ("pr-1", "pr-2", None):
        with tenancy.scope(key):
            told = [f"sd-routing-key={key},a=1"] if key and host == "orders" else ["a=1"]
            assert baggage(fetch(request)) == told
    assert dict(request.headers) == {"Baggage": "a=1,sd-routing-key=pr-7"}
    assert set(request.unredirected_hdrs) == {"Host", "User-agent"}
    assert request.full_url == at(host, recorder_url)


def test_other_headers_are_as_before(recorder_url: str) -> None:
    """Of two that urllib keeps under the same name, in two places and spellings, the same one goes."""

    def sent() -> list[list[str]]:
        request = Request(recorder_url, headers={"X-One": "1", "X-Two": "1"})
        request.add_unredirected_header("X-one", "2")
        request.unredirected_hdrs["x-tWO"] = "2"
        return [pair for pair in fetch(request)["headers"] if pair[0] != "baggage"]

    before = sent()
    adapter.instrument()
    with tenancy.scope("pr-42"):
        assert sent() == before
    assert ["x-one", "2"] in before


def test_without_a_key_the_request_is_the_same_object() -> None:
    """Nothing is copied where there is nothing to carry."""
    request = Request("http://orders/", headers={"baggage": "a=1"})
    assert adapter._leaving(request) is request
    with tenancy.scope("pr-42"):
        assert adapter._leaving(request) is not request


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("host", ["orders", "example.com"])
def test_bodies_are_made_under_the_callers_key(recorder_url: str, host: str) -> None:
    """Code that makes a body while it is sent has the key, also where the host must not see it; files are sent whole."""
    adapter.instrument()  # OpenTelemetry's instrumentation fails on a body without a length
    keys: list[str | None] = []

    def chunks() -> Iterator[bytes]:
        for _ in range(3):
            keys.append(tenancy.routing_key())
            yield b"1234"

    class Reader(io.BytesIO):
        def read(self, *args: Any) -> bytes:
            keys.append(tenancy.routing_key())
            return super().read(*args)

    url = at(host, recorder_url)
    with tenancy.scope("pr-42"):
        for data in (chunks(), Reader(b"x" * 12), io.BytesIO(b"x" * 12), b"x" * 12):
            answer = fetch(url, data=data)
            assert answer["size"] == 12, data
    assert len(keys) >= 4
    assert set(keys) == {"pr-42"}
    assert [entry for entry in baggage(answer) if OURS in entry] == (["sd-routing-key=pr-42"] if host == "orders" else [])


@pytest.mark.usefixtures("instrumented")
def test_authentication_in_two_steps() -> None:
    """A digest challenge is answered with the key as well."""
    seen: list[tuple[bool, str | None]] = []

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        answered = header(scope, b"authorization") is not None
        seen.append((answered, header(scope, b"baggage")))
        challenge = [] if answered else [(b"www-authenticate", b'Digest realm="r", nonce="n", qop="auth"')]
        await respond(send, 200 if answered else 401, challenge, b"{}")

    with serving(guarded, lifespan="off") as url, tenancy.scope("pr-42"):
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        passwords.add_password(None, url, "u", "p")
        opener = urllib.request.build_opener(urllib.request.HTTPDigestAuthHandler(passwords), HTTPSHandler(context=SSL_CONTEXT))
        fetch(url, opener=opener)
    assert seen == [(False, "sd-routing-key=pr-42"), (True, "sd-routing-key=pr-42")]


@pytest.mark.usefixtures("names", "instrumented")
def test_errors_of_the_server_come_through() -> None:
    """They are urllib's own, and the key is current again."""

    async def missing(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, 404, body=(header(scope, b"baggage") or "-").encode())

    with serving(missing, lifespan="off") as url, tenancy.scope("pr-42"):
        for host, told in (("orders", b"sd-routing-key=pr-42"), ("example.com", b"-")):
            with pytest.raises(urllib.error.HTTPError) as caught:
                fetch(at(host, url))
            assert caught.value.code == 404
            assert caught.value.read() == told
            caught.value.close()
            assert tenancy.routing_key() == "pr-42"


@pytest.mark.usefixtures("names", "instrumented")
def test_a_shared_opener_mixes_nothing(recorder_url: str) -> None:
    """Of 200 requests of 20 threads with one opener, each sends its own key."""
    opener = urllib.request.build_opener(HTTPSHandler(context=SSL_CONTEXT))

    def sent(number: int) -> list[str]:
        with tenancy.scope(f"k{number}" if number % 4 else None):
            return baggage(fetch(at("example.com" if number % 3 == 0 else "orders", recorder_url), opener=opener))

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(sent, range(CROWD)))
    assert answers == [[f"sd-routing-key=k{number}"] if number % 4 and number % 3 else [] for number in range(CROWD)]


def test_other_schemes_are_left_alone(tmp_path: Path) -> None:
    """A file or data URL is opened as ever."""
    adapter.instrument()
    (tmp_path / "a.json").write_text('{"a": 1}')
    with tenancy.scope("pr-42"):
        assert fetch((tmp_path / "a.json").as_uri()) == {"a": 1}
        assert fetch("data:application/json,{}", opener=urllib.request.build_opener(TenancyHandler(context=SSL_CONTEXT))) == {}


@pytest.mark.parametrize(
    ("url", "proxy", "judged"),
    [
        ("http://orders/x", None, "orders"),
        ("http://ORDERS:80/", None, "ORDERS"),
        ("http://orders:/", None, "orders"),
        ("http://[::1]:80/", None, "[::1]"),
        ("http://u:p@orders:80/", None, "u:p@orders"),
        ("http://orders%2eexample%2ecom/", None, "orders.example.com"),
        ("https://orders:8443/", None, "orders"),
        ("http:///x", None, ""),
        ("http://orders:80/", "http", "orders"),
        ("http://u:p@orders/", "http", "orders"),
        ("http://u@example.com@orders/", "http", None),
        ("http://example.com\\@orders/", "http", None),
        ("http://[::1/", "http", None),
        ("https://orders:8443/", "https", "orders"),
        ("https://example.com/", "https", "example.com"),
    ],
)
def test_the_host_of_a_request(url: str, proxy: str | None, judged: str | None) -> None:
    """It is the one that is connected to, without its port, or the one behind a proxy."""
    request = Request("http://example.com/")
    request.full_url = url
    if proxy:
        request.set_proxy("proxy:3128", proxy)
    assert adapter._host(request) == judged


def test_a_request_without_a_host_fails_as_before() -> None:
    """It is urllib's own error."""
    adapter.instrument()
    with tenancy.scope("pr-42"), pytest.raises(urllib.error.URLError, match="no host given"):
        fetch("http:///x")


def test_a_handler_takes_the_place_of_both(recorder_url: str) -> None:
    """An opener that is built with it has no other handler for http and https; it is made with the arguments of HTTPSHandler."""
    context = ssl.create_default_context()
    opener = urllib.request.build_opener(TenancyHandler(context=context))
    handlers: list[Any] = opener.handlers  # type: ignore[attr-defined]
    assert [type(handler) for handler in handlers if isinstance(handler, (HTTPHandler, HTTPSHandler))] == [TenancyHandler]
    assert opener.handle_open["https"][-1]._context is context  # type: ignore[attr-defined]
    adapter.instrument()
    with tenancy.scope("pr-42"):
        request = Request(recorder_url, headers={"baggage": "a=1"})
        assert baggage(fetch(request, opener=opener)) == ["sd-routing-key=pr-42,a=1"]  # and once, although both are switched on


def test_handlers_of_others_are_covered(tmp_path: Path) -> None:
    """A handler that connects in its own way, here through a Unix socket, sends by the same method."""
    adapter.instrument()
    path = str(tmp_path / "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    seen: list[bytes] = []

    def serve() -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()

    class UnixConnection(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(path)

    class UnixHandler(HTTPHandler):
        def http_open(self, req: Request) -> Any:
            return self.do_open(UnixConnection, req)  # type: ignore[arg-type]

    opener = urllib.request.build_opener(UnixHandler())
    with tenancy.scope("pr-42"):
        fetch("http://docker/", opener=opener)
        fetch("http://example.com/", opener=opener)
    thread.join(10)
    listener.close()
    assert [OURS.encode() in one.lower() for one in seen] == [True, False]


def test_a_mistake_in_the_trusted_hosts_shows_at_the_start() -> None:
    """It raises where the adapter is switched on, and not in the first request that has a key."""
    tenancy.configure(trusted_hosts="https://example.com")
    with pytest.raises(tenancy.ConfigurationError, match="trusted_hosts"):
        adapter.instrument()


def test_switched_off_nothing_is_patched(recorder_url: str) -> None:
    """The attribute is the original, and the handler is like urllib's own."""
    original = AbstractHTTPHandler.do_open
    tenancy.configure(enabled=False)
    adapter.instrument()
    assert AbstractHTTPHandler.do_open is original
    with tenancy.scope("pr-42"):
        opener = urllib.request.build_opener(TenancyHandler(context=SSL_CONTEXT))
        assert baggage(fetch(recorder_url, opener=opener)) == []


def test_it_can_be_undone(recorder_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After uninstrument() the attribute is the original; beneath somebody else's patch ours does nothing any more."""
    original = AbstractHTTPHandler.do_open
    adapter.instrument()
    adapter.instrument()
    assert AbstractHTTPHandler.do_open is not original
    adapter.uninstrument()
    adapter.uninstrument()
    assert AbstractHTTPHandler.do_open is original
    adapter.instrument()
    ours = AbstractHTTPHandler.do_open
    monkeypatch.setattr(AbstractHTTPHandler, "do_open", lambda self, *args, **kwargs: ours(self, *args, **kwargs))
    adapter.uninstrument()
    with tenancy.scope("pr-42"):
        assert baggage(fetch(recorder_url)) == []
